package delivery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// patchRounds is how many rounds in a row may bring nothing, with a mirror that says why, until the full image is fetched.
const patchRounds = 3

// fetch goes from source to source until nothing is missing. One that broke but brought something is asked again; when none brought
// anything, the next round is later each time.
func (d *Delivery) fetch(ctx context.Context, p *part, remote string) error {
	failed, without := 0, 0
	for {
		brought, after, err := d.round(ctx, p, remote)
		var verdict *errVerdict
		if errors.As(err, &verdict) {
			if without++; p.o.name == patchFile && without >= patchRounds {
				return err // an image may still be published; for a patch there is the image
			}
		} else if err != nil {
			return err
		}
		if p.complete() {
			return nil
		}
		if failed++; brought {
			failed, without = 0, 0
		}
		wait := max(d.jitter(failed), after)
		d.say("no source has the rest now; the next try is in " + seconds(wait))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// round tries each source until one has brought something. Those that would send again what is there have a second turn. An errVerdict
// says that none did, and why one of them did not.
func (d *Delivery) round(ctx context.Context, p *part, remote string) (brought bool, after time.Duration, err error) {
	var whole []source
	all := true // sources said when to come back
	var verdict *errVerdict
	for turn, sources := range [][]source{d.sources, nil} {
		if turn == 1 {
			sources = whole
		}
		for _, s := range sources {
			had := p.bytes
			err := d.try(ctx, s, p, remote, turn == 1 || len(d.sources) == 1)
			if err == nil || ctx.Err() != nil || isOurs(err) {
				return true, 0, err
			}
			d.o.Log.Warn("fetching broke off", "file", p.o.name, "source", s, "have", p.bytes, "of", p.id.length, "why", err)
			var later *errLater
			if !errors.As(err, &later) {
				all = false
			} else if after == 0 || later.after < after {
				after = later.after
			}
			errors.As(err, &verdict)
			if errors.Is(err, errWhole) {
				whole = append(whole, s)
			}
			if p.bytes > had {
				return true, 0, nil
			}
		}
	}
	if !all {
		after = 0
	}
	if verdict != nil {
		return false, after, verdict
	}
	return false, after, nil
}

// try fetches from a source, and waits where the gate is closed.
func (d *Delivery) try(ctx context.Context, s source, p *part, remote string, patient bool) error {
	for {
		d.say(fmt.Sprintf("fetching the %s from %s", p.o.name, s))
		err := s.fetch(ctx, d, p, remote, patient)
		// What came is marked before a wait of any length.
		if syncErr := p.sync(); syncErr != nil {
			return &diskError{syncErr}
		}
		d.show(p)
		var closed *errClosed
		if !errors.As(err, &closed) {
			return err
		}
		d.o.Log.Info("fetching waits", "file", p.o.name, "have", p.bytes, "of", p.id.length, "why", closed.why)
		for ok := false; !ok; {
			d.say("waiting: " + closed.why)
			if err := sleep(ctx, d.o.GateEvery); err != nil {
				return err
			}
			var why string
			if ok, why = d.o.Gate(); !ok {
				closed.why = why
			}
		}
	}
}

// proceed looks at the gate, and counts what came beside the file's bytes.
func (d *Delivery) proceed() error {
	d.count(0)
	if ok, why := d.o.Gate(); !ok {
		return &errClosed{why}
	}
	return nil
}

// count adds to what was received.
func (d *Delivery) count(bytes int) {
	d.budget.spend(int64(bytes) + d.overhead.Swap(0))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.progress.Received = d.budget.spent
}

// take writes what a source brought; received is what it cost.
func (d *Delivery) take(p *part, b []byte, off int64, received int) error {
	d.count(received)
	_, err := p.write(b, off)
	d.show(p)
	if err != nil {
		return &diskError{err}
	}
	return nil
}

func (d *Delivery) show(p *part) {
	d.mu.Lock()
	d.progress.Have = p.bytes
	tenths := p.bytes * 10 / p.id.length
	news := tenths > d.logged && tenths < 10
	d.logged = max(d.logged, tenths)
	d.mu.Unlock()
	if news {
		d.o.Log.Info("fetched", "file", p.o.name, "have", p.bytes, "of", p.id.length)
	}
}

// block is room for n bytes, at most a block's.
func (d *Delivery) block(n int) []byte {
	if len(d.buffer) < n {
		d.buffer = make([]byte, n)
	}
	return d.buffer[:n]
}

// jitter is uniform in [0, min(BackoffMax, Backoff·2ⁿ)).
func (d *Delivery) jitter(failed int) time.Duration {
	top := d.o.Backoff
	for range failed {
		if top *= 2; top >= d.o.BackoffMax {
			break
		}
	}
	return time.Duration(d.o.Rand.Int64N(int64(max(min(top, d.o.BackoffMax), 1))))
}

func sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Errors that say whose turn it is.
type (
	errClosed struct{ why string } // the gate
	errFull   struct {             // the disk: what is missing has no room
		need int64
		err  error
	}
	diskError struct{ err error } // this vehicle's disk, not a source
)

func (e *errClosed) Error() string { return e.why }
func (e *errFull) Error() string   { return fmt.Sprintf("no room for %d bytes", e.need) }
func (e *errFull) Unwrap() error   { return e.err }
func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

// isOurs says that another source would not help.
func isOurs(err error) bool {
	var disk *diskError
	return errors.As(err, &disk) || errors.Is(err, ErrBudget)
}

// fromDisk says that an error is a file system's and not the file's.
func fromDisk(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path)
}

// roomOr makes errFull of the errors of a disk without room.
func roomOr(err error, missing int64) error {
	var full *errFull
	if errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return &errFull{missing, err}
}
