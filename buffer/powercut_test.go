package buffer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A power cut loses what was written and not synced, in any part and any order. Here a child works on a queue under
// strace (powercut_work_test.go); what it wrote is replayed up to some moment, what was not synced by then is dropped,
// kept or torn (powercut_disk_test.go), and further children hold the queue that comes out to what the first had
// confirmed by then (powercut_hold_test.go).

// replay is what a child is to check of a recording.
type replay struct {
	Root   string
	Events []event
	Syncs  syncs
	Seed   uint64
	First  int // events behind which the power is cut: from First to before Last
	Last   int
	States int // so many at random moments; 0 = at every moment, several each
}

// verdict is what a child found.
type verdict struct {
	States int // distinct ones: contents and promises
	Disks  [][8]byte
	Bad    int
	Broken []string // the first few, in words
}

// everyMoment is how many states of each moment are chosen at random, beside the one without and the one with everything
// that was not synced.
const everyMoment = 1

// childReplay checks states of the recording in dir and writes its verdict there.
func childReplay(dir, name string) {
	v, err := runReplay(dir, name)
	if err == nil {
		var text []byte
		text, err = json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".verdict"), text, 0o600)
		}
	}
	if err != nil {
		fmt.Println("E", err)
	}
}

func runReplay(dir, name string) (v verdict, err error) {
	var r replay
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return v, err
	}
	defer f.Close()
	if err := gob.NewDecoder(f).Decode(&r); err != nil {
		return v, err
	}
	progress, err := os.Create(filepath.Join(dir, name+".progress"))
	if err != nil {
		return v, err
	}
	defer progress.Close()
	rnd := rand.New(rand.NewPCG(r.Seed, uint64(r.First)))
	var candidates []int
	for i := r.First; i < r.Last; i++ {
		if !r.Syncs.InPlace || strings.HasSuffix(r.Events[i].Path, ".tmp") { // elsewhere it makes no difference
			candidates = append(candidates, i)
		}
	}
	moments := map[int]int{}
	for range r.States {
		moments[candidates[rnd.IntN(len(candidates))]]++
	}
	t := &failer{}
	d, p := newDisk(r.Root, r.Syncs), newPromised()
	states, disks := map[string]bool{}, map[[8]byte]bool{}
	for i, e := range r.Events[:r.Last] {
		p.hear(t, d.take(t, e))
		n := moments[i]
		if r.States == 0 && i >= r.First {
			n = 2 + everyMoment
		}
		for k := range n {
			entries, data := entryWays[rnd.IntN(len(entryWays))], dataWays[rnd.IntN(len(dataWays))]
			if r.States == 0 && k < 2 {
				entries, data = entryWays[k], dataWays[k]
			}
			files := d.cut(entries, data, rnd)
			sum := contents(files)
			if key := fmt.Sprintf("%x %d", sum, p.version); states[key] {
				continue
			} else {
				states[key] = true
			}
			disks[sum] = true
			where := fmt.Sprintf("cut behind event %d (%s %s), entries: %s, data: %s", i, e.Call, strings.TrimPrefix(e.Path, r.Root), entries, data)
			_, _ = progress.WriteAt(fmt.Appendf(nil, "%-200s", where), 0)
			into := filepath.Join(dir, name+".state")
			if err := plantFiles(into, r.Root, files); err != nil {
				return v, err
			}
			if broken := p.hold(into); len(broken) > 0 {
				if v.Bad++; v.Bad <= 3 {
					v.Broken = append(v.Broken, where+"\n\t"+strings.Join(broken[:min(len(broken), 8)], "\n\t"))
				}
			}
		}
	}
	v.States, v.Disks = len(states), slices.Collect(maps.Keys(disks))
	return v, nil
}

// contents tells disks apart.
func contents(files map[string][]byte) (sum [8]byte) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintln(h, name, len(files[name]))
		h.Write(files[name])
	}
	copy(sum[:], h.Sum(nil))
	return sum
}

