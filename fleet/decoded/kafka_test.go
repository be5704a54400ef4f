//go:build system

package decoded

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/stream"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// accident is what a relay's process meets at a point: the kill of a kill -9, or a stall in which another relay takes its shard.
type accident struct {
	At          string  // the point at which it is killed when it first comes there, whatever the chances
	Kill, Stall float64 // chances at each point
	For         time.Duration
}

// points are where a session of the relay can be killed: everything that is durable by then differs.
var points = []string{"fenced", "settled", "read", "handed over", "written", "committed"}

// TestMain runs a relay in place of the tests where this process is the child of one.
func TestMain(m *testing.M) {
	if text := os.Getenv("WAYBILL_TEST_RELAY"); text != "" {
		fmt.Fprintln(os.Stderr, relayProcess(text))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

type relaySettings struct {
	Database, Kafka string
	Greedy          bool // takes every shard, whoever has it
	Accident        accident
	Points          []string // the accidents' At of the first starts, one after another
	Samples         int
}

func relayProcess(text string) error {
	var o relaySettings
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := postgres.Open(ctx, o.Database, postgres.Options{Rand: rand.Reader, Log: log, Connections: 20})
	if err != nil {
		return err
	}
	var outbox store.Outbox = s
	if o.Greedy {
		outbox = greedy{s}
	}
	r, err := New(Options{Options: stream.Options{Brokers: []string{o.Kafka}, Log: log}, Samples: o.Samples, Rebalance: 300 * time.Millisecond, at: func(point string) {
		switch dice := mathrand.Float64(); {
		case point == o.Accident.At, o.Accident.At == "" && dice < o.Accident.Kill:
			fmt.Fprintln(os.Stderr, "KILLED", point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		case o.Accident.At == "" && dice < o.Accident.Kill+o.Accident.Stall:
			fmt.Fprintln(os.Stderr, "STALLED", point)
			time.Sleep(o.Accident.For)
		}
	}}, outbox)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// greedy is a store whose shards everybody has: two relays of it do all that a lost lease can bring about.
type greedy struct{ store.Outbox }

func (g greedy) Lease(ctx context.Context) (store.Lease, error) {
	l, err := g.Outbox.Lease(ctx)
	return everybody{l}, err
}

type everybody struct{ store.Lease }

func (everybody) Relays(context.Context) (int, error)     { return 1, nil }
func (everybody) Take(context.Context, int) (bool, error) { return true, nil }

// process keeps a relay's process running until the test ends: one that was killed is started anew.
type process struct {
	mu    sync.Mutex // guards what follows
	cmd   *exec.Cmd
	log   strings.Builder
	over  bool
	kills int
	done  chan struct{}
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func startRelay(t *testing.T, o relaySettings) *process {
	t.Helper()
	p := &process{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			o.Accident.At = ""
			if len(o.Points) > 0 {
				o.Accident.At, o.Points = o.Points[0], o.Points[1:]
			}
			text, err := json.Marshal(o)
			if err != nil {
				fmt.Fprintln(p, err)
				return
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "WAYBILL_TEST_RELAY="+string(text))
			cmd.Stderr = p
			p.mu.Lock()
			if p.over {
				p.mu.Unlock()
				return
			}
			err = cmd.Start()
			p.cmd = cmd
			p.mu.Unlock()
			if err != nil {
				fmt.Fprintln(p, err)
				return
			}
			_ = cmd.Wait()
			p.mu.Lock()
			p.kills++
			p.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
		}
	}()
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	p.mu.Lock()
	p.over = true
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
	}
	p.mu.Unlock()
	<-p.done
}

// bench is a store and a Kafka with its topics.
type bench struct {
	t      testing.TB
	db     *deps.PostgreSQL
	kafka  *deps.KafkaNode
	url    string
	store  *postgres.Store
	stream stream.Options
}

func newBench(t testing.TB, settings ...string) *bench {
	t.Helper()
	ctx := context.Background()
	b := &bench{t: t, db: deps.Postgres(t, settings...), kafka: deps.Kafka(t, deps.KafkaOptions{})}
	b.url = b.db.Database(t, "fleet")
	b.stream = stream.Options{Brokers: []string{b.kafka.Addr}}
	b.makeTopics()
	var err error
	if b.store, err = postgres.Open(ctx, b.url, postgres.Options{Rand: rand.Reader}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	return b
}

// makeTopics makes the topics.
func (b *bench) makeTopics() {
	b.t.Helper()
	if _, err := stream.Init(context.Background(), b.stream, stream.TopicOptions{Partitions: 4, Replication: 1, Retention: time.Hour, Decoded: true}, false); err != nil {
		b.t.Fatal(err)
	}
}

var bootOne = [16]byte{1, 2, 3}

// received is when everything arrives, a µs and a bit after a full second.
var received = time.Date(2026, 11, 22, 12, 0, 0, 1000, time.UTC)

// fix are the signals of a receiver.
var fix = []string{"gps0.fix.latitude", "gps0.fix.longitude", "gps0.fix.speed", "gps0.fix.suspect"}

// put stores one batch of a device, with all that a decoded topic shows. It tries again while the database is away.
func (b *bench) put(device string, lane telemetrypb.Lane, seq uint64, samples int) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := b.store.Update(context.Background(), func(tx store.Tx) error { return putBatch(tx, device, lane, seq, samples) })
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal(err)
		}
	}
}

func putBatch(tx store.Tx, device string, lane telemetrypb.Lane, seq uint64, samples int) error {
	d, err := tx.Device("acme", device, received)
	if err != nil {
		return err
	}
	p, err := tx.PutBatch(d, &store.Batch{Key: store.Key{Epoch: 0xFEDCBA9876543210, Lane: lane, Seq: seq}, CRC: 7, BootID: bootOne, BootCount: 1, FirstNS: int64(seq) * 1e9, SpanNS: 1e9,
		Samples: uint32(samples), Form: store.FormColumns, State: store.StateStored, Received: received})
	if err != nil || p.Outcome == store.OutcomeDuplicate {
		return err
	}
	if lane == telemetrypb.Lane_LANE_CONTROL {
		return tx.PutLoss(d, p.ID, 3, &telemetrypb.Loss{Source: "can0", Reason: telemetrypb.LossReason_LOSS_OVERLOAD, Count: seq, Unit: "frames", Lane: telemetrypb.Lane(seq % 5), Detail: `"ü"`})
	}
	names := append([]string{"can0.Motor.Speed", "can0.Text"}, fix...)
	var signals []int64
	for _, n := range names {
		g, err := tx.NamedSignal(d, n, "m/s")
		if err != nil {
			return err
		}
		signals = append(signals, g)
	}
	var rows []store.Row
	for i := range samples {
		r := store.Row{Index: uint32(i), Signal: signals[i%len(signals)], BootNS: int64(seq)*1e9 + int64(i/len(signals))*1e6}
		r.Time = store.Time{UnixNS: received.UnixNano() + r.BootNS + 999, UncertaintyNS: 5, Source: 1}
		number := float64(seq) + float64(i)/1024
		r.Raw = store.Scalar{Kind: telemetrypb.KindFloat, Bits: bitsOf(number)}
		r.Value = r.Raw
		if i%len(signals) == 1 {
			r.Raw, r.Value, r.Label = store.Scalar{Kind: telemetrypb.KindString, Text: fmt.Sprintf("text %d/%d \"ü\" \x01", seq, i)}, store.Scalar{}, "a label"
			r.Time = store.Time{}
		}
		rows = append(rows, r)
	}
	return tx.PutSamples(p.ID, rows)
}

// retime dates the samples of a device anew.
func (b *bench) retime(device string, by int64) {
	b.t.Helper()
	ctx := context.Background()
	for done := false; !done; {
		err := b.store.Update(ctx, func(tx store.Tx) error {
			d, err := tx.Device("acme", device, received)
			if err != nil {
				return err
			}
			if err := tx.PutRetiming(d, bootOne, 0); err != nil {
				return err
			}
			_, done, err = tx.Retime(d, bootOne, 1<<20, func(bootNS int64) store.Time {
				return store.Time{UnixNS: received.UnixNano() + bootNS + by, UncertaintyNS: 7, Source: 2}
			})
			return err
		})
		if err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// empty waits until nothing is left to carry.
func (b *bench) empty(within time.Duration) {
	b.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		n, oldest, err := b.store.Backlog(context.Background())
		if err == nil && n == 0 && oldest.IsZero() {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d notes are left after %v, the oldest of %v; %v", n, within, oldest, err)
		}
	}
}

// topic reads all committed records of a topic, in the order of their partitions.
func (b *bench) topic(kind string) (list []*kgo.Record) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// A mark at the end of each partition says when everything has come.
	mark := fmt.Sprint("mark ", time.Now().UnixNano())
	name := b.stream.DecodedTopic(kind)
	p, err := b.stream.Client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer p.Close()
	for i := range int32(4) {
		if err := p.ProduceSync(ctx, &kgo.Record{Topic: name, Partition: i, Value: []byte(mark)}).FirstErr(); err != nil {
			b.t.Fatal(err)
		}
	}
	c, err := b.stream.Client(kgo.ConsumeTopics(name), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	for left := 4; left > 0; {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			b.t.Fatalf("%s: %v", name, err)
		}
		f.EachRecord(func(r *kgo.Record) {
			switch {
			case string(r.Value) == mark:
				left--
			case !strings.HasPrefix(string(r.Value), "mark "):
				list = append(list, r)
			}
		})
	}
	return list
}

// check compares a topic with the store, both as text: the store's by a query that makes the same JSON of its own tables. again says which
// devices' rows may be there more than once; the last one counts then.
func (b *bench) check(kind, query string, again func(device string) bool) int {
	b.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "ANALYZE"); err != nil { // the queries join everything with everything
		b.t.Fatal(err)
	}
	rows, err := conn.Query(ctx, query)
	if err != nil {
		b.t.Fatalf("%s: %v", kind, err)
	}
	wanted := map[string]string{}
	name := func(text []byte) (string, string) {
		var whole map[string]any
		if err := json.Unmarshal(text, &whole); err != nil {
			b.t.Fatalf("%s: %v: %s", kind, err, text)
		}
		canonical, _ := json.Marshal(whole)
		return fmt.Sprint(whole["tenant"], "/", whole["device"], "/", whole["epoch"], "/", whole["lane"], "/", whole["seq"], "/", whole["index"]), string(canonical)
	}
	for rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			b.t.Fatal(err)
		}
		k, v := name(text)
		if wanted[k] != "" {
			b.t.Fatalf("%s: the query has %s twice", kind, k)
		}
		wanted[k] = v
	}
	if err := rows.Err(); err != nil {
		b.t.Fatalf("%s: %v", kind, err)
	}
	got, order := map[string]string{}, map[string]float64{}
	doubles, faults := 0, 0
	list := b.topic(kind)
	for _, r := range list {
		k, v := name(r.Value)
		var head struct {
			Tenant, Device, Lane string
			Seq                  float64
		}
		_ = json.Unmarshal(r.Value, &head)
		if string(r.Key) != head.Tenant+"/"+head.Device {
			b.t.Errorf("%s: key %q of %s", kind, r.Key, r.Value)
		}
		if !again(head.Device) {
			lane := head.Device + head.Lane
			if order[lane] > head.Seq {
				b.t.Errorf("%s: %s: seq %v behind %v", kind, lane, head.Seq, order[lane])
			}
			order[lane] = head.Seq
		}
		if got[k] != "" && !again(head.Device) {
			doubles++
		}
		got[k] = v
	}
	for k, v := range wanted {
		if got[k] != v {
			if faults++; faults < 4 {
				b.t.Errorf("%s: %s is\n%s, want\n%s", kind, k, got[k], v)
			}
		}
		delete(got, k)
	}
	if doubles > 0 || faults > 0 || len(got) > 0 {
		b.t.Errorf("%s: %d rows in the store, %d records: %d are wrong or not there, %d there twice, %d in no table", kind, len(wanted), len(list), faults, doubles, len(got))
	}
	return len(list)
}

