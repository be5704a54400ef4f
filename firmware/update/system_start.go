package update

import (
	"context"
	"fmt"

	"github.com/waybill-telematics/waybill/firmware/install"
	"github.com/waybill-telematics/waybill/firmware/slots"
)

// begin sees which system runs, and so what became of a trial. What runs without one is marked good, once a boot: boot
// loaders that count down at each start want it.
func (s *System) begin(ctx context.Context) error {
	rearm := false
	err := s.change(func(st *systemState) (bool, error) {
		t, boot := st.Trial, s.o.BootID
		if t != nil && t.Boot == boot {
			// It waits for the restart: nothing is said of what runs, some updaters would take it for what waits.
			return false, nil
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
			reason := fmt.Sprintf("%s runs, and not %s: the boot loader came back from it, or somebody installed another one",
				status.Booted, st.Booted)
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
		return status, fmt.Errorf("%s does not say which system runs, so a new one could not be told from the old one: "+
			"see docs/OTA.md, Whole systems", s.o.Installer.Name())
	}
	return status, nil
}

// cameBack is begin in the system from which an image was installed.
func (s *System) cameBack(st *systemState) {
	t := st.Trial
	why := "the boot loader came back to " + t.From + ": "
	switch {
	case t.Why != "":
		st.end(slots.RolledBack, t.Why, s.o.BootID)
	case t.Phase == armed && t.Starts == 0:
		st.end(slots.RolledBack, why+"the agent never came through its start in the new system", s.o.BootID)
	case t.Phase == armed:
		why += fmt.Sprintf("the agent started %d times in the new system, ended by itself %d times, and was cut off %d times in the end",
			t.Starts, t.Crashes, t.Cut)
		st.end(slots.RolledBack, why, s.o.BootID)
	default: // the power went while it was installed, or before it was to be started
		s.o.Log.Warn("an update of the system was cut off before its start; if it is still wanted it is installed again",
			"version", t.Image.Version)
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
