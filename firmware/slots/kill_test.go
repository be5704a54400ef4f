package slots

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A child updates a folder over and over on a real file system and is killed at any moment; what is there then is held to
// the promises, and the next child goes on with it.
const (
	childEnv = "WAYBILL_SLOTS_CHILD" // the folder
	emulator = "WAYBILL_TEST_EXEC"   // what runs a test binary of another instruction set
	killsEnv = "WAYBILL_SLOTS_KILLS" // how many kills
	bigImage = 300 << 10             // bytes: some writes long
	killIn   = 40                    // ms at most, after one of the child's first words
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		childUpdates(dir)
	}
	os.Exit(m.Run())
}

// numbered is an image that tells its number.
func numbered(n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%015d\n", n), bigImage/16)
}

func numberOf(b []byte) (n int, ok bool) {
	if _, err := fmt.Sscanf(string(b[:min(16, len(b))]), "%d\n", &n); err != nil {
		return 0, false
	}
	return n, bytes.Equal(b, numbered(n))
}

// execute is Launch's part without execve: it returns what would run.
func execute(s *Slots) (got Start, data []byte, err error) {
	defer func() {
		if r := recover(); r != nil && r != any(errRan) {
			panic(r)
		}
	}()
	err = s.Launch(ctx, func(start Start) error {
		var err error
		if data, err = os.ReadFile(start.Path); err != nil {
			return err
		}
		got = start
		panic(errRan)
	})
	return got, nil, err
}

// childUpdates lives until it is killed. It says what is committed and what it is about to commit.
func childUpdates(dir string) {
	o := Options{BootID: fmt.Sprint(os.Getpid()), running: func(int, string) bool { return false }}
	for {
		s, err := Open(dir, o)
		must(err)
		got, data, err := execute(s)
		must(err)
		n, _ := numberOf(data)
		o.Running = got.Slot
		s, err = Open(dir, o)
		must(err)
		fmt.Println("runs", n)
		switch {
		case got.Trial && n%3 == 0:
			must(s.Reject(ctx, "a third of them"))
			o.Running = ""
		case got.Trial:
			must(s.Alive(ctx))
			fmt.Println("commits", n)
			must(s.Commit(ctx))
			fmt.Println("committed", n)
		default:
			st, err := s.Status()
			must(err)
			next := n + 1
			for _, r := range st.Rejected {
				if r.ReleaseCounter >= int64(next) {
					next = int(r.ReleaseCounter) + 1
				}
			}
			m := metaOf(numbered(next))
			m.ReleaseCounter = int64(next)
			_, err = s.Install(ctx, bytes.NewReader(numbered(next)), m)
			must(err)
			must(s.Try(ctx, Limits{Crashes: 100, Dead: 100, Cut: 100}))
			for _, o := range st.Outcomes {
				must(s.Reported(ctx, o.ID))
			}
		}
	}
}

func TestKilled(t *testing.T) {
	kills := 15
	if testing.Short() {
		kills = 5
	}
	fmt.Sscan(os.Getenv(killsEnv), &kills)
	dir := filepath.Join(t.TempDir(), "firmware")
	o := Options{BootID: "judge", running: func(int, string) bool { return false }}
	s, err := Open(dir, o)
	must(err)
	if ok, err := s.Seed(ctx, bytes.NewReader(numbered(1)), Meta{}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	self, err := os.Executable()
	must(err)
	committed, about, commits := 1, 1, 0
	for round := range kills {
		cmd := exec.Command(self)
		if run := os.Getenv(emulator); run != "" {
			cmd = exec.Command(run, self)
		}
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		must(err)
		if err := cmd.Start(); err != nil {
			t.Skipf("emulated: a child needs %s set to the emulator: %v", emulator, err)
		}
		words := 1 + rand.IntN(8)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			word, n := "", 0
			fmt.Sscan(lines.Text(), &word, &n)
			if words--; words == 0 {
				time.AfterFunc(time.Duration(rand.IntN(killIn*1000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
			switch word {
			case "commits":
				about = n
			case "committed":
				committed, commits = n, commits+1
			}
		}
		_ = cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("round %d: the child says: %s", round, stderr.String())
		}
		st, err := s.Status()
		if err != nil || st.Lost != "" {
			t.Fatalf("round %d: %v %s", round, err, st.Lost)
		}
		for slot, state := range st.Slots {
			if m := state.Image; m != nil && s.holds(slot, m) != nil {
				t.Fatalf("round %d: slot %s is said to hold %s: %v", round, slot, m.SHA256, s.holds(slot, m))
			}
		}
		data, err := os.ReadFile(s.Executable(st.Committed))
		if n, ok := numberOf(data); err != nil || !ok || n != committed && n != about {
			t.Fatalf("round %d: image %d (%v) is committed, want %d or %d: %v", round, n, ok, committed, about, err)
		} else {
			committed, about = n, n
		}
	}
	if commits < kills/5 {
		t.Errorf("%d commits over %d kills: the test saw nothing", commits, kills)
	}
	t.Logf("%d commits over %d kills", commits, kills)
}
