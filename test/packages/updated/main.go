// Command updated does to a vehicle's slots what an update does: it installs an image, starts it, and finds it healthy.
//
// usage: updated SLOTS IMAGE
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

func main() {
	if err := update(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "updated:", err)
		os.Exit(1)
	}
}

func update(ctx context.Context, dir, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	before, err := slots.Open(dir, slots.Options{Running: slots.A})
	if err != nil {
		return err
	}
	if _, err := before.Install(ctx, f, slots.Meta{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(data)), Campaign: "trial"}); err != nil {
		return err
	}
	if err := before.Try(ctx, slots.Limits{}); err != nil {
		return err
	}
	return before.Launch(ctx, func(start slots.Start) error {
		after, err := slots.Open(dir, slots.Options{Running: start.Slot})
		if err == nil {
			err = after.Alive(ctx)
		}
		if err == nil {
			err = after.Commit(ctx)
		}
		if err == nil {
			os.Exit(0) // as execve(2), this does not come back when it worked
		}
		return err
	})
}
