//go:build system

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// hostile is a client that may publish as one vehicle and means no good.
type hostile struct {
	*car
	seq  map[telemetrypb.Lane]uint64
	hash []byte // of its catalogue
}

func (h *hostile) next(lane telemetrypb.Lane, catalogue []byte) *telemetrypb.Head {
	h.seq[lane]++
	return h.head(lane, h.seq[lane], catalogue)
}

func (h *hostile) batch(head *telemetrypb.Head, samples ...telemetrypb.Sample) []byte {
	h.t.Helper()
	b, err := telemetrypb.AppendBatch(nil, head, samples)
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *hostile) control(head *telemetrypb.Head, records ...*telemetrypb.Record) []byte {
	h.t.Helper()
	b, err := telemetrypb.AppendControl(nil, head, &telemetrypb.Records{Records: records})
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// claims gives a batch's envelope another number of samples, with a checksum that holds.
func (h *hostile) claims(batch []byte, samples uint32) []byte {
	h.t.Helper()
	view, err := telemetrypb.OpenBatch(batch)
	if err != nil {
		h.t.Fatal(err)
	}
	e := proto.CloneOf(view.Envelope)
	e.Samples, e.Crc32C = samples, 0
	head, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		h.t.Fatal(err)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Update(0, table, head), table, view.Body)
	head = protowire.AppendFixed32(protowire.AppendTag(head, 31, protowire.Fixed32Type), sum)
	out := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), head)
	return protowire.AppendBytes(protowire.AppendTag(out, 2, protowire.BytesType), view.Body)
}

const (
	teleLane    = telemetrypb.Lane_LANE_TELEMETRY
	controlLane = telemetrypb.Lane_LANE_CONTROL
)

// attacks are what it does, round after round.
func (h *hostile) attack(round int, victim []byte) {
	one := telemetrypb.UintSample(1, int64(round), 7)
	// Another vehicle's batches under its own topic, the victim's own and one of a number that the victim will use.
	h.publish(teleLane, victim)
	// 10^9 claimed samples.
	h.publish(teleLane, h.claims(h.batch(h.next(teleLane, h.hash), one), 1_000_000_000))
	// A bomb: 100,000 samples in some hundred bytes, six of them in a payload.
	flat := make([]telemetrypb.Sample, 100_000)
	for i := range flat {
		flat[i] = telemetrypb.UintSample(1, int64(i)*1000, 7)
	}
	var bombs [][]byte
	for range 6 {
		bombs = append(bombs, h.batch(h.next(teleLane, h.hash), flat...))
	}
	h.publish(teleLane, bombs...)
	// A catalogue under the short hash of one that is known, and one that is not its own hash.
	data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Signals: []*telemetrypb.Signal{{Id: 1, Name: fmt.Sprint("forged", round)}}})
	copy(hash[:16], h.catalogue[:])
	forged := &telemetrypb.CataloguePart{Hash: hash[:], Count: 1, Data: data}
	wrong := &telemetrypb.CataloguePart{Hash: bytes.Repeat([]byte{byte(round), 3}, 16), Count: 1, Data: data}
	h.publish(controlLane, h.control(h.next(controlLane, nil), &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: forged}},
		&telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: wrong}}))
	// The same key again with other bytes, the same bytes again, and epochs without end.
	again := h.head(teleLane, 1, h.hash)
	h.publish(teleLane, h.batch(again, telemetrypb.UintSample(1, 5, uint64(round+1000))))
	replayed := h.head(controlLane, 1, nil)
	replayed.Epoch = 5
	h.publish(controlLane, h.control(replayed))
	var epochs [][]byte
	for n := range 700 {
		fresh := h.head(controlLane, 1, nil)
		fresh.Epoch = uint64(1000 + 700*round + n)
		epochs = append(epochs, h.control(fresh))
	}
	h.publish(controlLane, epochs...)
	// Noise: nothing of it is a payload, or a batch.
	wait(h.t, h.client.Publish(telemetrypb.Topic("acme", h.name, telemetrypb.TopicLane(teleLane)), 1, false, []byte{255, byte(round)}))
	broken := h.batch(h.next(teleLane, h.hash), one)
	var noise [][]byte
	for n := range 100 {
		noise = append(noise, binary.BigEndian.AppendUint64(bytes.Clone(broken[:len(broken)-8]), uint64(100*round+n)))
	}
	h.publish(teleLane, noise...)
}

