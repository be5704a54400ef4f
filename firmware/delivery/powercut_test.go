package delivery

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// teller is a source that has it all, and counts what it gives. It breaks when broken says so.
type teller struct {
	data   []byte
	given  int64
	broken func(given int64) error
}

func (s *teller) String() string { return "test" }

func (s *teller) fetch(_ context.Context, d *Delivery, p *part, _ string, _ bool) error {
	for !p.complete() {
		off, n := p.missing(0, 700) // no multiple of a block
		if s.broken != nil {
			if err := s.broken(s.given); err != nil {
				return err
			}
		}
		s.given += n
		if err := d.copy(p, bytes.NewReader(s.data[off:off+n]), off, n); err != nil {
			return err
		}
	}
	return nil
}

// small blocks make small images with many of them.
const small = 1 << 10

// onDisk is a download onto a memDisk, from a teller.
func onDisk(t testing.TB, dir string, disk *memDisk, image []byte, s *teller) *Delivery {
	t.Helper()
	o := options(dir, image, "http://127.0.0.1:1/")
	o.SyncBytes, o.SyncEvery, o.Budget = 4*small, time.Hour, 1<<30
	o.Image = onMemory{signed{image}, t, disk}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	d.disk, d.sources, d.id.block = disk, []source{s}, small
	return d
}

func finish(t testing.TB, d *Delivery) {
	t.Helper()
	f, err := d.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := holds(f, d.o.Image.(onMemory).data); err != nil {
		t.Fatal(err)
	}
}

// A power cut after any change that a download makes to the disk, whatever of the unsynced changes is lost or torn: the next
// start ends with the image, and fetches no more again than is promised.
func TestPowerCutAtEveryWrite(t *testing.T) {
	t.Parallel()
	image := noise(1, 20*small+777)
	dir := t.TempDir()
	disk, source := newMemDisk(), &teller{data: image}
	disk.mark = func() int64 { return source.given }
	first := onDisk(t, dir, disk, image, source)
	finish(t, first)
	bound := first.o.SyncBytes + 2*small // what was not marked, with the write that went over it; a block that was begun
	states := 0
	for n := range len(disk.ops) + 1 {
		given := int64(len(image))
		if n < len(disk.ops) {
			given = disk.ops[n].mark
		}
		for how := range losses {
			for seed := range uint64(4) {
				if how != anyOf && seed > 0 {
					break
				}
				after := disk.cut(n, how, rand.New(rand.NewPCG(seed, uint64(n))))
				spent := spentOn(t, after, dir, first.id)
				again := &teller{data: image}
				finish(t, onDisk(t, dir, after, image, again))
				states++
				if most := int64(len(image)) - given + bound; again.given > most {
					t.Fatalf("cut after %d changes (%d): %d bytes fetched again, %d were there, at most %d may be", n, how, again.given, given, most)
				}
				if spent < given-small {
					t.Fatalf("cut after %d changes (%d): the budget knows of %d bytes, %d came", n, how, spent, given)
				}
			}
		}
	}
	t.Logf("%d states after %d changes", states, len(disk.ops))
}

// spentOn is what the budget on a disk says.
func spentOn(t testing.TB, disk *memDisk, dir string, id identity) int64 {
	t.Helper()
	probe := *disk
	probe.names = map[string]int{}
	for name, node := range disk.names {
		probe.names[name] = node
	}
	b, err := openBudget(&probe, dir, 1<<30, id, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return b.spent
}

// One power cut after the other, each in what the last one left: the image comes out.
func TestPowerCutsInARow(t *testing.T) {
	t.Parallel()
	image := noise(2, 30*small)
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 7))
		dir, disk := t.TempDir(), newMemDisk()
		for range 4 {
			ctx, cancel := context.WithCancel(t.Context())
			stop := int64(r.IntN(len(image)/3) + 1)
			s := &teller{data: image, broken: func(given int64) error {
				if given >= stop {
					cancel()
					return ctx.Err()
				}
				return nil
			}}
			d := onDisk(t, dir, disk, image, s)
			if f, err := d.Run(ctx); err == nil {
				f.Close()
			}
			cancel()
			// The cut comes somewhere in it: what was done in good order at the end is forgotten, too.
			disk = disk.cut(r.IntN(len(disk.ops)+1), anyOf, r)
		}
		s := &teller{data: image}
		finish(t, onDisk(t, dir, disk, image, s))
	}
}

