package api_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/test/fleetdata"
)

// One store serves all tests that only read: filling it is most of the work.
func TestReading(t *testing.T) {
	w := newWorld(t, nil)
	for name, f := range map[string]func(*testing.T, *world){
		"Devices":                    tryDevices,
		"OneDevice":                  tryOneDevice,
		"Series":                     trySeries,
		"Track":                      tryTrack,
		"Trips":                      tryTrips,
		"Ledger":                     tryLedger,
		"WrongQuestions":             tryWrongQuestions,
		"NotModified":                tryNotModified,
		"DocumentParametersAreTaken": tryDocumentParametersAreTaken,
	} {
		t.Run(name, func(t *testing.T) {
			one := *w
			one.T = t
			f(t, &one)
		})
	}
}

// world is a store that a fleet has filled through the ingester, and a server over it.
type world struct {
	*testing.T
	now      time.Time
	store    *store.SQLite
	ingester *ingest.Ingester
	fleet    map[string]*fleetdata.Vehicle
	server   *httptest.Server
	schemas  *schemas
	token    string
	clock    *atomic.Int64 // now, for the server's goroutines
}

func (w *world) advance(d time.Duration) {
	w.now = w.now.Add(d)
	w.clock.Store(w.now.UnixNano())
}

func newWorld(t *testing.T, access api.Access) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC), fleet: map[string]*fleetdata.Vehicle{}, clock: new(atomic.Int64)}
	w.advance(0)
	var err error
	if w.store, err = store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.ingester = ingest.New(ingest.Options{Now: func() time.Time { return time.Unix(0, w.clock.Load()).UTC() }}, w.store)
	list, err := fleetdata.Fleet(w.now, 20*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		w.fleet[v.Device] = v
		w.take(v.Messages)
	}
	s, err := api.New(api.Options{Reader: w.store.Reads(), Eraser: w.store, Access: access, Now: func() time.Time { return time.Unix(0, w.clock.Load()).UTC() }, LiveEvery: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(s)
	t.Cleanup(w.server.Close)
	w.schemas = loadSchemas(t)
	return w
}

func (w *world) take(messages []fleetdata.Message) {
	w.Helper()
	list := make([]ingest.Message, len(messages))
	for i, m := range messages {
		list[i] = ingest.Message{Topic: m.Topic, Payload: m.Payload}
	}
	if _, _, err := w.ingester.Apply(context.Background(), list); err != nil {
		w.Fatal(err)
	}
}

func (w *world) do(method, path string, header ...string) *http.Response {
	w.Helper()
	q, err := http.NewRequest(method, w.server.URL+api.Prefix+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	if w.token != "" {
		q.Header.Set("Authorization", "Bearer "+w.token)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { r.Body.Close() })
	return r
}

// get asks, holds the answer against the document, and reads it.
func get[T any](w *world, path string) (v T) {
	w.Helper()
	r := w.do("GET", path)
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		w.Fatalf("GET %s: %s %v\n%s", path, r.Status, err, text)
	}
	w.schemas.check(w.T, "GET", path, r.StatusCode, text)
	if err := json.Unmarshal(text, &v); err != nil {
		w.Fatalf("GET %s: %v\n%s", path, err, text)
	}
	return v
}

// refused asks for what is not answered, and returns why.
func (w *world) refused(method, path string, status int) string {
	w.Helper()
	r := w.do(method, path)
	text, _ := io.ReadAll(r.Body)
	if r.StatusCode != status {
		w.Errorf("%s %s: %s, want %d\n%s", method, path, r.Status, status, text)
	}
	w.schemas.check(w.T, method, path, r.StatusCode, text)
	return string(text)
}

type page[T any] struct {
	Items []T
	Next  string
}

// all goes through the pages.
func all[T any](w *world, path string) (list []T) {
	w.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	for next, n := "", 0; ; n++ {
		p := get[page[T]](w, path+sep+"cursor="+next)
		if list = append(list, p.Items...); p.Next == "" {
			return list
		}
		if next = p.Next; n > 1000 {
			w.Fatalf("%s: the pages do not end", path)
		}
	}
}

func near(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 }

func tryDevices(t *testing.T, w *world) {
	list := all[api.Device](w, "/devices?limit=5")
	if len(list) != 13 {
		t.Fatalf("%d devices", len(list))
	}
	got := map[string]api.Device{}
	for i, d := range list {
		got[d.DeviceID.Device] = d
		if i > 0 && list[i-1].Tenant+"/"+list[i-1].DeviceID.Device >= d.Tenant+"/"+d.DeviceID.Device {
			t.Errorf("%v comes after %v", d.DeviceID, list[i-1].DeviceID)
		}
	}
	for name, d := range got {
		lat, lon := w.fleet[name].Position()
		switch p := d.Position; {
		case name == fleetdata.Undated:
			if p != nil {
				t.Errorf("%s: a position although no time is known: %+v", name, p)
			}
		case name == fleetdata.Future: // the last minute is dated tomorrow; where it was before is known
			if p == nil || p.Time.After(w.now) || p.Time.Before(w.now.Add(-3*time.Minute)) {
				t.Errorf("%s: %+v", name, p)
			}
		case p == nil || !near(p.Latitude, lat) || !near(p.Longitude, lon) || !p.Time.Equal(w.fleet[name].Moment()) || p.TimeSource != "gps" || p.Source != "gps0":
			t.Errorf("%s: position %+v, the vehicle is at %v, %v since %v", name, p, lat, lon, w.fleet[name].Moment())
		}
	}
	if d := got[fleetdata.Late]; d.State != api.StateOffline || d.Queue == nil || d.Queue.Batches != 40 || d.Gaps != 2 || !d.Queue.AsOf.Equal(w.now) {
		t.Errorf("late: %+v", d)
	}
	if d := got[fleetdata.Gap]; d.State != api.StateOnline || d.Gaps != 3 {
		t.Errorf("gap: %+v", d)
	}
	if d := got[fleetdata.Lossy]; d.Losses != 3 || d.Gaps != 0 {
		t.Errorf("lossy: %+v", d)
	}
	if d := got[fleetdata.Parked]; d.Parked != 2 || d.Gaps != 0 {
		t.Errorf("parked: %+v", d)
	}
	if list := all[api.Device](w, "/devices?q=R-1"); len(list) != 3 { // upper and lower case alike
		t.Errorf("search: %d", len(list))
	}
	if list := all[api.Device](w, "/devices?state=offline"); len(list) != 1 || list[0].DeviceID.Device != fleetdata.Late {
		t.Errorf("offline: %+v", list)
	}
	if list := all[api.Device](w, "/devices?tenant="+fleetdata.Second); len(list) != 1 {
		t.Errorf("tenant: %+v", list)
	}
	c := get[api.Counts](w, "/counts")
	if c.Devices != 13 || c.Online != 12 || c.Gaps != 5 || c.Losses != 3 || c.Parked != 2 || c.Letters != 1 || c.Samples < 8_000 {
		t.Errorf("counts %+v", c)
	}
	// Summed over the tenants it is the same.
	a, b := get[api.Counts](w, "/counts?tenant="+fleetdata.First), get[api.Counts](w, "/counts?tenant="+fleetdata.Second)
	if sum := (api.Counts{Devices: a.Devices + b.Devices, Online: a.Online + b.Online, Batches: a.Batches + b.Batches, Samples: a.Samples + b.Samples, Gaps: a.Gaps + b.Gaps,
		Losses: a.Losses + b.Losses, Parked: a.Parked + b.Parked, Rejected: a.Rejected + b.Rejected, Letters: a.Letters + b.Letters}); sum != c || b.Letters != 0 {
		t.Errorf("of the tenants %+v, of all %+v", sum, c)
	}
}

func tryOneDevice(t *testing.T, w *world) {
	d := get[api.DeviceDetail](w, "/devices/acme/"+fleetdata.Future)
	if d.Excluded.Future != 2 || d.Excluded.Undated != 0 || d.Info == nil || d.Info.VIN == "" || len(d.Lanes) < 3 || d.Hardware != "linux/arm64" {
		t.Errorf("%+v", d)
	}
	if d := get[api.DeviceDetail](w, "/devices/acme/"+fleetdata.Undated); d.Excluded.Undated < 38 || len(d.Alarm) != 1 {
		t.Errorf("%+v", d)
	}
	w.refused("GET", "/devices/acme/nobody", 404)
	w.refused("GET", "/devices/acme/nobody/signals", 404)
	signals := map[string]api.Signal{}
	for _, s := range all[api.Signal](w, "/devices/acme/car-01/signals?limit=3") {
		signals[s.Name] = s
	}
	soc := signals["can0.BatteryState.StateOfCharge"]
	if soc.Unit != "%" || soc.Last == nil || !soc.Last.Time.Equal(w.fleet["car-01"].Moment()) || signals["can0.Pedals.Gear"].Last.Label == "" || signals["event.overspeed"].Last.Value != 131.5 {
		t.Errorf("%+v %+v", soc, signals)
	}
	if list := all[api.Signal](w, "/devices/acme/car-01/signals?q=SPEED"); len(list) != 3 {
		t.Errorf("search: %+v", list)
	}
	events := all[api.Event](w, "/devices/acme/car-01/events?limit=1")
	if len(events) != 2 || events[0].Name != "event.harsh_braking" || events[1].Name != "event.overspeed" || events[1].Unit != "km/h" || events[0].Value != -4.8 {
		t.Errorf("%+v", events)
	}
	if list := all[api.Event](w, "/devices/acme/"+fleetdata.Undated+"/events"); len(list) != 2 || list[0].Time != nil {
		t.Errorf("undated events: %+v", list)
	}
	if list := all[api.Event](w, "/devices/acme/car-01/events?from="+w.now.Add(-30*time.Minute).Format(time.RFC3339)); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}

// A chart must show the extremes of what came, whatever its width.
func trySeries(t *testing.T, w *world) {
	const signal = "can0.DriveCounter.VehicleSpeed"
	var least, greatest, sum float64
	var count int64
	if err := w.store.Samples(context.Background(), store.Query{Device: "car-01", Signal: signal}, func(r *store.Reading) error {
		v := float64(r.Raw.Bits) * 0.01
		least, greatest, sum, count = min(least, v), max(greatest, v), sum+v, count+1
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, points := range []int{1, 7, 100, 5000} {
		s := get[api.Series](w, fmt.Sprintf("/devices/acme/car-01/series?signal=%s&from=%d&points=%d", signal, w.now.Add(-4*time.Hour).UnixMilli(), points))
		if len(s.T) > points || len(s.T) == 0 {
			t.Errorf("%d points, asked for at most %d", len(s.T), points)
		}
		lo, hi, all, n := s.Min[0], s.Max[0], 0., int64(0)
		for i := range s.T {
			lo, hi, all, n = min(lo, s.Min[i]), max(hi, s.Max[i]), all+s.Mean[i]*float64(s.Count[i]), n+s.Count[i]
			if s.Min[i] > s.Mean[i]+1e-9 || s.Mean[i] > s.Max[i]+1e-9 || i > 0 && s.T[i] <= s.T[i-1] {
				t.Fatalf("stretch %d: %v %v %v at %d", i, s.Min[i], s.Mean[i], s.Max[i], s.T[i])
			}
		}
		if !near(lo, least) || !near(hi, greatest) || n != count || all/float64(n)-sum/float64(count) > 1e-6 {
			t.Errorf("%d points: %v to %v of %d, want %v to %v of %d", points, lo, hi, n, least, greatest, count)
		}
	}
	if s := get[api.Series](w, "/devices/acme/car-01/series?signal=nothing"); len(s.T) != 0 {
		t.Errorf("%+v", s)
	}
}

func tryTrack(t *testing.T, w *world) {
	for _, c := range []struct {
		device  string
		total   int64
		suspect int64
	}{{fleetdata.Plain, 179 * 2, 0}, {fleetdata.Backwards, 19 * 2, 0}, {fleetdata.Suspect, 19 * 2, 1}, {fleetdata.Undated, 0, 0}, {fleetdata.Gap, 19 * 2, 0}} {
		a := get[api.Track](w, "/devices/acme/"+c.device+"/track?points=200")
		if a.Total != c.total || a.Excluded.Suspect != c.suspect || len(a.T) > 200 {
			t.Errorf("%s: %d of %d positions, excluded %+v; want %d", c.device, len(a.T), a.Total, a.Excluded, c.total)
		}
		for i := 1; i < len(a.T); i++ {
			if a.T[i] <= a.T[i-1] {
				t.Errorf("%s: time goes back at %d", c.device, i)
			}
		}
		if n := len(a.T); n > 0 {
			lat, lon := w.fleet[c.device].Position()
			if !near(a.Lat[n-1], lat) || !near(a.Lon[n-1], lon) {
				t.Errorf("%s: the track ends at %v, %v and not where the car is", c.device, a.Lat[n-1], a.Lon[n-1])
			}
		}
	}
}

// What was driven is known: 25 minutes, then 15 of standing.
func tryTrips(t *testing.T, w *world) {
	a := get[api.Trips](w, "/devices/acme/car-01/trips")
	if a.By != "speed" || a.Speed != "can0.DriveCounter.VehicleSpeed" || len(a.Items) != 5 {
		t.Fatalf("%+v", a)
	}
	begun := w.now.Add(-fleetdata.Hours * time.Hour)
	for i, trip := range a.Items {
		from, to := begun.Add(time.Duration(i)*40*time.Minute), begun.Add(time.Duration(i)*40*time.Minute+25*time.Minute)
		if i == 4 {
			to = w.now.Add(-time.Minute)
		}
		var metres float64
		for at := from; at.Before(to); at = at.Add(time.Second) {
			metres += fleetdata.Speed(at.Sub(begun), 1)
		}
		if d := trip.Start.Sub(from).Abs(); d > 31*time.Second {
			t.Errorf("trip %d starts %v off", i, d)
		}
		if d := trip.End.Sub(to).Abs(); d > 31*time.Second {
			t.Errorf("trip %d ends %v off", i, d)
		}
		if trip.Distance == nil || *trip.Distance < 0.93*metres || *trip.Distance > 1.07*metres || trip.Open != (i == 4) {
			t.Errorf("trip %d: %+v drove %.0f m", i, trip, metres)
		}
	}
}

// Lost, late and parked are told apart.
func tryLedger(t *testing.T, w *world) {
	gaps := all[api.Gap](w, "/gaps?limit=1")
	if len(gaps) != 2 || gaps[0].DeviceID.Device != fleetdata.Gap || gaps[0].Batches != 3 || gaps[0].Queued == nil || *gaps[0].Queued != 1 ||
		gaps[1].DeviceID.Device != fleetdata.Late || *gaps[1].Queued != 40 || gaps[1].Lane != "telemetry" {
		t.Errorf("gaps %+v", gaps)
	}
	losses := all[api.Loss](w, "/losses?limit=1")
	if len(losses) != 3 || losses[2].Reason != "kernel drop" || losses[2].Count != 412 || losses[1].Seqs[0].Last-losses[1].Seqs[0].First != 1 || losses[0].CountIsBound != true {
		t.Errorf("losses %+v", losses)
	}
	parked := all[api.Parked](w, "/parked?limit=1&device="+fleetdata.Parked)
	if len(parked) != 2 || parked[0].Reason != "catalogue" || parked[0].Bytes == 0 || !strings.HasPrefix(parked[0].Catalogue, "feed") {
		t.Errorf("parked %+v", parked)
	}
	letters := all[api.DeadLetter](w, "/dead-letters?device="+fleetdata.Garbled)
	if len(letters) != 1 || letters[0].Bytes != 18 {
		t.Errorf("letters %+v", letters)
	}
	for _, path := range []string{"/gaps", "/losses", "/parked", "/dead-letters"} {
		if list := all[any](w, path+"?tenant="+fleetdata.Second); len(list) != 0 {
			t.Errorf("%s of another tenant: %v", path, list)
		}
	}
}

func tryWrongQuestions(t *testing.T, w *world) {
	for _, path := range []string{"/devices?limit=0", "/devices?limit=501", "/devices?limit=x", "/devices?state=gone", "/devices?colour=red", "/devices?cursor=!", "/devices?cursor=YQ",
		"/gaps?cursor=YQ", "/losses?cursor=YQ", "/parked?cursor=YQ", "/dead-letters?cursor=YQ", "/devices?q=" + strings.Repeat("a", 201), "/devices?q=a&q=b",
		"/devices/acme/car-01/series", "/devices/acme/car-01/series?signal=a&points=5001", "/devices/acme/car-01/series?signal=a&from=yesterday",
		"/devices/acme/car-01/track?from=2020-01-01T00:00:00Z", "/devices/acme/car-01/trips?from=2026-11-01T00:00:00Z", "/devices/acme/car-01/events?cursor=YQ"} {
		w.refused("GET", path, 400)
	}
	w.refused("GET", "/nothing", 404)
	if r := w.do("POST", "/devices"); r.StatusCode != 405 && r.StatusCode != 404 {
		t.Errorf("POST: %s", r.Status)
	}
}

func tryNotModified(t *testing.T, w *world) {
	r := w.do("GET", "/gaps")
	tag := r.Header.Get("ETag")
	if r := w.do("GET", "/gaps", "If-None-Match", tag); tag == "" || r.StatusCode != 304 {
		t.Errorf("ETag %s: %s", tag, r.Status)
	}
}
