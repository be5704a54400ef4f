package buffer_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// The tests of this file run a child process that works on a queue and says what was confirmed: childEnv names the
// child's part, childDir its folder. emulator is what runs a test binary of another instruction set, as in go test -exec.
const (
	childEnv = "WAYBILL_BUFFER_CHILD"
	childDir = "WAYBILL_BUFFER_DIR"
	childArg = "WAYBILL_BUFFER_SEED"
	emulator = "WAYBILL_TEST_EXEC"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "work":
		childWork(os.Getenv(childDir), os.Getenv(childArg))
	case "cuts":
		childCuts(os.Getenv(childDir), os.Getenv(childArg))
	case "replay":
		childReplay(os.Getenv(childDir), os.Getenv(childArg))
	case "small-disk":
		childSmallDisk(os.Getenv(childDir))
	case "full-disk", "no-writes":
		os.Exit(m.Run())
	case "hold":
		q, err := buffer.Open(os.Getenv(childDir), buffer.Options{Rand: strings.NewReader("epoch123")})
		fmt.Println("open", err)
		if err == nil {
			bufio.NewReader(os.Stdin).ReadByte()
			q.Close()
		}
	}
	os.Exit(0)
}

func child(t *testing.T, part, dir, arg string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	if run := os.Getenv(emulator); run != "" {
		cmd = exec.Command(run, self)
	}
	cmd.Env = append(os.Environ(), childEnv+"="+part, childDir+"="+dir, childArg+"="+arg)
	cmd.Stderr = os.Stderr
	return cmd
}

// childWork commits batches and journal entries until it is killed, or for as many steps as stand behind the seed,
// releases some, and prints each thing after it was
// confirmed: R lane seq (before: reserved), J lane seq part, B lane seq size, F lane seq (released and synced).
func childWork(dir, seed string) {
	var n uint64
	steps := -1
	fmt.Sscan(seed, &n, &steps)
	rnd := rand.New(rand.NewPCG(n, 1))
	epoch := append(fmt.Append(nil, "epoch", n), 0, 0, 0, 0, 0, 0, 0, 0)
	q, err := buffer.Open(dir, buffer.Options{SegmentBytes: 256 << 10, Rand: bytes.NewReader(epoch[:8])})
	if err != nil {
		fmt.Println("E", err)
		return
	}
	var say strings.Builder
	flush := func() {
		os.Stdout.WriteString(say.String()) // one write: whole lines, or none
		say.Reset()
	}
	type open struct {
		seq   uint64
		parts int
	}
	unsealed := map[buffer.Lane]*open{}
	for step := 0; step != steps; step++ {
		var batches []buffer.Record
		var journal []buffer.JournalEntry
		for _, l := range []buffer.Lane{buffer.Control, buffer.Event, buffer.Telemetry} {
			if rnd.IntN(3) == 0 {
				continue
			}
			u := unsealed[l]
			if u == nil {
				u = &open{seq: q.Reserve(l)}
				unsealed[l] = u
				fmt.Fprintln(&say, "R", uint8(l), u.seq)
			}
			if rnd.IntN(3) > 0 {
				journal = append(journal, buffertest.Entry(l, u.seq, u.parts))
				u.parts++
				continue
			}
			batches = append(batches, buffertest.Batch(l, u.seq, 200+rnd.IntN(20000)))
			delete(unsealed, l)
		}
		flush()
		if err := q.Commit(batches, journal); err != nil {
			fmt.Println("E", err)
			return
		}
		for _, r := range batches {
			fmt.Fprintln(&say, "B", uint8(r.Lane), r.Seq, len(r.Bytes))
		}
		for _, e := range journal {
			fmt.Fprintln(&say, "J", uint8(e.Lane), e.Seq, e.BootCount-7)
		}
		flush()
		if rnd.IntN(4) == 0 {
			l := buffer.Lanes()[rnd.IntN(3)]
			r, err := q.Next(l, uint64(rnd.IntN(40)))
			if err != nil {
				continue
			}
			first := r.Seq
			if rnd.IntN(3) == 0 { // everything up to it, so that segments go
				first = q.Stats().Lanes[l].Oldest
			}
			tell := func(word string) {
				for seq := first; seq <= r.Seq; seq++ {
					fmt.Fprintln(&say, word, uint8(l), seq)
				}
				flush()
			}
			tell("f") // may be released from now on
			q.Release(l, buffer.Range{First: first, Last: r.Seq})
			if rnd.IntN(3) == 0 {
				if err := q.Sync(); err != nil {
					fmt.Println("E", err)
					return
				}
				tell("F")
			}
		}
	}
}