// The disk is full in the middle: the download waits and says so, and goes on with what it has.
func TestDiskFull(t *testing.T) {
	image := noise(3, 20*small)
	dir, disk := t.TempDir(), newMemDisk()
	source := &teller{data: image}
	d := onDisk(t, dir, disk, image, source)
	full := 0
	disk.fail = func(op diskOp) error {
		if op.kind == "write" && source.given > int64(len(image)/2) && full < 3 {
			full++
			return syscall.ENOSPC
		}
		return nil
	}
	finish(t, d)
	if full != 3 {
		t.Errorf("the disk was full %d times", full)
	}
	if most := int64(len(image)) + 3*(d.o.SyncBytes+2*small); source.given > most {
		t.Errorf("%d bytes fetched", source.given)
	}
}

// Without room for all of it nothing is fetched, until there is.
func TestNoRoom(t *testing.T) {
	image := noise(3, 20*small)
	disk := newMemDisk()
	disk.room = int64(len(image)) / 2
	source := &teller{data: image}
	d := onDisk(t, t.TempDir(), disk, image, source)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ends with %v", err)
	}
	if source.given != 0 {
		t.Errorf("%d bytes fetched that have no room", source.given)
	}
	disk.room = -1
	finish(t, d)
}

// A sync that fails may have lost what it should have written, whatever the next one says.
func TestFailedSyncIsNotBelieved(t *testing.T) {
	image := noise(4, 20*small)
	disk := newMemDisk()
	source := &teller{data: image}
	dir := t.TempDir()
	d := onDisk(t, dir, disk, image, source)
	failed := false
	disk.fail = func(op diskOp) error {
		if op.kind == "sync" && source.given > int64(len(image)/2) && !failed {
			failed = true
			for i := len(disk.ops) - 1; disk.ops[i].kind != "sync"; i-- { // what was written since is gone
				if w := disk.ops[i]; w.kind == "write" {
					disk.nodes[w.node] = writeInto(disk.nodes[w.node], make([]byte, len(w.data)), w.off)
				}
			}
			return syscall.EIO
		}
		return nil
	}
	if _, err := d.Run(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("ends with %v", err)
	}
	finish(t, onDisk(t, dir, disk, image, source))
	if most := int64(len(image)) + d.o.SyncBytes + 2*small; source.given > most {
		t.Errorf("%d bytes fetched for an image of %d", source.given, len(image))
	}
}

// Flash wears by syncs: two for SyncBytes, and a few around.
func TestSyncsAreBounded(t *testing.T) {
	image := noise(5, 1<<20)
	disk := newMemDisk()
	d := onDisk(t, t.TempDir(), disk, image, &teller{data: image})
	d.o.SyncBytes = 64 << 10
	finish(t, d)
	// 16 pairs, the budget's leases of 256 KiB, and the beginning and end.
	if most := 2*16 + 5 + 6; disk.syncs > most {
		t.Errorf("%d syncs, at most %d should be", disk.syncs, most)
	}
	t.Logf("%d syncs for %d bytes", disk.syncs, len(image))
}

// Bits that turn on the disk are fetched again.
func TestDamagedBlocks(t *testing.T) {
	image := noise(6, 20*small)
	dir, disk := t.TempDir(), newMemDisk()
	half := &teller{data: image}
	ctx, cancel := context.WithCancel(t.Context())
	half.broken = func(given int64) error {
		if given > int64(len(image)/2) {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	if _, err := onDisk(t, dir, disk, image, half).Run(ctx); err == nil {
		t.Fatal("it was not interrupted")
	}
	data := disk.nodes[disk.names[dir+"/image.data"]]
	data[3*small+5] ^= 1
	data[5*small] ^= 0x80
	rest := &teller{data: image}
	finish(t, onDisk(t, dir, disk, image, rest))
	if want := int64(len(image)) - half.given + 2*small; rest.given > want+small || rest.given < want {
		t.Errorf("%d bytes fetched, want about %d", rest.given, want)
	}
}
