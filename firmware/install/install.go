// Package install gives an image to whoever installs it: RAUC, SWUpdate, or a command. Each is an Installer, which is small:
// it brings the image in, has the next start use it, says good or bad of what runs, and tells what it knows.
//
// It decides nothing. What may be installed is decided by firmware/trust, when by firmware/conditions, and whether what runs is good
// by the agent after its probation. docs/OTA.md, section "Whole systems", is its page.
package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// Progress is told how far an installation is, percent of the whole, and what is being done, for a person. It is called by
// one goroutine at a time, and not any more once Install has returned; it should not take long.
type Progress func(percent int, text string)

// Installer is an updater of the whole system. All calls end with ctx, and by the implementation's own time-outs; each may be
// repeated, also after the agent or the updater was killed in the middle. An implementation belongs to one goroutine.
type Installer interface {
	// Name is one word for logs and reports.
	Name() string
	// Install brings an image, which is verified and open for reading, into what does not run. Where an installation is under way, one
	// that an agent began which was killed since, it waits for its end and then begins anew: what it wrote is written once more. With
	// an error nothing that runs has changed; one that ends with ctx may go on in the updater, which Status tells (Busy).
	Install(ctx context.Context, image *os.File, progress Progress) error
	// Activate has the next start use what was installed. Updaters that do so when they install take it once more.
	Activate(ctx context.Context) error
	// Rearm has the next start use what runs on trial once more, with all of the boot loader's attempts: the agent came through its
	// start in it and counts from here on. Without it a few short journeys use the attempts up.
	Rearm(ctx context.Context) error
	// MarkGood says that what runs is good: it is not rolled back from. Only the agent calls it, after probation.
	MarkGood(ctx context.Context) error
	// MarkBad says that what runs is not: the next start takes the other.
	MarkBad(ctx context.Context) error
	Status(ctx context.Context) (Status, error)
}

// State is what an updater says of a system.
type State string

// The states.
const (
	Unknown State = ""
	Good    State = "good"
	Bad     State = "bad"
	Trial   State = "trial" // installed or started, nobody said yet that it is good
)

// Status is what an updater tells of itself; what it does not tell is empty.
type Status struct {
	Booted    string // the slot that runs, in the updater's words
	Primary   string // the slot that the next start tries first
	State     State  // of what runs
	Busy      bool   // an installation is under way
	LastError string
	Slots     []Slot
}

// Slot is a place for a system, or for a part of one.
type Slot struct {
	Name    string
	Booted  bool
	State   State
	Version string // of the bundle that is in it
	Hash    string // SHA-256 of what is in it, hexadecimal
}

// What an error is, beside its words: what may be done about it.
var (
	// ErrUnreachable: the updater is not there, does not answer, or went away. Try again later.
	ErrUnreachable = errors.New("the updater cannot be reached")
	// ErrBusy: another installation did not end in time. Try again later.
	ErrBusy = errors.New("the updater is busy")
	// ErrFailed: the updater tried and failed, or refused. The same will fail again, but for full disks and the like.
	ErrFailed = errors.New("the updater failed")
	// ErrTimeout: it took longer than it may. What the updater does on its own may go on.
	ErrTimeout = errors.New("it took too long")
)

// Bounds of what comes from an updater.
const (
	maxText  = 1 << 10 // bytes of a text
	maxSlots = 64
)

// clean makes a foreign text fit for a log: bounded, one line, no control characters.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}

// nameOf finds the path under which another process finds an open file, and holds that it is this file and no other.
func nameOf(image *os.File) (string, error) {
	path, err := filepath.Abs(image.Name())
	if err != nil {
		return "", err
	}
	open, err := image.Stat()
	if err != nil {
		return "", err
	}
	named, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !os.SameFile(open, named) {
		return "", fmt.Errorf("%s is not the file that was verified", path)
	}
	return path, nil
}

// ended gives an error that came of a context's end its reason: whether the caller stopped, or time ran out, of which limit is the whole.
func ended(ctx, caller context.Context, limit time.Duration, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return fmt.Errorf("%s: %w: %w", doing, caller.Err(), err)
	case over(ctx):
		return fmt.Errorf("%s: %w, more than %s: %w", doing, ErrTimeout, limit, err)
	}
	return err
}

// over says that a context has ended, or is about to: what waits in the kernel until the same moment may end a little earlier.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// wait waits, or for the context's end.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
