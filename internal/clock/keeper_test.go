package clock

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	second = int64(time.Second)
	minute = 60 * second
	hour   = 60 * minute
	doubt  = uint64(80 * time.Millisecond)
)

var (
	builtDay = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	noon     = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC).UnixNano()
)

const (
	fromSystem = telemetrypb.TimeSource_TIME_SOURCE_SYSTEM
	fromNTP    = telemetrypb.TimeSource_TIME_SOURCE_NTP
	fromGPS    = telemetrypb.TimeSource_TIME_SOURCE_GPS
	fromFloor  = telemetrypb.TimeSource_TIME_SOURCE_FLOOR
)

// bench is a Keeper on a computer that booted at noon.
type bench struct {
	*Keeper
	t    *testing.T
	mono int64 // how far CLOCK_MONOTONIC is behind
}

func newBench(t *testing.T, o KeeperOptions) *bench {
	o.BootID, o.BootCount = [16]byte{1}, 7
	if o.Built.IsZero() {
		o.Built = builtDay
	}
	return &bench{Keeper: NewKeeper(o), t: t}
}

// system reads the system's clocks at a boottime.
func (b *bench) system(boot, unix int64, synced bool) Change {
	return b.System(Reading{Boot: boot, Mono: boot - b.mono, Unix: unix, Synced: synced, MaxError: 20e6})
}

// fixes are n fixes, one a second, from a boottime on; off is added to the truth. It gives back the last change that
// had something to tell.
func (b *bench) fixes(boot int64, n int, off int64) (last Change) {
	for i := range int64(n) {
		if c := b.Fix(boot+i*second, noon+boot+i*second+off, doubt); c.Why != "" {
			last = c
		}
	}
	return last
}

// at wants what the record says of a boottime; off is against the truth.
func (b *bench) at(boot, off int64, source telemetrypb.TimeSource) (doubt uint64) {
	b.t.Helper()
	unix, doubt, from := b.Record().WallTime(boot)
	if unix-noon-boot != off || from != source {
		b.t.Errorf("at %v: %v off by %v, want %v by %v; %v", time.Duration(boot), time.Duration(unix-noon-boot), from, time.Duration(off), source, b.Record())
	}
	return doubt
}

func TestThreeFixesMakeATime(t *testing.T) {
	for _, c := range []struct {
		name string
		feed func(b *bench)
		want bool
	}{
		{"three", func(b *bench) { b.fixes(minute, 3, 0) }, true},
		{"two", func(b *bench) { b.fixes(minute, 2, 0) }, false},
		{"a jump after two", func(b *bench) { b.fixes(minute, 2, 0); b.fixes(minute+2*second, 2, 5*second) }, false},
		{"one second apart each time", func(b *bench) {
			for i := range int64(9) {
				b.Fix(i*2*second+second, noon+i*second, doubt) // a receiver that repeats itself
			}
		}, false},
		{"the same time again and again", func(b *bench) {
			for i := range int64(9) {
				b.Fix(minute+i*second, noon, doubt)
			}
		}, false},
		{"long pauses", func(b *bench) {
			for i := range int64(9) {
				b.Fix(minute+i*11*second, noon+minute+i*11*second, doubt)
			}
		}, false},
		{"before the build", func(b *bench) { b.fixes(minute, 9, builtDay.AddDate(0, 0, -3).UnixNano()-noon-minute) }, true}, // rolled over: 2046
		{"1970", func(b *bench) { b.fixes(minute, 9, -noon-minute) }, false},
		{"too far ahead", func(b *bench) { b.fixes(minute, 9, 60*365*24*hour) }, false},
	} {
		b := newBench(t, KeeperOptions{})
		c.feed(b)
		if got := len(b.Record().GetAnchors()) > 0; got != c.want {
			t.Errorf("%s: a time %v, want %v; %v", c.name, got, c.want, b.Record())
		}
	}
}

