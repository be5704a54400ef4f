//go:build system

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/deps"
)

// decodedWriter writes event rows to the decoded topics in transactions, as docs/KAFKA.md has them, and keeps what the
// store is to have in the end: of each row the time that was committed last.
type decodedWriter struct {
	client  *kgo.Client
	rng     *rand.Rand
	known   map[string]int64 // time_us by _id
	cars    []string
	records int // committed
	aborted int
}

// rows gives n rows of a car from seq on, as records of both topics. Some come twice, some once more with another time.
func (w *decodedWriter) rows(car, seq, n int) (records []*kgo.Record, times map[string]int64) {
	times = map[string]int64{}
	add := func(seq int, at time.Time) {
		value := fmt.Appendf(nil, `{"tenant":"acme","device":%q,"epoch":"00000000000000a1","lane":"event","seq":%d,"index":0,"name":"door","unit":"","value":%d,"text":null,"label":null,`+
			`"time":%q,"uncertainty_ns":1000,"boot_id":"6b0c6f1e-0000-4000-8000-000000000000","boot_ns":%d,"received":"2026-01-02T03:04:06.000000Z"}`,
			w.cars[car], seq, seq, at.Format("2006-01-02T15:04:05.000000Z"), seq)
		for _, topic := range []string{"wb1.events", "wb1.samples"} {
			records = append(records, &kgo.Record{Topic: topic, Key: []byte("acme/" + w.cars[car]), Value: value})
		}
		times[fmt.Sprintf("acme/%s/00000000000000a1/event/%d/0", w.cars[car], seq)] = at.UnixMicro()
	}
	start := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	for i := range n {
		at := start.Add(time.Duration(seq+i) * 1001 * time.Microsecond)
		add(seq+i, at)
		switch w.rng.IntN(10) {
		case 0:
			add(seq+i, at)
		case 1:
			add(1+w.rng.IntN(seq+i), start.Add(time.Duration(w.rng.Int64N(1e15))).Truncate(time.Microsecond)) // dated anew
		}
	}
	return records, times
}

// write commits the rows, or gives them up.
func (w *decodedWriter) write(t *testing.T, ctx context.Context, records []*kgo.Record, times map[string]int64, end kgo.TransactionEndTry) {
	t.Helper()
	if err := w.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := w.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := w.client.EndTransaction(ctx, end); err != nil {
		t.Fatal(err)
	}
	if end == kgo.TryAbort {
		w.aborted += len(records)
		return
	}
	w.records += len(records)
	for id, at := range times {
		w.known[id] = at
	}
}

// TestMongoThroughAccidents: two processes take events and samples from a real Kafka into a server that speaks MongoDB's
// protocol, while each of them and Kafka are killed, and the database is stopped under them. In the end each row that was committed is one document,
// dated as it was last, and what was given up is not there.
func TestMongoThroughAccidents(t *testing.T) {
	const perCar, perWrite = 240, 8 // the server looks at all documents for each write
	kafka, database := deps.Kafka(t, deps.KafkaOptions{}), deps.Mongo(t)
	uri := "mongodb://" + database.Addr + "/fleet"
	if text, code := run("kafka", "init", "--brokers", kafka.Addr, "--partitions", "3", "--replication", "1", "--decoded"); code != cli.OK {
		t.Fatalf("exit code %d: %s", code, text)
	}
	start := func() *exec.Cmd {
		return child(t, io.Discard, "mongo", "--brokers", kafka.Addr, "--mongo", uri, "--rows", "events,samples", "--json", "--every", "1s")
	}
	processes := []*exec.Cmd{start(), start()}
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addr), kgo.TransactionalID("decoded"), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	w := &decodedWriter{client: client, rng: rand.New(rand.NewPCG(1, 2)), known: map[string]int64{}, cars: []string{"car-1", "car-2", "car-3", "car-4", "car-5"}}
	accidents := []string{"process 0", "database", "process 1", "kafka", "process 0", "database"}
	for seq := 1; seq <= perCar; seq += perWrite {
		for car := range w.cars {
			records, times := w.rows(car, seq, perWrite)
			if w.rng.IntN(8) == 0 { // what is given up is written again, later, with other duplicates
				w.write(t, ctx, records, nil, kgo.TryAbort)
				records, times = w.rows(car, seq, perWrite)
			}
			w.write(t, ctx, records, times, kgo.TryCommit)
		}
		if seq/perWrite%4 != 3 || len(accidents) == 0 {
			continue
		}
		what := accidents[0]
		accidents = accidents[1:]
		switch what {
		case "kafka":
			kafka.Kill()
			kafka.Start()
		case "database":
			database.Stop() // what it acknowledged and a kill loses would be the fault of this server
			database.Start()
		default:
			i := int(what[len(what)-1] - '0')
			if err := processes[i].Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = processes[i].Wait()
			processes[i] = start()
		}
	}
	if len(accidents) > 0 {
		t.Fatalf("%v have not happened", accidents)
	}
	// One of no key, which holds nothing up.
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: "wb1.events", Value: []byte("{}")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}

	reader, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Disconnect(context.Background())
	for _, name := range []string{"events", "samples"} {
		var faults []string
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
			if faults = compareDocuments(ctx, reader.Database("fleet").Collection(name), w.known); len(faults) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
				break
			}
		}
		if len(faults) > 0 {
			t.Errorf("%s: %d faults, such as %s", name, len(faults), faults[0])
		}
	}
	t.Logf("%d rows in %d committed records, %d records given up, on 2 topics", len(w.known), w.records, w.aborted)

	text, code := run("mongo", "erase", "--mongo", uri, "--tenant", "acme", "--device", "car-5")
	if want := fmt.Sprintf("%d documents", 2*perCar); code != cli.OK || !strings.HasPrefix(text, want) {
		t.Errorf("erase: exit code %d, %q, want %q", code, text, want)
	}
	dead, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addr), kgo.ConsumeTopics("wb1.dead"))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	if list := dead.PollRecords(ctx, 1).Records(); len(list) != 1 || string(list[0].Value) != "{}" {
		t.Errorf("dead letters %v, want the row of no vehicle", list)
	}
}

// compareDocuments says what differs between a collection and what it is to hold.
func compareDocuments(ctx context.Context, c *mongo.Collection, want map[string]int64) (faults []string) {
	cursor, err := c.Find(ctx, bson.D{})
	if err != nil {
		return []string{err.Error()}
	}
	var list []struct {
		ID   string `bson:"_id"`
		Time int64  `bson:"time_us"`
	}
	if err := cursor.All(ctx, &list); err != nil {
		return []string{err.Error()}
	}
	for _, d := range list {
		if at, ok := want[d.ID]; !ok || at != d.Time {
			faults = append(faults, fmt.Sprintf("%s is of %d, want %d", d.ID, d.Time, at))
		}
	}
	if len(list) != len(want) {
		faults = append(faults, fmt.Sprintf("%d documents, want %d", len(list), len(want)))
	}
	return faults
}
