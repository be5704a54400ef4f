package slots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The vehicle of these tests: its disk, and who runs on it.
type vehicle struct {
	d       *disk
	boot    int
	factory string
}

const testDir = "/fw"

func image(name string) []byte {
	return bytes.Repeat([]byte("image "+name+" "), 150) // more than one sector, not a whole number of them
}

func metaOf(b []byte) Meta {
	sum := sha256.Sum256(b)
	return Meta{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(b)), Campaign: "c-" + string(b[6]), Name: "agent"}
}

func (v *vehicle) slots(running Slot) *Slots {
	s, err := Open(testDir, Options{
		Running: running, Factory: v.factory, BootID: fmt.Sprintf("boot-%05d", v.boot), LockWait: 1, fsys: v.d, running: func(int, string) bool { return false },
	})
	if err != nil {
		panic(err)
	}
	return s
}

// started is what Launch let run, and the bytes of it.
type started struct {
	Start
	data []byte
}

// launch runs the launcher once; each executable is taken. "" when nothing was.
func (v *vehicle) launch() (out started) {
	defer func() {
		if r := recover(); r != nil && r != any(errRan) {
			panic(r)
		}
	}()
	err := v.slots("").Launch(context.Background(), func(s Start) error {
		n := v.d.now[s.Path]
		if n == nil {
			return syscall.ENOENT
		}
		if n.mode&0o111 == 0 {
			return syscall.EACCES
		}
		out = started{s, n.data}
		panic(errRan) // execve does not return
	})
	panic(fmt.Sprint("the launcher could start nothing: ", err))
}

var errRan = errors.New("runs")

// until does f with the power going before the n-th change; cut says that it went.
func (v *vehicle) until(n int, f func()) (cut bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != any(powerCut{}) {
				panic(r)
			}
			cut = true
		}
		v.d.cutAt = 0
	}()
	v.d.ops, v.d.cutAt = 0, n
	f()
	return false
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

var (
	ctx    = context.Background()
	imageA = image("A")
	imageB = image("B")
)

func seeded() *vehicle {
	v := &vehicle{d: newDisk(), boot: 1}
	if ok, err := v.slots("").Seed(ctx, bytes.NewReader(imageA), Meta{}); err != nil || !ok {
		panic(fmt.Sprint(ok, err))
	}
	return v
}

func (v *vehicle) install(b []byte) {
	_, err := v.slots(A).Install(ctx, bytes.NewReader(b), metaOf(b))
	must(err)
}

// The steps of an update, each on what those before it made.
type step struct {
	name   string
	before func(*vehicle)
	do     func(*vehicle)
}

var steps = []step{
	{"install", func(*vehicle) {}, func(v *vehicle) { v.install(imageB) }},
	{"install over an old one", func(v *vehicle) { v.install(image("0")) }, func(v *vehicle) { v.install(imageB) }},
	{"install over one that is armed", func(v *vehicle) { v.install(image("0")); must(v.slots(A).Try(ctx, Limits{})) },
		func(v *vehicle) { v.install(imageB) }},
	{"install on a full disk", func(v *vehicle) { v.install(image("0")); v.d.full = true }, func(v *vehicle) { v.d.full = true; v.install(imageB) }},
	{"try", func(v *vehicle) { v.install(imageB) }, func(v *vehicle) { must(v.slots(A).Try(ctx, Limits{})) }},
	{"attempt", func(v *vehicle) { armed(v) }, func(v *vehicle) { v.launch() }},
	{"second attempt", func(v *vehicle) { armed(v); v.launch(); v.boot++ }, func(v *vehicle) { v.launch() }},
	{"alive", func(v *vehicle) { armed(v); v.launch() }, func(v *vehicle) { must(v.slots(B).Alive(ctx)) }},
	{"stopped", func(v *vehicle) { armed(v); v.launch() }, func(v *vehicle) { must(v.slots(B).Stopped(ctx)) }},
	{"commit", func(v *vehicle) { armed(v); v.launch() }, func(v *vehicle) { must(v.slots(B).Commit(ctx)) }},
	{"reject", func(v *vehicle) { armed(v); v.launch() }, func(v *vehicle) { must(v.slots(B).Reject(ctx, "no CAN")) }},
	{"rollback", func(v *vehicle) { armed(v); v.launch(); v.launch(); v.launch() }, func(v *vehicle) { v.launch() }},
	{"reported", func(v *vehicle) { armed(v); must(v.slots(A).Reject(ctx, "no")) },
		func(v *vehicle) {
			st, err := v.slots(A).Status()
			must(err)
			must(v.slots(A).Reported(ctx, st.Outcomes[0].ID))
		}},
	{"install when current was left behind", func(v *vehicle) {
		armed(v)
		v.launch()
		must(v.slots(B).Commit(ctx))
		v.d.now[testDir+"/current"].link = "slots/a"
	}, func(v *vehicle) {
		c := image("C")
		_, err := v.slots(B).Install(ctx, bytes.NewReader(c), metaOf(c))
		must(err)
	}},
	{"commit of a second update", func(v *vehicle) { armed(v); v.launch(); must(v.slots(B).Commit(ctx)); v.boot++; v.launch() },
		func(v *vehicle) {
			b := image("C")
			_, err := v.slots(B).Install(ctx, bytes.NewReader(b), metaOf(b))
			must(err)
			must(v.slots(B).Try(ctx, Limits{}))
			v.launch()
			must(v.slots(A).Commit(ctx))
		}},
}

