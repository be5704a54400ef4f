package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// childVariable makes the test binary be waybill-fleet, so that it can be killed.
const childVariable = "WAYBILL_FLEET_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

// child starts waybill-fleet as a process of its own.
func child(t *testing.T, stdout io.Writer, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stdout = stdout
	cmd.Stderr = &logTail{t: t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// logTail shows what a child logged when the test fails.
type logTail struct {
	t  *testing.T
	mu sync.Mutex
}

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("child: %s", bytes.TrimSpace(p))
	return len(p), nil
}

// testBroker is a broker in this process.
func testBroker(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	stop, err := startBroker(address, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return address
}

// car publishes batches until each has its receipt.
type car struct {
	t         *testing.T
	client    mqtt.Client
	name      string
	catalogue [16]byte

	mu       sync.Mutex
	open     map[store.Key][]byte // batches without a receipt
	crc      map[store.Key]uint32
	receipts int
	faults   []string
}

const carEpoch = 77

func (c *car) head(lane telemetrypb.Lane, seq uint64, catalogue []byte) *telemetrypb.Head {
	h := &telemetrypb.Head{Tenant: "acme", Device: c.name, Epoch: carEpoch, Lane: lane, Seq: seq, BootID: [16]byte{1}, BootCount: 1}
	copy(h.Catalogue[:], catalogue)
	return h
}

// newCar makes n batches of perBatch counted samples. The catalogue goes first, in the control lane.
func newCar(t *testing.T, broker, name string, n, perBatch int) *car {
	t.Helper()
	c := &car{t: t, name: name, open: map[store.Key][]byte{}, crc: map[store.Key]uint32{}}
	data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Signals: []*telemetrypb.Signal{
		{Id: 1, Name: "can0.DriveCounter.FrameCounter", Type: telemetrypb.ValueType_VALUE_TYPE_UINT}}})
	c.catalogue = [16]byte(hash[:16])
	counter := uint64(0)
	for seq := uint64(1); seq <= uint64(n); seq++ {
		var samples []telemetrypb.Sample
		for range perBatch {
			counter++
			samples = append(samples, telemetrypb.UintSample(1, int64(counter)*10_000_000, counter))
		}
		b, err := telemetrypb.AppendBatch(nil, c.head(telemetrypb.Lane_LANE_TELEMETRY, seq, hash[:16]), samples)
		if err != nil {
			t.Fatal(err)
		}
		c.seal(b)
	}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + broker).SetClientID(name).SetProtocolVersion(4)
	c.client = mqtt.NewClient(o)
	wait(t, c.client.Connect())
	t.Cleanup(func() { c.client.Disconnect(100) })
	wait(t, c.client.Subscribe(telemetrypb.Topic("acme", name, telemetrypb.TopicReceipt), 1, c.receipt))
	var records telemetrypb.Records
	for _, p := range telemetrypb.SplitCatalogue(data) {
		records.Records = append(records.Records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	b, err := telemetrypb.AppendControl(nil, c.head(telemetrypb.Lane_LANE_CONTROL, 1, nil), &records)
	if err != nil {
		t.Fatal(err)
	}
	c.seal(b)
	return c
}

// seal notes a batch that is to be delivered.
func (c *car) seal(batch []byte) {
	c.t.Helper()
	view, err := telemetrypb.OpenBatch(batch)
	if err != nil {
		c.t.Fatal(err)
	}
	k := store.Key{Epoch: carEpoch, Lane: view.Envelope.Lane, Seq: view.Envelope.Seq}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[k], c.crc[k] = batch, view.Envelope.Crc32C
}

func wait(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(20*time.Second) || token.Error() != nil {
		t.Fatalf("MQTT: %v", token.Error())
	}
}

func (c *car) publish(lane telemetrypb.Lane, batches ...[]byte) {
	c.t.Helper()
	wait(c.t, c.client.Publish(telemetrypb.Topic("acme", c.name, telemetrypb.TopicLane(lane)), 1, false, telemetrypb.AppendPayload(nil, false, nil, batches...)))
}

// receipt takes a receipt as a vehicle must: a range whose checksums do not agree frees nothing.
func (c *car) receipt(_ mqtt.Client, m mqtt.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r telemetrypb.Receipt
	if err := proto.Unmarshal(m.Payload(), &r); err != nil {
		c.faults = append(c.faults, err.Error())
		return
	}
	c.receipts++
	for _, g := range r.Ranges {
		if g.Verdict != telemetrypb.Verdict_VERDICT_STORED {
			continue // parked: until the catalogue has come
		}
		var sum uint32
		for seq := g.First; seq <= g.Last; seq++ {
			sum ^= c.crc[store.Key{Epoch: g.Epoch, Lane: g.Lane, Seq: seq}]
		}
		if g.Epoch != carEpoch || sum != g.CrcXor || uint64(g.Count) != g.Last-g.First+1 {
			c.faults = append(c.faults, fmt.Sprintf("range %v: want the sum %08x", g, sum))
			continue
		}
		for seq := g.First; seq <= g.Last; seq++ {
			delete(c.open, store.Key{Epoch: g.Epoch, Lane: g.Lane, Seq: seq})
		}
	}
}

// resend publishes up to most batches that have no receipt, a few in one payload, and says how many there are.
func (c *car) resend(rng *rand.Rand, most int) (left int) {
	c.t.Helper()
	c.mu.Lock()
	lanes := map[telemetrypb.Lane][][]byte{}
	n := 0
	for k, b := range c.open { // in Go's random order
		if n++; n > most {
			break
		}
		lanes[k.Lane] = append(lanes[k.Lane], b)
	}
	left = len(c.open)
	c.mu.Unlock()
	for lane, list := range lanes {
		for len(list) > 0 {
			n := min(len(list), 1+rng.IntN(4))
			c.publish(lane, list[:n]...)
			list = list[n:]
		}
	}
	return left
}

// A receiver that is killed again and again, at any moment, stores every batch exactly once, and no vehicle ever holds
// a receipt for what is not in the file.
func TestKilledAgainAndAgain(t *testing.T) {
	const batches, perBatch = 400, 25
	broker := testBroker(t)
	db := filepath.Join(t.TempDir(), "fleet.db")
	rng := rand.New(rand.NewPCG(1, 1))
	args := []string{"serve", "--broker", "tcp://" + broker, "--db", db, "--json", "--every", "20ms", "--retry", "20ms", "--client-id", "killed"}
	process := child(t, io.Discard, args...)
	c := newCar(t, broker, "car-1", batches, perBatch)
	kills := 0
	deadline := time.Now().Add(90 * time.Second)
	for {
		left := c.resend(rng, 12)
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d batches without a receipt after %d kills", left, kills)
		}
		if kills < 12 && rng.IntN(3) == 0 {
			time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
			if err := process.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			process.Wait()
			kills++
			process = child(t, io.Discard, args...)
		}
		time.Sleep(30 * time.Millisecond)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	process.Wait()
	c.mu.Lock()
	if len(c.faults) > 0 || kills == 0 {
		t.Errorf("%d kills, faults %v", kills, c.faults)
	}
	t.Logf("%d kills, %d receipts for %d batches", kills, c.receipts, batches)
	c.mu.Unlock()
	s, err := store.Open(context.Background(), db, store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seen := map[uint64]int{}
	if err := s.Samples(context.Background(), store.Query{Device: "car-1"}, func(r *store.Reading) error { seen[r.Raw.Bits]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for counter := uint64(1); counter <= batches*perBatch; counter++ {
		if seen[counter] != 1 {
			t.Fatalf("counter %d is stored %d times", counter, seen[counter])
		}
	}
	if totals := s.Totals(); len(seen) != batches*perBatch || totals.Gaps != 0 || totals.Parked != 0 {
		t.Errorf("%d counters, totals %+v", len(seen), totals)
	}
}

// Everything in one process, as in the demonstration.
func TestEmbeddedBroker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	db := filepath.Join(t.TempDir(), "fleet.db")
	var out, errs lockedBuffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- serve(ctx, serveFlags{db: db, embedded: address, clientID: "x", json: true, every: 20 * time.Millisecond, retry: 20 * time.Millisecond}, &out, &errs)
	}()
	for !strings.Contains(out.String(), `"connected":true`) {
		select {
		case err := <-done:
			t.Fatalf("ended: %v\n%s", err, errs.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	c := newCar(t, address, "car-1", 5, 10)
	rng := rand.New(rand.NewPCG(1, 1))
	for c.resend(rng, 6) > 0 {
		time.Sleep(50 * time.Millisecond)
	}
	// Listings read the store beside its writer.
	for _, args := range [][]string{{"ls", "--db", db}, {"ls", "--db", db, "--json"}, {"gaps", "--db", db}, {"losses", "--db", db}, {"dead", "--db", db}} {
		if text, code := run(args...); code != cli.OK {
			t.Errorf("%v: exit code %d: %s", args, code, text)
		}
	}
	text, code := run("samples", "--db", db, "--signal", "can0.*", "--limit", "3")
	var line struct {
		Signal string
		Raw    uint64
		Source string
	}
	if err := json.Unmarshal([]byte(strings.SplitN(text, "\n", 2)[0]), &line); err != nil || code != cli.OK || line.Raw != 1 || line.Signal != "can0.DriveCounter.FrameCounter" || line.Source != "none" || strings.Count(text, "\n") != 3 {
		t.Errorf("samples: %d %v %q", code, err, text)
	}
	if _, err := store.Open(context.Background(), db, store.Options{Rand: rng8{}}); err == nil || !strings.Contains(err.Error(), store.ErrLocked.Error()) {
		t.Errorf("a second writer: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var last serveStatus
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Samples != 50 || last.Batches != 6 || last.Devices != 1 || last.Gaps != 0 {
		t.Errorf("last status %+v, %v", last, err)
	}
}

// rng8 is no randomness at all, for a store that must not be made.
type rng8 struct{}

func (rng8) Read(p []byte) (int, error) { return len(p), nil }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run executes a command line in this process.
func run(args ...string) (output string, code int) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	code = cli.Execute(root, args, &errs)
	return out.String() + errs.String(), code
}

func TestUsage(t *testing.T) {
	db := filepath.Join(t.TempDir(), "x.db")
	for _, args := range [][]string{
		{"serve"}, {"serve", "--db", db}, {"serve", "--db", db, "--broker", "nonsense"}, {"serve", "--db", db, "--broker", "tcp://broker.example:1883"},
		{"serve", "--db", db, "--embedded-broker", "0.0.0.0:1883"}, {"serve", "--db", db, "--embedded-broker", ":1883"}, {"serve", "--db", db, "--embedded-broker", "1883"},
		{"serve", "--db", db, "--broker", "tcp://u:p@127.0.0.1:1"}, {"serve", "--db", db, "--broker", "ssl://127.0.0.1:1", "--cert", "x"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--ca", "x"}, {"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--every", "0s"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--tenant", "a/b"}, {"serve", "--db", db, "--broker", "http://127.0.0.1:1"},
		{"ls"}, {"samples", "--db", db, "--from", "yesterday"}, {"nonsense"}, {"gaps", "--db", db, "extra"}, {"ls", "--nonsense"}, {"restored"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--slots", "0-3"}, {"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--share", "g", "--slots", "3-0"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--share", "g", "--slots", "auto"}, {"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--share", "a/b"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--share", "g", "--slots", "auto", "--slot-count", "4"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--http-tokens", "x"}, {"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--http", "0.0.0.0:8080"},
		{"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--http", "127.0.0.1:0", "--http-cert", "x"}, {"serve", "--db", db, "--broker", "tcp://127.0.0.1:1", "--http", "127.0.0.1:0", "--http-tokens", db},
	} {
		if text, code := run(args...); code != cli.Usage {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, cli.Usage, text)
		}
	}
	for _, name := range []string{"ls", "samples", "gaps", "losses", "dead", "restored"} {
		if text, code := run(name, "--db", db); code != cli.Failed {
			t.Errorf("%s of a store that is not there: exit code %d: %s", name, code, text)
		}
	}
	if _, err := os.Stat(db); !os.IsNotExist(err) {
		t.Errorf("a listing made the store: %v", err)
	}
}
