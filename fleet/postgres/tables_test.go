//go:build system

package postgres

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The tables are held to what the API answers of the same deliveries stored in SQLite, which has other code for all of it, and to
// what is counted here.

// twin is a PostgreSQL store and a SQLite one that get the same.
type twin struct {
	t    testing.TB
	url  string
	pg   *Store
	lite *store.SQLite
	now  time.Time
	conn *pgx.Conn
	db   *sql.DB // of the SQLite file, read only
}

func newTwin(t testing.TB, p interface {
	Database(testing.TB, string) string
}, now time.Time) *twin {
	t.Helper()
	w := &twin{t: t, now: now, url: p.Database(t, fmt.Sprintf("fleet%d", databases.Add(1)))}
	o := options()
	o.Now = func() time.Time { return w.now }
	w.pg = open(t, w.url, o)
	file := filepath.Join(t.TempDir(), "twin.db")
	lite, err := store.Open(context.Background(), file, store.Options{Rand: o.Rand})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lite.Close() })
	w.lite = lite
	if w.db, err = sql.Open("sqlite", "file:"+file+"?mode=ro"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	if w.conn, err = pgx.Connect(context.Background(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close(context.Background()) })
	return w
}

func (w *twin) update(f func(tx store.Tx) error) {
	w.t.Helper()
	for _, s := range []store.Store{w.lite, w.pg} {
		if err := s.Update(context.Background(), f); err != nil {
			w.t.Fatal(err)
		}
	}
}

