package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/drive"
	"github.com/waybill-telematics/waybill/test/vm/history"
)

// A power cut is the end of a guest by SIGKILL: what its kernel had in its page cache is gone, what it had written to its
// own disk, an ext4 file system in a file, is there. An agent lives on that disk, beside a simulated drive at twenty
// times its speed, until the power goes; the next guest mounts the disk as it was left, looks at the queue before the
// agent does, and goes on.

// cutConfig makes the queue do all that it can within a few seconds: four lanes, journals, small segments; after some
// twenty lives eviction and thinning.
const cutConfig = `
device: {id: bench-1}
data_dir: disk/data
log: {level: debug}
can:
  - {bus: can0, interface: vcan0, dbc: [drive.dbc], record: all}
collect:
  signals:
    - {match: "*.Gear", lane: event}
    - {match: "*.YawRate", lane: event, min_interval: 500ms}
    - {match: "*", sample: every}
queue: {commit_every: 200ms, seal_every: 500ms, max_bytes: 128MiB, lanes: {telemetry: 4MiB, raw: 4MiB, event: 4MiB}}
`

const (
	cutDiskBytes = 192 << 20
	// loggedDiskBytes is smaller: a disk is copied, and each block of it that changes.
	loggedDiskBytes = 96 << 20
	cutCommitEvery  = 200 * time.Millisecond
	// cutSlack is what a busy machine may add: a guest's commit with its two flushes, and how late the console is read.
	cutSlack = 3 * time.Second
)

// cutBench is a disk and what lives on it.
type cutBench struct {
	dir      string
	cut      string // programs
	agent    string
	simulate string
	bed      *Bed
	history  history.History
}

