//go:build system

// Package jobs tries the Flink SQL jobs of deploy/flink: the very files, on Flink and on Kafka.
package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/test/deps"
)

// outputs are the topics with the fields of their keys.
var outputs = map[string][]string{
	"minutes":  {"tenant", "device", "name", "minute"},
	"trips":    {"tenant", "device", "start"},
	"geofence": {"tenant", "device", "source", "fence", "time"},
	"scores":   {"tenant", "device", "day"},
}

const prefix = "night"

// A night of seven vehicles goes through all four jobs, with rows in disorder, copies, rows that are dated again, clocks
// that are wrong, one partition that falls silent, one that is empty, and rows that are hours late; on the way Flink is
// killed. What the topics hold then is what a plain program finds in the same rows, each result once.
func TestJobs(t *testing.T) {
	deps.Watch(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	w := night()
	want := map[string]results{"minutes": minutesOf(w.rows), "trips": tripsOf(w.rows), "geofence": fencesOf(w.rows), "scores": scoresOf(w.rows)}
	planted(t, want)
	kafka := deps.Kafka(t, deps.KafkaOptions{})
	begin(ctx, t, kafka.Addr)
	writer := newWriter(t, kafka.Addr)
	reader := newReader(t, kafka.Addr)
	// The rows until 00:10 are there when Flink starts: it would take a partition whose rows it gets later than the others'
	// for silent, and its rows for late.
	writer.abort(ctx, t, w)
	writer.write(ctx, t, w, time.Time{}, clock(0, 10))
	began := time.Now()
	flink := deps.Flink(t, deps.FlinkOptions{
		SQL: filepath.Join(deps.Root(t), "deploy", "flink"), Jobs: slices.Sorted(maps.Keys(outputs)),
		Values: map[string]string{"BROKERS": kafka.Addr, "PREFIX": prefix},
	})
	t.Logf("four jobs run after %v", time.Since(began).Round(time.Second))

	// Until every job has seen that it is later than 23:00: what comes of 22:50 is late from now on.
	reader.until(ctx, t, "minutes", first(t, want["minutes"], "acme car-0 agent.uptime 2026-03-02T00:05"))
	reader.until(ctx, t, "trips", first(t, want["trips"], "acme car-1 2026-03-01T22:35"))
	reader.until(ctx, t, "geofence", first(t, want["geofence"], "acme car-1 gps0 depot 2026-03-01T23:20"))
	reader.until(ctx, t, "scores", "acme car-2 2026-03-01")

	// The late rows and more, until checkpoints hold them, then more that no checkpoint may hold, and the kill.
	writer.write(ctx, t, w, clock(0, 10), clock(1, 4))
	reader.until(ctx, t, "minutes", first(t, want["minutes"], "acme car-0 agent.uptime 2026-03-02T00:55"))
	reader.until(ctx, t, "trips", first(t, want["trips"], "acme car-2 2026-03-02T00:05"))
	reader.until(ctx, t, "geofence", first(t, want["geofence"], "acme car-2 gps0 depot 2026-03-02T00:22"))
	reader.until(ctx, t, "scores", "acme car-1 2026-03-02")
	t.Logf("an hour and a half is computed after %v; %s", time.Since(began).Round(time.Second), flink.Memory())
	writer.write(ctx, t, w, clock(1, 4), clock(1, 35))
	for job := range outputs {
		if flink.Checkpoints(job) == 0 {
			t.Errorf("%s has no checkpoint", job)
		}
	}
	flink.Kill()
	flink.Start()
	t.Logf("runs again after %v", time.Since(began).Round(time.Second))
	writer.write(ctx, t, w, clock(1, 35), clock(5, 0))

	// The last beat is of 02:11:40: what is not over two minutes before is not written.
	for k := range want["minutes"] {
		if k[len(k)-len(iso(clock(2, 0))):] >= iso(clock(2, 9)) {
			delete(want["minutes"], k)
		}
	}
	for topic, results := range want {
		for k := range results {
			reader.until(ctx, t, topic, k)
		}
	}
	reader.untilField(ctx, t, "scores", "acme car-2 2026-03-02", "as_of", iso(clock(2, 0)))
	reader.settle(ctx, t)
	t.Logf("all is computed after %v; %s", time.Since(began).Round(time.Second), flink.Memory())
	flink.Kill()
	t.Logf("Flink took %v of processor time, two starts included", flink.CPU.Round(time.Second))
	for topic, results := range want {
		compare(t, topic, results, reader.last[topic])
		for k, n := range reader.seen[topic] {
			if n != 1 {
				t.Errorf("%s: %q was written %d times", topic, k, n)
			}
		}
		t.Logf("%s: %d results", topic, len(results))
	}
}

// planted holds the model itself to what the world was made to hold.
func planted(t *testing.T, want map[string]results) {
	for k, counts := range map[string][3]float64{"acme car-1 2026-03-01": {4, 1, 1}, "acme car-1 2026-03-02": {0, 1, 0}, "acme car-2 2026-03-01": {0, 0, 0}} {
		s := want["scores"][k]
		if got := [3]float64{s["harsh_braking"].(float64), s["harsh_acceleration"].(float64), s["over_speed"].(float64)}; got != counts {
			t.Errorf("the model has %v for %s, not %v", got, k, counts)
		}
	}
	if len(want["trips"]) != 8 || len(want["geofence"]) != 7 {
		t.Errorf("the model has %d trips and %d crossings, not 8 and 7: %v %v", len(want["trips"]), len(want["geofence"]), want["trips"], want["geofence"])
	}
	for k := range want["minutes"] {
		if bytes.Contains([]byte(k), []byte("car-4")) {
			t.Errorf("the model counts a wrong clock: %s", k)
		}
	}
}

func compare(t *testing.T, topic string, want, got results) {
	t.Helper()
	wrong := 0
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if !equal(want[k], got[k]) {
			if wrong++; wrong <= 10 {
				t.Errorf("%s: %s: got %v, want %v", topic, k, got[k], want[k])
			}
		}
	}
	for k, v := range got {
		if want[k] == nil {
			if wrong++; wrong <= 10 {
				t.Errorf("%s: %s: got %v, want nothing", topic, k, v)
			}
		}
	}
	if wrong > 10 {
		t.Errorf("%s: %d wrong", topic, wrong)
	}
}

