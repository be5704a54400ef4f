package update

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/firmware/install"
	"github.com/waybill-telematics/waybill/firmware/slots"
)

// SystemOptions of NewSystem.
type SystemOptions struct {
	// Path is the state's file. It has to lie on a disk that both systems see, as the folder of the Updater has to.
	Path      string
	Installer install.Installer
	// Reboot has the machine start anew; it may wait until that can be, such as until the vehicle stands. When it
	// returns nil the agent is to be ended soon.
	Reboot     func(ctx context.Context) error
	RebootWait time.Duration                        // how soon, before it counts as not come; 10 min
	BootID     string                               // of the kernel; empty: slots.BootID()
	Limits     slots.Limits                         // of a trial's starts; Dead is the boot loader's to count
	Write      func(path string, data []byte) error // atomically and durably
	Log        *slog.Logger
}

// System is the vehicle's whole system as a place for images: what an install.Installer does, and what has to be
// remembered between the starts of the machine to know which system runs, whether it is on trial, and that an image is
// not tried again.
//
//	             install               try                restart
//	settled ─▶ installing ─▶ installed ─▶ armed ─▶ (boot) ─▶ on trial ─ commit ─▶ settled: mark good
//	   ▲           │             │          │                  │
//	   │           └─────────────┘          │                  └─ reject: mark bad ─▶ (boot)
//	   │    (boot) the old one runs         │ (boot) the old one runs                   │
//	   └────────────────────────────────────┴── rolled back ◀───────────────────────────┘
//
// Who installs may have its boot loader use what it installs at once, and the power may go in between: so whichever
// system comes up in another boot decides. Its methods may be called from several goroutines.
type System struct {
	o  SystemOptions
	in bool       // begin has counted this start; the Updater's goroutine has it
	mu sync.Mutex // held from a read of the file to its write
}

// NewSystem checks the options; nobody is asked yet.
func NewSystem(o SystemOptions) (*System, error) {
	if o.Path == "" || o.Installer == nil || o.Reboot == nil || o.Write == nil || o.Log == nil {
		return nil, errors.New("whole system: an option is missing")
	}
	if o.BootID == "" {
		o.BootID = slots.BootID()
	}
	if o.BootID == "" {
		return nil, errors.New("whole system: /proc/sys/kernel/random/boot_id cannot be read: no start could be told from another")
	}
	if o.RebootWait <= 0 {
		o.RebootWait = 10 * time.Minute
	}
	return &System{o: o}, nil
}

// Kinds of an outcome beside those of slots.
const (
	notInstalled = "not-installed" // the installer refused it or failed, several times
	stayed       = "stayed"        // it was marked bad and is started all the same
)

const (
	maxInstalls = 3 // an image that the installer refuses so often is not tried again: each time costs flash
	maxBack     = 3 // starts of a system that is marked bad, before it is left alone: no machine may start for ever
)

// Installed is the image that was committed here last and runs; ok is false where none was: the maker's system runs.
func (s *System) Installed() (m slots.Meta, ok bool, err error) {
	st, err := s.load()
	if err != nil || st.Image == nil {
		return slots.Meta{}, false, err
	}
	return *st.Image, true, nil
}

// OnTrial says whether what runs is on trial; until the Updater's Run has asked the installer, whether it may be.
func (s *System) OnTrial() (bool, error) {
	st, err := s.status()
	return st.trial != nil, err
}

// Stopped says that the agent ends because it was told to, and not by itself: the last thing it does. On trial such a
// start is no crash. Otherwise it does nothing.
func (s *System) Stopped(context.Context) error {
	return s.change(func(st *systemState) (bool, error) {
		if !st.Trial.runs(s.o.BootID) || st.Trial.Stopped {
			return false, nil
		}
		st.Trial.Stopped = true
		return true, nil
	})
}

func (s *System) status() (standing, error) {
	st, err := s.load()
	if err != nil {
		return standing{}, err
	}
	out := standing{image: st.Image, rejected: st.Rejected, outcomes: st.Outcomes}
	if t := st.Trial; t != nil && t.Boot != s.o.BootID {
		out.trial, out.goesBack = &t.Image, t.Why
	}
	return out, nil
}