func TestLeastDelayedFixIsTheAnchor(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	for i, late := range []int64{90, 70, 80, 60, 90, 40, 80, 70, 90, 90, 60, 50, 90, 90, 90, 90, 90} {
		boot := minute + int64(i)*second
		b.Fix(boot, noon+boot-late*1e6, doubt)
	}
	if d := b.at(minute+5*second, -40e6, fromGPS); d != doubt {
		t.Errorf("doubt %d", d)
	}
	if n := len(b.Record().GetAnchors()); n != 1 {
		t.Errorf("%d anchors", n)
	}
}

func TestWeekRollover(t *testing.T) {
	for weeks := range int64(3) {
		b := newBench(t, KeeperOptions{})
		b.fixes(minute, 3, -weeks*rollover)
		b.at(minute, 0, fromGPS)
	}
	// Thirty years on, without an update: what GPS itself gave moves the cycle.
	later := 25 * 365 * 24 * hour
	b := newBench(t, KeeperOptions{Floor: Good{noon + later, fromGPS}})
	b.fixes(minute, 3, later+hour-rollover)
	b.at(minute, later+hour, fromGPS)
	// But not what a network said.
	b = newBench(t, KeeperOptions{Floor: Good{noon + later, fromNTP}})
	b.fixes(minute, 3, 0)
	b.at(minute, 0, fromGPS)
}

func TestGPSJudgesTheSystemsClock(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	b.system(second, 5*second, false)
	b.system(minute, noon+minute+24*hour, true)
	b.at(minute, 24*hour, fromNTP)
	b.system(10*minute, noon+10*minute+23*hour, true)
	b.at(minute, 24*hour, fromNTP)
	b.at(10*minute, 23*hour, fromNTP)
	c := b.fixes(40*minute, 3, 0)
	if !c.Urgent || !strings.Contains(c.Why, "2 anchors withdrawn") {
		t.Errorf("%+v", c)
	}
	if d := b.at(0, 0, fromGPS); d < doubt+uint64(40*minute)/driftPerNS {
		t.Errorf("the hour before is claimed to %v", time.Duration(d))
	}
	// Afterwards it may say what it likes.
	if c := b.system(41*minute, noon+41*minute+10*365*24*hour, false); c.Record || c.Why == "" {
		t.Errorf("a step: %+v", c)
	}
	if c := b.system(42*minute, noon+42*minute+hour, true); c.Record || !b.Denied() {
		t.Errorf("a lie: %+v, denied %v", c, b.Denied())
	}
	b.fixes(43*minute-3*second, 3, 0)
	if c := b.system(43*minute, noon+43*minute, true); c.Record || b.Denied() {
		t.Errorf("the truth: %+v, denied %v", c, b.Denied())
	}
	b.at(50*minute, 0, fromGPS)
	// In GPS's silence a synchronised clock that agrees with it goes on.
	if c := b.system(2*hour, noon+2*hour+10e6, true); !c.Record {
		t.Error("NTP is not heard in the silence of GPS")
	}
	b.at(2*hour, 10e6, fromNTP)
	if n := pieces(b.Record()); n != 1 {
		t.Errorf("%d pieces", n)
	}
}

func pieces(r *telemetrypb.ClockRecord) int {
	n := 1
	for _, a := range r.GetAnchors() {
		if a.GetNewPiece() {
			n++
		}
	}
	return n
}

func TestStepsOfAClockThatNobodyVouchesFor(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	steps := []struct {
		boot, unix int64
		record     bool
	}{
		{second, hour + second, true},
		{2 * second, hour + 2*second, false},
		{minute, hour + minute + 20e6, false}, // slewed
		{hour, hour + hour + 20e6, false},
		{hour + second, 5 * hour, true},
		{hour + 2*second, second, true}, // 1970 again
	}
	for i, s := range steps {
		if c := b.system(s.boot, s.unix, false); c.Record != s.record {
			t.Errorf("step %d: %+v", i, c)
		}
	}
	r := b.Record()
	if r.GetRevision() != 3 || pieces(r) != 3 {
		t.Errorf("record %v", r)
	}
	if _, d, source := r.WallTime(hour); d < Unbounded || source != fromSystem {
		t.Errorf("±%d by %v", d, source)
	}
	if _, steps, _ := b.Counts(); steps != 2 {
		t.Errorf("%d steps counted", steps)
	}
}

