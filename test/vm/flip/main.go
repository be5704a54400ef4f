// Command flip is what runs in a guest whose power is going to be cut while it updates itself: the real launcher becomes
// copies of this program, each of which is an agent that commits or rejects itself and installs the next. The slots are on a disk
// of the guest's own. It runs in guests only.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

func main() {
	var err error
	switch slot := slots.Slot(os.Getenv(slots.EnvSlot)); {
	case slot != "":
		err = agent(slot)
	case len(os.Args) == 3:
		err = live(os.Args[1], os.Args[2])
	default:
		err = errors.New("usage: flip DIR LAUNCHER   mount /dev/ubda on DIR/disk and update there until the power goes")
	}
	if err != nil {
		fmt.Println("flip:", err)
		os.Exit(1)
	}
}

// numberLine is what stands behind the program in an image.
const numberLine = "\nflip image %010d\n"

// program is this program without a number, and number its number, 0 when it has none.
func program(path string) (image []byte, number int, err error) {
	image, err = os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	at := len(image) - len(fmt.Sprintf(numberLine, 0))
	if at > 0 && bytes.HasPrefix(image[at:], []byte("\nflip image ")) {
		if _, err := fmt.Sscanf(string(image[at:]), numberLine, &number); err != nil {
			return nil, 0, err
		}
		image = image[:at]
	}
	return image, number, nil
}

func numbered(image []byte, n int) ([]byte, slots.Meta) {
	image = fmt.Appendf(bytes.Clone(image), numberLine, n)
	sum := sha256.Sum256(image)
	return image, slots.Meta{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(image)), ReleaseCounter: int64(n)}
}

// live says what the last cut has left, and then starts the launcher whenever the agent has ended.
func live(dir, launcher string) error {
	disk := filepath.Join(dir, "disk")
	if err := unix.Mount("/dev/ubda", disk, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	fw := filepath.Join(disk, "firmware")
	s, err := slots.Open(fw, slots.Options{})
	if err != nil {
		return err
	}
	own, _, err := program("/proc/self/exe")
	if err != nil {
		return err
	}
	first, m := numbered(own, 1)
	seeded, err := s.Seed(context.Background(), bytes.NewReader(first), m)
	if err != nil {
		return err
	}
	if err := look(s, own, seeded); err != nil {
		fmt.Println("broken", err)
	}
	for {
		cmd := exec.Command(launcher, "run")
		cmd.Env = append(os.Environ(), "WAYBILL_FIRMWARE_DIR="+fw, "WAYBILL_FACTORY_AGENT=/nonexistent")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return err
		}
	}
}

// look holds each slot to what the state says is in it, and says which image is committed.
func look(s *slots.Slots, own []byte, seeded bool) error {
	st, err := s.Status()
	if err != nil || st.Lost != "" {
		return fmt.Errorf("the state: %w %s", err, st.Lost)
	}
	for slot, state := range st.Slots {
		image, n, err := program(state.Path)
		if errors.Is(err, fs.ErrNotExist) && state.Image == nil {
			continue
		}
		whole, m := numbered(own, n)
		_ = image
		data, readErr := os.ReadFile(state.Path)
		switch {
		case state.Image != nil && (readErr != nil || !bytes.Equal(data, whole) || m.SHA256 != state.Image.SHA256):
			return fmt.Errorf("slot %s is said to hold %+v and holds %d bytes, image %d: %w", slot, *state.Image, len(data), n, errors.Join(err, readErr))
		case slot == st.Committed && !bytes.Equal(data, whole):
			return fmt.Errorf("slot %s is committed and has no whole image", slot)
		case slot == st.Committed:
			fmt.Println("found", n, seeded)
		}
	}
	return nil
}

// agent is an image: one in three rejects itself; the others commit; the next time they install the next.
func agent(slot slots.Slot) error {
	own, n, err := program("/proc/self/exe")
	if err != nil {
		return err
	}
	fmt.Println("runs", n)
	s, err := slots.Open(os.Getenv("WAYBILL_FIRMWARE_DIR"), slots.Options{Running: slot})
	if err != nil {
		return err
	}
	st, err := s.Status()
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch {
	case st.OnTrial() && n%3 == 0:
		return s.Reject(ctx, "a third of them")
	case st.OnTrial():
		if err := s.Alive(ctx); err != nil {
			return err
		}
		fmt.Println("commits", n)
		if err := s.Commit(ctx); err != nil {
			return err
		}
		fmt.Println("committed", n)
		return nil
	case st.Trial != nil:
		return errors.New("a trial waits and the committed slot runs")
	}
	next := n + 1
	for _, r := range st.Rejected {
		next = max(next, int(r.ReleaseCounter)+1)
	}
	image, m := numbered(own, next)
	if _, err = s.Install(ctx, bytes.NewReader(image), m); err == nil {
		err = s.Try(ctx, slots.Limits{Dead: 1000, Cut: 1000})
	}
	for _, o := range st.Outcomes {
		err = errors.Join(err, s.Reported(ctx, o.ID))
	}
	return err
}
