package vm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPowerCutsOfUpdates cuts the power of a guest that updates itself over and over, at any moment: the next guest finds
// each slot as the state says it is, the last image that was committed, or the one that was about to be, and goes on with real
// boot ids, the real launcher and execve. WAYBILL_POWERCUTS says how many cuts there are.
func TestPowerCutsOfUpdates(t *testing.T) {
	cuts := 2
	if n, err := strconv.Atoi(os.Getenv("WAYBILL_POWERCUTS")); err == nil {
		cuts = n
	}
	f := newFlipBench(t)
	boot := f.bed(t)
	for n := range cuts {
		if broken := f.life(t, boot, 2+rand.IntN(16), time.Duration(rand.IntN(60))*time.Millisecond); broken != "" {
			t.Fatalf("cut %d: %s", n, broken)
		}
	}
	if broken := f.life(t, boot, 12, 0); broken != "" {
		t.Fatal(broken)
	}
	if f.commits < cuts {
		t.Errorf("%d commits: the test saw nothing", f.commits)
	}
	t.Logf("%d cuts, %d starts, %d commits", cuts, f.starts, f.commits)
	// The control: without syncs, what was committed is not what is found.
	f = newFlipBench(t)
	f.unsynced = Build(t, "amd64", "build", "./test/vm/cut")
	boot = f.bed(t)
	f.life(t, boot, 12, 0)
	if broken := f.life(t, boot, 1, 0); broken == "" {
		t.Error("no promise is broken without syncs: a cut loses nothing here, and the test proves nothing")
	} else {
		t.Logf("control: %s", broken)
	}
}

type flipBench struct {
	dir, unsynced    string
	committed, about int
	starts, commits  int
}

func newFlipBench(t *testing.T) *flipBench {
	t.Helper()
	f := &flipBench{dir: t.TempDir(), committed: 1, about: 1}
	if err := os.Mkdir(filepath.Join(f.dir, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *flipBench) bed(t *testing.T) *Bed {
	t.Helper()
	command := []string{Build(t, "amd64", "build", "./test/vm/flip", "-ldflags", "-s -w"), f.dir, Build(t, "amd64", "build", "./cmd/launcher")}
	if f.unsynced != "" {
		command = append([]string{f.unsynced, "unsynced"}, command...)
	}
	return NewBed(t, Job{Command: command, Disks: []string{makeDisk(t, 64<<20)}, Interfaces: []string{"vcan0"}})
}

// life boots, holds what is found to what was committed before, and cuts the power some time after so many words.
func (f *flipBench) life(t *testing.T, bed *Bed, words int, after time.Duration) (broken string) {
	t.Helper()
	m := bed.Boot(t)
	var console []string
	hear := func(line string) {
		console = append(console, line)
		var word string
		var n int
		if k, _ := fmt.Sscan(line, &word, &n); k < 1 {
			return
		}
		switch word {
		case "found":
			if n != f.committed && n != f.about {
				broken = fmt.Sprintf("image %d is committed, want %d or %d", n, f.committed, f.about)
			}
			f.committed, f.about = n, n
			words--
		case "broken", "flip:":
			broken = line
		case "runs":
			f.starts++
			words--
		case "commits":
			f.about = n
			words--
		case "committed":
			f.committed, f.about = n, n
			f.commits++
			words--
		}
	}
	var cut <-chan time.Time
	stuck := time.After(bootTimeout)
	for {
		select {
		case line, ok := <-m.Lines():
			if !ok {
				t.Fatalf("the machine ended by itself: %s\n%s", broken, strings.Join(console, "\n"))
			}
			hear(line)
			if cut == nil && (words <= 0 || broken != "") {
				cut = time.After(after)
			}
		case <-cut:
			m.Cut(t, hear)
			return broken
		case <-stuck:
			t.Fatalf("the machine came to nothing; its console:\n%s", strings.Join(console, "\n"))
		}
	}
}