func TestFloor(t *testing.T) {
	b := newBench(t, KeeperOptions{Floor: Good{noon, fromNTP}})
	b.system(second, hour, false) // 1970
	if d := b.at(minute, 0, fromFloor); d != Unbounded {
		t.Errorf("±%d", d)
	}
	b.system(minute, noon+minute+3*hour, false) // a clock that could be right
	b.at(minute, 3*hour, fromSystem)
	b.system(2*minute, noon+2*minute-hour, true) // a network that says it is earlier than the network said
	b.at(2*minute, -hour, fromNTP)

	b = newBench(t, KeeperOptions{Floor: Good{noon, fromGPS}})
	b.system(2*minute, noon+2*minute-hour, true) // than GPS said: no
	b.at(2*minute, 0, fromFloor)
	b.fixes(3*minute, 3, -hour) // GPS may: the floor was a simulator's
	b.at(0, -hour, fromGPS)
}

func TestSuspendBeginsAPiece(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	b.fixes(minute, 20, 0)
	b.system(2*minute, noon+2*minute, false)
	b.mono = 3 * hour
	if c := b.system(3*hour+2*minute+5*second, noon, false); !c.Record || !strings.Contains(c.Why, "slept for 3h") {
		t.Errorf("%+v", c)
	}
	if d := b.at(3*hour+3*minute, 0, fromGPS); d < doubt+suspendGap || d > doubt+2*suspendGap {
		t.Errorf("after the suspend ±%v is claimed", time.Duration(d))
	}
	b.fixes(3*hour+10*minute, 20, 700e6) // the kernel reckoned the sleep 700 ms too short
	if d := b.at(3*hour+3*minute, 700e6, fromGPS); d > 2*doubt {
		t.Errorf("after a fix ±%v", time.Duration(d))
	}
	if d := b.at(2*minute, 0, fromGPS); d > 2*doubt {
		t.Errorf("before the suspend ±%v", time.Duration(d))
	}
	if _, _, n := b.Counts(); n != 1 {
		t.Errorf("%d suspends", n)
	}
}

// A suspend before anybody vouches for the time, and a process that begins anew after it: what GPS says then is not
// taken for the time before the suspend, whose length the kernel reckons.
func TestSuspendOutlivesTheProcess(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	b.system(minute, 0, false)
	b.mono = hour
	if c := b.system(hour+minute+5*second, hour, false); !c.Record || !c.Urgent {
		t.Errorf("%+v", c)
	}
	again := newBench(t, KeeperOptions{Record: b.Record()})
	again.mono = hour
	again.system(hour+2*minute, hour+minute, false)
	again.fixes(hour+10*minute, 20, 700e6) // the kernel reckoned the sleep 700 ms too short
	if d := again.at(minute, 700e6, fromGPS); d < suspendGap {
		t.Errorf("before the suspend ±%v", time.Duration(d))
	}
	if d := again.at(hour+2*minute, 700e6, fromGPS); d > 2*doubt {
		t.Errorf("after a fix ±%v", time.Duration(d))
	}
}

func TestLeapSecond(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	b.fixes(minute, 60, 0) // the last of them names second 60, which is the next day's 0
	c := b.fixes(2*minute, 60, -second)
	if !c.Urgent || !strings.Contains(c.Why, "jumped by 1s") {
		t.Errorf("%+v", c)
	}
	for boot := 90 * second; boot < 2*minute; boot += 100e6 {
		b.at(boot, 0, fromGPS)
	}
	for boot := 2 * minute; boot < 150*second; boot += 100e6 {
		b.at(boot, -second, fromGPS)
	}
}

func TestFewFixesDoNotMoveGPS(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	b.fixes(minute, 30, 0)
	before := b.Record()
	b.fixes(2*minute, fixesAgainst-1, 5*second)
	if !proto.Equal(before, b.Record()) {
		t.Errorf("record %v", b.Record())
	}
	b.fixes(3*minute, 30, 0)
	b.at(3*minute, 0, fromGPS)
	if pieces(b.Record()) != 1 {
		t.Errorf("record %v", b.Record())
	}
}