func (s *System) install(ctx context.Context, image *os.File, m slots.Meta) error {
	return s.change(func(st *systemState) (bool, error) {
		if t := st.Trial; t != nil && t.Image.SHA256 == m.SHA256 && t.Phase != installing {
			t.Image = m // it waits for a restart that did not come
			return true, nil
		}
		status, err := s.ask(ctx)
		if err != nil {
			return false, err
		}
		if st.Trial != nil && st.Trial.Image.SHA256 != m.SHA256 && st.Trial.Phase == armed {
			st.end(slots.Superseded, "another image was installed", s.o.BootID)
		}
		if st.Failed == nil || st.Failed.SHA256 != m.SHA256 {
			st.Failed = &failedInstalls{SHA256: m.SHA256}
		}
		st.Trial = &systemTrial{Image: m, Phase: installing, Boot: s.o.BootID, From: status.Booted}
		if err := s.save(st); err != nil {
			return false, err
		}
		switch err = s.o.Installer.Install(ctx, image, s.progress(m)); {
		case err == nil:
			st.Trial.Phase = installed
			return true, nil
		case !errors.Is(err, install.ErrFailed):
			return false, err
		}
		if st.Failed.Times++; st.Failed.Times >= maxInstalls {
			st.end(notInstalled, err.Error(), s.o.BootID)
		}
		return false, errors.Join(err, s.save(st))
	})
}

// progress tells the log each tenth.
func (s *System) progress(m slots.Meta) install.Progress {
	told := -1
	return func(percent int, text string) {
		if percent/10 > told {
			told = percent / 10
			s.o.Log.Info("installing", "version", m.Version, "percent", percent, "text", text)
		}
	}
}

func (s *System) try(ctx context.Context) error {
	return s.change(func(st *systemState) (bool, error) {
		if st.Trial == nil || st.Trial.Phase == installing || st.Trial.Boot != s.o.BootID {
			return false, slots.ErrNothing
		}
		// Only when the boot loader knows may a start of the old system count as a rollback.
		if err := s.o.Installer.Activate(ctx); err != nil {
			return false, err
		}
		st.Trial.Phase = armed
		return true, nil
	})
}

// restart asks for it and waits to be ended.
func (s *System) restart(ctx context.Context) error {
	if err := s.o.Reboot(ctx); err != nil {
		return fmt.Errorf("the machine is not started anew: %w", err)
	}
	if err := wait(ctx, s.o.RebootWait); err != nil {
		return err
	}
	return fmt.Errorf("the machine was to be started anew, and %s later it still runs", s.o.RebootWait)
}

// commit lets the boot loader know first: were it the other way round, it could come back from what is committed.
func (s *System) commit(ctx context.Context) error {
	return s.change(func(st *systemState) (bool, error) {
		t := st.Trial
		if !t.runs(s.o.BootID) {
			return false, slots.ErrNothing
		}
		status, err := s.ask(ctx)
		if err == nil {
			err = s.o.Installer.MarkGood(ctx)
		}
		if err != nil {
			return false, err
		}
		st.end(slots.Committed, "", s.o.BootID)
		st.Image, st.Booted, st.Marked = &t.Image, status.Booted, s.o.BootID
		return true, nil
	})
}

// reject notes why first: where the power goes before the boot loader knows, the next start goes on with it.
func (s *System) reject(ctx context.Context, reason string) error {
	return s.change(func(st *systemState) (bool, error) {
		if !st.Trial.runs(s.o.BootID) {
			return false, slots.ErrNothing
		}
		var err error
		if st.Trial.Why == "" {
			st.Trial.Why = short(reason)
			err = s.save(st)
		}
		return false, errors.Join(err, s.o.Installer.MarkBad(ctx))
	})
}

func (s *System) reported(_ context.Context, id string) error {
	return s.change(func(st *systemState) (bool, error) {
		for i, o := range st.Outcomes {
			if o.ID == id {
				st.Outcomes = append(st.Outcomes[:i], st.Outcomes[i+1:]...)
				return true, nil
			}
		}
		return false, nil
	})
}
