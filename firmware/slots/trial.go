package slots

import (
	"context"
	"fmt"
)

// Try lets the image that Install put into the other slot be started by the launcher from the next start on. It is
// durable when it returns; the caller stops the agent in order.
func (s *Slots) Try(ctx context.Context, l Limits) error {
	return s.change(ctx, func(st *state) (bool, error) {
		slot := st.Committed.other()
		m, whole := st.Images[slot]
		switch {
		case st.Trial != nil:
			return false, nil // already
		case !whole:
			return false, fmt.Errorf("%w: slot %s holds no whole image; install one", ErrNothing, slot)
		case st.rejection(m.SHA256) != nil:
			return false, fmt.Errorf("%w: %s", ErrRejected, st.rejection(m.SHA256).Reason)
		}
		st.Trial = &Trial{Slot: slot, Limits: l}
		return true, nil
	})
}

// Alive says that the process on trial came through its start: all that it opens is open. Starts that never come here
// count towards Limits.Dead. Not on trial it does nothing.
func (s *Slots) Alive(ctx context.Context) error {
	return s.mark(ctx, func(t *Trial) bool {
		if t.Alive {
			return false
		}
		t.Alive, t.Dead = true, 0
		return true
	})
}

// Stopped says that the process on trial ends because it was told to, by ignition or by a person, and not by itself: the
// last thing it does. Such a start is no failure. Not on trial it does nothing.
func (s *Slots) Stopped(ctx context.Context) error {
	return s.mark(ctx, func(t *Trial) bool {
		if t.Stopped {
			return false
		}
		t.Stopped = true
		return true
	})
}

func (s *Slots) mark(ctx context.Context, f func(*Trial) bool) error {
	if !s.o.Running.valid() {
		return nil
	}
	if st, err := s.load(); err == nil && (st.Trial == nil || st.Trial.Slot != s.o.Running) {
		return nil // as mostly: no lock, which Install may hold for long
	}
	return s.change(ctx, func(st *state) (bool, error) {
		t := st.Trial
		if t == nil || t.Slot != s.o.Running || !t.Open {
			return false, nil
		}
		return f(t), nil
	})
}

// Commit ends the trial well: the slot that this process runs from is the one that is started from now on. So does it
// where the committed slot could not be started (Status.FellBack). Once committed it may be called again.
func (s *Slots) Commit(ctx context.Context) error {
	return s.change(ctx, func(st *state) (bool, error) {
		run := s.o.Running
		m, whole := st.Images[run]
		switch t := st.Trial; {
		case t == nil && st.Committed == run:
			return false, nil
		case t == nil && whole && st.rejection(m.SHA256) == nil:
			st.conclude(Outcome{Kind: FellBack, Reason: "slot " + string(st.Committed) + " could not be started", Image: m}, s.o.BootID)
			delete(st.Images, st.Committed)
			st.Committed = run
		case t != nil && t.Slot == run && t.Starts > 0:
			st.end(Committed, "", s.o.BootID)
		default:
			return false, ErrNothing
		}
		if err := s.save(st); err != nil {
			return false, err
		}
		// The state decides. `current` counts when the state is lost, and Install does not touch a slot before it is right.
		if err := s.link(st.Committed); err != nil {
			s.o.Log.Warn("the link to the committed slot could not be set", "error", err)
		}
		return false, nil
	})
}

// Reject ends the trial badly, whoever runs: the committed slot is started next, and the image on trial is not tried again.
func (s *Slots) Reject(ctx context.Context, reason string) error {
	return s.change(ctx, func(st *state) (bool, error) {
		if st.Trial == nil {
			return false, ErrNothing
		}
		st.end(RolledBack, reason, s.o.BootID)
		return true, nil
	})
}

// Reported forgets an outcome that arrived where it had to. One that is not known is forgotten already.
func (s *Slots) Reported(ctx context.Context, id string) error {
	return s.change(ctx, func(st *state) (bool, error) {
		for i, o := range st.Outcomes {
			if o.ID == id {
				st.Outcomes = append(st.Outcomes[:i:i], st.Outcomes[i+1:]...)
				return true, nil
			}
		}
		return false, nil
	})
}

// judge counts what came of the last start, and rolls back when it was one too many. It changes only st.
//
//	ended                      said Stopped   came to Alive   counts as
//	in this boot               no             -               crash
//	in this boot, or with it   yes            yes             nothing; Dead and Cut begin anew
//	in this boot, or with it   yes            no              dead start
//	with its boot              no             no              dead start
//	with its boot              no             yes             cut start
//
// A boot id that cannot be read is never the same: that gives such a machine more tries, and still not endless ones.
func (s *Slots) judge(st *state) {
	t := st.Trial
	if t.Open {
		switch same := t.Boot != "" && t.Boot == s.o.BootID; {
		case same && !t.Stopped:
			t.Crashes++
		case !t.Alive:
			t.Dead++
		case t.Stopped:
			t.Dead, t.Cut = 0, 0
		default:
			t.Cut++
		}
		t.Open = false
	}
	var reason string
	switch l := t.Limits.Effective(); {
	case t.Crashes >= l.Crashes:
		reason = fmt.Sprintf("it ended by itself or was killed %d times", t.Crashes)
	case t.Dead >= l.Dead:
		reason = fmt.Sprintf("it did not come through its start %d times, one after the other", t.Dead)
	case t.Cut >= l.Cut:
		reason = fmt.Sprintf("it was cut off %d times, one after the other, and never committed", t.Cut)
	default:
		return
	}
	s.o.Log.Warn("the image on trial is rolled back", "slot", t.Slot, "reason", reason)
	st.end(RolledBack, reason, s.o.BootID)
}