// A record never grows beyond its bound, keeps its ends, and goes on from what it says itself.
func TestRecordIsBoundedAndGoesOn(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	last := int64(0)
	for i := range int64(400) {
		last = minute + i*11*minute
		if i%7 == 6 {
			b.mono += hour / 2
			b.system(last-minute, noon, false)
		} else {
			b.system(last-2*minute, noon, false)
			b.system(last-minute, noon, false)
		}
		b.fixes(last, 20, i%2*10e6)
		r := b.Record()
		if len(r.GetAnchors()) > maxAnchors {
			t.Fatalf("%d anchors", len(r.GetAnchors()))
		}
		again := NewKeeper(KeeperOptions{BootID: [16]byte{1}, BootCount: 7, Built: builtDay, Record: r})
		if got := again.Record(); !proto.Equal(got, r) {
			t.Fatalf("read back: %v\nwant %v", got, r)
		}
	}
	r := b.Record()
	if r.Anchors[0].GetBootNs() > 2*minute || r.Anchors[len(r.Anchors)-1].GetBootNs() < last {
		t.Errorf("from %d to %d, want up to %d", r.Anchors[0].GetBootNs(), r.Anchors[len(r.Anchors)-1].GetBootNs(), last)
	}
	if size := proto.Size(r); size > 3<<10 {
		t.Errorf("%d bytes", size)
	}
}

func TestReplayKeepsItsOwnTime(t *testing.T) {
	b := newBench(t, KeeperOptions{})
	b.Replay(&telemetrypb.Anchor{BootNs: 5, UnixNs: noon, Source: telemetrypb.TimeSource_TIME_SOURCE_LOG})
	if r := b.Record(); r.GetRevision() != 1 || len(r.GetAnchors()) != 1 || r.GetAnchors()[0].GetUnixNs() != noon {
		t.Errorf("record %v", r)
	}
}

// Whatever a receiver and the system's clocks say, a record stays sound: ascending, bounded, and it can be asked.
func FuzzKeeper(f *testing.F) {
	f.Add([]byte("seed: some fixes, some readings, some sleep"))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 255, 254, 253, 128, 127, 0, 0, 0, 9, 9, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), 600)]
		k := NewKeeper(KeeperOptions{Built: builtDay, Floor: Good{noon, fromGPS}})
		boot, slept, offset := second, int64(0), noon
		for len(script) >= 3 {
			op, a, b := script[0], int64(int8(script[1])), int64(int8(script[2]))
			script = script[3:]
			boot += a * a * 1e7
			switch op % 8 {
			case 0, 1, 2:
				for range 4 {
					boot += second
					k.Fix(boot, boot+offset+b*1e7, uint64(op)*1e6)
				}
			case 3:
				k.Fix(boot<<(op%40), (boot+offset)<<(b&15), uint64(b))
			case 4:
				slept += a * a * 1e9
				boot += a * a * 1e9
			case 5:
				offset += a << (b & 63)
			default:
				k.System(Reading{Boot: boot, Mono: boot - slept, Unix: boot + offset, Synced: op%2 == 0, MaxError: b * 1e6})
			}
			r := k.Record()
			if len(r.GetAnchors()) > maxAnchors {
				t.Fatalf("%d anchors", len(r.GetAnchors()))
			}
			for i := 1; i < len(r.GetAnchors()); i++ {
				if r.Anchors[i].GetBootNs() < r.Anchors[i-1].GetBootNs() {
					t.Fatalf("anchor %d is earlier than the one before: %v", i, r)
				}
			}
			r.WallTime(boot)
		}
	})
}

func ExampleKeeper() {
	k := NewKeeper(KeeperOptions{Built: builtDay})
	for i := range int64(3) {
		if c := k.Fix(minute+i*second, noon+i*second, doubt); c.Record {
			fmt.Println(c.Why)
		}
	}
	// Output: GPS vouches for the time
}
