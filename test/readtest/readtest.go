// Package readtest asks every store that answers the API the same, and compares what they say (package storetest holds what they keep).
package readtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/fleetdata"
)

// Now is when everything arrives.
var Now = storetest.Now

// update commits, and gives the device's row.
func update(t testing.TB, s store.Store, device string, f func(tx store.Tx, device int64) error) {
	t.Helper()
	if err := s.Update(context.Background(), func(tx store.Tx) error {
		row, err := tx.Device("acme", device, Now)
		if err != nil {
			return err
		}
		return f(tx, row)
	}); err != nil {
		t.Fatal(err)
	}
}

// Asked is a store that answers the API's questions and erases.
type Asked interface {
	store.Store
	api.Eraser
	Reads() api.Reader
}

// FillFleet has a store take what test/fleetdata's vehicles publish, what is late and out of order included: the vehicles take
// turns, and every tenth message comes again.
func FillFleet(t testing.TB, s store.Store, now time.Time) {
	t.Helper()
	fleet, err := fleetdata.Fleet(now, 20*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	g := ingest.New(ingest.Options{Now: func() time.Time { return now }}, s)
	rng := rand.New(rand.NewPCG(7, 1))
	for left := len(fleet); left > 0; {
		var turn []ingest.Message
		left = 0
		for _, v := range fleet {
			n := min(len(v.Messages), 1+rng.IntN(8))
			for _, m := range v.Messages[:n] {
				turn = append(turn, ingest.Message{Topic: m.Topic, Payload: m.Payload})
				if rng.IntN(10) == 0 {
					turn = append(turn, turn[len(turn)-1])
				}
			}
			v.Messages = v.Messages[n:]
			left += len(v.Messages)
		}
		if _, _, err := g.Apply(context.Background(), turn); err != nil {
			t.Fatal(err)
		}
	}
}

// Answer is what a store said to one question.
type Answer struct{ Question, Text string }

// sayTo notes answers.
func sayTo(t testing.TB, list *[]Answer) func(question string, answer any, err error) {
	return func(question string, answer any, err error) {
		t.Helper()
		text, failed := json.Marshal(answer)
		if failed != nil {
			t.Fatal(question, failed)
		}
		switch {
		case errors.Is(err, api.ErrNotFound):
			text = []byte("not found")
		case errors.Is(err, api.ErrCursor):
			text = []byte("no such cursor")
		case err != nil:
			t.Errorf("%s: %v", question, err)
		}
		*list = append(*list, Answer{question, string(text)})
	}
}

// byLane sorts what a vehicle says in any order.
func byLane(q *api.Queue) {
	if q != nil {
		slices.SortFunc(q.Lanes, func(a, b api.LaneDepth) int { return cmp.Compare(a.Lane, b.Lane) })
	}
}

// AskFleet asks all of the API's questions, of each vehicle, page by page. What is a store's own (numbers of rows, cursors) is left out.
func AskFleet(t testing.TB, r api.Reader, now time.Time) (list []Answer) {
	t.Helper()
	ctx := context.Background()
	say := sayTo(t, &list)
	for _, tenant := range []string{"", fleetdata.First, fleetdata.Second, "nobody"} {
		counts, err := r.Counts(ctx, tenant)
		say("counts of "+tenant, counts, err)
	}
	online, offline := true, false
	for name, q := range map[string]api.DeviceQuery{
		"all": {}, "one tenant": {Tenant: fleetdata.Second}, "search": {Search: "AR-0"}, "online": {Online: &online}, "offline": {Online: &offline},
		"since": {Since: now.Add(-time.Nanosecond)}, "since now": {Since: now}, "yesterday": {Now: now.Add(-24 * time.Hour)}, "tomorrow": {Now: now.Add(48 * time.Hour)},
	} {
		q.Limit = 3
		if q.Now.IsZero() {
			q.Now = now
		}
		for {
			devices, err := r.Devices(ctx, q)
			for i := range devices {
				byLane(devices[i].Queue)
			}
			say("devices, "+name, devices, err)
			if len(devices) < q.Limit {
				break
			}
			q.After = devices[len(devices)-1].DeviceID
		}
	}
	all, err := r.Devices(ctx, api.DeviceQuery{Now: now, Limit: 500})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(all, api.Device{DeviceID: api.DeviceID{Tenant: fleetdata.First, Device: "nobody"}}) {
		askDevice(r, d.DeviceID, now, say)
	}
	for name, q := range map[string]api.LedgerQuery{"all": {}, "one tenant": {Tenant: fleetdata.First}, "one device": {Tenant: fleetdata.First, Device: fleetdata.Lossy}, "gap": {Device: fleetdata.Gap}, "no one": {Device: "nobody"}} {
		for _, limit := range []int{1, 2, 500} {
			q.Limit = limit
			what := fmt.Sprintf(" of %s by %d", name, limit)
			say("gaps"+what, pages(q.Page, func(p api.Page) ([]api.Gap, string, error) { q.Page = p; return r.Gaps(ctx, q) }), nil)
			say("losses"+what, pages(q.Page, func(p api.Page) ([]api.Loss, string, error) { q.Page = p; return r.Losses(ctx, q) }), nil)
			say("parked"+what, pages(q.Page, func(p api.Page) ([]api.Parked, string, error) { q.Page = p; return r.ParkedBatches(ctx, q) }), nil)
			say("letters"+what, pages(q.Page, func(p api.Page) ([]api.DeadLetter, string, error) {
				q.Page = p
				letters, next, err := r.Letters(ctx, q)
				for i := range letters {
					letters[i].ID = 0
				}
				return letters, next, err
			}), nil)
			q.Page = api.Page{}
		}
	}
	wrong := api.LedgerQuery{Page: api.Page{After: "x", Limit: 1}}
	_, _, err = r.Gaps(ctx, wrong)
	say("wrong cursor of gaps", nil, err)
	_, _, err = r.Losses(ctx, wrong)
	say("wrong cursor of losses", nil, err)
	_, _, err = r.ParkedBatches(ctx, wrong)
	say("wrong cursor of parked", nil, err)
	_, _, err = r.Letters(ctx, wrong)
	say("wrong cursor of letters", nil, err)
	slices.SortStableFunc(list, func(a, b Answer) int { return cmp.Compare(a.Question, b.Question) })
	return list
}

// pages reads a list to its end. Errors show as text.
func pages[T any](p api.Page, ask func(api.Page) ([]T, string, error)) any {
	var list []T
	for range 10_000 {
		part, next, err := ask(p)
		if err != nil {
			return err.Error()
		}
		if list = append(list, part...); next == "" {
			return list
		}
		p.After = next
	}
	return "it never ends"
}

// bucket is one of the API's as far as every store sums up alike: in which order it adds is its own.
type bucket struct {
	api.Bucket
	Mean string
}

func askDevice(r api.Reader, id api.DeviceID, now time.Time, say func(string, any, error)) {
	ctx := context.Background()
	of := fmt.Sprintf(" of %s/%s", id.Tenant, id.Device)
	for _, at := range []time.Time{now, now.Add(-10 * time.Minute), now.Add(48 * time.Hour)} {
		detail, err := r.Device(ctx, id, at)
		if detail != nil {
			byLane(detail.Queue)
			slices.SortFunc(detail.Lanes, func(a, b api.Lane) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Lane, b.Lane)) })
		}
		say(fmt.Sprint("device", of, at), detail, err)
		signals, err := r.Signals(ctx, id, api.SignalQuery{Now: at, Limit: 500, Last: true})
		say(fmt.Sprint("signals", of, at), signals, err)
	}
	var names []string
	for q := (api.SignalQuery{Now: now, Limit: 2, Search: "E"}); ; {
		signals, err := r.Signals(ctx, id, q)
		say("signals by two"+of+" after "+q.After, signals, err)
		for _, s := range signals {
			names = append(names, s.Name)
		}
		if len(signals) < q.Limit {
			break
		}
		q.After = signals[len(signals)-1].Name
	}
	windows := []api.Window{{From: now.Add(-3 * time.Hour), To: now}, {From: now.Add(-10 * time.Minute), To: now.Add(-5 * time.Minute)}, {From: now.Add(-24 * time.Hour), To: now.Add(48 * time.Hour)}, {From: now, To: now}}
	for _, w := range windows {
		in := fmt.Sprintf("%s from %v to %v", of, w.From, w.To)
		for _, name := range append(names, "nothing") {
			for _, width := range []time.Duration{time.Second, 7 * time.Minute} {
				buckets, err := r.Buckets(ctx, id, name, w, width)
				list := make([]bucket, len(buckets))
				for i, b := range buckets {
					list[i] = bucket{b, fmt.Sprintf("%.6g", b.Mean)}
				}
				say(fmt.Sprint("buckets of ", name, width, in), list, err)
			}
		}
		for _, source := range []string{"", "gps0", "nothing"} {
			var points []api.Point
			from, left, err := r.Positions(ctx, id, source, w, func(p api.Point) error { points = append(points, p); return nil })
			say("positions of "+source+in, []any{from, left, points}, err)
		}
	}
	for _, w := range append(windows, api.Window{}) {
		for _, limit := range []int{1, 500} {
			events := pages(api.Page{Limit: limit}, func(p api.Page) ([]api.Event, string, error) { return r.Events(ctx, id, w, p) })
			say(fmt.Sprintf("events%s in %v by %d", of, w, limit), events, nil)
		}
	}
	_, _, err := r.Events(ctx, id, api.Window{}, api.Page{After: "x", Limit: 1})
	say("wrong cursor of events"+of, nil, err)
}