// derive has all done that is marked.
func (w *twin) derive() {
	w.t.Helper()
	for n := 1; n > 0; {
		var err error
		if n, err = w.pg.Derive(context.Background(), w.now.Add(time.Hour)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// ask runs a question on PostgreSQL.
func (w *twin) ask(question string, args ...any) []map[string]any {
	w.t.Helper()
	rows, err := w.conn.Query(context.Background(), question, args...)
	if err != nil {
		w.t.Fatalf("%s: %v", question, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		w.t.Fatalf("%s: %v", question, err)
	}
	return list
}

// askLite runs a question on the SQLite file.
func (w *twin) askLite(question string, args ...any) (list [][]any) {
	w.t.Helper()
	rows, err := w.db.Query(question, args...)
	if err != nil {
		w.t.Fatalf("%s: %v", question, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	for err == nil && rows.Next() {
		row, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		err = rows.Scan(into...)
		list = append(list, row)
	}
	if err == nil {
		err = rows.Err()
	}
	if err != nil {
		w.t.Fatalf("%s: %v", question, err)
	}
	return list
}

// taken is a sample as a vehicle took it.
type taken struct {
	name, unit string
	boot       int64 // CLOCK_BOOTTIME, ns
	value      float64
}

// car makes batches of samples, dated by a clock that may be set anew.
type car struct {
	device string
	boot   [16]byte
	lane   telemetrypb.Lane
	seq    map[telemetrypb.Lane]uint64
	date   func(boot int64) store.Time
}

func newCar(device string, boot byte, zero time.Time) *car {
	return &car{device: device, boot: [16]byte{boot}, lane: telemetrypb.Lane_LANE_TELEMETRY, seq: map[telemetrypb.Lane]uint64{}, date: clock(zero, time.Millisecond)}
}

func clock(zero time.Time, doubt time.Duration) func(int64) store.Time {
	return func(boot int64) store.Time {
		return store.Time{UnixNS: zero.UnixNano() + boot, UncertaintyNS: uint64(doubt), Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}
	}
}

func undated(int64) store.Time { return store.Time{} }

// put stores a batch in both.
func (c *car) put(w *twin, list ...taken) {
	w.t.Helper()
	c.seq[c.lane]++
	w.update(func(tx store.Tx) error {
		d, err := tx.Device("acme", c.device, w.now)
		if err != nil {
			return err
		}
		rows := make([]store.Row, len(list))
		for i, s := range list {
			g, err := tx.NamedSignal(d, s.name, s.unit)
			if err != nil {
				return err
			}
			v := store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(s.value)}
			rows[i] = store.Row{Index: uint32(i), Signal: g, BootNS: s.boot, Time: c.date(s.boot), Raw: v, Value: v}
		}
		p, err := tx.PutBatch(d, &store.Batch{Key: store.Key{Epoch: 9, Lane: c.lane, Seq: c.seq[c.lane]}, CRC: uint32(c.seq[c.lane]), BootID: c.boot, Samples: uint32(len(list)),
			Form: store.FormPlain, State: store.StateStored, Received: w.now})
		if err != nil || p.Outcome != store.OutcomeNew {
			return fmt.Errorf("%+v, %w", p, err)
		}
		return tx.PutSamples(p.ID, rows)
	})
}

// retime dates all of the boot again, a part at a time.
func (c *car) retime(w *twin, date func(int64) store.Time) {
	w.t.Helper()
	c.date = date
	for _, s := range []store.Store{w.lite, w.pg} {
		first := true
		for done := false; !done; first = false {
			if err := s.Update(context.Background(), func(tx store.Tx) error {
				d, err := tx.Device("acme", c.device, w.now)
				if err == nil && first {
					err = tx.PutRetiming(d, c.boot, math.MinInt64)
				}
				if err == nil {
					_, done, err = tx.Retime(d, c.boot, 300, date)
				}
				return err
			}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// apiTrips asks the API, of SQLite.
func (w *twin) apiTrips(device string, from, to time.Time) api.Trips {
	w.t.Helper()
	server, err := api.New(api.Options{Reader: w.lite.Reads(), Now: func() time.Time { return to }})
	if err != nil {
		w.t.Fatal(err)
	}
	r := httptest.NewRecorder()
	server.ServeHTTP(r, httptest.NewRequest("GET", fmt.Sprintf("%s/devices/acme/%s/trips?from=%s&to=%s", api.Prefix, device, from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339)), nil))
	var a api.Trips
	if err := json.Unmarshal(r.Body.Bytes(), &a); err != nil || r.Code != 200 {
		w.t.Fatalf("%d %s %v", r.Code, r.Body, err)
	}
	return a
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*(1+math.Abs(a)) }

// compareTrips holds the table to the API's answer. from must lie on a step.
func (w *twin) compareTrips(what, device string, from, to time.Time, least int) {
	w.t.Helper()
	want := w.apiTrips(device, from, to)
	got := w.ask("SELECT start_ns, end_ns, by, distance_m, top_mps FROM trips WHERE tenant = 'acme' AND device = $1 ORDER BY start_ns", device)
	if len(got) != len(want.Items) || len(got) < least {
		w.t.Errorf("%s, %s: %d trips, the API has %d, want at least %d\n%v\n%+v", what, device, len(got), len(want.Items), least, got, want.Items)
		return
	}
	for i, g := range got {
		x := want.Items[i]
		ok := g["start_ns"] == x.Start.UnixNano() && g["end_ns"] == x.End.UnixNano() && g["by"] == want.By && (x.Distance == nil) == (g["distance_m"] == nil)
		if ok && x.Distance != nil {
			ok = near(*x.Distance, g["distance_m"].(float64)) && near(*x.Top, g["top_mps"].(float64))
		}
		if !ok {
			d := 0.
			if x.Distance != nil {
				d = *x.Distance
			}
			w.t.Errorf("%s, %s: trip %d is %v, the API says %v to %v, %v m", what, device, i, g, x.Start.UnixNano(), x.End.UnixNano(), d)
		}
	}
}

// outing makes up what a vehicle takes in some hours: it moves, stands and is silent, for times that lie about the rule's.
func outing(random *rand.Rand, length time.Duration, speed, unit, ignition string) (list []taken) {
	at := time.Duration(random.Int64N(int64(time.Hour)))
	wasOn := -1.
	for end := at + length; at < end; {
		piece := time.Duration(float64(time.Minute) * []float64{0.2, 1, 4.9, 5.1, 9.9, 10.1, 30, 75}[random.IntN(8)])
		kind := random.IntN(3)
		if kind == 2 {
			at += piece
			continue
		}
		for until := at + piece; at < until; at += time.Duration(1+random.Int64N(14)) * time.Second {
			v := 0.
			if kind == 1 {
				v = random.Float64() * 100
			}
			if speed != "" {
				list = append(list, taken{speed, unit, int64(at), v})
			}
			on := float64(kind)
			if ignition != "" && (on != wasOn || random.IntN(40) == 0) { // when it changes, and now and then
				list = append(list, taken{ignition, "", int64(at), on})
				wasOn = on
			}
		}
	}
	return list
}

// deliver cuts samples into batches, and stores some of them out of order.
func (c *car) deliver(w *twin, random *rand.Rand, list []taken, between func()) {
	w.t.Helper()
	var batches [][]taken
	for len(list) > 0 {
		n := min(1+random.IntN(120), len(list))
		batches, list = append(batches, list[:n]), list[n:]
	}
	random.Shuffle(len(batches), func(i, j int) { batches[i], batches[j] = batches[j], batches[i] })
	for i, b := range batches {
		c.put(w, b...)
		if i == len(batches)/2 {
			between()
		}
	}
}

// TestTripsAreThoseOfTheAPI: whatever comes late, out of order, is dated again or by a clock that jumps.
func TestTripsAreThoseOfTheAPI(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Hour)
	w := newTwin(t, quick(t), now)
	random := rand.New(rand.NewPCG(1, 7))
	from := now.Add(-27 * time.Hour) // in longer windows the API has longer steps
	cars := []struct {
		name, speed, unit, ignition string
	}{
		{"by-speed", "can0.A.VehicleSpeed", "km/h", ""},
		{"by-ignition", "Vehicle.Speed", "mph", "can0.Body.Ignition"},
		{"no-speed", "", "", "Vehicle.IsIgnitionOn"},
		{"no-unit", "x.vehicle_speed", "furlongs", "x.IgnitionOn"},
	}
	for n, c := range cars {
		v := newCar(c.name, byte(n+1), now.Add(-20*time.Hour))
		list := outing(random, 7*time.Hour, c.speed, c.unit, c.ignition)
		v.deliver(w, random, list, w.derive)
		w.derive()
		w.compareTrips("out of order", c.name, from, now, 3)
		v.retime(w, clock(now.Add(-22*time.Hour-17*time.Minute), time.Second))
		w.derive()
		w.compareTrips("dated again", c.name, from, now, 3)
		// The next boot's clock stands hours too early, among the drives of before, and is then set.
		next := newCar(c.name, byte(n+0x41), now.Add(-21*time.Hour))
		next.seq = v.seq
		next.deliver(w, random, outing(random, 2*time.Hour, c.speed, c.unit, c.ignition), func() {})
		w.derive()
		w.compareTrips("a clock that jumped", c.name, from, now, 3)
		next.retime(w, clock(now.Add(-11*time.Hour), time.Second))
		w.derive()
		w.compareTrips("and was set", c.name, from, now, 3)
		next.retime(w, undated)
		w.derive()
		w.compareTrips("and is not believed", c.name, from, now, 3)
	}
	// What tells trips changes: the vehicle's own speed comes after the receiver's, the ignition after both.
	v := newCar("learns", 9, now.Add(-20*time.Hour))
	v.deliver(w, random, outing(random, 3*time.Hour, "gps0.fix.speed", "m/s", ""), func() {})
	w.derive()
	w.compareTrips("by the receiver", "learns", from, now, 1)
	v.deliver(w, random, outing(random, 3*time.Hour, "can0.A.VehicleSpeed", "km/h", ""), w.derive)
	w.derive()
	w.compareTrips("by its own speed", "learns", from, now, 1)
	v.put(w, taken{"can0.B.Ignition", "", int64(time.Hour), 1})
	w.derive()
	w.compareTrips("by its ignition", "learns", from, now, 1)
	// Several processes look at what is marked while more comes and is dated again; they are stopped at any moment.
	others := []*Store{w.pg, open(t, w.url, options())}
	busy := newCar("busy", 10, now.Add(-20*time.Hour))
	for round := range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		var tasks sync.WaitGroup
		for _, s := range others {
			tasks.Go(func() {
				for ctx.Err() == nil {
					if _, err := s.Derive(ctx, now.Add(time.Hour)); err != nil && ctx.Err() == nil {
						t.Errorf("derive beside others: %v", err)
					}
				}
			})
		}
		busy.deliver(w, random, outing(random, time.Hour, "can0.A.VehicleSpeed", "km/h", "can0.B.Ignition"), func() {})
		busy.retime(w, clock(now.Add(-20*time.Hour+time.Duration(round)*37*time.Minute), time.Second))
		cancel()
		tasks.Wait()
	}
	w.derive()
	w.compareTrips("by several at once", "busy", from, now, 1)
	// Twice is as once.
	before := w.ask("SELECT * FROM drives ORDER BY device, start_ns")
	if err := w.pg.MarkDirty(context.Background(), DeriveQuery{}); err != nil {
		t.Fatal(err)
	}
	w.derive()
	if after := w.ask("SELECT * FROM drives ORDER BY device, start_ns"); fmt.Sprint(before) != fmt.Sprint(after) || len(before) == 0 {
		t.Errorf("%d drives, then %d others", len(before), len(after))
	}
}

// fixAt is what a receiver says.
func fixAt(source string, boot time.Duration, latitude, longitude, suspect float64) []taken {
	list := []taken{{source + ".fix.latitude", "deg", int64(boot), latitude}, {source + ".fix.longitude", "deg", int64(boot), longitude}}
	if suspect >= 0 {
		list = append(list, taken{source + ".fix.suspect", "", int64(boot), suspect})
	}
	return list
}

// comparePositions holds latest_positions and positions to SQLite's answers, at a moment that both take for now.
func (w *twin) comparePositions(what, device string) {
	w.t.Helper()
	ctx, now, id := context.Background(), time.Now(), api.DeviceID{Tenant: "acme", Device: device}
	d, err := w.lite.Reads().Device(ctx, id, now)
	if err != nil {
		w.t.Fatal(err)
	}
	got := w.ask("SELECT wall_ns, latitude, longitude, source FROM latest_positions WHERE device = $1", device)
	if p := d.Position; p == nil && len(got) != 0 || p != nil && (len(got) != 1 || got[0]["wall_ns"] != p.Time.UnixNano() || got[0]["latitude"] != p.Latitude ||
		got[0]["longitude"] != p.Longitude || got[0]["source"] != p.Source) {
		w.t.Errorf("%s, %s: the latest position is %v, the API says %+v", what, device, got, p)
	}
	var want []string
	for _, source := range []string{"gps0", "gps1", api.VSSLocation} {
		if _, _, err := w.lite.Reads().Positions(ctx, id, source, api.Window{From: now.AddDate(-1, 0, 0), To: now.AddDate(1, 0, 0)}, func(p api.Point) error {
			want = append(want, fmt.Sprint(fmt.Sprint(source, p.UnixNS), p.Latitude, p.Longitude))
			return nil
		}); err != nil {
			w.t.Fatal(err)
		}
	}
	var list []string
	for _, g := range w.ask("SELECT * FROM positions WHERE device = $1 AND NOT suspect AND uncertainty <= 600000000000", device) {
		list = append(list, fmt.Sprint(fmt.Sprint(g["source"], g["wall_ns"]), g["latitude"], g["longitude"]))
	}
	// SQLite's views are held to its API likewise.
	var lite []string
	for _, l := range w.askLite("SELECT source || wall_ns, latitude, longitude FROM positions WHERE device = ? AND NOT suspect AND uncertainty <= 600000000000", device) {
		lite = append(lite, fmt.Sprint(l...))
	}
	latest := w.askLite("SELECT wall_ns, latitude, longitude, source FROM latest_positions WHERE device = ?", device)
	if p := d.Position; p == nil && len(latest) != 0 || p != nil && (len(latest) != 1 || fmt.Sprint(latest[0]...) != fmt.Sprint(p.Time.UnixNano(), p.Latitude, p.Longitude, p.Source)) {
		w.t.Errorf("%s, %s: SQLite's latest position is %v, the API says %+v", what, device, latest, p)
	}
	slices.Sort(want)
	slices.Sort(list)
	slices.Sort(lite)
	if strings.Join(lite, " ") != strings.Join(want, " ") {
		w.t.Errorf("%s, %s: SQLite's positions %v, the API says %v", what, device, lite, want)
	}
	if !slices.Equal(want, list) {
		w.t.Errorf("%s, %s: positions %v, the API says %v", what, device, list, want)
	}
}

// TestPositionsAreThoseOfTheAPI: the latest one never goes back for what comes late, and is not of the future, until it is past.
func TestPositionsAreThoseOfTheAPI(t *testing.T) {
	now := time.Now().UTC()
	w := newTwin(t, quick(t), now)
	v := newCar("car-1", 1, now.Add(-10*time.Hour))
	step := func(what string, list ...taken) {
		t.Helper()
		if len(list) > 0 {
			v.put(w, list...)
		}
		w.comparePositions(what, "car-1")
	}
	step("none", taken{"can0.x", "", 1, 1})
	step("the first", fixAt("gps0", time.Hour, 47.1, 9.1, 0)...)
	step("a later one", fixAt("gps0", 3*time.Hour, 47.3, 9.3, 0)...)
	step("one that is late", fixAt("gps0", 2*time.Hour, 47.2, 9.2, 0)...)
	step("suspect", fixAt("gps0", 4*time.Hour, 57.4, 9.4, 1)...)
	step("no place on earth", fixAt("gps0", 4*time.Hour+1, 91, 9.4, 0)...)
	step("no number", fixAt("gps0", 4*time.Hour+2, 47, math.NaN(), 0)...)
	step("another receiver, at the same time", fixAt("gps1", 3*time.Hour, 48, 10, -1)...)
	step("half of one", taken{"gps0.fix.latitude", "deg", int64(5 * time.Hour), 47.5})
	step("its other half", taken{"gps0.fix.longitude", "deg", int64(5 * time.Hour), 9.5})
	step("which is suspect, as comes later", taken{"gps0.fix.suspect", "", int64(5 * time.Hour), 1})
	step("suspect, ahead of the rest", taken{"gps0.fix.suspect", "", int64(6 * time.Hour), 1})
	step("the rest", fixAt("gps0", 6*time.Hour, 47.6, 9.6, -1)...)
	step("by VSS", taken{"Vehicle.CurrentLocation.Latitude", "degrees", int64(7 * time.Hour), 47.7}, taken{"Vehicle.CurrentLocation.Longitude", "degrees", int64(7 * time.Hour), 9.7})
	v.retime(w, clock(now.Add(-15*time.Hour), time.Second))
	step("all dated earlier")
	step("the future", fixAt("gps0", 24*time.Hour, 50, 11, 0)...)
	v.date = clock(now.Add(-14*time.Hour), 11*time.Minute)
	step("an uncertain time", fixAt("gps0", 9*time.Hour, 51, 12, 0)...)
	v.date = undated
	step("no time", fixAt("gps0", 10*time.Hour, 52, 13, 0)...)
	v.retime(w, clock(now.Add(-11*time.Hour), time.Second))
	step("all dated, and surely")
	v.retime(w, undated)
	step("nothing is dated any more")
	v.retime(w, clock(now.Add(-40*time.Hour), time.Second))
	step("all is past")
	// A position that is ahead of the clock when it comes, and is past when it is asked for.
	w.now = now.Add(-38 * time.Hour)
	early := newCar("car-2", 2, now.Add(-40*time.Hour))
	early.put(w, fixAt("gps0", time.Hour, 40, 1, 0)...)
	early.put(w, append(fixAt("gps0", 3*time.Hour, 41, 2, 0), fixAt("gps0", 400*time.Hour, 42, 3, 0)...)...)
	if got := w.ask("SELECT latitude, ahead_ns FROM latest l JOIN devices d ON d.id = l.device WHERE d.device = 'car-2'"); got[0]["latitude"] != 40. || got[0]["ahead_ns"] == nil {
		t.Errorf("the table has %v, ahead of its time", got)
	}
	w.comparePositions("ahead, and come true", "car-2")
	w.now = now
	for more := true; more; {
		var err error
		if more, err = w.pg.comeTrue(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.ask("SELECT latitude, ahead_ns FROM latest l JOIN devices d ON d.id = l.device WHERE d.device = 'car-2'"); got[0]["latitude"] != 41. || got[0]["ahead_ns"] != now.Add(360*time.Hour).UnixNano() {
		t.Errorf("the table has %v, when it is past", got)
	}
	w.comparePositions("in the table", "car-2")
	if n := w.ask("SELECT count(*) AS n FROM latest_positions")[0]["n"]; n != int64(2) {
		t.Errorf("%v vehicles have a position", n)
	}
}

// TestOneVehicleDoesNotStopTheOthers: values and times that cannot be cost who sends them, and neither others' trips nor questions over all.
func TestOneVehicleDoesNotStopTheOthers(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Hour)
	w := newTwin(t, quick(t), now)
	hostile, honest := newCar("a-hostile", 1, now.Add(-3*time.Hour)), newCar("honest", 2, now.Add(-2*time.Hour))
	const speed = "x.VehicleSpeed"
	list := []taken{}
	for i := range int64(80) { // ends, and the honest one's hours are marked behind all of them
		list = append(list, taken{speed, "m/s", i * int64(time.Hour) / 40, []float64{1e300, -1e300}[i%2]}, taken{speed, "m/s", i*int64(time.Hour)/40 + 1, 1e299})
	}
	hostile.put(w, list...)
	hostile.date = func(boot int64) store.Time {
		return store.Time{UnixNS: boot, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}
	}
	hostile.put(w, taken{speed, "m/s", math.MinInt64, 1}, taken{speed, "m/s", math.MaxInt64, 1}, taken{"y", "", math.MinInt64, 1}, taken{"y", "", math.MaxInt64, 1})
	list = nil
	for i := range int64(60) {
		list = append(list, taken{speed, "m/s", i * int64(10*time.Second), 10})
	}
	honest.put(w, list...)
	w.derive()
	if got := w.ask("SELECT distance_m FROM trips WHERE device = 'honest'"); len(got) != 1 || !near(got[0]["distance_m"].(float64), 5900) {
		t.Errorf("the trips of the honest vehicle: %v", got)
	}
	for _, view := range []string{"dated", "minutes", "hours", "trips", "positions", "latest_positions"} {
		if got := w.ask("SELECT * FROM " + view); len(got) == 0 && !strings.Contains(view, "positions") {
			t.Errorf("%s is empty", view)
		}
	}
	buckets, err := w.pg.Reads().Buckets(context.Background(), api.DeviceID{Tenant: "acme", Device: "a-hostile"}, speed, api.Window{From: now.Add(-4 * time.Hour), To: now}, time.Hour)
	if err != nil || len(buckets) == 0 {
		t.Errorf("%d buckets, %v", len(buckets), err)
	}
	// Each in its turn, whoever has more to do, and for longer.
	do(t, w.url, "INSERT INTO dirty SELECT id, 'epoch'::timestamptz + n * interval '1 hour', 'epoch' FROM devices, generate_series(1, 500) n WHERE device = 'a-hostile'",
		"INSERT INTO dirty SELECT id, 'epoch', now() FROM devices WHERE device = 'honest'")
	for range 2 {
		if _, err := w.pg.Derive(context.Background(), now.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if got := words(t, w.url, "SELECT count(*)::text FROM dirty m JOIN devices d ON d.id = m.device WHERE d.device = 'honest'"); got[0] != "0" {
		t.Error("the honest vehicle waits for all hours of the other one")
	}
}

// TestTripsOutliveTheirSamples: whose samples are dropped as docs/STORE.md says keeps its trips, when all hours are looked at again.
func TestTripsOutliveTheirSamples(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Hour)
	w := newTwin(t, quick(t), now)
	c := newCar("car-1", 1, now.Add(-2*time.Hour))
	var list []taken
	for i := range int64(60) {
		list = append(list, taken{"x.vehicle_speed", "m/s", i * int64(10*time.Second), 10})
	}
	c.put(w, list...)
	w.derive()
	text, err := os.ReadFile("../../docs/STORE.md")
	if err != nil {
		t.Fatal(err)
	}
	deletes := regexp.MustCompile("`(DELETE FROM [a-z_]+ WHERE day < )'[0-9-]+'`").FindAllSubmatch(text, -1)
	if len(deletes) == 0 {
		t.Fatal("docs/STORE.md does not say what to delete")
	}
	for _, name := range words(t, w.url, partitions) {
		do(t, w.url, "DROP TABLE "+strings.Fields(name)[0])
	}
	for _, d := range deletes {
		do(t, w.url, string(d[1])+"'"+now.AddDate(0, 0, 2).Format(time.DateOnly)+"'")
	}
	c.put(w, taken{"Vehicle.Speed", "km/h", int64(90 * time.Minute), 0}) // a better signal
	w.derive()
	if got := w.ask("SELECT distance_m FROM trips"); len(got) != 1 {
		t.Errorf("trips: %v", got)
	}
}
