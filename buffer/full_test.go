package buffer_test

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
	"golang.org/x/sys/unix"
)

// TestFullDisk fills a file system of 3 MiB to its last block, drains it and fills it again. The file system is a tmpfs
// in a mount namespace of the child's own, which user namespaces allow without root.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	cmd := child(t, "full-disk", dir, "")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	cmd.Args = append(cmd.Args, "-test.run=^TestFullDiskChild$", "-test.v")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || exit != nil && exit.ExitCode() == noMount {
		t.Skipf("no mount namespace of our own here: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// noMount is the child's exit code when it may not mount.
const noMount = 77

// TestFullDiskChild is the part that runs in the child.
func TestFullDiskChild(t *testing.T) {
	if os.Getenv(childEnv) != "full-disk" {
		return // TestFullDisk runs it
	}
	dir := os.Getenv(childDir)
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil || unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m") != nil {
		os.Exit(noMount)
	}
	dir += "/queue"
	o := buffer.Options{SegmentBytes: 1 << 20, MaxBytes: 64 << 20, MinFree: -1, Rand: rand.Reader}
	q := open(t, dir, o)
	failures, epoch := 0, q.Epoch()
	const last = 500
	for n := uint64(1); n <= last; n++ {
		q.Reserve(tele)
		for tries := 0; ; tries++ {
			err := q.Commit([]buffer.Record{buffertest.Batch(tele, n, 30<<10)}, nil)
			if err == nil {
				break
			}
			if failures++; tries > 20 {
				t.Fatalf("batch %d: the disk does not come back: %v", n, err)
			}
			for range 10 {
				r, err := q.Next(tele, 0)
				if errors.Is(err, buffer.ErrEmpty) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				q.Release(tele, buffer.Range{First: r.Seq, Last: r.Seq})
			}
		}
		if n%100 == 0 {
			want := q.Stats().Lanes[tele].Batches
			q.Abandon()
			q = open(t, dir, o)
			if got := buffertest.Drain(t, q, tele, 0); uint64(len(got)) < want || got[len(got)-1] != n || q.Epoch() != epoch {
				t.Fatalf("opened again: %d batches, want %d or more; epoch %x, want %x", len(got), want, q.Epoch(), epoch)
			}
			if next := q.Stats().Lanes[tele].Next; next != n+1 {
				t.Fatalf("next is %d, want %d", next, n+1)
			}
		}
	}
	if failures < 10 {
		t.Errorf("the disk was full %d times: this test tests nothing", failures)
	}
}
