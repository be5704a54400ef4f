package buffer_test

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// TestDiskThatTakesNoWrites opens queues on a file system that is read-only or full at that moment, and heals it. The
// file system is a tmpfs in a mount namespace of the child's own.
func TestDiskThatTakesNoWrites(t *testing.T) {
	cmd := child(t, "no-writes", t.TempDir(), "")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	cmd.Args = append(cmd.Args, "-test.run=^TestDiskThatTakesNoWritesChild$", "-test.v")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || exit != nil && exit.ExitCode() == noMount {
		t.Skipf("no mount namespace of our own here: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDiskThatTakesNoWritesChild is the part that runs in the child.
func TestDiskThatTakesNoWritesChild(t *testing.T) {
	if os.Getenv(childEnv) != "no-writes" {
		return // TestDiskThatTakesNoWrites runs it
	}
	root := os.Getenv(childDir)
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		os.Exit(noMount)
	}
	filler := filepath.Join(root, "filler")
	readOnly := func(t *testing.T, on bool) {
		flags := uintptr(unix.MS_REMOUNT)
		if on {
			flags |= unix.MS_RDONLY
		}
		if err := unix.Mount("tmpfs", root, "tmpfs", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	full := func(t *testing.T, on bool) {
		if !on {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			return
		}
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		block := make([]byte, 4096)
		for err == nil {
			_, err = f.Write(block)
		}
	}
	o := buffer.Options{SegmentBytes: 1 << 20, MaxBytes: 64 << 20, MinFree: -1, Rand: rand.Reader}
	for _, c := range []struct {
		name    string
		disable func(*testing.T, bool)
		fresh   bool // no queue is there yet
	}{
		{"read-only, new", readOnly, true}, {"read-only", readOnly, false}, {"full, new", full, true}, {"full", full, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if unix.Mount("tmpfs", root, "tmpfs", 0, "size=4m") != nil {
				os.Exit(noMount)
			}
			defer unix.Unmount(root, unix.MNT_DETACH)
			dir := filepath.Join(root, "data", "queue")
			epoch, first := uint64(0), uint64(1)
			if !c.fresh {
				q := open(t, dir, o)
				add(t, q, tele, 3, 1000)
				epoch, first = q.Epoch(), 4
				if err := q.Close(); err != nil {
					t.Fatal(err)
				}
			}
			c.disable(t, true)
			q := open(t, dir, o)
			if epoch == 0 {
				epoch = q.Epoch()
			}
			if q.Epoch() != epoch {
				t.Errorf("epoch %x, want %x", q.Epoch(), epoch)
			}
			if !c.fresh {
				r, err := q.Next(tele, 0) // what is there can be sent, and let go of
				if err != nil || r.Seq != 1 {
					t.Errorf("Next: %d, %v", r.Seq, err)
				}
				if err := q.Release(tele, buffer.Range{First: 1, Last: 1}); err != nil {
					t.Error(err)
				}
			}
			if _, err := q.Next(tele, first); !errors.Is(err, buffer.ErrEmpty) {
				t.Errorf("Next: %v, want ErrEmpty", err)
			}
			seq := q.Reserve(tele)
			batch := []buffer.Record{buffertest.Batch(tele, seq, 1000)}
			if seq != first {
				t.Errorf("the first number is %d, want %d", seq, first)
			}
			for range 3 {
				if err := q.Commit(batch, nil); err == nil || !buffer.Trouble(err) && !errors.Is(err, buffer.ErrFull) {
					t.Fatalf("Commit: %v", err)
				}
			}
			if err := q.Sync(); err != nil && !buffer.Trouble(err) {
				t.Errorf("Sync: %v", err)
			}
			c.disable(t, false)
			if err := q.Commit(batch, nil); err != nil {
				t.Fatalf("after it healed: %v", err)
			}
			if _, err := buffer.Open(dir, o); !errors.Is(err, buffer.ErrLocked) {
				t.Errorf("a second process: %v, want ErrLocked", err)
			}
			q.Abandon()
			q = open(t, dir, o)
			got := buffertest.Drain(t, q, tele, 0)
			want := []uint64{1}
			if !c.fresh {
				want = []uint64{2, 3, 4}
			}
			if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != seq || q.Epoch() != epoch {
				t.Errorf("opened again: %v, want %v; epoch %x, want %x", got, want, q.Epoch(), epoch)
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			leftovers(t, dir)
		})
	}
	t.Run("a queue that appears", func(t *testing.T) {
		if unix.Mount("tmpfs", root, "tmpfs", 0, "size=4m") != nil {
			os.Exit(noMount)
		}
		defer unix.Unmount(root, unix.MNT_DETACH)
		dir := filepath.Join(root, "queue")
		readOnly(t, true)
		late := open(t, dir, o)
		readOnly(t, false)
		q := open(t, dir, o)
		add(t, q, tele, 3, 1000)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		if err := late.Commit([]buffer.Record{buffertest.Batch(tele, late.Reserve(tele), 1000)}, nil); err == nil {
			t.Error("it was overwritten")
		}
		if err := late.Close(); err != nil {
			t.Error(err)
		}
		after := tree(t, dir)
		for name := range before {
			if string(after[name]) != string(before[name]) {
				t.Errorf("%s was changed", name)
			}
		}
		if len(after) != len(before) {
			t.Errorf("%d files, there were %d", len(after), len(before))
		}
	})
}
