// Command tufclient puts firmware/trust behind the command line that the public conformance suite of TUF clients runs:
//
//	tufclient --metadata-dir D init ROOT
//	tufclient --metadata-dir D --metadata-url U refresh
//	tufclient --metadata-dir D --metadata-url U --target-name T --target-base-url B --target-dir O download
//
// It exits with 0, or with 1 and a line that says why. D holds ROLE.json, unversioned and as signed. http is taken on loopback
// only. TUF_TIME, seconds since 1970, is the reference time if it is set; else the machine's clock is. It is a test's part
// and does not ship.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tufclient:", err)
		os.Exit(1)
	}
}

type options struct {
	metadataDir, metadataURL, name, targetURL, targetDir string
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("tufclient", flag.ContinueOnError)
	flags.StringVar(&o.metadataDir, "metadata-dir", "", "`folder` of the trusted metadata")
	flags.StringVar(&o.metadataURL, "metadata-url", "", "`URL` of the repository's metadata")
	flags.StringVar(&o.name, "target-name", "", "`path` of the target in the repository")
	flags.StringVar(&o.targetURL, "target-base-url", "", "`URL` of the repository's targets")
	flags.StringVar(&o.targetDir, "target-dir", "", "`folder` for downloaded targets")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.metadataDir == "" {
		return errors.New("--metadata-dir is missing")
	}
	switch command := flags.Arg(0); {
	case command == "init" && flags.NArg() == 2:
		root, err := os.ReadFile(flags.Arg(1))
		if err != nil {
			return err
		}
		_, err = client(o, root)
		return err
	case command == "refresh" && flags.NArg() == 1:
		c, err := client(o, nil)
		if err != nil {
			return err
		}
		return c.Refresh(ctx)
	case command == "download" && flags.NArg() == 1:
		return download(ctx, o)
	}
	return errors.New("give init ROOT, refresh or download, after the flags")
}

// client opens the trusted metadata; factory is nil but for init.
func client(o options, factory []byte) (*trust.Client, error) {
	store, err := trust.OpenStore(o.metadataDir)
	if err != nil {
		return nil, err
	}
	reference := time.Now
	if text := os.Getenv("TUF_TIME"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("TUF_TIME: %w", err)
		}
		reference = func() time.Time { return time.Unix(seconds, 0) }
	}
	var mirrors []trust.Fetcher
	if o.metadataURL != "" {
		mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: o.metadataURL})
		if err != nil {
			return nil, err
		}
		mirrors = append(mirrors, mirror)
	}
	return trust.New(trust.Options{Name: "repository", Mirrors: mirrors, Store: store, FactoryRoot: factory, Reference: reference})
}

func download(ctx context.Context, o options) error {
	if o.name == "" || o.targetDir == "" {
		return errors.New("--target-name and --target-dir are missing")
	}
	c, err := client(o, nil)
	if err != nil {
		return err
	}
	if err := c.Refresh(ctx); err != nil {
		return err
	}
	target, err := c.Target(ctx, o.name)
	if err != nil {
		return err
	}
	// One file a target, whatever its name: a path in it must not lead out of the folder.
	path := filepath.Join(o.targetDir, url.PathEscape(o.name))
	if f, err := target.Open(path); err == nil {
		return f.Close() // it is there already
	}
	mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: o.targetURL})
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(o.targetDir, ".download-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // is not there any more if it was renamed
	defer temporary.Close()
	err = target.Fetch(ctx, []trust.Fetcher{mirror}, func() (io.Writer, error) {
		if _, err := temporary.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return temporary, temporary.Truncate(0)
	})
	if err != nil {
		return err
	}
	verified, err := target.Open(temporary.Name())
	if err != nil {
		return err
	}
	if err := verified.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