// LatestPosition: whatever comes late, from the future, undated, suspect, in two batches or dated again, the latest position is the
// newest that is believed.
func LatestPosition(t *testing.T, s Asked) {
	ctx := context.Background()
	id := api.DeviceID{Tenant: "acme", Device: "car-1"}
	at := func(d time.Duration) int64 { return Now.Add(d).UnixNano() }
	var latitude, longitude, suspect int64
	seq := uint64(0)
	const gps = telemetrypb.TimeSource_TIME_SOURCE_GPS
	type sample struct {
		signal *int64
		at     int64 // Unix ns; 0: not dated
		value  float64
		doubt  time.Duration
	}
	put := func(list ...sample) (batch int64) {
		update(t, s, id.Device, func(tx store.Tx, d int64) (err error) {
			if latitude == 0 {
				latitude, err = tx.NamedSignal(d, "gps0.fix.latitude", "deg")
				if err == nil {
					longitude, err = tx.NamedSignal(d, "gps0.fix.longitude", "deg")
				}
				if err == nil {
					suspect, err = tx.NamedSignal(d, "gps0.fix.suspect", "")
				}
				if err != nil {
					return err
				}
			}
			b := storetest.Batch(seq+1, uint32(seq))
			b.Samples, b.BootID, b.SpanNS = uint32(len(list)), [16]byte{7}, 1<<62
			p, err := tx.PutBatch(d, b)
			if err != nil {
				return err
			}
			batch = p.ID
			rows := make([]store.Row, len(list))
			for i, x := range list {
				v := store.ValueOf(telemetrypb.FloatSample(1, x.at, x.value), 1, 0)
				rows[i] = store.Row{Index: uint32(i), Signal: *x.signal, BootNS: x.at, Raw: v, Value: v}
				if x.at != 0 {
					rows[i].Time = store.Time{UnixNS: x.at, UncertaintyNS: uint64(x.doubt), Source: gps}
				}
			}
			return tx.PutSamples(p.ID, rows)
		})
		seq++
		return batch
	}
	fix := func(at int64, north float64, doubt time.Duration) []sample {
		return []sample{{&latitude, at, north, doubt}, {&longitude, at, 10, doubt}}
	}
	shows := func(what string, north any, x api.Excluded) {
		t.Helper()
		d, err := s.Reads().Device(ctx, id, Now)
		if err != nil {
			t.Fatal(err)
		}
		var got any = "none"
		if d.Position != nil {
			got = d.Position.Latitude
		}
		if fmt.Sprint(got) != fmt.Sprint(north) || d.Excluded != x {
			t.Errorf("%s: latitude %v, excluded %+v; want %v, %+v", what, got, d.Excluded, north, x)
		}
		list, err := s.Reads().Devices(ctx, api.DeviceQuery{Now: Now, Limit: 10})
		if err != nil || len(list) != 1 || fmt.Sprint(list[0].Position) != fmt.Sprint(d.Position) && (list[0].Position == nil || *list[0].Position != *d.Position) {
			t.Errorf("%s: the list says %+v, %v", what, list, err)
		}
	}
	var none api.Excluded
	put(fix(0, 1, 0)...)
	shows("undated", "none", api.Excluded{Undated: 1})
	put(fix(at(-3*time.Hour), 2, 0)...)
	shows("the first", 2, api.Excluded{Undated: 1})
	put(fix(at(-5*time.Hour), 3, 0)...)
	shows("an older one that came late", 2, api.Excluded{Undated: 1})
	put(fix(at(time.Hour), 4, 0)...)
	put(fix(at(400*24*time.Hour), 4.5, 0)...)
	shows("the future", 2, api.Excluded{Undated: 1, Future: 2})
	put(append(fix(at(-2*time.Hour), 5, 0), fix(at(time.Minute), 6, 0)...)...)
	shows("one batch of past and future", 5, api.Excluded{Undated: 1, Future: 3})
	put(fix(at(-time.Hour), 7, api.MaxUncertainty+1)...)
	shows("uncertain", 5, api.Excluded{Undated: 1, Future: 3, Uncertain: 1})
	put(append(fix(at(-50*time.Minute), 8, 0), sample{&suspect, at(-50 * time.Minute), 1, 0})...)
	shows("suspect", 5, api.Excluded{Undated: 1, Future: 3, Uncertain: 1, Suspect: 1})
	put(fix(at(-40*time.Minute), 9, 0)...)
	put(sample{&suspect, at(-40 * time.Minute), 1, 0})
	shows("suspect, as another batch says", 5, api.Excluded{Undated: 1, Future: 3, Uncertain: 1, Suspect: 2})
	put(sample{&latitude, at(-30 * time.Minute), 11, 0})
	shows("half of a fix", 5, api.Excluded{Undated: 1, Future: 3, Uncertain: 1, Suspect: 2})
	put(sample{&longitude, at(-30 * time.Minute), 10, 0})
	none = api.Excluded{Undated: 1, Future: 3}
	shows("the other half, in another batch", 11, none)
	none.Suspect = 1
	put(append(append(fix(at(-35*time.Minute), 12, 0), fix(at(-5*time.Minute), 13, 0)...), sample{&suspect, at(-5 * time.Minute), 1, 0})...)
	shows("an older one in a batch that ends later", 11, none)
	put(fix(at(-20*time.Minute), 91, 0)...)
	shows("not on earth", 11, none)
	// Dated again: all of the boot moves back by an hour, and the undated one becomes a date.
	update(t, s, id.Device, func(tx store.Tx, d int64) error {
		if err := tx.PutRetiming(d, [16]byte{7}, -1<<62); err != nil {
			return err
		}
		_, done, err := tx.Retime(d, [16]byte{7}, 1<<30, func(boot int64) store.Time {
			if boot == 0 {
				boot = at(-10 * time.Minute)
			}
			return store.Time{UnixNS: boot - int64(time.Hour), Source: gps}
		})
		if err == nil && !done {
			err = errors.New("there is more to date")
		}
		return err
	})
	shows("all an hour earlier", 4, api.Excluded{Future: 1})
	// Not later than now: of two futures one has come.
	var points []api.Point
	_, _, err := s.Reads().Positions(ctx, id, "", api.Window{From: Now.Add(-24 * time.Hour), To: Now.Add(time.Nanosecond)}, func(p api.Point) error { points = append(points, p); return nil })
	if err != nil || len(points) != 9 || points[0].Latitude != 3 || points[8].Latitude != 4 {
		t.Errorf("track %v, %v", points, err)
	}
}

