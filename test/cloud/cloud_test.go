package main

import (
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/programs"
)

// TestCompareFindsWhatIsMissingAndWhatIsTwice: the verdict is of numbers, drive by drive, and not of sums.
func TestCompareFindsWhatIsMissingAndWhatIsTwice(t *testing.T) {
	whole := func() map[string]map[int64]int { return map[string]map[int64]int{"car-01": {1: 2, 2: 2, 3: 1}} }
	c := &cloud{vehicles: []*vehicle{{name: "car-01", over: []programs.Drive{{Frames: 5, FirstCounter: 1, LastCounter: 3}, {Frames: 4, FirstCounter: 1, LastCounter: 2}, {Frames: 1}}}}}
	for name, test := range map[string]struct {
		spoil func(map[string]map[int64]int)
		want  string // "": all is well
	}{
		"whole":                       {func(map[string]map[int64]int) {}, ""},
		"one is missing":              {func(m map[string]map[int64]int) { delete(m["car-01"], 3) }, "lacks 1, and has 0 too many"},
		"one is twice":                {func(m map[string]map[int64]int) { m["car-01"][3]++ }, "lacks 0, and has 1 too many"},
		"one missing, another twice":  {func(m map[string]map[int64]int) { m["car-01"][1]--; m["car-01"][2]++ }, "lacks 1, and has 1 too many"},
		"a number that was not sent":  {func(m map[string]map[int64]int) { m["car-01"][9] = 1 }, "lacks 0, and has 1 too many"},
		"nothing of the vehicle came": {func(m map[string]map[int64]int) { delete(m, "car-01") }, "lacks 5, and has 0 too many"},
	} {
		t.Run(name, func(t *testing.T) {
			have := whole()
			test.spoil(have)
			got := ""
			if err := c.compare(have); err != nil {
				got = err.Error()
			}
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("compare says %q, want %q", got, test.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	read := func(list ...string) (options, error) {
		return fromEnvironment(func(name string) string {
			for _, s := range list {
				if text, ok := strings.CutPrefix(s, name+"="); ok {
					return text
				}
			}
			return ""
		})
	}
	if o, err := read(); err != nil || o != (options{vehicles: 4}) {
		t.Errorf("nothing said: %+v, %v", o, err)
	}
	if o, err := read("CLOUD_SECONDS=40", "CLOUD_VEHICLES=50", "CLOUD_BROKER=tcp://127.0.0.1:1883"); err != nil || o != (options{40 * time.Second, 50, "tcp://127.0.0.1:1883"}) {
		t.Errorf("all said: %+v, %v", o, err)
	}
	for _, wrong := range []string{"CLOUD_SECONDS=5", "CLOUD_SECONDS=x", "CLOUD_SECONDS=-1", "CLOUD_VEHICLES=0", "CLOUD_VEHICLES=51",
		"CLOUD_BROKER=127.0.0.1:1883", "CLOUD_BROKER=tcp://192.0.2.1:1883", "CLOUD_BROKER=ssl://127.0.0.1:8883", "CLOUD_BROKER=tcp://127.0.0.1"} {
		name, _, _ := strings.Cut(wrong, "=")
		if _, err := read(wrong); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names it", wrong, err)
		}
	}
}