// equal takes numbers for equal that differ by rounding.
func equal(a, b result) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		y, ok := b[name]
		m, isM := x.(float64)
		n, isN := y.(float64)
		if !ok || isM != isN || isM && math.Abs(m-n) > 1e-9*max(1, math.Abs(m)) && !(name == "distance_m" && math.Abs(m-n) < 1e-3) || !isM && x != y {
			return false
		}
	}
	return true
}

// begin makes the topics.
func begin(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	topics := []string{prefix + ".samples", prefix + ".positions"}
	for topic := range outputs {
		topics = append(topics, prefix+"."+topic)
	}
	made, err := kadm.NewClient(client).CreateTopics(ctx, 3, 1, nil, topics...)
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// writer writes rows as the fleet's outbox does, in transactions.
type writer struct{ *kgo.Client }

func newWriter(t *testing.T, addr string) writer {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.TransactionalID("outbox"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return writer{client}
}

// write writes the rows that come in a stretch of time.
func (w writer) write(ctx context.Context, t *testing.T, all *world, from, to time.Time) {
	t.Helper()
	n := 0
	w.transaction(ctx, t, kgo.TryCommit, func() {
		for _, r := range all.rows {
			if !r.comes.Before(from) && r.comes.Before(to) {
				w.send(ctx, t, r)
				n++
			}
		}
	})
	t.Logf("%d rows that come before %s", n, to.Format(time.TimeOnly))
}

// abort writes rows that are taken back.
func (w writer) abort(ctx context.Context, t *testing.T, all *world) {
	t.Helper()
	w.transaction(ctx, t, kgo.TryAbort, func() {
		for _, r := range all.rows[:200] {
			c := *r
			c.Device = "aborted"
			w.send(ctx, t, &c)
		}
	})
}

func (w writer) send(ctx context.Context, t *testing.T, r *row) {
	value, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	w.Produce(ctx, &kgo.Record{Topic: prefix + r.topic(), Partition: r.partition(), Key: []byte(r.Tenant + "/" + r.Device), Value: value}, nil)
}

func (w writer) transaction(ctx context.Context, t *testing.T, end kgo.TransactionEndTry, rows func()) {
	t.Helper()
	if err := w.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	rows()
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.EndTransaction(ctx, end); err != nil {
		t.Fatal(err)
	}
}

// reader reads what the jobs have committed.
type reader struct {
	*kgo.Client
	last map[string]results
	seen map[string]map[string]int // by topic and record: how often it came
}

func newReader(t *testing.T, addr string) *reader {
	t.Helper()
	r := &reader{last: map[string]results{}, seen: map[string]map[string]int{}}
	var topics []string
	for topic := range outputs {
		topics = append(topics, prefix+"."+topic)
		r.last[topic], r.seen[topic] = results{}, map[string]int{}
	}
	var err error
	r.Client, err = kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topics...), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func (r *reader) poll(ctx context.Context, t *testing.T) (got int) {
	t.Helper()
	fetches := r.PollFetches(ctx)
	for _, f := range fetches.Errors() {
		if ctx.Err() == nil {
			t.Fatal(f.Err)
		}
	}
	for _, record := range fetches.Records() {
		topic := record.Topic[len(prefix)+1:]
		value := result{}
		if err := json.Unmarshal(record.Value, &value); err != nil {
			t.Fatalf("%s: %v: %q", topic, err, record.Value)
		}
		var parts []string
		for _, field := range outputs[topic] {
			parts = append(parts, fmt.Sprint(value[field]))
			delete(value, field)
		}
		k := key(parts...)
		r.last[topic][k] = value
		if topic == "scores" { // of one key there is one an hour
			k = key(k, fmt.Sprint(value["as_of"]))
		}
		r.seen[topic][k]++
		got++
	}
	return got
}

// until waits for a result.
func (r *reader) until(ctx context.Context, t *testing.T, topic, key string) {
	t.Helper()
	for r.last[topic][key] == nil {
		if r.poll(ctx, t); ctx.Err() != nil {
			t.Fatalf("%s: %q does not come; there are %d results: %v", topic, key, len(r.last[topic]), some(r.last[topic]))
		}
	}
}

func (r *reader) untilField(ctx context.Context, t *testing.T, topic, key, field, value string) {
	t.Helper()
	for r.last[topic][key][field] != value {
		if r.poll(ctx, t); ctx.Err() != nil {
			t.Fatalf("%s: %s of %q is %v, not %s", topic, field, key, r.last[topic][key][field], value)
		}
	}
}

// settle reads on until nothing came for longer than a checkpoint takes to come.
func (r *reader) settle(ctx context.Context, t *testing.T) {
	t.Helper()
	for {
		quiet, cancel := context.WithTimeout(ctx, 15*time.Second)
		got := r.poll(quiet, t)
		cancel()
		if got == 0 {
			return
		}
	}
}

// first is the first key that begins as told.
func first(t *testing.T, of results, prefix string) string {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(of)) {
		if strings.HasPrefix(k, prefix) {
			return k
		}
	}
	t.Fatalf("the model has no %q: %v", prefix, some(of))
	return ""
}

func some(of results) []string {
	keys := slices.Sorted(maps.Keys(of))
	return keys[max(0, len(keys)-20):]
}