// some are the steps that a short test looks at: on another processor nothing differs.
func some() (list []step) {
	for i, s := range steps {
		if !testing.Short() || i%4 == 0 {
			list = append(list, s)
		}
	}
	return list
}

func armed(v *vehicle) {
	v.install(imageB)
	must(v.slots(A).Try(ctx, Limits{}))
}

// TestPowerCutAtEachWrite cuts the power before each change of each step, and looks at every disk that may come of it: the
// launcher starts a whole executable, the trial's only when it was armed, no slot is said to hold what it does not, what was
// decided is as before the step or as after it, and the step can be done again.
func TestPowerCutAtEachWrite(t *testing.T) {
	total := 0
	for _, step := range some() {
		cuts, states := 0, map[string]bool{}
		base, before := step.base()
		whole := base.copy()
		step.do(whole)
		after := whole.facts()
		for n := 1; ; n++ {
			v := base.copy()
			if !v.until(n, func() { step.do(v) }) {
				break
			}
			cuts++
			for where, d := range v.d.states() {
				key := d.key()
				if states[key] {
					continue
				}
				states[key] = true
				for _, broken := range judgeCut(d, v.boot, before, after) {
					t.Errorf("%s: cut before %s, %s: %s", step.name, v.d.log[len(v.d.log)-1], where, broken)
				}
				if t.Failed() {
					return
				}
			}
		}
		if cuts < 2 || len(states) < 4 {
			t.Errorf("%s: %d cuts, %d states: the test saw nothing", step.name, cuts, len(states))
		}
		t.Logf("%-36s %3d moments, %4d different disks", step.name, cuts, len(states))
		total += len(states)
	}
	t.Logf("%d disks", total)
}

// base is a vehicle before a step, at rest.
func (s step) base() (*vehicle, facts) {
	v := seeded()
	s.before(v)
	v = v.copy()
	return v, v.facts()
}

func (v *vehicle) copy() *vehicle {
	c := *v
	c.d = v.d.clone()
	return &c
}

// facts is what has to be whole: what is committed, on trial, rejected.
type facts struct {
	committed string // bytes
	former    string // of the slot that current names
	trial     bool
	starts    int
	crashes   int
	rejected  int
}

func (v *vehicle) facts() (f facts) {
	st, err := v.slots("").Status()
	must(err)
	if n := v.d.now[v.slots("").Executable(st.Committed)]; n != nil {
		f.committed = string(n.data)
	}
	if target, err := v.d.Readlink(testDir + "/current"); err == nil {
		if n := v.d.now[v.slots("").Executable(Slot(filepath.Base(target)))]; n != nil {
			f.former = string(n.data)
		}
	}
	if st.Trial != nil {
		f.trial, f.starts, f.crashes = true, st.Trial.Starts, st.Trial.Crashes
	}
	f.rejected = len(st.Rejected)
	return f
}

