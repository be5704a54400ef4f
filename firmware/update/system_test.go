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