const iso = `to_char(%s AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

var (
	batchColumns = `'tenant', r.tenant, 'device', r.device, 'epoch', r.epoch, 'lane', (ARRAY['control','event','telemetry','raw'])[r.lane], 'seq', r.seq, 'index', r.idx`
	batchTime    = `'time', ` + fmt.Sprintf(iso, "r.time") + `, 'uncertainty_ns', coalesce(r.uncertainty, 0)`
	batchOf      = `JOIN devices d ON d.tenant = r.tenant AND d.device = r.device JOIN batches b ON b.device = d.id AND lpad(to_hex(b.epoch), 16, '0') = r.epoch AND b.lane = r.lane AND b.seq = r.seq`
	samplesQuery = `SELECT json_build_object(` + batchColumns + `, 'name', r.name, 'unit', r.unit, 'value', r.value, 'text', CASE WHEN r.kind > 3 THEN r.raw END, 'label', r.label,
	    ` + batchTime + `, 'boot_id', r.boot_id, 'boot_ns', r.boot_ns, 'received', ` + fmt.Sprintf(iso, "b.received") + `)::text FROM readings r ` + batchOf
	positionsQuery = `SELECT json_build_object(` + batchColumns + `, 'source', 'gps0', 'latitude', r.value, 'longitude', r.longitude, 'altitude', NULL, 'speed', r.speed, 'course', NULL,
	    'suspect', coalesce(r.suspect, 0) <> 0, ` + batchTime + `, 'received', ` + fmt.Sprintf(iso, "b.received") + `)::text FROM (
	      SELECT tenant, device, epoch, lane, seq, min(idx) FILTER (WHERE name LIKE '%.latitude') AS idx, min(time) FILTER (WHERE name LIKE '%.latitude') AS time,
	        min(uncertainty) FILTER (WHERE name LIKE '%.latitude') AS uncertainty, min(value) FILTER (WHERE name LIKE '%.latitude') AS value,
	        min(value) FILTER (WHERE name LIKE '%.longitude') AS longitude, min(value) FILTER (WHERE name LIKE '%.speed') AS speed, min(value) FILTER (WHERE name LIKE '%.suspect') AS suspect
	      FROM readings WHERE name LIKE 'gps0.fix.%' GROUP BY tenant, device, epoch, lane, seq, boot_ns) r ` + batchOf + ` WHERE r.value BETWEEN -90 AND 90 AND r.longitude BETWEEN -180 AND 180`
	lossesQuery = `SELECT json_build_object('tenant', d.tenant, 'device', d.device, 'epoch', lpad(to_hex(b.epoch), 16, '0'), 'lane', CASE WHEN l.lane > 0 THEN (ARRAY['control','event','telemetry','raw'])[l.lane] END,
	    'seq', b.seq, 'index', l.idx, 'source', l.source, 'reason', 'LOSS_OVERLOAD', 'count', l.count, 'unit', l.unit, 'detail', l.detail, 'received', ` + fmt.Sprintf(iso, "b.received") + `)::text
	    FROM losses l JOIN batches b ON b.id = l.batch JOIN devices d ON d.id = l.device`
)

// compare holds all four topics against the store.
func (b *bench) compare(again func(device string) bool) {
	b.t.Helper()
	n := b.check(Samples, samplesQuery, again)
	e := b.check(Events, samplesQuery+" WHERE r.lane = 2", again)
	p := b.check(Positions, positionsQuery, again)
	l := b.check(Losses, lossesQuery, again)
	b.t.Logf("%d samples, %d events, %d positions, %d losses", n, e, p, l)
	if n == 0 || e == 0 || p == 0 || l == 0 {
		b.t.Error("a topic is empty: nothing was compared")
	}
}

func never(string) bool { return false }

// TestExactlyOnce: relays that are killed at every point, and stall at every point while another takes their shards, with Kafka and
// PostgreSQL killed between, leave on the topics what is in the tables, each row once; what was dated again once more.
func TestExactlyOnce(t *testing.T) {
	for name, o := range map[string]relaySettings{
		"Killed":  {Accident: accident{Kill: 0.03}, Samples: 300},
		"Fencing": {Greedy: true, Accident: accident{Kill: 0.01, Stall: 0.05, For: 2500 * time.Millisecond}, Samples: 300},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "fsync = on", "max_connections = 100")
			if _, err := b.store.SwitchOn(context.Background()); err != nil {
				t.Fatal(err)
			}
			o.Database, o.Kafka = b.url, b.kafka.Addr
			first := o
			if name == "Killed" { // once at every point
				first.Points = points
			}
			relays := []*process{startRelay(t, first), startRelay(t, o)}
			const cars, accidents = 6, 12
			count := func() map[string]int {
				met := map[string]int{}
				for _, p := range relays {
					for line := range strings.Lines(p.text()) {
						if word, point, _ := strings.Cut(strings.TrimSpace(line), " "); word == "KILLED" || word == "STALLED" {
							met[word]++
							met[word+" "+point]++
						}
					}
				}
				return met
			}
			var enough atomic.Bool // accidents; a machine may be slow
			var writers sync.WaitGroup
			for car := range cars {
				writers.Go(func() {
					device := fmt.Sprintf("car-%d", car)
					for seq := uint64(1); !enough.Load() && seq <= 400; seq++ {
						lane := telemetrypb.Lane_LANE_TELEMETRY
						if seq%5 == 0 {
							lane = telemetrypb.Lane_LANE_EVENT
						}
						b.put(device, lane, seq, 60)
						if seq%10 == 0 {
							b.put(device, telemetrypb.Lane_LANE_CONTROL, seq, 0)
						}
						if car == 0 && seq%20 == 0 {
							b.retime(device, int64(seq)*1000)
						}
						time.Sleep(time.Duration(200+mathrand.IntN(100)) * time.Millisecond)
					}
				})
			}
			until := func(n int) {
				for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
					if p := count(); p["KILLED"]+p["STALLED"] >= n {
						return
					}
				}
			}
			everywhere := func() {
				for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
					met := count()
					if !slices.ContainsFunc(first.Points, func(point string) bool { return met["KILLED "+point] == 0 }) {
						return
					}
				}
			}
			until(accidents / 3)
			b.kafka.Kill()
			b.kafka.Start()
			until(2 * accidents / 3)
			b.db.Kill()
			b.db.Start()
			until(accidents)
			everywhere()
			enough.Store(true)
			writers.Wait()
			for _, p := range relays {
				p.stop()
			}
			met := count()
			t.Logf("%v", met)
			if met["KILLED"] == 0 {
				t.Errorf("nothing was killed:\n%s", relays[0].text())
			}
			for _, point := range points {
				if name == "Killed" && met["KILLED "+point] == 0 {
					t.Errorf("no relay was killed at %q", point)
				}
			}
			last := startRelay(t, relaySettings{Database: b.url, Kafka: b.kafka.Addr})
			b.empty(2 * time.Minute)
			last.stop()
			t.Log("all is carried")
			b.compare(func(device string) bool { return device == "car-0" })
		})
	}
}

func bitsOf(v float64) uint64 { return math.Float64bits(v) }