func newCutBench(t *testing.T) *cutBench {
	t.Helper()
	b := &cutBench{dir: t.TempDir(), history: history.History{CommitEvery: cutCommitEvery, Slack: cutSlack}}
	agent, simulate := Build(t, "amd64", "build", "./cmd/agent"), Build(t, "amd64", "build", "./cmd/simulate")
	cut := Build(t, "amd64", "build", "./test/vm/cut")
	for name, text := range map[string]string{"agent.yaml": cutConfig, "drive.dbc": string(drive.DBC())} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"disk", "state"} {
		if err := os.Mkdir(filepath.Join(b.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.cut, b.agent, b.simulate = cut, agent, simulate
	return b
}

// insert gives the bench a disk and a machine for it.
func (b *cutBench) insert(t *testing.T) {
	t.Helper()
	b.bed = NewBed(t, Job{
		Command: []string{b.cut, "live", b.dir, b.agent, b.simulate}, Disks: []string{makeDisk(t, cutDiskBytes)}, Interfaces: []string{"vcan0"},
	})
}

// makeDisk makes an ext4 file system in a file, in memory if there is room; mkfs.ext4 takes further options.
func makeDisk(t *testing.T, size int64, options ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp(memoryFolder(t.TempDir(), int(size>>20)+1024), "waybill-disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk.img")
	options = append([]string{"-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, options...)
	mkfs := deps.Program(t, "e2fsprogs", "mkfs.ext4", append(options, path, fmt.Sprintf("%dK", size>>10))...)
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return path
}

// life boots, judges what the cut before has left, and cuts the power after a time that counts from the agent's first
// journal entry, or, if early, from the moment when the kernel came up.
func (b *cutBench) life(t *testing.T, early bool, after time.Duration) (state *history.State, broken []string) {
	t.Helper()
	m := b.bed.Boot(t)
	var cut <-chan time.Time
	stuck := time.After(bootTimeout)
	var console []string
	hear := func(line string) {
		console = append(console, line)
		b.history.Hear(line)
	}
	for {
		select {
		case line, ok := <-m.Lines():
			if !ok {
				t.Fatalf("the machine ended by itself; its console:\n%s", strings.Join(console, "\n"))
			}
			hear(line)
			switch {
			case early && strings.HasPrefix(line, "life boot="):
				cut = time.After(after)
			case line == "life looked":
				text, err := os.ReadFile(filepath.Join(b.dir, "look.json"))
				if err == nil {
					err = json.Unmarshal(text, &state)
				}
				if err != nil {
					t.Fatal(err)
				}
				// What this life says is not to be held against what the one before left.
				broken = b.history.Judge(state)
			case !early && cut == nil && strings.Contains(line, "msg=committed kind=journal"):
				cut = time.After(after)
			}
		case <-cut:
			m.Cut(t, hear)
			return state, broken
		case <-stuck:
			t.Fatalf("the machine came to nothing; its console:\n%s", strings.Join(console, "\n"))
		}
	}
}

// TestPowerCuts: no power cut breaks a promise. WAYBILL_POWERCUTS says how many there are.
func TestPowerCuts(t *testing.T) {
	cuts := 5
	if n, err := strconv.Atoi(os.Getenv("WAYBILL_POWERCUTS")); err == nil {
		cuts = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := newCutBench(t)
	b.insert(t)
	var state *history.State
	bad := 0
	for n := range cuts + 1 {
		// One cut in five comes while the disk is mounted, looked at, or opened by the agent.
		early := n > 0 && n < cuts && random.IntN(5) == 0
		after := time.Duration(random.Int64N(int64(3 * time.Second)))
		if early {
			after = time.Duration(random.Int64N(int64(1500 * time.Millisecond)))
		}
		s, broken := b.life(t, early, after)
		if s != nil {
			state = s
		}
		if len(broken) > 0 {
			bad++
			t.Errorf("cut %d:\n\t%s", n, strings.Join(broken, "\n\t"))
		}
	}
	gaps := slices.Sorted(slices.Values(b.history.Gaps))
	if len(gaps) == 0 || b.history.Commits < cuts {
		t.Fatalf("%d commits were confirmed in %d lives: the test saw nothing", b.history.Commits, cuts)
	}
	t.Logf("%d cuts, %d broke a promise; %d commits confirmed, %d batches promised, %d on disk, %d ranges recorded as lost for want of room; "+
		"lost before a cut: %v at the median, %v at most",
		cuts, bad, b.history.Commits, b.history.Held(), len(state.Batches), len(state.Lost), gaps[len(gaps)/2], gaps[len(gaps)-1])
}

// TestPowerCutsWithoutSyncs is the control: with its syncs taken from the agent, promises break, or the cuts cost nothing.
func TestPowerCutsWithoutSyncs(t *testing.T) {
	b := newCutBench(t)
	if err := os.WriteFile(filepath.Join(b.dir, "unsynced"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.insert(t)
	b.life(t, false, 2*time.Second)
	if _, broken := b.life(t, false, 0); len(broken) == 0 {
		t.Error("no promise is broken without syncs: a cut loses nothing here, and the test proves nothing")
	} else {
		t.Logf("%d promises broken, such as: %s", len(broken), broken[0])
	}
}

// TestLoggedWrites records what an agent's file system writes and flushes (dm-log-writes), with what the agent confirms
// in between, and replays it: at moments between flushes, any part of what was not flushed by then is done, in sectors.
// Each state is mounted and held to what was confirmed. WAYBILL_POWERCUT_STATES=all looks at every such moment.
func TestLoggedWrites(t *testing.T) {
	states := 60
	if os.Getenv("WAYBILL_POWERCUT_STATES") == "all" {
		states = 1 << 20
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := newCutBench(t)
	r := b.logged(t, 3, states, seed)
	t.Log(r)
	if r.broken > 0 || 10*r.torn > r.states || r.states < min(states, 100)/3 || r.marks < 50 || r.flushes < 50 {
		t.Errorf("%v: want some states, and none broken", r)
	}
	// The control: without syncs, what is confirmed is not on the disk.
	if err := os.WriteFile(filepath.Join(b.dir, "unsynced"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = b.logged(t, 1, 40, seed)
	t.Logf("control: %v", r)
	if r.broken == 0 || r.torn > r.states {
		t.Error("no promise is broken without syncs: the replay does not see what it must")
	}
}

// replayed is what the guest said of a replay.
type replayed struct{ entries, flushes, marks, states, torn, broken, held int }

func (r replayed) String() string {
	return fmt.Sprintf("%d log entries, %d flushes, %d confirmations; %d states, %d broken, %d more without a superblock; %d batches promised in the end",
		r.entries, r.flushes, r.marks, r.states, r.broken, r.torn, r.held)
}

func (b *cutBench) logged(t *testing.T, lives, states int, seed uint64) (out replayed) {
	t.Helper()
	disk := makeDisk(t, loggedDiskBytes)
	base, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	disks := []string{disk}
	for name, size := range map[string]int64{"1log": 1 << 30, "2base": loggedDiskBytes, "3room": 64 << 20} {
		path := filepath.Join(filepath.Dir(disk), name)
		var contents []byte
		if name == "2base" {
			contents = base
		}
		if err := errors.Join(os.WriteFile(path, contents, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
		disks = append(disks, path)
	}
	slices.Sort(disks[1:])
	r := Run(t, Job{
		Command: []string{b.cut, "record", b.dir, b.agent, b.simulate, fmt.Sprint(lives), fmt.Sprint(states), fmt.Sprint(seed)},
		Disks:   disks, Interfaces: []string{"vcan0"}, Timeout: time.Hour,
		Modules: []string{"drivers/md/dm-mod", "drivers/md/dm-bufio", "drivers/md/dm-snapshot", "drivers/md/dm-log-writes"},
	})
	last := strings.TrimSpace(r.Output[strings.LastIndex(strings.TrimSpace(r.Output), "\n")+1:])
	n, _ := fmt.Sscanf(last, "replayed entries=%d flushes=%d marks=%d states=%d torn=%d broken=%d held=%d",
		&out.entries, &out.flushes, &out.marks, &out.states, &out.torn, &out.broken, &out.held)
	if r.Exit != 0 || n != 7 {
		t.Fatalf("exit code %d; the guest said:\n%s", r.Exit, r.Output)
	}
	if out.broken > 0 {
		t.Log(r.Output)
	}
	return out
}
