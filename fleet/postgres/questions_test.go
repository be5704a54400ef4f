//go:build system

package postgres

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// questions are those of docs/QUESTIONS.md by their headings.
func questions(t *testing.T) map[string]string {
	text, err := os.ReadFile(filepath.Join(deps.Root(t), "docs", "QUESTIONS.md"))
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		heading, body, _ := strings.Cut(section, "\n")
		if _, rest, ok := strings.Cut(body, "```sql\n"); ok {
			list[heading], _, _ = strings.Cut(rest, "```")
		}
	}
	return list
}

// theDay is the day that the questions ask of.
var theDay = time.Date(2025, 11, 22, 0, 0, 0, 0, time.UTC)

// storyOf is what car-1 took that day, so that the answers can be told: 20 minutes at 72 km/h and 12 kW from 8:00, 30 minutes at 36 km/h
// and 6 kW from 17:00 with 1 minute without power, an hour of charging from 12:00, half a percent a minute.
func storyOf() (list []taken) {
	add := func(at time.Duration, name, unit string, v float64) {
		list = append(list, taken{name, unit, int64(at), v})
	}
	for _, drive := range []struct {
		from, to  time.Duration
		kmh, kw   float64
		latitude0 float64
	}{{8 * time.Hour, 8*time.Hour + 20*time.Minute, 72, 12, 47}, {17 * time.Hour, 17*time.Hour + 30*time.Minute, 36, 6, 48}} {
		for at := drive.from; at < drive.to; at += 4 * time.Second {
			add(at, "can0.DriveCounter.VehicleSpeed", "km/h", drive.kmh)
			kw := drive.kw
			if at >= 17*time.Hour+5*time.Minute && at < 17*time.Hour+6*time.Minute {
				kw = 0
			}
			add(at, "can0.MotorState.MotorPower", "kW", kw)
			if (at-drive.from)%(20*time.Second) == 0 {
				list = append(list, fixAt("gps0", at, drive.latitude0+(at-drive.from).Minutes()/100, 9, 0)...)
			}
		}
	}
	charge := 60.
	for minute := 0; minute < 24*60; minute += 1 {
		at := time.Duration(minute) * time.Minute
		switch {
		case at >= 8*time.Hour && at < 8*time.Hour+20*time.Minute:
			charge -= 0.5
		case at > 12*time.Hour && at <= 13*time.Hour:
			charge += 0.5
		case at < 8*time.Hour || at > 20*time.Hour:
			continue
		}
		add(at, "can0.BatteryState.StateOfCharge", "%", charge)
	}
	return list
}

