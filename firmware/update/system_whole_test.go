package update

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/firmware/install"
)

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
