package slots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Where things are on a vehicle, unless the launcher is told otherwise.
const (
	DefaultDir     = "/var/lib/waybill/firmware"
	DefaultFactory = "/usr/lib/waybill/waybill-agent"
	// EnvSlot is the variable by which the launcher tells the agent which slot it runs from.
	EnvSlot = "WAYBILL_SLOT"
)

// Options of Open.
type Options struct {
	// Running is the slot that this process runs from, as EnvSlot says; empty when the launcher did not start it.
	Running Slot
	// BootID tells one boot of the kernel from another; empty: BootID().
	BootID string
	// Factory is an executable that Launch starts when neither slot has one; empty: none.
	Factory string
	// LockWait is how long a call waits for another process to finish its own, 2 s by default.
	LockWait time.Duration
	Log      *slog.Logger // default: discards

	fsys    fsys                            // default: the real one
	running func(pid int, path string) bool // default: looks into /proc
}

// Slots are a folder's two slots. Its methods may be called from several goroutines and processes: each takes the
// folder's lock, reads the state, and gives the lock back when what it changed is durable.
type Slots struct {
	dir string
	o   Options
}

var (
	// ErrLocked: another process is changing the slots, for longer than LockWait.
	ErrLocked = errors.New("another process is changing the slots")
	// ErrRejected: this very image was rolled back here before and is not tried again without permission (Meta.RetryOf).
	ErrRejected = errors.New("this image was rolled back here before")
	// ErrInUse: the slot that an image would go to runs, or its trial goes on.
	ErrInUse = errors.New("the slot is in use")
	// ErrCommitted: this very image is the committed one.
	ErrCommitted = errors.New("this image is the committed one")
	// ErrNothing: there is no image to try, or no trial of the slot that this process runs from.
	ErrNothing = errors.New("nothing is on trial here")
	// ErrImage: what came is not the image that was said to come.
	ErrImage = errors.New("not the image that was announced")
)

// Open returns the slots of a folder. Nothing is read or made before it is needed.
func Open(dir string, o Options) (*Slots, error) {
	if dir == "" {
		return nil, errors.New("slots: no folder is named")
	}
	if o.Running != "" && o.Running != Factory && !o.Running.valid() {
		return nil, fmt.Errorf("slots: %s is %.20q: want a, b or nothing", EnvSlot, o.Running)
	}
	if o.BootID == "" {
		o.BootID = BootID()
	}
	o.BootID = cut(o.BootID)
	if o.LockWait <= 0 {
		o.LockWait = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.fsys == nil {
		o.fsys = osFS{}
	}
	if o.running == nil {
		o.running = runs
	}
	return &Slots{dir, o}, nil
}

// BootID is the kernel's random number of this boot (random(4)); empty where it cannot be read.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// runs says whether a process runs the executable at path.
func runs(pid int, path string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	path, err = filepath.EvalSymlinks(path)
	return err == nil && exe == path
}

const (
	exeName = "waybill-agent"
	sumName = exeName + ".sha256"
)

func (s *Slots) folder(slot Slot) string { return filepath.Join(s.dir, "slots", string(slot)) }

// Executable is the path of a slot's executable, whether there is one or not.
func (s *Slots) Executable(slot Slot) string {
	if slot == Factory {
		return s.o.Factory
	}
	return filepath.Join(s.folder(slot), exeName)
}

// Status says how things stand. It takes no lock.
type Status struct {
	Dir       string             `json:"dir"`
	Boot      string             `json:"boot"`
	Running   Slot               `json:"running,omitempty"` // what this process runs from
	Committed Slot               `json:"committed"`
	Slots     map[Slot]SlotState `json:"slots"`
	Trial     *Trial             `json:"trial,omitempty"`
	Rejected  []Rejection        `json:"rejected,omitempty"` // oldest first
	Outcomes  []Outcome          `json:"outcomes,omitempty"` // not reported yet, oldest first
	// Lost says why the state is damaged or cannot be read, and so was put together from what is in the slots.
	Lost string `json:"lost,omitempty"`
}

// SlotState is what is in a slot.
type SlotState struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`           // of the executable; 0 when there is none
	Image *Meta  `json:"image,omitempty"` // nil when it is not known, or not whole
}

// OnTrial says whether this process is the one that has to show whether it works.
func (st Status) OnTrial() bool { return st.Trial != nil && st.Trial.Slot == st.Running }

// FellBack says that this process runs because the committed executable could not be started. It is to commit when it is
// healthy, as if on trial; until then nothing can be installed.
func (st Status) FellBack() bool {
	if st.Trial != nil || !st.Running.valid() || st.Running == st.Committed {
		return false
	}
	m := st.Slots[st.Running].Image
	return m != nil && !slices.ContainsFunc(st.Rejected, func(r Rejection) bool { return r.SHA256 == m.SHA256 })
}

// Status reads how things stand.
func (s *Slots) Status() (Status, error) {
	st, err := s.load()
	if err != nil && st == nil {
		return Status{}, fmt.Errorf("slots: %w", err)
	}
	out := Status{
		Dir: s.dir, Boot: s.o.BootID, Running: s.o.Running, Committed: st.Committed, Trial: st.Trial,
		Rejected: st.Rejected, Outcomes: st.Outcomes, Slots: map[Slot]SlotState{},
	}
	if err != nil {
		out.Lost = err.Error()
	}
	for _, slot := range []Slot{A, B} {
		state := SlotState{Path: s.Executable(slot)}
		if info, err := s.o.fsys.Lstat(state.Path); err == nil {
			state.Bytes = info.size
		}
		if m, ok := st.Images[slot]; ok {
			state.Image = &m
		}
		out.Slots[slot] = state
	}
	return out, nil
}

// lock waits for LockWait at most. The wait is counted in sleeps: no clock is read.
func (s *Slots) lock(ctx context.Context) (io.Closer, error) {
	const step = 20 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		l, err := s.o.fsys.Lock(filepath.Join(s.dir, "lock"))
		if err == nil || !errors.Is(err, errBusy) {
			return l, err
		}
		if waited >= s.o.LockWait {
			return nil, ErrLocked
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(step):
		}
	}
}

// change takes the lock, reads the state and stores it when f says so.
func (s *Slots) change(ctx context.Context, f func(*state) (save bool, err error)) error {
	lock, err := s.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there are no slots in %s: the package or waybill-launcher --seed makes them: %w", s.dir, err)
	}
	if err != nil {
		return fmt.Errorf("slots: %w", err)
	}
	defer lock.Close()
	st, err := s.load()
	if err != nil && !errors.Is(err, ErrState) {
		return fmt.Errorf("slots: %w", err)
	}
	save, err := f(st)
	if err == nil && save {
		err = s.save(st)
	}
	if err != nil {
		return fmt.Errorf("slots: %w", err)
	}
	return nil
}