func plantFiles(into, root string, files map[string][]byte) error {
	if err := os.RemoveAll(into); err != nil {
		return err
	}
	for name, b := range files {
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		path := filepath.Join(into, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := writeSparse(path, b); err != nil {
			return err
		}
	}
	return os.MkdirAll(into, 0o700)
}

// writeSparse leaves holes where pages are zero: they count in quotas otherwise.
func writeSparse(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	var zeros [pageBytes]byte
	for at := 0; at < len(b); at += pageBytes {
		if page := b[at:min(at+pageBytes, len(b))]; !bytes.Equal(page, zeros[:len(page)]) {
			_, writeErr := f.WriteAt(page, int64(at))
			err = errors.Join(err, writeErr)
		}
	}
	return errors.Join(err, f.Truncate(int64(len(b))), f.Close())
}

// failer lets a child use what takes a test: it panics, which its parent sees.
type failer struct{ testing.TB }

func (*failer) Helper()                        {}
func (*failer) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// powercuts has children check states of a recording.
func powercuts(t *testing.T, r replay) (all verdict) {
	t.Helper()
	base := scratch(t)
	children := min(2, runtime.NumCPU())
	disks := map[[8]byte]bool{}
	var mu sync.Mutex // guards all and disks
	var wg sync.WaitGroup
	for k := range children {
		part := r
		part.First, part.Last = len(r.Events)*k/children, len(r.Events)*(k+1)/children
		part.States = (r.States + children - 1 - k) / children
		name := fmt.Sprint("replay", k)
		f, err := os.Create(filepath.Join(base, name))
		if err == nil {
			err = gob.NewEncoder(f).Encode(&part)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		cmd := child(t, "replay", base, name)
		var said strings.Builder
		cmd.Stdout = &said
		start(t, cmd)
		wg.Go(func() {
			err := cmd.Wait()
			var v verdict
			text, readErr := os.ReadFile(filepath.Join(base, name+".verdict"))
			if err == nil && readErr == nil {
				readErr = json.Unmarshal(text, &v)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || readErr != nil {
				at, _ := os.ReadFile(filepath.Join(base, name+".progress"))
				t.Errorf("the child that checks died: %v, %v: %s\nat: %s", err, readErr, said.String(), at)
				return
			}
			all.States += v.States
			all.Bad += v.Bad
			all.Broken = append(all.Broken, v.Broken...)
			for _, sum := range v.Disks {
				disks[sum] = true
			}
		})
	}
	wg.Wait()
	all.Disks = slices.Collect(maps.Keys(disks))
	return all
}

// scratch is a folder in memory where there is one: states that are only looked at need no disk.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "waybill-buffer")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// seedOf is the seed of a random test: WAYBILL_POWERCUT_SEED repeats one.
func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("WAYBILL_POWERCUT_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("WAYBILL_POWERCUT_SEED=%d", seed)
	return seed
}

// TestPowerCut: no state breaks a promise, and disks that ignore syncs do. WAYBILL_POWERCUT_STATES=all checks several
// states behind every system call, another number so many at random moments.
func TestPowerCut(t *testing.T) {
	lives, states, controls := 7, 160, 20
	if testing.Short() {
		lives, states, controls = 4, 20, 12
	}
	all := os.Getenv("WAYBILL_POWERCUT_STATES")
	if n, err := strconv.Atoi(all); err == nil {
		states = n
	} else if all == "all" {
		states, controls = 0, 400
	}
	seed := seedOf(t)
	dir := filepath.Join(t.TempDir(), "queue")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	events := record(t, dir, seed, lives)
	calls := map[string]int{}
	for _, e := range events {
		calls[e.Call]++
		if e.Call == "unlink" && strings.HasSuffix(e.Path, ".seg") {
			calls["unlink "+filepath.Base(filepath.Dir(e.Path))]++
		}
	}
	segments := calls["unlink"] - calls["unlink control"]
	if calls["write"] < 500 || calls["sync"] < 300 || calls["rename"] < 20 || calls["mkdir"] != 4 ||
		!testing.Short() && (segments < 6 || calls["unlink telemetry"]+calls["unlink raw"] < 3) {
		t.Fatalf("the recording has too little in it: %v", calls)
	}
	v := powercuts(t, replay{Root: dir, Events: events, Syncs: syncs{Data: true, Folders: true}, Seed: seed, States: states})
	t.Logf("%d system calls %v: %d states, %d different disks, %d broken", len(events), calls, v.States, len(v.Disks), v.Bad)
	if v.Bad > 0 {
		t.Errorf("%d of %d states break a promise:\n%s", v.Bad, v.States, strings.Join(v.Broken, "\n"))
	}
	for name, s := range map[string]syncs{
		"no fsync of data": {Folders: true}, "no fsync of folders": {Data: true}, "no fsync": {}, "no rename": {Data: true, Folders: true, InPlace: true},
	} {
		var v verdict
		for round := range uint64(5) { // by chance none of a few states is a broken one
			v = powercuts(t, replay{Root: dir, Events: events, Syncs: s, Seed: seed + round, States: controls})
			if v.Bad > 0 {
				break
			}
		}
		t.Logf("control, %s: %d of %d states break a promise", name, v.Bad, v.States)
		if v.Bad == 0 {
			t.Errorf("%s: no state breaks a promise: the replay does not see what it must", name)
		}
	}
}