// start starts a child; one of another instruction set needs the emulator.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	err := cmd.Start()
	if errors.Is(err, syscall.ENOEXEC) {
		t.Skipf("emulated: a child needs %s set to the emulator", emulator)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type batchID struct {
	lane buffer.Lane
	seq  uint64
}

// TestKill kills a child in the middle of its work, many times over on the same folder, and holds what is there after
// each kill to what the child had confirmed.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	rnd := rand.New(rand.NewPCG(11, 12))
	batches := map[batchID]int{}   // confirmed, with their sizes
	journal := map[batchID]int{}   // confirmed parts
	reserved := map[batchID]bool{} // ever told
	perhaps := map[batchID]bool{}  // released, not known to be persisted
	released := map[batchID]bool{} // released and persisted
	onDisk := map[batchID]bool{}   // reached the disk for sure
	epoch := uint64(0)
	confirmed := 0
	for round := range rounds {
		cmd := child(t, "work", dir, fmt.Sprint(round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		start(t, cmd)
		lines := bufio.NewScanner(out)
		stop := 5 + rnd.IntN(60) // lines until the kill
		fresh := map[batchID]bool{}
		for n := 0; lines.Scan(); n++ {
			var kind string
			var lane uint8
			var seq uint64
			var arg int
			if got, _ := fmt.Sscan(lines.Text(), &kind, &lane, &seq, &arg); got < 3 {
				t.Fatalf("the child says %q", lines.Text())
			}
			id := batchID{buffer.Lane(lane), seq}
			switch kind {
			case "R":
				if onDisk[id] || fresh[id] {
					t.Fatalf("round %d: seq %v was given a second time", round, id)
				}
				fresh[id], reserved[id] = true, true
			case "B":
				batches[id], onDisk[id] = arg, true
				delete(journal, id)
				confirmed++
			case "J":
				journal[id], onDisk[id] = arg+1, true
			case "f":
				perhaps[id] = true
			case "F":
				released[id] = true
			}
			if n == stop {
				time.Sleep(time.Duration(rnd.IntN(1500)) * time.Microsecond)
				cmd.Process.Kill()
			}
		}
		cmd.Wait()

		var damage []buffer.Damage
		o := options(t)
		o.OnDamage = func(d buffer.Damage) { damage = append(damage, d) }
		q, err := buffer.Open(dir, o)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(damage) > 0 {
			t.Fatalf("round %d: %v", round, damage)
		}
		if epoch == 0 {
			epoch = q.Epoch()
		}
		if q.Epoch() != epoch || q.CleanStop() {
			t.Fatalf("round %d: epoch %x, want %x; clean %v", round, q.Epoch(), epoch, q.CleanStop())
		}
		there := map[batchID]bool{}
		for _, l := range buffer.Lanes() {
			for _, seq := range buffertest.Drain(t, q, l, 0) { // holds the bytes to what they must be
				id := batchID{l, seq}
				there[id] = true
				if !reserved[id] || released[id] {
					t.Errorf("round %d: %v is there: reserved %v, released %v", round, id, reserved[id], released[id])
				}
				// one that was committed when the kill came, before it could be told
				onDisk[id] = true
				delete(journal, id)
				if _, told := batches[id]; !told {
					batches[id] = -1
				}
			}
		}
		for id := range batches {
			if !there[id] && !perhaps[id] {
				t.Errorf("round %d: confirmed batch %v is gone", round, id)
			}
			if !there[id] {
				released[id] = true
			}
		}
		parts := map[batchID]int{}
		var sealed []buffer.Record
		for _, e := range q.Recovered() {
			id := batchID{e.Lane, e.Seq}
			if want := buffertest.Entry(e.Lane, e.Seq, parts[id]); !bytes.Equal(e.Bytes, want.Bytes) || e.Boot != want.Boot {
				t.Errorf("round %d: journal of %v, part %d: %q", round, id, parts[id], e.Bytes)
			}
			if parts[id]++; parts[id] == 1 {
				sealed = append(sealed, buffertest.Batch(e.Lane, e.Seq, 500))
			}
			onDisk[id] = true
		}
		for id, n := range journal {
			if parts[id] < n || parts[id] > n+1 {
				t.Errorf("round %d: %d journal entries of %v, confirmed were %d", round, parts[id], id, n)
			}
		}
		// Seal them as the agent does, except now and then: then they are to come again.
		if round%3 != 2 {
			if err := q.Commit(sealed, nil); err != nil {
				t.Fatal(err)
			}
			for _, r := range sealed {
				id := batchID{r.Lane, r.Seq}
				batches[id] = len(r.Bytes)
				delete(journal, id)
			}
		} else {
			for id, n := range parts {
				journal[id] = n
			}
		}
		q.Abandon()
		if t.Failed() {
			t.FailNow()
		}
	}
	if confirmed < rounds*3 {
		t.Errorf("only %d batches were confirmed in %d rounds", confirmed, rounds)
	}
	t.Logf("%d batches confirmed over %d kills", confirmed, rounds)
}

// childSmallDisk works under file size limits, which give EFBIG where a full disk gives ENOSPC: one that stops the
// growth of a segment, so that the next one takes the batches; then one that lets nothing be written, and is lifted
// after a while.
func childSmallDisk(dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	limit := func(n uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}); err != nil {
			fmt.Println("E setrlimit", err)
		}
	}
	limit(1500 << 10)
	q, err := buffer.Open(dir, buffer.Options{SegmentBytes: 4 << 20, Rand: strings.NewReader("epoch123")})
	if err != nil {
		fmt.Println("E", err)
		return
	}
	defer q.Close()
	var failed [2]int
	for seq := uint64(1); seq <= 80; seq++ {
		q.Reserve(buffer.Telemetry)
		q.Reserve(buffer.Event)
		batches := []buffer.Record{buffertest.Batch(buffer.Telemetry, seq, 30<<10), buffertest.Batch(buffer.Event, seq, 100)}
		journal := []buffer.JournalEntry{
			buffertest.Entry(buffer.Control, 1, int(seq)-1), // never sealed: each part is to be there once
		}
		if seq == 1 {
			q.Reserve(buffer.Control)
		}
		if seq == 60 {
			limit(8 << 10)
		}
		for try := 0; ; try++ {
			err := q.Commit(batches, journal)
			if err == nil {
				break
			}
			failed[seq/60]++
			if !strings.Contains(err.Error(), "file too large") {
				fmt.Println("E", err)
				return
			}
			if try == 3 && seq == 60 {
				limit(unix.RLIM_INFINITY)
			}
			if try > 5 {
				fmt.Println("E does not heal:", seq, err)
				return
			}
		}
		for _, l := range []buffer.Lane{buffer.Telemetry, buffer.Event} {
			if r, err := q.Next(l, seq); err != nil || r.Seq != seq {
				fmt.Println("E reading", l, seq, err)
				return
			}
		}
	}
	fmt.Println("done", failed[0], failed[1])
}