// judgeCut holds a disk that a power cut left to the promises; boot is the one that ended.
func judgeCut(d *disk, boot int, before, after facts) (broken []string) {
	defer func() {
		if r := recover(); r != nil {
			broken = append(broken, fmt.Sprint(r))
		}
	}()
	say := func(format string, a ...any) { broken = append(broken, fmt.Sprintf(format, a...)) }
	v := &vehicle{d: d, boot: boot + 1}
	st, err := v.slots("").Status()
	if err != nil || st.Lost != "" {
		say("the state is lost: %v %s", err, st.Lost)
	}
	for slot, state := range st.Slots {
		if m := state.Image; m != nil {
			if n := d.now[state.Path]; n == nil || metaOf(n.data).SHA256 != m.SHA256 || n.mode&0o111 == 0 {
				say("slot %s is said to hold %.8s and does not", slot, m.SHA256)
			}
		}
	}
	f := v.facts()
	if f.committed != before.committed && f.committed != after.committed {
		say("committed is %.8q, neither what it was nor what it was to be", f.committed)
	}
	if f.trial && !before.trial && !after.trial && before.committed == after.committed {
		say("there is a trial from nowhere")
	}
	if f.trial && f.starts < before.starts {
		say("%d starts, %d before", f.starts, before.starts)
	}
	if f.rejected < min(before.rejected, after.rejected) {
		say("a rejection is lost")
	}
	// If the state were lost now, what is committed would run, or what was until now: nothing that is untried.
	lost := &vehicle{d: d.clone(), boot: boot + 1}
	for _, name := range copies {
		if n := lost.d.now[testDir+"/"+name]; n != nil {
			n.data = []byte("lost")
		}
	}
	if got := string(lost.launch().data); got != before.committed && got != after.committed && got != before.former {
		say("without its state it starts %.8q", got)
	}
	got := v.launch()
	if name := whichImage(got.data); name == "" {
		say("it starts %s, which is no whole image", got.Path)
	}
	if !got.Trial && string(got.data) != f.committed {
		say("it starts what is not committed")
	}
	if got.Trial && !f.trial {
		say("it starts a trial that is none")
	}
	if got := v.facts(); got.trial && got.starts != f.starts+1 {
		say("%d starts are counted, %d before this one", got.starts, f.starts)
	}
	// Whatever was left over, an update goes through.
	if st, err = v.slots(got.Slot).Status(); err == nil && st.Trial != nil {
		err = v.slots(got.Slot).Reject(ctx, "test")
		v.boot++
		got = v.launch()
	}
	must(err)
	c := image("Z")
	_, err = v.slots(got.Slot).Install(ctx, bytes.NewReader(c), metaOf(c))
	must(err)
	must(v.slots(got.Slot).Try(ctx, Limits{}))
	if got = v.launch(); whichImage(got.data) != "Z" || !got.Trial {
		say("after another update %q runs", whichImage(got.data))
	}
	must(v.slots(got.Slot).Commit(ctx))
	v.boot++
	if got = v.launch(); whichImage(got.data) != "Z" || got.Trial {
		say("after another update was committed %q runs, on trial: %v", whichImage(got.data), got.Trial)
	}
	if target, _ := d.Readlink(filepath.Join(testDir, "current")); target != "slots/"+string(got.Slot) {
		say("current is %s and %s runs", target, got.Slot)
	}
	return broken
}

func whichImage(b []byte) string {
	for _, name := range []string{"A", "B", "C", "Z", "0"} {
		if bytes.Equal(b, image(name)) {
			return name
		}
	}
	return ""
}

// TestDisksThatDoNotSync is the control: on a disk that takes syncs lightly the promises break, or the test sees nothing.
func TestDisksThatDoNotSync(t *testing.T) {
	for name, set := range map[string]func(*disk){
		"data": func(d *disk) { d.noData = true }, "folders": func(d *disk) { d.noFolders = true },
	} {
		broken := 0
		for _, step := range some() {
			base, before := step.base()
			for n := 1; broken == 0; n++ {
				v := base.copy()
				set(v.d)
				if !v.until(n, func() { step.do(v) }) || len(v.d.pending) > 4 { // too many to look at
					break
				}
				for _, d := range v.d.states() {
					broken += min(1, len(judgeCut(d, v.boot, before, before)))
				}
			}
		}
		t.Logf("without syncs of %s %d states are broken", name, broken)
		if broken == 0 {
			t.Errorf("without syncs of %s nothing breaks: the model does not see what it must", name)
		}
	}
}

// TestNewVehicle: while the package puts the first executable there, its own copy runs.
func TestNewVehicle(t *testing.T) {
	for n := 1; ; n++ {
		v := &vehicle{d: newDisk(), boot: 1}
		if !v.until(n, func() { v.slots("").Seed(ctx, bytes.NewReader(imageA), Meta{}) }) {
			break
		}
		for where, d := range v.d.states() {
			d.now["/factory"] = &inode{mode: 0o755, perm: 0o755, data: imageA}
			s, _ := Open(testDir, Options{BootID: "x", Factory: "/factory", fsys: d})
			got := ""
			err := s.Launch(ctx, func(s Start) error {
				if got == "" {
					got = whichImage(d.now[s.Path].data)
				}
				return syscall.ENOEXEC
			})
			if got != "A" {
				t.Fatalf("cut %d, %s: %q is started: %v", n, where, got, err)
			}
			delete(d.now, "/factory")
			if _, err := s.Seed(ctx, bytes.NewReader(imageA), Meta{}); err != nil {
				t.Fatalf("cut %d, %s: %v", n, where, err)
			}
			if v := (&vehicle{d: d, boot: 2}); whichImage(v.launch().data) != "A" {
				t.Fatalf("cut %d, %s: seeded again, and it does not start", n, where)
			}
		}
	}
}

