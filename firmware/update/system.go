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
	// Reboot has the machine start anew; it may wait until that can be, such as until the vehicle stands. When it returns nil the agent
	// is to be ended soon.
	Reboot     func(ctx context.Context) error
	RebootWait time.Duration                        // how soon, before it counts as not come; 10 min
	BootID     string                               // of the kernel; empty: slots.BootID()
	Limits     slots.Limits                         // of a trial's starts; Dead is the boot loader's to count
	Write      func(path string, data []byte) error // atomically and durably
	Log        *slog.Logger
}

// System is the vehicle's whole system as a place for images: what an install.Installer does, and what has to be remembered between the
// starts of the machine to know which system runs, whether it is on trial, and that an image is not tried again.
//
//	             install               try                restart
//	settled ─▶ installing ─▶ installed ─▶ armed ─▶ (boot) ─▶ on trial ─ commit ─▶ settled: mark good
//	   ▲           │             │          │                  │
//	   │           └─────────────┘          │                  └─ reject: mark bad ─▶ (boot)
//	   │    (boot) the old one runs         │ (boot) the old one runs                   │
//	   └────────────────────────────────────┴── rolled back ◀───────────────────────────┘
//
// Who installs may have its boot loader use what it installs at once, and the power may go in between: so whichever system comes up in
// another boot decides. Its methods may be called from several goroutines.
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

// Stopped says that the agent ends because it was told to, and not by itself: the last thing it does. On trial such a start is no
// crash. Otherwise it does nothing.
func (s *System) Stopped(context.Context) error {
	return s.change(func(st *systemState) (bool, error) {
		if !st.Trial.runs(s.o.BootID) || st.Trial.Stopped {
			return false, nil
		}
		st.Trial.Stopped = true
		return true, nil
	})
}

// begin sees which system runs, and so what became of a trial. What runs without one is marked good, once a boot: boot loaders
// that count down at each start want it.
func (s *System) begin(ctx context.Context) error {
	rearm := false
	err := s.change(func(st *systemState) (bool, error) {
		t, boot := st.Trial, s.o.BootID
		if t != nil && t.Boot == boot {
			return false, nil // it waits for the restart: nothing is said of what runs, some updaters would take it for what waits
		}
		status, err := s.ask(ctx)
		if err != nil {
			return false, err
		}
		changed := true
		switch {
		case t != nil && status.Booted == t.From:
			s.cameBack(st)
		case t != nil && !s.in:
			s.started(st, status.Booted)
			rearm = st.Trial != nil && t.Why == ""
		case t == nil && st.Image != nil && status.Booted != st.Booted:
			reason := fmt.Sprintf("%s runs, and not %s: the boot loader came back from it, or somebody installed another one", status.Booted, st.Booted)
			s.o.Log.Error("what was committed does not run", "version", st.Image.Version, "why", reason)
			st.conclude(slots.Outcome{Kind: slots.FellBack, Reason: reason, Image: *st.Image}, boot)
			st.Image, st.Booted = nil, ""
		default:
			changed = false
		}
		bad := st.Image != nil && st.rejection(st.Image.SHA256) != nil
		if st.Trial == nil && st.Marked != boot && !bad {
			if err := s.o.Installer.MarkGood(ctx); err != nil {
				return false, err
			}
			st.Marked, changed = boot, true
		}
		return changed, nil
	})
	if err != nil {
		return err
	}
	s.in = true
	if rearm { // the start is counted here now
		if err := s.o.Installer.Rearm(ctx); err != nil {
			s.o.Log.Warn("the boot loader's attempts could not be renewed: short journeys use them up", "error", err)
		}
	}
	return nil
}

// ask asks the installer how things stand, and holds that it says what runs.
func (s *System) ask(ctx context.Context) (install.Status, error) {
	status, err := s.o.Installer.Status(ctx)
	switch {
	case err != nil:
		return status, err
	case status.Busy:
		return status, fmt.Errorf("%s: %w", s.o.Installer.Name(), install.ErrBusy)
	case status.Booted == "":
		return status, fmt.Errorf("%s does not say which system runs, so a new one could not be told from the old one (docs/OTA.md, Whole systems)", s.o.Installer.Name())
	}
	return status, nil
}

// cameBack is begin in the system from which an image was installed.
func (s *System) cameBack(st *systemState) {
	t := st.Trial
	switch {
	case t.Why != "":
		st.end(slots.RolledBack, t.Why, s.o.BootID)
	case t.Phase == armed && t.Starts == 0:
		st.end(slots.RolledBack, "the boot loader came back to "+t.From+": the agent never came through its start in the new system", s.o.BootID)
	case t.Phase == armed:
		st.end(slots.RolledBack, fmt.Sprintf("the boot loader came back to %s: in the new system the agent started %d times, ended by itself %d times, and was cut off %d times in the end",
			t.From, t.Starts, t.Crashes, t.Cut), s.o.BootID)
	default: // the power went while it was installed, or before it was to be started
		s.o.Log.Warn("an update of the system was cut off before its start; it is installed again if it is still wanted", "version", t.Image.Version)
		st.Trial = nil
	}
}

// started is begin in the new system. What came of the start before is told by the boot that it was in.
func (s *System) started(st *systemState, booted string) {
	t := st.Trial
	switch {
	case t.Last == "":
	case t.Stopped:
		t.Cut = 0
	case t.Last == s.o.BootID:
		t.Crashes++
	default:
		t.Cut++
	}
	t.Phase = armed // also when nobody but the power going started it
	t.Starts++
	t.Last, t.Stopped = s.o.BootID, false
	limits := s.o.Limits.Effective()
	switch {
	case t.Why != "":
		if t.Back++; t.Back > maxBack {
			image := t.Image
			st.Image, st.Booted = &image, booted
			st.end(stayed, "it was marked bad and is started all the same: "+t.Why, s.o.BootID)
		}
	case t.Crashes >= limits.Crashes:
		t.Why = fmt.Sprintf("the agent ended by itself or was killed %d times", t.Crashes)
	case t.Cut >= limits.Cut:
		t.Why = fmt.Sprintf("it was cut off %d times, one after the other, and never committed", t.Cut)
	}
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
		if t := st.Trial; t != nil && t.Image.SHA256 == m.SHA256 && t.Phase != installing { // it waits for a restart that did not come
			t.Image = m
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
