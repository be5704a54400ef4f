package slots

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// maxImage is what an executable may have at most, bytes.
const maxImage = 1 << 30

// Install puts an image into the slot that is neither committed nor running. When it returns nil the image is in its
// slot, whole, read back from the disk and durable; Try is the next step. The one that was there before stays until the new one is
// whole, unless the disk has no room for both. It is rolled forward after a power cut by calling it again.
func (s *Slots) Install(ctx context.Context, r io.Reader, m Meta) (slot Slot, err error) {
	if !isSHA256(m.SHA256) {
		return "", fmt.Errorf("slots: an image is named by its SHA-256, 64 lower-case hexadecimal digits, not by %.80q", m.SHA256)
	}
	m = m.bounded()
	err = s.change(ctx, func(st *state) (bool, error) {
		slot = st.Committed.other()
		switch {
		case slot == s.o.Running:
			return false, fmt.Errorf("%w: this process runs from %s and %s is committed; commit or restart first", ErrInUse, slot, st.Committed)
		case st.Trial != nil && st.Trial.Starts > 0:
			return false, fmt.Errorf("%w: the trial of %s goes on; reject it first", ErrInUse, slot)
		case st.Images[st.Committed].SHA256 == m.SHA256:
			return false, ErrCommitted
		}
		if old := st.rejection(m.SHA256); old != nil && (m.RetryOf == "" || m.RetryOf != old.Campaign || m.Campaign == old.Campaign) {
			return false, fmt.Errorf("%w, by campaign %q: %s", ErrRejected, old.Campaign, old.Reason)
		}
		if have, ok := st.Images[slot]; ok && have.SHA256 == m.SHA256 && st.Trial == nil {
			if s.holds(slot, &m) == nil { // a power cut came between this and Try, or it was superseded
				st.forgive(m.SHA256)
				st.Images[slot] = m
				return true, nil
			}
		}
		return true, s.install(ctx, st, slot, r, &m)
	})
	return slot, err
}

// install has the order that makes a power cut harmless: what is committed is certain without this slot; the slot is
// said to be empty; it is written; it is said to be full, which the caller stores.
func (s *Slots) install(ctx context.Context, st *state, slot Slot, r io.Reader, m *Meta) error {
	if err := s.link(st.Committed); err != nil {
		return err
	}
	if err := s.adopt(st); err != nil {
		return err
	}
	if st.Trial != nil { // armed and never started
		st.end(Superseded, "another image was installed", s.o.BootID)
	}
	delete(st.Images, slot)
	if err := s.save(st); err != nil {
		return err
	}
	if err := s.folders(slot); err != nil {
		return err
	}
	if err := s.place(ctx, slot, r, m); err != nil {
		return err
	}
	st.forgive(m.SHA256)
	if st.Images == nil {
		st.Images = map[Slot]Meta{}
	}
	st.Images[slot] = *m
	return nil
}

// adopt learns the committed executable's hash when a package put it there without one.
func (s *Slots) adopt(st *state) error {
	slot := st.Committed
	if _, known := st.Images[slot]; known || !s.present(slot) {
		return nil
	}
	sum, n, err := s.hash(s.Executable(slot))
	if err != nil {
		return err
	}
	if err := s.write(filepath.Join("slots", string(slot), sumName), sumLine(sum)); err != nil {
		return err
	}
	if st.Images == nil {
		st.Images = map[Slot]Meta{}
	}
	st.Images[slot] = Meta{SHA256: sum, Length: n}
	return nil
}

