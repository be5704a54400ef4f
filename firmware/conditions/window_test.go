package conditions

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

const zones = "/usr/share/zoneinfo"

func window(t *testing.T, from, to, zone string) *Window {
	t.Helper()
	w, err := parseWindow(fmt.Appendf(nil, `{"from":%q,"to":%q,"zone":%q}`, from, to, zone))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWindow(t *testing.T) {
	for _, test := range []struct {
		from, to, at string
		in           bool
	}{
		{"02:00", "05:00", "01:59", false}, {"02:00", "05:00", "02:00", true}, {"02:00", "05:00", "04:59", true}, {"02:00", "05:00", "05:00", false},
		{"22:30", "04:15", "22:29", false}, {"22:30", "04:15", "22:30", true}, {"22:30", "04:15", "23:59", true},
		{"22:30", "04:15", "00:00", true}, {"22:30", "04:15", "04:14", true}, {"22:30", "04:15", "04:15", false}, {"22:30", "04:15", "12:00", false},
		{"00:00", "23:59", "23:58", true}, {"00:00", "23:59", "23:59", false}, {"23:59", "00:00", "23:59", true}, {"23:59", "00:00", "00:00", false},
	} {
		at, err := time.Parse("15:04", test.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := window(t, test.from, test.to, "UTC").Contains(at); got != test.in {
			t.Errorf("%s in %s to %s: %t", test.at, test.from, test.to, got)
		}
	}
}

// Around the changes of summer time, each quarter of an hour, in zones that do it in their own way, coreutils' date says what
// the clock on the wall shows.
func TestZones(t *testing.T) {
	if _, err := os.Stat(filepath.Join(zones, "Europe/Berlin")); err != nil {
		deps.Missing(t, "the tz database: %v; apt-get install tzdata", err)
	}
	if _, err := exec.LookPath("date"); err != nil {
		deps.Missing(t, "%v", err)
	}
	missing := 0
	for _, zone := range []struct{ name, tz string }{
		{"Europe/Berlin", ""}, {"America/New_York", ""}, {"America/St_Johns", ""}, {"Australia/Lord_Howe", ""}, // half an hour
		{"America/Argentina/Buenos_Aires", ""}, {"Asia/Kathmandu", ""}, {"UTC", ""}, {"+05:30", "XXX-05:30"}, {"-03:00", "XXX+03:00"},
	} {
		var stamps strings.Builder
		var times []time.Time
		for _, day := range []string{"2026-03-08", "2026-03-29", "2026-04-04", "2026-10-03", "2026-10-25", "2026-11-01", "2027-03-28", "2041-03-31"} {
			at, err := time.Parse(time.DateOnly, day)
			if err != nil {
				t.Fatal(err)
			}
			for range 96 * 2 {
				fmt.Fprintf(&stamps, "@%d\n", at.Unix())
				times = append(times, at)
				at = at.Add(15 * time.Minute)
			}
		}
		cmd := exec.Command("date", "-f", "-", "+%H:%M")
		cmd.Stdin = strings.NewReader(stamps.String())
		tz := zone.tz
		if tz == "" {
			tz = zone.name
		}
		cmd.Env = append(os.Environ(), "TZ="+tz)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		clocks := strings.Fields(string(out))
		if len(clocks) != len(times) {
			t.Fatalf("%d times of %d", len(clocks), len(times))
		}
		c := checker(t, Options{})
		for _, w := range []*Window{window(t, "02:00", "03:00", zone.name), window(t, "23:15", "02:30", zone.name), window(t, "01:45", "02:15", zone.name)} {
			in := 0
			for i, at := range times {
				clock, err := minutes(clocks[i])
				if err != nil {
					t.Fatal(err)
				}
				want := w.From <= clock && clock < w.To
				if w.From > w.To {
					want = clock >= w.From || clock < w.To
				}
				unmet := c.Check(Set{Window: w}, Readings{Time: Time{at, true, 0}}, 1)
				if (unmet == nil) != want {
					t.Errorf("%s, %s on the wall: %q", at, clocks[i], words(unmet))
				}
				if want {
					in++
				}
			}
			if in == 0 {
				missing++
			}
		}
	}
	if missing > 0 {
		t.Errorf("%d windows without a time in them", missing)
	}
}

func TestZoneUnknown(t *testing.T) {
	r := Readings{Time: Time{time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC), true, 0}}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "Europe"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string][]byte{"Europe/Broken": []byte("TZif2 and no more"), "Europe/Large": make([]byte, maxZoneFile+1)} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for zone, want := range map[string]string{
		"Europe/Berlin": "no such file", "Europe/Broken": "malformed", "Europe/Large": "more than 65536 bytes", "vehicle": "not configured",
	} {
		got := words(checker(t, Options{ZoneDir: dir}).Check(Set{Window: window(t, "00:00", "23:59", zone)}, r, 1))
		if !strings.HasPrefix(got, "window: zone "+zone+": ") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", zone, got)
		}
	}
	ours := time.FixedZone("ours", 3600)
	got := words(checker(t, Options{Zone: ours}).Check(Set{Window: window(t, "05:00", "06:00", "vehicle")}, r, 1))
	if got != "window: it is 04:00, not 05:00 to 06:00 (vehicle)" {
		t.Error(got)
	}
}
