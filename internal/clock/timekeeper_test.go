package clock

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// desk is a folder with a book in it, and the records that were stored, by boot and in order.
type desk struct {
	t       *testing.T
	dir     string
	emitted map[[16]byte][]*telemetrypb.ClockRecord
	writes  int
	fail    error
	log     bytes.Buffer
}

func newDesk(t *testing.T) *desk {
	return &desk{t: t, dir: t.TempDir(), emitted: map[[16]byte][]*telemetrypb.ClockRecord{}}
}

func (d *desk) options(boot byte) TimekeeperOptions {
	return TimekeeperOptions{
		Dir: d.dir, BootID: [16]byte{boot}, BootCount: uint32(boot), Built: builtDay, Log: slog.New(slog.NewTextHandler(&d.log, nil)),
		Write: func(path string, data []byte) error {
			if d.fail != nil {
				return d.fail
			}
			d.writes++
			return os.WriteFile(path, data, 0o600)
		},
		Emit: func(r *telemetrypb.ClockRecord) {
			id := [16]byte(r.GetBootId())
			d.emitted[id] = append(d.emitted[id], proto.CloneOf(r))
		},
	}
}

// boot starts a process in the nth boot.
func (d *desk) boot(n byte) *Timekeeper {
	d.t.Helper()
	k, warning := OpenTimekeeper(d.options(n))
	if warning != nil {
		d.t.Fatal(warning)
	}
	k.Start()
	return k
}

func (d *desk) last(n byte) *telemetrypb.ClockRecord {
	list := d.emitted[[16]byte{n}]
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}

// feed gives 20 fixes from a boottime on, of a boot that began at start.
func feed(k *Timekeeper, start, boot int64) {
	for i := range int64(20) {
		k.Fix(boot+i*second, boot+i*second, start+boot+i*second, doubt)
	}
}

func TestBootsWithoutAFixAreBounded(t *testing.T) {
	d := newDesk(t)
	k := d.boot(1)
	feed(k, noon, minute)
	k.Save(10*minute, true)
	for n := byte(2); n < 4; n++ { // an hour later each, and never a fix
		k = d.boot(n)
		k.System(Reading{Boot: second, Mono: second, Unix: second})
		if _, u, source := k.Now(minute); u != Unbounded || source != fromFloor {
			t.Errorf("boot %d: ±%d by %v", n, u, source)
		}
		k.Save(10*minute, true)
	}
	k = d.boot(4)
	feed(k, noon+10*hour, minute)
	for n := byte(2); n < 4; n++ {
		r := d.last(n)
		if r == nil || !proto.Equal(r, k.Clock([16]byte{n})) {
			t.Fatalf("boot %d: stored %v, sent along %v", n, r, k.Clock([16]byte{n}))
		}
		unix, u, source := r.WallTime(5 * minute)
		low, high := noon+10*minute, noon+10*hour
		if source != telemetrypb.TimeSource_TIME_SOURCE_NEIGHBOUR || unix-int64(u) > low+5*minute || unix+int64(u) < high || u > uint64(6*hour) {
			t.Errorf("boot %d: %v ± %v by %v", n, unix-noon, u, source)
		}
	}
	if len(d.emitted[[16]byte{1}]) == 0 || d.last(1).NotAfterUnixNs != nil {
		t.Errorf("boot 1, which GPS dated, was bounded: %v", d.last(1))
	}
	if k.Clock([16]byte{9}) != nil {
		t.Error("a record of a boot that never was")
	}
	// It is told once.
	n := len(d.emitted[[16]byte{3}])
	feed(k, noon+10*hour, hour)
	if len(d.emitted[[16]byte{3}]) != n {
		t.Error("the bound is told again and again")
	}
}

// What a network said in a boot that GPS never judged is refuted when the next boot begins before it.
func TestALieIsRefutedByTheNextBoot(t *testing.T) {
	d := newDesk(t)
	k := d.boot(1)
	feed(k, noon, minute)
	k.Save(10*minute, true)
	k = d.boot(2)
	k.System(Reading{Boot: minute, Mono: minute, Unix: noon + 365*24*hour, Synced: true})
	k.Save(10*minute, true)
	k = d.boot(3)
	feed(k, noon+5*hour, minute)
	if unix, u, source := d.last(2).WallTime(minute); source != telemetrypb.TimeSource_TIME_SOURCE_NEIGHBOUR || unix > noon+5*hour || u > uint64(3*hour) {
		t.Errorf("%v ± %v by %v; %v", unix-noon, u, source, d.last(2))
	}
}

