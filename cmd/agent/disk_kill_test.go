package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	diskPart  = "WAYBILL_DISK_PART" // names the part of the test that a child is
	diskDir   = "WAYBILL_DISK_DIR"
	diskRound = "WAYBILL_DISK_ROUND"

	noMount    = 77 // exit code of a child that may not mount
	diskRounds = 10
)

// TestKilledWhileTheDiskIsFull: pipeline and queue on a file system of their own that is filled up and emptied at random while
// they work, and killed at random, in the middle of failing, probing and healing. No sample comes out twice, no number names two
// batches, and of a process that ended by itself every sample is in the queue or in the ledger.
func TestKilledWhileTheDiskIsFull(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	cmd := diskChild(t, "TestDiskKillParent", "parent", t.TempDir(), 0)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || exit != nil && exit.ExitCode() == noMount {
		t.Skipf("no mount namespace of our own here: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func diskChild(t *testing.T, test, part, dir string, round int) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), diskPart+"="+part, diskDir+"="+dir, fmt.Sprintf("%s=%d", diskRound, round))
	return cmd
}

func diskOptions() buffer.Options {
	return buffer.Options{SegmentBytes: 256 << 10, MaxBytes: 64 << 20, MinFree: -1, Rand: rand.Reader}
}

// TestDiskKillParent is the part that owns the file system.
func TestDiskKillParent(t *testing.T) {
	if os.Getenv(diskPart) != "parent" {
		return // TestKilledWhileTheDiskIsFull runs it
	}
	root := os.Getenv(diskDir)
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil || unix.Mount("tmpfs", root, "tmpfs", 0, "size=32m") != nil {
		os.Exit(noMount)
	}
	filler := filepath.Join(root, "filler")
	full := func(on bool) {
		if !on {
			os.Remove(filler)
			return
		}
		f, err := os.Create(filler)
		if err != nil {
			return // full already
		}
		defer f.Close()
		for block := make([]byte, 4096); err == nil; {
			_, err = f.Write(block)
		}
	}
	var offered int
	for round := range diskRounds {
		last := round == diskRounds-1
		worker := diskChild(t, "TestDiskKillWorker", "worker", filepath.Join(root, "queue"), round)
		stdin, err := worker.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := worker.StdoutPipe()
		if err == nil {
			err = worker.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(stdout)
		for said.Scan() && said.Text() != "ready" {
			t.Log(said.Text())
		}
		for range 2 + mathrand.IntN(4) {
			full(true)
			time.Sleep(time.Duration(mathrand.IntN(300)) * time.Millisecond)
			full(false)
			time.Sleep(time.Duration(mathrand.IntN(80)) * time.Millisecond)
		}
		if !last {
			full(mathrand.IntN(3) == 0) // the next one starts on a full disk, sometimes
			_ = worker.Process.Kill()
			_ = worker.Wait()
			continue
		}
		stdin.Close()
		for said.Scan() {
			t.Log(said.Text())
			_, _ = fmt.Sscanf(said.Text(), "offered %d", &offered)
		}
		if err := worker.Wait(); err != nil || offered == 0 {
			t.Fatalf("the last worker: %v, %d samples offered", err, offered)
		}
	}
	checkDiskKill(t, filepath.Join(root, "queue"), offered)
}

func checkDiskKill(t *testing.T, dir string, offered int) {
	o := diskOptions()
	o.OnDamage = func(d buffer.Damage) { t.Errorf("damage: %v", d) }
	q, err := buffer.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	seen := map[uint64]bool{}
	named := map[[2]uint64]bool{}
	perRound := map[uint64]int{}
	var lost [diskRounds]uint64
	err = eachBatch(q, buffer.Lanes(), func(r buffer.Record) error {
		if id := [2]uint64{uint64(r.Lane), r.Seq}; named[id] {
			t.Errorf("lane %s: number %d names two batches", r.Lane, r.Seq)
		} else {
			named[id] = true
		}
		if why := disagrees(r); why != "" {
			t.Error(why)
		}
		view, err := telemetrypb.OpenBatch(r.Bytes)
		if err != nil {
			return err
		}
		if r.Lane == buffer.Control {
			records, err := view.Records()
			for _, record := range records.GetRecords() {
				if l := record.GetLoss(); l != nil {
					lost[l.BootId[0]] += l.Count
				}
			}
			return err
		}
		samples, err := view.Samples(nil)
		for _, s := range samples {
			if seen[s.Bits] {
				t.Errorf("lane %s, batch %d: sample %x is there twice", r.Lane, r.Seq, s.Bits)
			}
			seen[s.Bits] = true
			perRound[s.Bits>>48]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	const last = diskRounds - 1
	t.Logf("last round: %d offered, %d stored, %d lost; all rounds: stored %v, lost %v", offered, perRound[last], lost[last], perRound, lost)
	if perRound[last]+int(lost[last]) != offered {
		t.Errorf("of %d samples %d are stored and %d in the ledger", offered, perRound[last], lost[last])
	}
	var sum uint64
	for _, n := range lost {
		sum += n
	}
	if sum == 0 {
		t.Error("the memory was never full: this test does not test that")
	}
}

// TestDiskKillWorker is the part that is killed.
func TestDiskKillWorker(t *testing.T) {
	if os.Getenv(diskPart) != "worker" {
		return // TestDiskKillParent runs it
	}
	var round uint64
	fmt.Sscan(os.Getenv(diskRound), &round)
	q, err := buffer.Open(os.Getenv(diskDir), diskOptions())
	if err != nil {
		t.Fatal(err)
	}
	sel, err := pipeline.Choose([]*telemetrypb.Signal{{Name: "speed"}, {Name: "frame"}},
		[]pipeline.Collect{{Match: "speed"}, {Match: "frame", Lane: telemetrypb.Lane_LANE_RAW}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.New(pipeline.Options{
		Tenant: "acme", Device: "bench-1", BootID: [16]byte{byte(round), 1}, BootCount: uint32(round) + 1,
		CommitEvery: 10 * time.Millisecond, SealEvery: 30 * time.Millisecond, LossEvery: 10 * time.Millisecond,
		BatchBytes: 2 << 10, CommitBytes: 4 << 10, MemoryBytes: 64 << 10, ErrFull: buffer.ErrFull,
	}, sel, pipelineQueue{q})
	if err != nil {
		t.Fatal(err)
	}
	source := p.Source("can:can0", 64)
	if err := p.Recover(recovered(q)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	fmt.Println("ready")
	offered := uint64(0)
	for ended := false; !ended; {
		chunk := source.Chunk()
		now := int64(offered) * 1e6
		for i := range uint64(60) {
			offered++
			value := round<<48 | (offered*0x9E3779B97F4A7C15)>>40<<24 | offered&(1<<24-1) // different, and codes badly
			chunk.Samples = append(chunk.Samples, telemetrypb.IntSample(1+uint32(i)%2, now, int64(value)))
		}
		source.Offer(chunk)
		select {
		case <-stop:
			ended = true
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\noffered %d\n", offered)
}