func (s *Slots) folders(slot Slot) error {
	for _, dir := range []string{filepath.Join(s.dir, "slots"), s.folder(slot)} {
		if err := s.o.fsys.Mkdir(dir); err != nil {
			return err
		}
		if err := s.o.fsys.SyncFolder(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// place writes a slot's executable and its hash file. With an m whose SHA-256 is empty it takes any image and fills it in.
func (s *Slots) place(ctx context.Context, slot Slot, r io.Reader, m *Meta) (err error) {
	exe := s.Executable(slot)
	if err := s.o.fsys.Remove(exe + newName); err != nil {
		return err
	}
	const margin = 1 << 20 // bytes: the state, folders, the file system's own
	if free, err := s.o.fsys.Free(s.folder(slot)); err == nil && m.Length > 0 && free < uint64(m.Length)+margin {
		for _, name := range []string{exe, filepath.Join(s.folder(slot), sumName)} {
			if err := s.o.fsys.Remove(name); err != nil {
				return err
			}
		}
		if err := s.o.fsys.SyncFolder(s.folder(slot)); err != nil {
			return err
		}
	}
	f, err := s.o.fsys.Create(exe + newName)
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if err != nil {
			if open {
				err = errors.Join(err, f.Close())
			}
			_ = s.o.fsys.Remove(exe + newName) // a leftover only costs room
		}
	}()
	sum, n, err := copyImage(ctx, f, r, m.Length)
	if err != nil {
		return err
	}
	if m.SHA256 != "" && sum != m.SHA256 {
		return fmt.Errorf("%w: SHA-256 %.12s… instead of %.12s…", ErrImage, sum, m.SHA256)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	again, _, err := s.hash(exe + newName)
	if err != nil {
		return err
	}
	if again != sum {
		return fmt.Errorf("the disk gives back another image than was written to it: SHA-256 %.12s… instead of %.12s…", again, sum)
	}
	// Only what is right may be executed: a leftover of the steps before can not.
	if err := f.Chmod(0o755); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	open = false
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.o.fsys.Rename(exe+newName, exe); err != nil {
		return err
	}
	m.SHA256, m.Length = sum, n
	// This syncs the folder, and so the rename before it too.
	return s.write(filepath.Join("slots", string(slot), sumName), sumLine(sum))
}

// copyImage hashes what it copies. length 0 is unknown.
func copyImage(ctx context.Context, w io.Writer, r io.Reader, length int64) (sum string, n int64, err error) {
	limit := int64(maxImage)
	if length > 0 {
		limit = min(length, limit)
	}
	h := sha256.New()
	buffer := make([]byte, 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return "", n, err
		}
		k, readErr := r.Read(buffer)
		if n += int64(k); n > limit {
			return "", n, fmt.Errorf("%w: longer than %d bytes", ErrImage, limit)
		}
		h.Write(buffer[:k])
		if _, err := w.Write(buffer[:k]); err != nil {
			return "", n, err
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return "", n, readErr
		}
	}
	if n == 0 || length > 0 && n != length {
		return "", n, fmt.Errorf("%w: %d bytes instead of %d", ErrImage, n, length)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

// hash reads a file as the disk has it, not as memory does: a write that the disk lost would show there as made.
func (s *Slots) hash(path string) (sum string, n int64, err error) {
	f, err := s.o.fsys.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	f.Forget()
	h := sha256.New()
	if n, err = io.Copy(h, io.LimitReader(f, maxImage)); err != nil {
		return "", n, err
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

// Seed puts an executable into slot a and commits it, when neither slot has one: the package's part, on a vehicle that is new
// or whose data was erased. seeded says whether it did.
func (s *Slots) Seed(ctx context.Context, r io.Reader, m Meta) (seeded bool, err error) {
	if m.SHA256 != "" && !isSHA256(m.SHA256) {
		return false, fmt.Errorf("slots: %.80q is no SHA-256", m.SHA256)
	}
	if err := s.o.fsys.Mkdir(s.dir); err != nil {
		return false, fmt.Errorf("slots: %w", err)
	}
	if err := s.o.fsys.SyncFolder(filepath.Dir(s.dir)); err != nil {
		return false, fmt.Errorf("slots: %w", err)
	}
	m = m.bounded()
	err = s.change(ctx, func(st *state) (bool, error) {
		if s.present(A) || s.present(B) {
			return false, nil
		}
		if err := s.folders(A); err != nil {
			return false, err
		}
		if err := s.place(ctx, A, r, &m); err != nil {
			return false, err
		}
		if err := s.link(A); err != nil {
			return false, err
		}
		st.Committed, st.Images, st.Trial = A, map[Slot]Meta{A: m}, nil
		seeded = true
		return true, nil
	})
	return seeded && err == nil, err
}