func TestABootGoesOnAfterARestart(t *testing.T) {
	for _, clean := range []bool{true, false} {
		d := newDesk(t)
		k := d.boot(1)
		feed(k, noon, minute)
		feed(k, noon, 20*minute) // not on disk, unless it stops cleanly
		if clean {
			k.Save(21*minute, true)
		}
		before := d.last(1)
		k = d.boot(1)
		after := d.last(1)
		if after.GetRevision() <= before.GetRevision() {
			t.Errorf("clean %v: revision %d after %d", clean, after.GetRevision(), before.GetRevision())
		}
		if unix, u, source := after.WallTime(minute); unix != noon+minute || u != doubt || source != fromGPS {
			t.Errorf("clean %v: %v ± %v by %v", clean, unix-noon, u, source)
		}
		if clean && len(after.GetAnchors()) != len(before.GetAnchors()) {
			t.Errorf("%d anchors after %d", len(after.GetAnchors()), len(before.GetAnchors()))
		}
		k.System(Reading{Boot: 22 * minute, Mono: 22 * minute, Unix: noon + 10*hour})
		if _, _, source := k.Now(23 * minute); source != fromGPS {
			t.Errorf("clean %v: the system's clock speaks", clean)
		}
	}
}

// A process that dies leaves revisions behind that the book does not know; nobody may use them again.
func TestRevisionsAreNeverUsedTwice(t *testing.T) {
	d := newDesk(t)
	used := map[uint32]bool{}
	boot, unix := second, second
	for range 30 {
		k := d.boot(1)
		for range 40 {
			boot += second
			unix += hour // a step each second
			k.System(Reading{Boot: boot, Mono: boot, Unix: unix})
		}
	}
	for _, r := range d.emitted[[16]byte{1}] {
		if used[r.GetRevision()] && r.GetAnchors()[len(r.GetAnchors())-1].GetBootNs() == boot {
			t.Errorf("revision %d was used twice", r.GetRevision())
		}
		used[r.GetRevision()] = true
	}
	last := d.last(1)
	for _, r := range d.emitted[[16]byte{1}] {
		if r.GetRevision() > last.GetRevision() {
			t.Fatalf("revision %d came before %d", r.GetRevision(), last.GetRevision())
		}
	}
}

func TestTheBookIsWrittenSeldom(t *testing.T) {
	d := newDesk(t)
	k := d.boot(1)
	for boot := minute; boot < 6*hour; boot += second {
		k.Fix(boot, boot, noon+boot, doubt)
		if boot%(5*second) == 0 {
			k.System(Reading{Boot: boot, Mono: boot, Unix: noon + boot})
		}
	}
	if most := 6*12 + 4; d.writes > most {
		t.Errorf("%d writes in six hours, want at most %d", d.writes, most)
	}
}

func TestADamagedBookIsLeftAlone(t *testing.T) {
	d := newDesk(t)
	k := d.boot(1)
	feed(k, noon, minute)
	k.Save(10*minute, true)
	path := filepath.Join(d.dir, bookFile)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if book, err := ParseBook(sound); err != nil || len(book.Records) != 1 || book.Good.Source != fromGPS {
		t.Fatalf("%+v, %v", book, err)
	}
	for i := range sound {
		bad := bytes.Clone(sound)
		bad[i] ^= 0x10
		if _, err := ParseBook(bad); !errors.Is(err, ErrBook) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := ParseBook(sound[:i]); !errors.Is(err, ErrBook) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if err := os.WriteFile(path, sound[:len(sound)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	k, warning := OpenTimekeeper(d.options(2))
	if !errors.Is(warning, ErrBook) || k.Record().GetRevision() != 0 {
		t.Errorf("%v, %v", warning, k.Record())
	}
}

func TestADiskThatRefusesIsToldOnce(t *testing.T) {
	d := newDesk(t)
	d.fail = errors.New("read-only file system")
	k := d.boot(1)
	for boot := minute; boot < hour; boot += 5 * second {
		k.System(Reading{Boot: boot, Mono: boot, Unix: noon + boot})
	}
	if n := strings.Count(d.log.String(), "read-only"); n != 1 {
		t.Errorf("told %d times", n)
	}
	if len(d.emitted) != 1 {
		t.Error("no record was stored")
	}
}

func TestBookIsBounded(t *testing.T) {
	d := newDesk(t)
	for n := byte(1); n < 100; n++ {
		k := d.boot(n)
		feed(k, noon+int64(n)*hour, minute)
		k.Save(10*minute, true)
	}
	k := d.boot(100)
	if k.Clock([16]byte{99}) == nil || k.Clock([16]byte{99 - maxBoots + 1}) == nil || k.Clock([16]byte{99 - maxBoots}) != nil {
		t.Error("not the latest boots are kept")
	}
}

func FuzzParseBook(f *testing.F) {
	book := Book{Good: Good{noon, fromGPS}, Reserved: 5, Records: []*telemetrypb.ClockRecord{{BootId: make([]byte, 16), Revision: 3}}}
	data, err := book.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("00000000 waybill-clock 1 0 0 0 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBook(data)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if c, err := ParseBook(again); err != nil || c.Good != b.Good || len(c.Records) != len(b.Records) {
			t.Errorf("read back: %v, %v", c, err)
		}
	})
}