// TestFailingDisk lets each change fail, once or from then on: a step that fails leaves a vehicle that starts, and when the
// disk is well again it can be done.
func TestFailingDisk(t *testing.T) {
	for _, step := range some() {
		base, before := step.base()
		seen := map[string]bool{}
		for _, failing := range []int{1, 1 << 20} {
			for n := 1; ; n++ {
				v := base.copy()
				v.d.ops, v.d.failAt, v.d.failing, v.d.errno = 0, n, failing, syscall.ENOSPC
				var failed any
				func() {
					defer func() { failed = recover() }()
					step.do(v)
				}()
				if v.d.ops < n {
					break
				}
				// It is still broken: the launcher starts what is committed, or what it could count.
				got := v.launch()
				if name := whichImage(got.data); name == "" {
					t.Fatalf("%s, change %d fails (%d): it starts no whole image", step.name, n, failing)
				}
				v.d.failing = 0
				rest := v.d.clone()
				if seen[rest.key()] {
					continue
				}
				seen[rest.key()] = true
				for _, broken := range judgeCut(rest, v.boot, before, v.facts()) {
					t.Fatalf("%s, change %d fails (%d; %v): %s", step.name, n, failing, failed, broken)
				}
			}
		}
	}
}

// TestRandomLives: vehicles that are updated well and badly, with power cuts at random changes. What runs is whole, and a
// reference that knows what was asked for agrees with what is committed. WAYBILL_SLOTS_LIVES says how many there are.
func TestRandomLives(t *testing.T) {
	lives := 8
	if testing.Short() {
		lives = 3
	}
	if n, err := strconv.Atoi(os.Getenv("WAYBILL_SLOTS_LIVES")); err == nil {
		lives = n
	}
	for seed := range uint64(lives) {
		if err := randomLife(seed); err != "" {
			t.Fatalf("life %d: %s", seed, err)
		}
	}
}

func randomLife(seed uint64) (failed string) {
	var history strings.Builder
	defer func() {
		if r := recover(); r != nil {
			failed = fmt.Sprint(r, "\n", history.String())
		}
	}()
	rnd := rand.New(rand.NewPCG(seed, 5))
	v := seeded()
	v.d = v.d.clone()
	committed, crashes, next := "A", 0, 0
	names := []string{"B", "C", "Z", "0"}
	rejected := map[string]bool{}
	run := v.launch()
	for range 60 {
		s := v.slots(run.Slot)
		may := []string{committed} // what may be committed after this step
		name := names[next%len(names)]
		limit := false
		var what string
		do := func() {}
		switch k := rnd.IntN(8); {
		case run.Trial && k < 2:
			what = "commit"
			may = append(may, whichImage(run.data))
			do = func() { must(s.Commit(ctx)) }
		case run.Trial && k == 2:
			what = "reject"
			do = func() { must(s.Reject(ctx, "test")) }
		case run.Trial && k == 3:
			what = "alive"
			do = func() { must(s.Alive(ctx)) }
		case run.Trial && k == 4:
			what = "stop"
			do = func() { must(s.Stopped(ctx)); v.launch() }
		case run.Trial:
			what = "crash"
			limit = true
			do = func() { v.launch() }
		case k < 5:
			what = "update to " + name
			do = func() {
				_, err := s.Install(ctx, bytes.NewReader(image(name)), metaOf(image(name)))
				next++
				if errors.Is(err, ErrRejected) && rejected[name] || errors.Is(err, ErrCommitted) || errors.Is(err, ErrInUse) && run.Slot != "" {
					return
				}
				must(err)
				must(s.Try(ctx, Limits{}))
			}
		default:
			what = "drive"
		}
		fmt.Fprintf(&history, "%s (from %s %s)\n", what, run.Slot, whichImage(run.data))
		if v.until(rnd.IntN(40), do) || rnd.IntN(4) == 0 { // it may be cut, or be cut afterwards
			all := []*disk{}
			for _, d := range v.d.states() {
				all = append(all, d)
			}
			v.d, v.boot = all[rnd.IntN(len(all))], v.boot+1
			history.WriteString("  power cut\n")
		} else if limit {
			crashes++
		}
		run = v.launch()
		got := whichImage(run.data)
		st, err := v.slots(run.Slot).Status()
		must(err)
		for _, r := range st.Rejected {
			for _, n := range names {
				if metaOf(image(n)).SHA256 == r.SHA256 {
					rejected[n] = true
				}
			}
		}
		now := whichImage(v.d.now[v.slots("").Executable(st.Committed)].data)
		if st.Lost != "" || got == "" || now != may[0] && now != may[len(may)-1] || !run.Trial && got != now {
			panic(fmt.Sprintf("%q runs, %q is committed, want one of %q; lost: %s", got, now, may, st.Lost))
		}
		committed = now
	}
	return ""
}
