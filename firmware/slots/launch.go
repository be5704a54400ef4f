package slots

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"syscall"
)

// Start is what Launch wants to be run.
type Start struct {
	Slot  Slot
	Path  string
	Trial bool
}

// Launch decides what runs, stores that it is started, and has run become it: run is execve(2) in the launcher and
// returns only when that failed. It answers when nothing could be run. What is on trial is started only when the start was
// counted durably first; whatever is wrong with the disk, the committed slot is started all the same.
func (s *Slots) Launch(ctx context.Context, run func(Start) error) error {
	var failed []error
	try := func(start Start) error {
		err := run(start)
		s.o.Log.Error("it could not be started", "slot", start.Slot, "path", start.Path, "error", err)
		failed = append(failed, fmt.Errorf("%s: %w", start.Path, err))
		return err
	}
	if slot, ok := s.prepare(ctx); ok {
		err := try(Start{slot, s.Executable(slot), true})
		if reason, certain := unfit(err); certain {
			s.unfit(ctx, slot, reason)
		}
	}
	st, err := s.load()
	if err != nil {
		s.o.Log.Error("the slots' state is lost; what is in them decides", "error", err)
	}
	for start := range s.candidates(st) {
		_ = try(start)
	}
	if len(failed) == 0 {
		return fmt.Errorf("there is no executable in %s: install the package again, or waybill-launcher --seed FILE", s.dir)
	}
	return errors.Join(failed...)
}

// prepare judges the last start and counts the next one; ok says that the slot on trial is to be started.
func (s *Slots) prepare(ctx context.Context) (slot Slot, ok bool) {
	if st, err := s.load(); err == nil && st.Trial == nil && s.linked(st) {
		return "", false // the ordinary start takes no lock and writes nothing
	}
	lock, err := s.lock(ctx)
	if err != nil {
		s.o.Log.Warn("the slots cannot be locked: a trial waits, the committed slot runs", "error", err)
		return "", false
	}
	defer lock.Close()
	st, err := s.load()
	if err != nil && !errors.Is(err, ErrState) {
		return "", false // Launch says so
	}
	if err == nil && st.Trial == nil {
		s.relink(st)
		return "", false
	}
	t := st.Trial
	if t != nil && t.Open && t.Boot == s.o.BootID && t.PID != os.Getpid() && s.o.running(t.PID, s.Executable(t.Slot)) {
		// A person calls the launcher beside the service: that is no end of a start and no new one.
		return t.Slot, true
	}
	if t != nil {
		s.judge(st)
	}
	if st.Trial != nil {
		m := st.Images[t.Slot]
		if err := s.holds(t.Slot, &m); err != nil {
			s.o.Log.Error("the image on trial is damaged; it is not started", "error", err)
			st.end(Damaged, err.Error(), s.o.BootID)
		}
	}
	if st.Trial != nil {
		t.Starts++
		t.Open, t.Boot, t.PID, t.Alive, t.Stopped = true, s.o.BootID, os.Getpid(), false, false
	}
	if err := s.save(st); err != nil {
		s.o.Log.Error("a start cannot be counted: a trial waits, the committed slot runs", "error", err)
		return "", false
	}
	if st.Trial == nil {
		s.relink(st)
		return "", false
	}
	return t.Slot, true
}

// linked says that `current` is right, or that there is no state yet that it could follow.
func (s *Slots) linked(st *state) bool {
	target, err := s.o.fsys.Readlink(filepath.Join(s.dir, linkName))
	return st.Serial == 0 || err == nil && target == linkTo(st.Committed)
}

// relink sets `current`, which a power cut may have kept from following the state.
func (s *Slots) relink(st *state) {
	if s.linked(st) {
		return
	}
	if err := s.link(st.Committed); err != nil {
		s.o.Log.Warn("the link to the committed slot could not be set", "error", err)
	}
}

// unfit says whether execve(2) failed for what the image is, and would again.
func unfit(err error) (reason string, certain bool) {
	for _, c := range []struct {
		errno syscall.Errno
		words string
	}{
		{syscall.ENOEXEC, "it is no program for this processor"},
		{syscall.ENOENT, "it needs a loader that is not here"},
		{syscall.EACCES, "it may not be executed"},
		{syscall.EPERM, "it may not be executed"},
		{syscall.ELIBBAD, "its loader is damaged"},
		{syscall.EINVAL, "it is no program for this processor"},
		{syscall.EISDIR, "its loader is a folder"},
		{syscall.ENOTDIR, "it needs a loader that is not here"},
		{syscall.ELOOP, "its loader cannot be found"},
		{syscall.ENAMETOOLONG, "its loader cannot be found"},
		{syscall.EIO, "the disk does not give it back"},
	} {
		if errors.Is(err, c.errno) {
			return fmt.Sprintf("%s (%v)", c.words, c.errno), true
		}
	}
	return "", false
}

// unfit rolls back at once. When it cannot be stored, the start counts as a crash at the next one.
func (s *Slots) unfit(ctx context.Context, slot Slot, reason string) {
	err := s.change(ctx, func(st *state) (bool, error) {
		if st.Trial == nil || st.Trial.Slot != slot {
			return false, nil
		}
		st.end(RolledBack, reason, s.o.BootID)
		return true, nil
	})
	if err != nil {
		s.o.Log.Error("the rollback cannot be stored", "error", err)
	}
}

// candidates are what may be started, the best first: the committed slot; the other one if it is whole and was not
// rejected; the package's own copy; then whatever there is, since a damaged agent may still work and none cannot. Each is
// looked for only when the one before could not be started, and the state stays: an agent that finds itself in the other
// slot commits it when it is healthy (Status.FellBack).
func (s *Slots) candidates(st *state) iter.Seq[Start] {
	return func(yield func(Start) bool) {
		first, second := st.Committed, st.Committed.other()
		one := func(slot Slot) bool { return yield(Start{Slot: slot, Path: s.Executable(slot)}) }
		m := st.Images[first]
		info, err := s.o.fsys.Lstat(s.Executable(first))
		fits := err == nil && s.present(first) && (m.Length == 0 || info.size == m.Length)
		switch {
		case fits:
			if !one(first) {
				return
			}
		case err == nil:
			s.o.Log.Error("the committed slot's executable is not what was installed", "path", s.Executable(first), "bytes", info.size, "want", m.Length)
		}
		m, known := st.Images[second]
		whole := known && st.rejection(m.SHA256) == nil && s.holds(second, &m) == nil
		if whole && !one(second) {
			return
		}
		if s.o.Factory != "" {
			if _, err := s.o.fsys.Lstat(s.o.Factory); err == nil && !one(Factory) {
				return
			}
		}
		if !fits && s.present(first) && !one(first) {
			return
		}
		if !whole && s.present(second) {
			one(second)
		}
	}
}
