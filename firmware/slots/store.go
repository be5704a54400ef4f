package slots

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

var copies = [2]string{"state.1", "state.2"}

const (
	linkName = "current"
	newName  = ".new" // what is beside a file until it is whole
)

// load reads the newer copy of the state that is whole. A folder without a state has one all the same, put together from
// what is in the slots. So has one whose copies are both damaged, which comes with an ErrState; with any other error they could
// not be read, and nothing may be stored over them.
func (s *Slots) load() (*state, error) {
	var best *state
	var first []byte
	var damaged, unread []error
	for _, name := range copies {
		data, err := s.read(name, maxState)
		if err == nil {
			if best != nil && bytes.Equal(data, first) { // as they mostly are
				continue
			}
			first = data
			var st *state
			if st, err = parseState(data); err == nil {
				if best == nil || st.Serial > best.Serial {
					best = st
				}
				continue
			}
		}
		switch {
		case errors.Is(err, ErrState):
			damaged = append(damaged, fmt.Errorf("%s: %w", name, err))
		case !errors.Is(err, fs.ErrNotExist):
			unread = append(unread, err)
		}
	}
	switch {
	case best != nil:
		return best, nil
	case len(unread) > 0:
		return s.recover(), errors.Join(unread...)
	case len(damaged) > 0:
		st := s.recover()
		err := errors.Join(damaged...)
		st.conclude(Outcome{Kind: StateLost, Reason: err.Error()}, s.o.BootID)
		st.bound()
		return st, err
	}
	return s.recover(), nil
}

// recover is the state of a folder that has none: the slot that `current` names is committed if its executable is what
// its hash file says, or has no hash file, as a package may have put it there. Then the other one if it is whole; then
// whichever there is.
func (s *Slots) recover() *state {
	first := A
	if target, err := s.o.fsys.Readlink(filepath.Join(s.dir, linkName)); err == nil {
		if slot := Slot(filepath.Base(target)); slot.valid() {
			first = slot
		}
	}
	st := &state{Committed: first, Images: map[Slot]Meta{}, version: stateVersion}
	order := [2]Slot{first, first.other()}
	for _, slot := range order {
		switch m, err := s.verify(slot); {
		case err == nil:
			st.Committed, st.Images[slot] = slot, m
			return st
		case slot == first && s.present(slot) && errors.Is(err, errNoSum):
			return st
		}
	}
	for _, slot := range order {
		if s.present(slot) {
			st.Committed = slot
			return st
		}
	}
	return st
}

// save stores the state twice, one copy after the other: at each moment one at least is whole. It succeeds when one copy
// is durable, since the newer one counts.
func (s *Slots) save(st *state) error {
	st.bound()
	st.Serial++
	data, err := st.encode()
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range copies {
		if err := s.write(name, data); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == len(copies) {
		return fmt.Errorf("the state cannot be stored: %w", errors.Join(failed...))
	}
	for _, err := range failed {
		s.o.Log.Warn("one copy of the slots' state could not be stored", "error", err)
	}
	return nil
}

// read reads a small file of the folder.
func (s *Slots) read(name string, limit int64) ([]byte, error) {
	f, err := s.o.fsys.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// write makes a small file of the folder, durably: afterwards, and at each moment before, it is the old one or the new one.
func (s *Slots) write(name string, data []byte) error {
	path := filepath.Join(s.dir, name)
	f, err := s.o.fsys.Create(path + newName)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.o.fsys.Rename(path+newName, path)
	}
	if err != nil {
		_ = s.o.fsys.Remove(path + newName) // room on a full disk
		return err
	}
	return s.o.fsys.SyncFolder(filepath.Dir(path))
}

func linkTo(slot Slot) string { return "slots/" + string(slot) }

// link lets `current` name a slot, durably.
func (s *Slots) link(slot Slot) error {
	path, want := filepath.Join(s.dir, linkName), linkTo(slot)
	if target, err := s.o.fsys.Readlink(path); err == nil && target == want {
		return s.o.fsys.SyncFolder(s.dir) // it may be there only in memory so far
	}
	if err := s.o.fsys.Remove(path + newName); err != nil {
		return err
	}
	err := s.o.fsys.Symlink(want, path+newName)
	if err == nil {
		err = s.o.fsys.Rename(path+newName, path)
	}
	if err != nil {
		return fmt.Errorf("%s has to be a symbolic link to the committed slot: %w", path, err)
	}
	return s.o.fsys.SyncFolder(s.dir)
}

// errNoSum: there is an executable, and no hash file beside it.
var errNoSum = errors.New("has no hash file")

// present says whether a slot has something that could be started.
func (s *Slots) present(slot Slot) bool {
	info, err := s.o.fsys.Lstat(s.Executable(slot))
	return err == nil && info.mode.IsRegular() && info.mode&0o111 != 0 && info.size > 0
}

// verify holds a slot's executable to its hash file.
func (s *Slots) verify(slot Slot) (Meta, error) {
	text, err := s.read(filepath.Join("slots", string(slot), sumName), 4096)
	if errors.Is(err, fs.ErrNotExist) {
		err = errNoSum
	}
	if err != nil {
		return Meta{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	sum, ok := strings.CutSuffix(string(text), "  "+exeName+"\n")
	if !ok || !isSHA256(sum) {
		return Meta{}, fmt.Errorf("slot %s: its hash file is damaged", slot)
	}
	m := Meta{SHA256: sum}
	return m, s.holds(slot, &m)
}

// holds reads a slot's executable from the disk and compares its hash. It fills in the length.
func (s *Slots) holds(slot Slot, m *Meta) error {
	if !s.present(slot) {
		return fmt.Errorf("slot %s: there is no executable", slot)
	}
	sum, n, err := s.hash(s.Executable(slot))
	if err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	if sum != m.SHA256 {
		return fmt.Errorf("slot %s: the executable's SHA-256 is %.12s… and has to be %.12s…", slot, sum, m.SHA256)
	}
	m.Length = n
	return nil
}

func sumLine(sum string) []byte { return []byte(sum + "  " + exeName + "\n") }
