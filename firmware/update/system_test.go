package update

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waybill-telematics/waybill/firmware/install"
	"github.com/waybill-telematics/waybill/firmware/install/installtest"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
)

// garage is a car whose whole system is updated, over many starts of its board.
type garage struct {
	*car
	board     *installtest.Board
	installer install.Installer // the board, or what stands before it
	sick      string            // the version that does not read CAN
	rough     bool              // the agent is never ended in order
	reboot    func() error      // nil: it is done
	start     func() string     // the board, switched on: the boot's id
	rebooting atomic.Bool
	reboots   int
}

func newGarage(t *testing.T) *garage {
	g := &garage{car: newCar(t), board: installtest.New(program("1.0"))}
	g.installer, g.start = g.board, g.board.Boot
	g.boot = g.start()
	return g
}

func (g *garage) system() *System {
	g.t.Helper()
	s, err := NewSystem(SystemOptions{
		Path: filepath.Join(g.dir, "system.json"), Installer: g.installer, BootID: g.boot, Write: g.write, Log: g.log,
		Reboot: func(context.Context) error {
			g.board.Point("reboot")
			if g.reboot != nil {
				if err := g.reboot(); err != nil {
					return err
				}
			}
			g.reboots++
			g.rebooting.Store(true)
			return nil
		},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// write is atomic, and the power may go before it and after it.
func (g *garage) write(path string, data []byte) error {
	g.board.Point("before " + filepath.Base(path))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	g.board.Point("after " + filepath.Base(path))
	return nil
}

// running is the version of the system that runs.
func (g *garage) running() string {
	version, _, _ := strings.Cut(strings.TrimPrefix(string(g.board.Runs()), "#!/bin/sh\n# "), "\n")
	return version
}

func (g *garage) updater(resolve func(context.Context) (trust.Bundle, error), s *System) *Updater {
	o := g.options(resolve, "system", g.running(), func() probation.Health {
		h := works
		if g.running() == g.sick {
			h.Sources = []probation.Source{{Name: "can:can0", Traffic: true}}
		}
		return h
	})
	o.System, o.Write = s, g.write
	o.Probation.Healthy, o.Probation.SourceGrace = o.Probation.MostBetween*3, o.Probation.MostBetween*3
	return g.car.updater(o)
}

// life is one run of the agent on the running system: until something has come about, or a reboot, after which the
// board has started anew.
func (g *garage) life(off func() bool) (end string) {
	g.t.Helper()
	g.rebooting.Store(false)
	defer func() {
		if r := recover(); r == any(errPower) {
			end = "cut"
			g.boot = g.start()
		} else if r != nil {
			panic(r)
		}
	}()
	s := g.system()
	err := g.run(func() bool { return g.rebooting.Load() || off() }, g.updater(g.resolver(), s))
	if !errors.Is(err, context.Canceled) {
		g.t.Fatal(err)
	}
	if !g.rough {
		if err := s.Stopped(g.t.Context()); err != nil {
			g.t.Fatal(err)
		}
	}
	if g.rebooting.Load() {
		g.boot = g.start()
		return "reboot"
	}
	return "off"
}

var errPower = errors.New("the power goes")

// lives goes on until something has come about.
func (g *garage) lives(off func() bool) {
	g.t.Helper()
	for range 20 {
		if g.life(off) == "off" {
			return
		}
	}
	g.t.Fatal("it starts and starts")
}

func (g *garage) calls(what string) (n int) {
	for _, c := range g.board.Calls {
		if c == what {
			n++
		}
	}
	return n
}

func (g *garage) expectRuns(version string) {
	g.t.Helper()
	if got := g.running(); got != version {
		g.t.Errorf("%q runs, want %q; told %q", got, version, g.heard())
	}
}

func TestSystemCommitted(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		t.Run(fmt.Sprint("activates at once: ", atOnce), func(t *testing.T) {
			g := newGarage(t)
			g.board.AtOnce = atOnce
			image := g.publishFor("system", "2.0", 2, doc{"conditions": doc{"parked": true}})
			g.moves = true
			g.lives(g.says("refused 2.0"))
			if g.calls("install") > 0 {
				t.Error("it is installed while the car moves")
			}
			g.moves = false
			if end := g.life(never); end != "reboot" || g.running() != "2.0" {
				t.Fatal(end, g.running())
			}
			if n := g.calls("good"); n != 1 { // of the system before
				t.Error(n, "times marked good before the probation")
			}
			if _, err := os.Stat(filepath.Join(g.dir, "update-system", "download", "image")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the image is still there", err)
			}
			g.lives(g.says("committed 2.0"))
			if n := g.calls("good"); n != 2 {
				t.Error(n, "times marked good after the probation")
			}
			g.expect("refused 2.0", "installed 2.0", "committed 2.0")
			last := g.told[len(g.told)-1]
			if last.SHA256 != image || last.ECU != "system" || last.From != "1.0" || last.Campaign != "campaign-2.0" {
				t.Errorf("%+v", last)
			}
			if m, ok, err := g.system().Installed(); err != nil || !ok || m.SHA256 != image || m.ReleaseCounter != 2 {
				t.Error(m, ok, err)
			}
			// Each start is marked good, once: the boot loader counts on.
			for range 2 * installtest.Attempts {
				g.boot = g.start()
				good := g.calls("good")
				g.lives(g.looked(2))
				g.lives(g.looked(2))
				if n := g.calls("good") - good; n != 1 {
					t.Errorf("marked good %d times in one start", n)
				}
			}
			g.expectRuns("2.0")
			if n := g.calls("install"); n != 1 {
				t.Error(n, "installations")
			}
		})
	}
}

func TestSystemUnhealthyIsRolledBack(t *testing.T) {
	g := newGarage(t)
	g.sick = "2.0"
	g.publishFor("system", "2.0", 2, nil)
	g.lives(g.says("rolled_back 2.0"))
	g.expectRuns("1.0")
	if last := g.told[len(g.told)-1]; !strings.Contains(last.Reason, "can:can0") {
		t.Errorf("%+v", last)
	}
	g.lives(g.looked(100))
	g.expect("installed 2.0", "rolled_back 2.0")
	if n := g.calls("install"); n != 1 {
		t.Error(n, "installations")
	}
	g.publishFor("system", "2.1", 3, nil)
	g.lives(g.says("committed 2.1"))
	g.expectRuns("2.1")
}

// What cannot even start the agent is come back from by the boot loader.
func TestSystemThatNeverStarts(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	g.life(never)
	for g.running() == "2.0" {
		g.boot = g.start()
	}
	g.lives(g.says("rolled_back 2.0"))
	g.lives(g.looked(50))
	g.expect("rolled_back 2.0")
	if last := g.told[len(g.told)-1]; !strings.Contains(last.Reason, "never came through its start") || g.calls("install") != 1 {
		t.Errorf("%+v", last)
	}
}

// An agent that ends by itself in the new system brings the old one back.
func TestSystemCrashes(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	g.life(never)
	g.rough = true
	starts := 0
	for g.running() == "2.0" {
		starts++
		if starts > 10 {
			t.Fatal("it is never come back from")
		}
		g.life(g.looked(1))
	}
	g.lives(g.says("rolled_back 2.0"))
	if last := g.told[len(g.told)-1]; starts != 4 || !strings.Contains(last.Reason, "3 times") {
		t.Errorf("%d starts, %+v", starts, last)
	}
}

// Many short journeys, more than the boot loader has attempts, do not cost a good system its probation.
func TestSystemShortJourneys(t *testing.T) {
	for _, rough := range []bool{false, true} {
		t.Run(fmt.Sprint("cut off: ", rough), func(t *testing.T) { shortJourneys(t, rough) })
	}
}

func shortJourneys(t *testing.T, rough bool) {
	g := newGarage(t)
	g.rough = rough
	g.publishFor("system", "2.0", 2, nil)
	g.life(never)
	for i := range 12 {
		g.board.Boot() // one more that is over before the agent runs
		g.boot = g.start()
		if g.running() != "2.0" {
			t.Fatalf("journey %d: %s runs", i, g.running())
		}
		g.life(g.looked(1))
		if slices.Contains(g.heard(), "committed 2.0") {
			break
		}
	}
	g.lives(g.says("committed 2.0"))
	g.expectRuns("2.0")
}

// What the installer refuses is not installed for ever again.
func TestSystemThatCannotBeInstalled(t *testing.T) {
	g := newGarage(t)
	g.board.Refuse = fmt.Errorf("%w: wrong key", install.ErrFailed)
	g.publishFor("system", "2.0", 2, nil)
	g.lives(g.says("failed 2.0"))
	g.lives(g.looked(100))
	if n := g.calls("install"); n != maxInstalls || g.reboots > 0 {
		t.Error(n, "installations", g.reboots, "reboots")
	}
	g.board.Refuse = nil
	g.publishFor("system", "2.0", 2, doc{"campaign": "again", "retry_of": "campaign-2.0"})
	g.lives(g.says("committed 2.0"))
}

// Until the installer can be reached nothing is known and nothing is said.
func TestSystemInstallerComesLate(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	g.life(never)
	var tries atomic.Int32
	g.installer = late{g.board, &tries}
	g.lives(func() bool { return tries.Load() > 5 })
	if g.calls("good") != 1 || g.calls("rearm") != 0 {
		t.Errorf("%q", g.board.Calls)
	}
	g.installer = g.board
	g.lives(g.says("committed 2.0"))
}

type late struct {
	install.Installer
	tries *atomic.Int32
}

func (l late) Status(context.Context) (install.Status, error) {
	l.tries.Add(1)
	return install.Status{}, install.ErrUnreachable
}

// An installer that does not say what runs is not trusted with anything.
func TestSystemInstallerSaysNothing(t *testing.T) {
	g := newGarage(t)
	g.installer = mute{g.board}
	s := g.system()
	if err := s.begin(t.Context()); err == nil || !strings.Contains(err.Error(), "does not say which system runs") {
		t.Error(err)
	}
	if err := s.install(t.Context(), nil, slots.Meta{SHA256: strings.Repeat("0", 64)}); err == nil || len(g.board.Calls) > 0 {
		t.Error(err, g.board.Calls)
	}
}

type mute struct{ install.Installer }

func (mute) Status(context.Context) (install.Status, error) { return install.Status{}, nil }

// A boot loader that starts what is marked bad all the same is not argued with for ever.
func TestSystemStays(t *testing.T) {
	g := newGarage(t)
	g.sick = "2.0"
	g.publishFor("system", "2.0", 2, nil)
	g.life(never)
	for range maxBack + 1 {
		if end := g.life(never); end != "reboot" {
			t.Fatal(end)
		}
		g.board.Primary, g.board.Left = 1, [2]int{0, installtest.Attempts}
		g.boot = g.start()
	}
	good := g.calls("good")
	g.lives(g.says("failed 2.0"))
	g.boot = g.start()
	g.lives(g.looked(50))
	g.expectRuns("2.0")
	if g.calls("good") != good || g.calls("install") != 1 {
		t.Errorf("%q", g.board.Calls)
	}
}

// A reboot that does not come is asked for again, and nothing is installed twice.
func TestSystemRebootDoesNotCome(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	n := 0
	g.reboot = func() error {
		if n++; n < 3 {
			return errors.New("not while it drives")
		}
		return nil
	}
	g.lives(g.says("committed 2.0"))
	if g.calls("install") != 1 || n != 3 {
		t.Error(n, g.calls("install"))
	}
}

// What is wanted now is installed over what waits for its start.
func TestSystemSuperseded(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	g.reboot = func() error { return errors.New("not now") }
	waits := func() bool { return slices.ContainsFunc(g.heard(), func(s string) bool { return s == "refused 2.0" }) }
	g.lives(waits)
	g.reboot = nil
	g.publishFor("system", "2.1", 3, nil)
	g.lives(g.says("committed 2.1"))
	g.expect("refused 2.0", "installed 2.1", "failed 2.0", "committed 2.1")
}

// What was committed and does not run any more is told, and not taken for what runs.
func TestSystemComesBackLater(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	g.lives(g.says("committed 2.0"))
	g.withdraw()
	g.board.Left[1] = 0
	g.boot = g.start()
	g.lives(g.says("failed 2.0"))
	if _, ok, err := g.system().Installed(); ok || err != nil {
		t.Error(ok, err)
	}
	g.expectRuns("1.0")
}

// A damaged state neither ends updates nor commits what runs.
func TestSystemStateLost(t *testing.T) {
	g := newGarage(t)
	g.publishFor("system", "2.0", 2, nil)
	g.life(never)
	if err := os.WriteFile(filepath.Join(g.dir, "system.json"), []byte(`{"trial":`), 0o600); err != nil {
		t.Fatal(err)
	}
	good := g.calls("good")
	g.withdraw()
	g.lives(g.looked(50))
	if g.calls("good") != good {
		t.Error("what may be on trial was marked good")
	}
	g.publishFor("system", "2.1", 3, nil)
	g.lives(g.says("committed 2.1"))
}

// TestSystemPowerCuts cuts the power before and after each write and each thing that the installer does: a healthy system is
// committed in the end, a sick one rolled back in the end, once, and at most one attempt is lost.
func TestSystemPowerCuts(t *testing.T) {
	for _, way := range []struct {
		name, sick, ends, runs string
		atOnce                 bool
	}{
		{"healthy", "", "committed 2.0", "2.0", false},
		{"sick", "2.0", "rolled_back 2.0", "1.0", false},
		{"healthy, activates at once", "", "committed 2.0", "2.0", true},
		{"sick, activates at once", "2.0", "rolled_back 2.0", "1.0", true},
	} {
		// cut lives through it with the power going at the n-th moment, and answers how many there were.
		cut := func(t *testing.T, n int) (moments int) {
			g := newGarage(t)
			g.sick, g.board.AtOnce = way.sick, way.atOnce
			g.publishFor("system", "2.0", 2, nil)
			at := "nothing"
			g.board.Cut = func(what string) {
				if moments++; moments == n {
					at = what
					panic(errPower)
				}
			}
			g.lives(g.says(way.ends))
			g.board.Cut = nil
			for range 2 {
				g.boot = g.start()
				g.lives(g.looked(3))
			}
			g.expectRuns(way.runs)
			for _, o := range g.heard() {
				if o != way.ends && o != "installed 2.0" {
					t.Errorf("told %q", g.heard())
				}
			}
			if g.calls("install") > 2 {
				t.Errorf("%q", g.board.Calls)
			}
			if t.Failed() {
				t.Errorf("the power went %s", at)
			}
			return moments
		}
		t.Run(way.name, func(t *testing.T) {
			moments := cut(t, 0)
			t.Logf("%d moments", moments)
			if moments < 20 {
				t.Error("the test saw nothing")
			}
			step := 1
			switch {
			case testing.Short():
				step = 7 // on another processor nothing differs
			case way.atOnce: // only the moments of the installation differ
				step = 2
			}
			for n := 0; n < moments; n += step {
				t.Run("", func(t *testing.T) { cut(t, n+1) })
			}
		})
	}
}

// bootEnv is what a maker's command does with a boot loader's environment, here some files.
const bootEnv = `set -e
cd "$BOARD"
echo "$1" >>calls
booted=$(cat booted) other=$((1 - $(cat booted)))
case $1 in
status) echo "booted rootfs.$booted" ;;
install) echo 0 >left.$other; cat <&3 >image.$other; echo "progress 100 written" ;;
activate) echo $other >primary; echo 3 >left.$other ;;
rearm) echo $booted >primary; echo 3 >left.$booted ;;
mark-good) echo 3 >left.$booted ;;
mark-bad) echo 0 >left.$booted ;;
esac
`

// TestSystemByCommand: a command installs, as a process, and what it wrote is what the board starts.
func TestSystemByCommand(t *testing.T) {
	g := newGarage(t)
	dir := t.TempDir()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	number := func(name string) (n int) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if _, scanErr := fmt.Sscan(string(data), &n); err != nil || scanErr != nil {
			t.Fatal(name, err, scanErr)
		}
		return n
	}
	g.start = func() string {
		b := g.board
		b.Primary, b.Left = number("primary"), [2]int{number("left.0"), number("left.1")}
		for i := range b.Image {
			b.Image[i], _ = os.ReadFile(filepath.Join(dir, fmt.Sprintf("image.%d", i)))
		}
		id := b.Boot()
		put("booted", fmt.Sprint(b.Booted))
		put("left.0", fmt.Sprint(b.Left[0]))
		put("left.1", fmt.Sprint(b.Left[1]))
		return id
	}
	put("hook", bootEnv)
	put("image.0", string(program("1.0")))
	put("primary", "0")
	put("left.0", "3")
	put("left.1", "0")
	hook, err := install.NewHook(install.HookOptions{Command: []string{"/bin/sh", filepath.Join(dir, "hook")},
		Env: []string{"BOARD=" + dir}, Lock: filepath.Join(dir, "lock"), Logger: g.log})
	if err != nil {
		t.Fatal(err)
	}
	g.installer = hook
	g.boot = g.start()
	g.sick = "2.1"
	g.publishFor("system", "2.0", 2, nil)
	g.lives(g.says("committed 2.0"))
	g.expectRuns("2.0")
	g.publishFor("system", "2.1", 3, nil)
	g.lives(g.says("rolled_back 2.1"))
	g.expectRuns("2.0")
	g.lives(g.looked(50))
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if n := strings.Count(string(calls), "install\n"); err != nil || n != 2 {
		t.Errorf("%d installations, %v\n%s", n, err, calls)
	}
}

// TestUnitsBesideEachOther: the agent's slots and the whole system are both to be updated; one after the other is on trial.
func TestUnitsBesideEachOther(t *testing.T) {
	for _, sick := range []string{"", "2.0"} {
		t.Run("sick: "+sick, func(t *testing.T) { beside(t, sick) })
	}
}

func beside(t *testing.T, sick string) {
	g := newGarage(t)
	g.sick = sick
	g.publish("3.0", 2, nil)
	g.publishFor("system", "2.0", 2, nil)
	systemEnds := map[bool]string{true: "committed 2.0", false: "rolled_back 2.0"}[sick == ""]
	for range 10 {
		resolve, s, slot := g.resolver(), g.system(), g.launch()
		g.rebooting.Store(false)
		done := func() bool { return g.says("committed 3.0")() && g.says(systemEnds)() }
		err := g.run(func() bool { return g.rebooting.Load() || done() }, g.updater(resolve, s), g.agent(resolve, slot))
		a, errA := g.slots(slot).Status()
		b, errB := s.load()
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a.Trial != nil && b.Trial != nil {
			t.Fatal("both are on trial")
		}
		if err := errors.Join(s.Stopped(t.Context()), g.slots(slot).Stopped(t.Context())); err != nil {
			t.Fatal(err)
		}
		switch {
		case g.rebooting.Load():
			g.boot = g.start()
		case errors.Is(err, ErrRestart):
		case done():
			return
		default:
			t.Fatal(err)
		}
	}
	t.Errorf("told %q", g.heard())
}
