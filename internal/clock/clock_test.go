package clock

import (
	"os"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func TestBootIsTheKernelsUptimeClock(t *testing.T) {
	text, err := os.ReadFile("/proc/uptime") // CLOCK_BOOTTIME in seconds, by proc(5)
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := time.ParseDuration(strings.Fields(string(text))[0] + "s")
	if err != nil {
		t.Fatal(err)
	}
	// A container may have a time namespace of its own for /proc/uptime; both read the same clock there too.
	if d := (time.Duration(System{}.Boot()) - seconds).Abs(); d > 5*time.Second {
		t.Errorf("Boot is %v away from /proc/uptime", d)
	}
}

func TestBootIDRoundTrip(t *testing.T) {
	const text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	id, err := ParseBootID(text)
	if err != nil || FormatBootID(id) != text {
		t.Errorf("%x, %v", id, err)
	}
	for _, bad := range []string{"", "0f1e", text + "00", strings.Replace(text, "0f", "zz", 1)} {
		if _, err := ParseBootID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestKeeperAnchors(t *testing.T) {
	k := NewKeeper([16]byte{1}, 7)
	at := func(boot, offset time.Duration) *telemetrypb.Anchor {
		return &telemetrypb.Anchor{BootNs: int64(boot), UnixNs: int64(boot + offset), Source: telemetrypb.TimeSource_TIME_SOURCE_SYSTEM}
	}
	steps := []struct {
		anchor         *telemetrypb.Anchor
		taken, newPart bool
	}{
		{at(time.Second, time.Hour), true, false},
		{at(time.Second, 2*time.Hour), false, false},                       // no later than the last
		{at(time.Minute, time.Hour), false, false},                         // on the line, too soon
		{at(time.Minute, time.Hour+time.Second), true, true},               // a step
		{at(12*time.Minute, time.Hour+time.Second), true, false},           // aged
		{at(12*time.Minute+time.Second, -50*365*24*time.Hour), true, true}, // back to 1970
	}
	for i, s := range steps {
		if got := k.Add(s.anchor); got != s.taken {
			t.Errorf("step %d: taken %v", i, got)
		}
		if s.taken && s.anchor.NewPiece != s.newPart {
			t.Errorf("step %d: new piece %v", i, s.anchor.NewPiece)
		}
	}
	if r := k.Record(); r.Revision != 4 || len(r.Anchors) != 4 || r.BootCount != 7 {
		t.Errorf("record %v", r)
	}
}

func TestKeeperIsBounded(t *testing.T) {
	k := NewKeeper([16]byte{1}, 1)
	for i := range 500 {
		k.Add(&telemetrypb.Anchor{BootNs: int64(i+1) * int64(time.Hour), UnixNs: int64(i) * int64(time.Hour)})
	}
	r := k.Record()
	if len(r.Anchors) > maxAnchors || r.Anchors[0].BootNs != int64(time.Hour) || r.Anchors[len(r.Anchors)-1].BootNs != 500*int64(time.Hour) {
		t.Errorf("%d anchors from %v", len(r.Anchors), r.Anchors[0])
	}
}

func TestLogKeepsItsOwnTime(t *testing.T) {
	var l Log
	stamp := time.Date(2021, 6, 1, 11, 43, 50, 84_000_000, time.UTC).UnixNano()
	boot, first := l.Stamp(stamp)
	if !first || boot <= 0 {
		t.Errorf("first stamp: %d %v", boot, first)
	}
	later, first := l.Stamp(stamp + 1500)
	if first || later-boot != 1500 {
		t.Errorf("second stamp: %d %v", later-boot, first)
	}
	if a := l.Anchor(); a.UnixNs-a.BootNs != stamp-boot || a.Source != telemetrypb.TimeSource_TIME_SOURCE_LOG {
		t.Errorf("anchor %v", a)
	}
	if l.Wall().UnixNano() != stamp+1500 || l.Boot() != later {
		t.Errorf("clock at %v, %d", l.Wall(), l.Boot())
	}
}
