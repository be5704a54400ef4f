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