// TestDiskRefuses: commits that the disk refuses fail, the queue stays usable, the same batches go in when it heals, once.
func TestDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "small-disk", dir, "")
	var out bytes.Buffer
	cmd.Stdout = &out
	start(t, cmd)
	err := cmd.Wait()
	var grow, write int
	if n, _ := fmt.Sscanf(out.String(), "done %d %d", &grow, &write); n != 2 || grow == 0 || write < 4 || err != nil {
		t.Fatalf("%q, %v: want done and some failures", out.String(), err)
	}
	q := open(t, dir, options(t))
	if !q.CleanStop() {
		t.Error("CleanStop() = false")
	}
	for _, l := range []buffer.Lane{buffer.Telemetry, buffer.Event} {
		if got := buffertest.Drain(t, q, l, 0); len(got) != 80 {
			t.Errorf("%s: %v, want 1 to 80", l, got)
		}
	}
	r := q.Recovered()
	for i := range r {
		if want := buffertest.Entry(buffer.Control, 1, i); !bytes.Equal(r[i].Bytes, want.Bytes) {
			t.Errorf("journal entry %d: %q", i, r[i].Bytes)
		}
	}
	if len(r) != 80 {
		t.Errorf("%d journal entries, want 80", len(r))
	}
	leftovers(t, dir)
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "hold", dir, "")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	start(t, cmd)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "open <nil>\n" {
		t.Fatalf("the child says %q", line)
	}
	_, err := buffer.Open(dir, options(t))
	if !errors.Is(err, buffer.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("%v, want ErrLocked with pid %d", err, cmd.Process.Pid)
	}
	ro := options(t)
	ro.ReadOnly = true
	if _, err := buffer.Open(dir, ro); err != nil {
		t.Errorf("read-only: %v", err)
	}
	// It waits as long as it is told to, and no longer needs to when the other one ends.
	o := options(t)
	o.LockTimeout = 20 * time.Second
	go func() {
		time.Sleep(50 * time.Millisecond)
		in.Close()
	}()
	q, err := buffer.Open(dir, o)
	if err != nil {
		t.Fatalf("after the other process has ended: %v", err)
	}
	q.Close()
	cmd.Wait()
}