// Erasing: what a device told is gone, what was not asked stays, the counts hold, and what is sent again is known.
func Erasing(t *testing.T, s Asked) {
	ctx := context.Background()
	FillFleet(t, s, Now)
	before := s.Totals()
	id := api.DeviceID{Tenant: fleetdata.First, Device: fleetdata.Lossy}
	ask := func() (list []Answer) {
		askDevice(s.Reads(), api.DeviceID{Tenant: fleetdata.First, Device: fleetdata.Gap}, Now, sayTo(t, &list))
		return list
	}
	others := ask()
	e, err := s.Erase(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	after := s.Totals()
	if e.Samples == 0 || e.Batches == 0 || e.Records == 0 || len(e.Stays) == 0 || after.Samples != before.Samples-e.Samples || after.Batches != before.Batches || after.Gaps != before.Gaps || after.Losses != before.Losses {
		t.Errorf("erased %+v; totals %+v, then %+v", e, before, after)
	}
	if diff := Differ(others, ask()); diff != "" {
		t.Errorf("others: %s", diff)
	}
	d, err := s.Reads().Device(ctx, id, Now)
	if err != nil || d.Position != nil || d.Info != nil || d.State != api.StateUnknown || d.Batches == 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if again, err := s.Erase(ctx, id); err != nil || again.Samples != 0 || again.Batches != 0 || again.Records != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := s.Erase(ctx, api.DeviceID{Tenant: "acme", Device: "nobody"}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	batches := after.Batches
	FillFleet(t, s, Now) // all of it comes again
	if again := s.Totals(); again.Batches != batches || again.Samples != after.Samples {
		t.Errorf("sent again: %+v, want %d batches, %d samples", again, batches, after.Samples)
	}
}

// Differ says in which answer two stores differ first; empty: in none.
func Differ(a, b []Answer) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%s:\n%.2000s\n%s:\n%.2000s", a[i].Question, a[i].Text, b[i].Question, b[i].Text)
		}
	}
	if len(a) != len(b) {
		return fmt.Sprintf("%d answers, and %d", len(a), len(b))
	}
	return ""
}