// TestEachQuestion asks what docs/QUESTIONS.md says, of data that came out of order and was dated again.
func TestEachQuestion(t *testing.T) {
	now := theDay.Add(30 * time.Hour)
	w := newTwin(t, quick(t), now)
	random := rand.New(rand.NewPCG(3, 4))
	v := newCar("car-1", 1, theDay.Add(-3*time.Hour-11*time.Minute)) // its clock is set later
	v.deliver(w, random, storyOf(), w.derive)
	v.lane = telemetrypb.Lane_LANE_EVENT
	v.put(w, taken{"event.harsh_braking", "m/s2", int64(8*time.Hour + 10*time.Minute + 7*time.Second), -4.8}, taken{"event.overspeed", "km/h", int64(9 * time.Hour), 131})
	v.put(w, taken{"event.harsh_braking", "m/s2", int64(15 * time.Hour), -5}) // nobody knows where
	w.derive()
	v.retime(w, clock(theDay, time.Millisecond))
	w.derive()
	// car-2 stands; its clock ran two days ahead at first.
	ahead := newCar("car-2", 2, theDay.Add(48*time.Hour))
	ahead.put(w, fixAt("gps0", 9*time.Hour, 46.5, 8.5, 0)...)
	ahead.put(w, taken{"can0.DriveCounter.VehicleSpeed", "km/h", int64(9 * time.Hour), 50}, taken{"can0.DriveCounter.VehicleSpeed", "km/h", int64(9*time.Hour + 10*time.Second), 50})
	w.derive()
	ahead.retime(w, clock(theDay, time.Millisecond))
	w.derive()
	w.account(t)
	list := questions(t)
	if len(list) != 9 {
		t.Fatalf("%d questions were found", len(list))
	}
	ask := func(heading string, want int) []map[string]any {
		t.Helper()
		got := w.ask(list[heading])
		if len(got) != want {
			t.Fatalf("%s: %d rows, want %d: %v", heading, len(got), want, got)
		}
		return got
	}
	about := func(what string, got any, want, tolerance float64) {
		t.Helper()
		var v float64
		if _, err := fmt.Sscan(fmt.Sprint(got), &v); err != nil || math.Abs(v-want) > tolerance {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	at := func(what string, got any, want time.Duration) {
		t.Helper()
		if g, ok := got.(time.Time); !ok || !g.Equal(theDay.Add(want)) {
			t.Errorf("%s: %v, want %v", what, got, theDay.Add(want))
		}
	}

	where := ask("Where is each vehicle?", 2)
	for _, r := range where {
		if r["device"] == "car-1" {
			at("latest", r["time"], 17*time.Hour+29*time.Minute+40*time.Second)
			about("latest", r["latitude"], 48+(29+2./3)/100, 1e-9)
		} else {
			at("latest, not ahead any more", r["time"], 9*time.Hour)
		}
	}
	// A step has 5 s: so much of a drive's beginning and end may be left out.
	var km []float64
	for i, r := range w.ask(strings.NewReplacer("round((distance_m / 1000)::numeric, 1)", "(distance_m / 1000)", "round((top_mps * 3.6)::numeric)", "top_mps * 3.6").Replace(list["When did a vehicle drive, and how far?"])) {
		from, long, kmh := []time.Duration{8 * time.Hour, 17 * time.Hour}[i], []time.Duration{20 * time.Minute, 30 * time.Minute}[i], []float64{72, 36}[i]
		at("a trip begins", r["started"], from)
		at("a trip ends", r["ended"], from+long-4*time.Second)
		about("a trip's length", r["km"], kmh*long.Hours(), kmh*8/3600)
		about("a trip's top speed", r["top_kmh"], kmh, 1e-9)
		km = append(km, r["km"].(float64))
	}
	ask("When did a vehicle drive, and how far?", 2)
	days := ask("How far does each vehicle drive a day?", 2)
	if days[0]["device"] != "car-1" || days[0]["trips"] != int64(2) || !days[0]["day"].(time.Time).Equal(theDay) {
		t.Errorf("a day: %v", days)
	}
	about("km a day", days[0]["km"], km[0]+km[1], 1e-9)
	energy := ask("What energy did each trip take?", 2)
	about("energy", energy[0]["kwh"], 12*(20*60-4.)/3600, 1e-6)
	about("energy", energy[1]["kwh"], 6*(30*60-4-60.)/3600, 1e-6)
	about("energy", energy[0]["kwh_per_100km"], 12*(20*60-4.)/3600/km[0]*100, 1e-6)
	braked := ask("Where is braked harshly?", 1)
	at("braked", braked[0]["time"], 8*time.Hour+10*time.Minute+7*time.Second)
	about("braked", braked[0]["latitude"], 47.1, 1e-9)
	charged := ask("When was a vehicle charged?", 1)
	at("charging begins", charged[0]["started"], 12*time.Hour)
	at("charging ends", charged[0]["ended"], 13*time.Hour)
	about("charged", charged[0]["percent"], 30, 1e-9)
	words := map[any]any{}
	for _, r := range w.ask("SELECT device, format('%s %s %s %s %s', verdict, late, missing, parked, lost) AS words FROM (" + strings.ReplaceAll(list["Silent, late, missing, parked, lost?"], ";", "") + ") q") {
		words[r["device"]] = r["words"]
	}
	for device, want := range map[any]string{"car-1": "silent 0 0 0 0", "car-2": "silent 0 0 0 0", "late": "late 2 0 0 0", "missing": "missing 0 3 0 0",
		"parked": "parked 0 0 1 0", "lossy": "lost 0 0 0 2"} {
		if words[device] != want {
			t.Errorf("%s: %v, want %s", device, words[device], want)
		}
	}
	lost := ask("What is lost most?", 2)
	if lost[0]["reason"] != "kernel_drop" || lost[0]["source"] != "can:can0" || fmt.Sprint(lost[0]["entries"]) != "1" || lost[1]["reason"] != "evicted" {
		t.Errorf("losses: %v", lost)
	}
	minutes := ask("A signal by the minute", 20)
	for i, r := range minutes {
		at("minute", r["minute"], 8*time.Hour+time.Duration(i)*time.Minute)
		if r["samples"] != int64(15) || r["mean"] != 72. || r["min"] != 72. || r["max"] != 72. {
			t.Errorf("minute %d: %v", i, r)
		}
	}
}

// TestSQLiteAnswers asks SQLite's views of the same data.
func TestSQLiteAnswers(t *testing.T) {
	w := newTwin(t, quick(t), theDay.Add(30*time.Hour))
	v := newCar("car-1", 1, theDay.Add(-time.Hour))
	v.deliver(w, rand.New(rand.NewPCG(5, 6)), storyOf(), func() {})
	v.lane = telemetrypb.Lane_LANE_EVENT
	v.put(w, taken{"event.harsh_braking", "m/s2", int64(8 * time.Hour), -4.8})
	v.retime(w, clock(theDay, time.Millisecond))
	w.account(t)
	const signal = "device = 'car-1' AND name = 'can0.DriveCounter.VehicleSpeed'"
	for _, c := range []struct{ lite, pg, want string }{
		{"SELECT count(*), min(mean), max(mean), sum(samples) FROM minutes WHERE minute < 1763802000 AND " + signal, "SELECT count(*), min(mean), max(mean), sum(samples)::bigint FROM minutes WHERE hour < '2025-11-22 09:00Z' AND " + signal, "[20 72 72 300]"},
		{"SELECT hour, samples, min, max FROM hours WHERE " + signal + " ORDER BY hour LIMIT 1", "SELECT extract(epoch FROM hour)::bigint, samples, min, max FROM hours WHERE " + signal + " ORDER BY hour LIMIT 1", "[1763798400 300 72 72]"},
		{"SELECT name, value, time FROM events", "SELECT name, value, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM events", "[event.harsh_braking -4.8 2025-11-22T08:00:00.000Z]"},
		{"SELECT device, reason, count, unit FROM ledger ORDER BY count DESC LIMIT 1", "SELECT device, reason, count, unit FROM ledger ORDER BY count DESC LIMIT 1", "[lossy kernel_drop 412 frames]"},
	} {
		if got := w.askLite(c.lite); len(got) != 1 || fmt.Sprint(got[0]) != c.want {
			t.Errorf("%s: %v, want %s", c.lite, got, c.want)
		}
		rows, err := w.conn.Query(context.Background(), c.pg)
		if err != nil {
			t.Fatal(err)
		}
		rows.Next()
		got, err := rows.Values()
		if rows.Close(); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, %v, want %s", c.pg, got, err, c.want)
		}
	}
}

// account makes vehicles of which something is late, missing, parked and lost.
func (w *twin) account(t *testing.T) {
	batch := func(tx store.Tx, device int64, seq uint64, state store.State) (int64, error) {
		b := &store.Batch{Key: store.Key{Epoch: 9, Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: seq}, CRC: uint32(seq), Form: store.FormPlain, State: state, Received: w.now}
		if state == store.StateParked {
			b.Reason, b.Bytes = store.ReasonCatalogue, []byte("x")
		}
		p, err := tx.PutBatch(device, b)
		return p.ID, err
	}
	status := func(tx store.Tx, device int64, queued uint64) error {
		return tx.PutStatus(device, &telemetrypb.Status{Online: true, Epoch: 9, Queue: []*telemetrypb.LaneDepth{{Lane: telemetrypb.Lane_LANE_TELEMETRY, Batches: queued}}}, w.now)
	}
	for device, f := range map[string]func(tx store.Tx, d int64) error{
		"late": func(tx store.Tx, d int64) error {
			if _, err := batch(tx, d, 3, store.StateStored); err != nil {
				return err
			}
			return status(tx, d, 40)
		},
		"missing": func(tx store.Tx, d int64) error {
			if _, err := batch(tx, d, 4, store.StateStored); err != nil {
				return err
			}
			return status(tx, d, 0)
		},
		"parked": func(tx store.Tx, d int64) error { _, err := batch(tx, d, 1, store.StateParked); return err },
		"lossy": func(tx store.Tx, d int64) error {
			id, err := batch(tx, d, 1, store.StateStored)
			if err != nil {
				return err
			}
			if err := tx.PutLoss(d, id, 0, &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_KERNEL_DROP, Source: "can:can0", Count: 412, Unit: "frames"}); err != nil {
				return err
			}
			return tx.PutLoss(d, id, 1, &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Source: "queue", Count: 2, Unit: "batches"})
		},
	} {
		w.update(func(tx store.Tx) error {
			d, err := tx.Device("acme", device, w.now)
			if err != nil {
				return err
			}
			return f(tx, d)
		})
	}
}
