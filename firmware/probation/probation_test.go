package probation

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// base is a car with a bus, a receiver and a broker.
var base = Baseline{Version: "1.0", Sources: []string{"can:can0", "gps:main"}, Acked: true}

// well is what a healthy version shows at a look.
func well() Health {
	return Health{Sources: []Source{{Name: "can:can0", Reads: true, Traffic: true}, {Name: "gps:main", Reads: true}}, Acked: true, Reach: ReachBroker, AnonBytes: 20 << 20}
}

// run looks every ten seconds until there is a verdict or the time is over.
func run(j *Judge, length time.Duration, look func(at time.Duration) Health) (v Verdict, why string, at time.Duration) {
	const step = 10 * time.Second
	for at = 0; at < length; {
		at += step
		if v, why = j.Look(look(at), step); v != Hold {
			break
		}
	}
	return v, why, at
}

func TestVerdicts(t *testing.T) {
	o := Options{MemoryCap: 64 << 20}
	for _, c := range []struct {
		name string
		look func(at time.Duration, h *Health)
		want Verdict
		by   time.Duration // at the latest
		why  string
	}{
		{"healthy", func(time.Duration, *Health) {}, Pass, 2 * time.Minute, "version 1.0"},
		{"the bus cannot be opened", func(_ time.Duration, h *Health) { h.Sources[0] = Source{Name: "can:can0", Err: "permission denied"} }, Fail, 2 * time.Minute, "can:can0: it cannot be read: permission denied"},
		{"frames come and are not read", func(_ time.Duration, h *Health) { h.Sources[0].Reads = false }, Fail, 2 * time.Minute, "can:can0: frames come that are not read"},
		{"it reads, then it does no more", func(at time.Duration, h *Health) { h.Sources[0].Reads = at < time.Minute }, Fail, 3 * time.Minute, "can:can0"},
		{"the bus sleeps", func(_ time.Duration, h *Health) { h.Sources[0].Reads, h.Sources[0].Traffic = false, false }, Hold, 12 * time.Hour, "can:can0: nothing has come"},
		{"the bus sleeps for two days awake", func(_ time.Duration, h *Health) { h.Sources[0].Reads, h.Sources[0].Traffic = false, false }, Fail, 24 * time.Hour, "not seen healthy"},
		{"the bus wakes late", func(at time.Duration, h *Health) {
			if at < 5*time.Hour {
				h.Sources[0].Reads, h.Sources[0].Traffic = false, false
			}
		}, Pass, 5*time.Hour + 3*time.Minute, ""},
		{"the bus falls asleep", func(at time.Duration, h *Health) {
			if at > time.Minute {
				h.Sources[0].Reads, h.Sources[0].Traffic = false, false
			}
		}, Pass, 3 * time.Minute, ""},
		{"no link", func(_ time.Duration, h *Health) { h.Acked, h.Reach = false, ReachNone }, Hold, 12 * time.Hour, "broker: there is no link"},
		{"not tried", func(_ time.Duration, h *Health) { h.Acked, h.Reach = false, ReachUnknown }, Hold, 12 * time.Hour, "broker"},
		{"a broker that is there and does not acknowledge", func(_ time.Duration, h *Health) { h.Acked = false }, Fail, 15 * time.Minute, "broker: it can be reached"},
		{"a broker that is away for ten minutes", func(at time.Duration, h *Health) { h.Acked = at > 10*time.Minute }, Pass, 13 * time.Minute, ""},
		{"a link that comes late", func(at time.Duration, h *Health) {
			if h.Acked = at > 9*time.Hour; !h.Acked {
				h.Reach = ReachNone
			}
		}, Pass, 9*time.Hour + 3*time.Minute, ""},
		{"a queue that takes nothing", func(_ time.Duration, h *Health) { h.QueueErr = "disk full" }, Fail, 5 * time.Minute, "queue: it takes nothing: disk full"},
		{"a queue that stumbles", func(at time.Duration, h *Health) {
			if at == 30*time.Second {
				h.QueueErr = "disk full"
			}
		}, Pass, 3 * time.Minute, ""},
		{"a leak", func(at time.Duration, h *Health) { h.AnonBytes = 20<<20 + int64(at/time.Second)<<20 }, Fail, 90 * time.Second, "memory"},
		{"memory that is not known", func(_ time.Duration, h *Health) { h.AnonBytes = 0 }, Pass, 2 * time.Minute, ""},
		{"a receiver that is not configured any more", func(_ time.Duration, h *Health) { h.Sources = h.Sources[:1] }, Pass, 2 * time.Minute, ""},
	} {
		j := New(o, base, Progress{})
		v, why, at := run(j, c.by, func(at time.Duration) Health {
			h := well()
			c.look(at, &h)
			return h
		})
		if v != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v after %v (%s), want %v by %v (%s)", c.name, v, at, why, c.want, c.by, c.why)
		}
	}
}

// What the version before did not do is not asked of the new one.
func TestOnlyWhatWorkedIsAsked(t *testing.T) {
	j := New(Options{}, Baseline{Version: "1.0"}, Progress{})
	if v, why, _ := run(j, 2*time.Minute, func(time.Duration) Health {
		return Health{Sources: []Source{{Name: "can:can0", Err: "no such device"}}, Reach: ReachBroker}
	}); v != Pass {
		t.Errorf("%v: %s", v, why)
	}
}

// Short trips add up, over a file, to a pass and to a failure; the time between them does not count.
func TestShortTripsAddUp(t *testing.T) {
	trips := func(look func() Health) (v Verdict, n int) {
		var p Progress
		for n = 1; n <= 40; n++ {
			text, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			p = Progress{}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
			j := New(Options{MostBetween: 10 * time.Second}, base, p)
			for range 2 {
				if v, _ = j.Look(look(), 30*24*time.Hour); v != Hold {
					return v, n
				}
			}
			p = j.Progress()
		}
		return v, n
	}
	if v, n := trips(well); v != Pass || n != 6 {
		t.Errorf("healthy: %v after %d trips of 20 s, want pass after 6", v, n)
	}
	if v, n := trips(func() Health {
		h := well()
		h.Sources[0].Reads = false
		return h
	}); v != Fail || n != 6 {
		t.Errorf("deaf: %v after %d trips of 20 s, want fail after 6", v, n)
	}
}

func TestBaseline(t *testing.T) {
	var r Record
	r.Look(Health{Sources: []Source{{Name: "old", Reads: true}, {Name: "silent"}}, Acked: true}, time.Second)
	for range 9 {
		r.Look(Health{Sources: []Source{{Name: "new", Reads: true}}}, time.Minute)
	}
	order := []string{"new", "old", "silent"}
	if b := r.Baseline("1.0", order); len(b.Sources) != 2 || b.Sources[0] != "new" || !b.Acked || b.Version != "1.0" {
		t.Errorf("after 9 min: %+v", b)
	}
	r.Look(Health{}, 2*time.Minute)
	if b := r.Baseline("1.0", order); len(b.Sources) != 1 || b.Acked {
		t.Errorf("after 11 min: %+v", b)
	}
}
