package delivery

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestMain makes the test's program a vehicle, too, which fetches until it is killed. It says before each block what it has.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DELIVERY_CHILD"); dir != "" {
		if err := childFetches(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func childFetches(dir string) error {
	image := noise(1, killedImage)
	o := options(dir, image, os.Getenv("DELIVERY_MIRROR"))
	o.SyncBytes, o.Budget = killedSync, 1<<30
	d, err := New(o)
	if err != nil {
		return err
	}
	d.o.Gate = func() (bool, string) {
		fmt.Println(d.Progress().Have)
		return true, ""
	}
	f, err := d.Run(context.Background())
	if err != nil {
		return err
	}
	defer f.Close()
	return holds(f, image)
}

const (
	killedImage = 2 << 20
	killedSync  = 128 << 10
)

// Kills of a real process at random moments: each costs no more than is promised, and the file is right.
func TestKills(t *testing.T) {
	t.Parallel()
	image, dir := noise(1, killedImage), t.TempDir()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { serve(image, "")(paced{w}, r) })
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	// life is one run of the child. It is killed when it says something after so many bytes more; 0 is never.
	life := func(more int64) (have int64, killed bool) {
		command := []string{os.Args[0]}
		if emulator := os.Getenv("WAYBILL_TEST_EXEC"); emulator != "" {
			command = []string{emulator, os.Args[0]}
		}
		child := exec.Command(command[0], command[1:]...)
		child.Env = append(os.Environ(), "DELIVERY_CHILD="+dir, "DELIVERY_MIRROR="+s.URL)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err == nil {
			err = child.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		first := int64(-1)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if have, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
				t.Fatalf("the child says %q", lines.Text())
			}
			if first < 0 {
				first = have
			}
			if more > 0 && have >= first+more && !killed {
				killed = true
				_ = child.Process.Kill() // and what it said meanwhile is read to its end
			}
		}
		_, _ = io.Copy(io.Discard, out)
		if err := child.Wait(); err != nil && !killed {
			t.Fatal(err)
		}
		return have, killed
	}
	had, kills, want := int64(0), 0, 10
	if testing.Short() { // under emulation
		want = 3
	}
	for n := 0; ; n++ {
		asked := len(s.asked())
		more := int64(0)
		if n < want {
			more = 1 + r.Int64N(killedImage/8)
		}
		have, killed := life(more)
		if all := s.asked(); len(all) > asked {
			var from int64
			if _, err := fmt.Sscanf(all[asked], "bytes=%d-", &from); err != nil {
				t.Fatalf("asked for %q", all[asked])
			}
			// Not marked, with the write that went over it, and a block that was begun.
			if least := had - killedSync - 2*leastBlock; from < least {
				t.Errorf("after a kill at %d bytes it goes on at %d, at least %d should be there", had, from, least)
			}
		}
		if had = have; !killed {
			break
		}
		kills++
	}
	t.Logf("%d kills", kills)
	if kills < want-2 {
		t.Errorf("only %d kills", kills)
	}
	f, err := os.Open(dir + "/image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := holds(f, image); err != nil {
		t.Error(err)
	}
}

// paced is an answer that takes its time, so that a kill finds it unfinished.
type paced struct{ http.ResponseWriter }

func (p paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = p.ResponseWriter.Write(b[:min(len(b), leastBlock)])
		n, b = n+m, b[m:]
		time.Sleep(time.Millisecond)
	}
	return n, err
}