// TestHostileThroughKafka: a client that may publish as one vehicle does its worst through a real broker, a real Kafka, into
// PostgreSQL. It costs itself alone: all of it is counted and named, what is kept of it is bounded, and the vehicles beside it have
// all their receipts, and all that they sent in the tables, once.
func TestHostileThroughKafka(t *testing.T) {
	const cars, batches, perBatch, rounds = 3, 60, 20, 10
	broker := deps.Mosquitto(t, deps.MosquittoOptions{Config: []string{"max_queued_messages 0"}})
	kafka := deps.Kafka(t, deps.KafkaOptions{})
	database := deps.Postgres(t, "fsync = off")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(database.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, code := run("kafka", "init", "--brokers", kafka.Addr, "--partitions", "1", "--replication", "1"); code != cli.OK { // all share one
		t.Fatalf("exit code %d: %s", code, text)
	}
	page := freeAddress(t)
	var out lockedBuffer
	serving := child(t, &out, "serve", "--broker", broker.URL(), "--kafka-brokers", kafka.Addr, "--page", page, "--device-samples", "1000",
		"--db", "postgres://waybill@"+database.Addr+"/postgres", "--db-password-file", password, "--json", "--every", "500ms", "--retry", "50ms")
	var fleet []*car
	for i := range cars {
		fleet = append(fleet, newCar(t, broker.Addr, fmt.Sprintf("car-%d", i+1), batches, perBatch))
	}
	var victim []byte // a batch that another one will send, or has sent
	for _, b := range fleet[0].open {
		victim = b
	}
	h := &hostile{car: newCar(t, broker.Addr, "hostile", 1, 1), seq: map[telemetrypb.Lane]uint64{teleLane: 1, controlLane: 1}}
	data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Signals: []*telemetrypb.Signal{{Id: 1, Name: "can0.DriveCounter.FrameCounter", Type: telemetrypb.ValueType_VALUE_TYPE_UINT}}})
	if len(data) == 0 || [16]byte(hash[:16]) != h.catalogue {
		t.Fatal("its catalogue is another one")
	}
	h.hash = h.catalogue[:]
	rng := rand.New(rand.NewPCG(3, 4))
	began := time.Now()
	for round := 0; ; round++ {
		left := 0
		for _, c := range append(fleet, h.car) {
			left += c.resend(rng, 8)
		}
		if left == 0 && round >= rounds {
			break
		}
		if time.Since(began) > 3*time.Minute {
			t.Fatalf("%d batches without a receipt", left)
		}
		if round >= 2 && round < rounds {
			h.attack(round, victim)
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("all receipts after %s", time.Since(began).Round(time.Second))
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, database.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	number := func(query string) (n int64) {
		t.Helper()
		if err := conn.QueryRow(ctx, query).Scan(&n); err != nil {
			t.Fatal(query, err)
		}
		return n
	}
	// All of the attack is through when what was taken stands still; on a busy machine it may do so for a while before that, and what its
	// last rounds meet is the limit.
	var status serveStatus
	last := func() serveStatus {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		var s serveStatus
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
			t.Fatal(err, lines[len(lines)-1])
		}
		return s
	}
	for still := 0; still < 4 || status.Limited == 0 && time.Since(began) < 210*time.Second; time.Sleep(500 * time.Millisecond) {
		s := last()
		if still++; s.Payloads != status.Payloads {
			still = 0
		}
		status = s
		if time.Since(began) > 4*time.Minute {
			t.Fatal("it does not come to an end")
		}
	}
	if n := number(`SELECT count(*) FROM (SELECT device FROM readings WHERE name = 'can0.DriveCounter.FrameCounter' AND device LIKE 'car-%' GROUP BY device
	    HAVING count(*) = ` + fmt.Sprint(batches*perBatch) + ` AND count(DISTINCT value) = count(*) AND min(value) = 1 AND max(value) = count(*)) x`); n != cars {
		t.Errorf("%d vehicles have all that they sent, once; want %d", n, cars)
	}
	for _, c := range fleet {
		c.mu.Lock()
		if len(c.faults) > 0 {
			t.Errorf("%s: %v", c.name, c.faults)
		}
		c.mu.Unlock()
	}
	if status.Rejected == 0 || status.Malformed == 0 || status.Limited == 0 || status.Deferred == 0 || len(status.Offenders) != 1 || status.Offenders[0].Device != "hostile" {
		t.Errorf("status %+v", status)
	}
	for what, bound := range map[string][2]int64{
		"dead letters of the hostile one":    {number("SELECT count(*) FROM dead_letters WHERE topic LIKE 'wb1/acme/hostile/%'"), 200},
		"dead letters of others":             {number("SELECT count(*) FROM dead_letters WHERE topic NOT LIKE 'wb1/acme/hostile/%'"), 0},
		"epochs":                             {number("SELECT count(DISTINCT epoch) FROM batches b JOIN devices d ON d.id = b.device WHERE d.device = 'hostile'"), 4096},
		"catalogues of the hostile one":      {number("SELECT count(*) FROM catalogues c JOIN devices d ON d.id = c.device WHERE d.device = 'hostile'"), 1},
		"samples of the hostile one":         {number("SELECT count(*) FROM readings WHERE device = 'hostile'"), 400_000},
		"devices":                            {number("SELECT count(*) FROM devices"), cars + 1},
		"epochs of others":                   {number("SELECT count(*) FROM (SELECT 1 FROM lanes l JOIN devices d ON d.id = l.device WHERE d.device <> 'hostile' AND l.epoch <> " + fmt.Sprint(carEpoch) + ") x"), 0},
		"numbers that others lack":           {number("SELECT count(*) FROM lanes l JOIN devices d ON d.id = l.device WHERE d.device <> 'hostile' AND l.missing > 0"), 0},
		"conflicts that changed what was so": {number("SELECT count(*) FROM readings WHERE device = 'hostile' AND value >= 1000"), 0},
		"catalogues that are forged":         {number("SELECT count(*) FROM signals WHERE name LIKE 'forged%'"), 0},
	} {
		t.Logf("%s: %d", what, bound[0])
		if bound[0] > bound[1] {
			t.Errorf("%s: %d, at most %d", what, bound[0], bound[1])
		}
	}
	// The page of the same process says so, from the same database.
	var devices struct {
		Items []struct {
			Device  string
			Batches uint64
		}
	}
	get(t, "http://"+page+"/api/v1/devices?q=car-", &devices)
	if len(devices.Items) != cars || devices.Items[0].Batches != batches+1 {
		t.Errorf("the page: %+v", devices)
	}
	if err := serving.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serving.Wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if text, code := run("erase", "acme/hostile", "--db", "postgres://waybill@"+database.Addr+"/postgres", "--db-password-file", password); code != cli.OK || !strings.Contains(text, "erased") {
		t.Errorf("exit code %d: %s", code, text)
	}
	if n := number("SELECT count(*) FROM readings WHERE device = 'hostile'"); n != 0 {
		t.Errorf("%d samples after the erasure", n)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || json.Unmarshal(text, into) != nil {
		t.Fatalf("%s: %s %s %v", url, r.Status, text, err)
	}
}

// TestSlotsByTheDatabase: two processes share slots through PostgreSQL; one that is stopped for longer than its lease loses them, is back
// without taking them from the other in turns, and all that vehicles sent meanwhile is stored once.
func TestSlotsByTheDatabase(t *testing.T) {
	const slots, batches, perBatch = 4, 200, 10
	broker := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"max_queued_messages 0"}})
	database := deps.Postgres(t, "fsync = off")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(database.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"serve", "--broker", broker.URL(), "--share", "fleet", "--slots", "auto", "--slot-count", fmt.Sprint(slots),
		"--db", "postgres://waybill@" + database.Addr + "/postgres", "--db-password-file", password, "--json", "--every", "1s", "--retry", "50ms", "--device-samples", "0"}
	a := child(t, io.Discard, args...)
	b := child(t, io.Discard, args...)
	c := newCar(t, broker.Addr, "car-1", batches, perBatch)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, database.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rng := rand.New(rand.NewPCG(5, 6))
	// until waits for a distribution: slots of those who have some, the most first.
	until := func(what, want string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(90 * time.Second); got != want; time.Sleep(200 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: slots %s, want %s", what, got, want)
			}
			c.resend(rng, 3)
			// Before the tables are there, nobody has any.
			if err := conn.QueryRow(ctx, "SELECT coalesce(string_agg(n::text, ' ' ORDER BY n DESC), '') FROM (SELECT count(*) AS n FROM slots WHERE until > clock_timestamp() GROUP BY member) x").Scan(&got); err != nil {
				got = err.Error()
			}
		}
	}
	until("two", "2 2")
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := a.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	until("one is stopped", "4")
	signal(syscall.SIGCONT)
	until("it is back", "2 2")
	if err := b.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.Wait()
	until("the other is killed", "4")
	for deadline := time.Now().Add(60 * time.Second); c.resend(rng, 20) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("receipts are missing")
		}
	}
	var n, distinct int64
	if err := conn.QueryRow(ctx, "SELECT count(*), count(DISTINCT value) FROM readings WHERE device = 'car-1'").Scan(&n, &distinct); err != nil || n != batches*perBatch || distinct != n {
		t.Errorf("%d samples, %d different, %v; want %d", n, distinct, err, batches*perBatch)
	}
	signal(syscall.SIGTERM)
	if err := a.Wait(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM slots").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d slots are not given back, %v", n, err)
	}
}
