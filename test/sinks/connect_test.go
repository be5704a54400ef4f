//go:build system

// Package sinks shows that the Kafka Connect configurations of deploy/connect work as they are: a real worker, a real
// Kafka, PostgreSQL, and a server that speaks MongoDB's protocol.
package sinks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/waybill-telematics/waybill/fleet/stream"
	"github.com/waybill-telematics/waybill/test/deps"
)

const cars, perCar, received = 3, 400, `"received":"2026-01-02T03:04:06.000001Z"`

// writer writes decoded rows as docs/KAFKA.md has them.
type writer struct {
	client *kgo.Client
}

func head(car, seq int) string {
	return fmt.Sprintf(`{"tenant":"acme","device":"car-%d","epoch":"00000000000000a1","lane":"event","seq":%d,"index":0,`, car, seq)
}

// sample is a row. Undated ones have no time; only every third has a text and a label.
func sample(car, seq int, at *time.Time) string {
	text, when := "null", "null"
	if seq%3 == 0 {
		text = fmt.Sprintf(`"\u00dc %d"`, seq)
	}
	if at != nil {
		when = `"` + at.UTC().Format("2006-01-02T15:04:05.000000Z") + `"`
	}
	return head(car, seq) + fmt.Sprintf(`"name":"door","unit":"","value":%v,"text":%s,"label":%s,"time":%s,"uncertainty_ns":1000,"boot_id":"6b0c6f1e-0000-4000-8000-000000000000","boot_ns":9007199254740993,%s}`,
		float64(seq)+0.25, text, text, when, received)
}

func position(car, seq int) string {
	return head(car, seq) + fmt.Sprintf(`"source":"gps","latitude":48.25,"longitude":-11.5,"altitude":null,"speed":%d,"course":null,"suspect":%v,"time":"2026-01-02T03:04:05.678901Z","uncertainty_ns":1000,%s}`,
		seq, seq%2 == 0, received)
}

func loss(car, seq int) string {
	lane := `"telemetry"`
	if seq%2 == 0 {
		lane = "null"
	}
	return fmt.Sprintf(`{"tenant":"acme","device":"car-%d","epoch":"00000000000000a1","lane":%s,"seq":%d,"index":0,"source":"can0","reason":"overflow","count":%d,"unit":"frames","detail":"",%s}`,
		car, lane, seq, seq, received)
}

// transaction writes rows of a topic, and commits them or gives them up.
func (w *writer) transaction(t *testing.T, topic string, end kgo.TransactionEndTry, rows map[int][]string) {
	t.Helper()
	if err := w.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	var records []*kgo.Record
	for car, list := range rows {
		for _, row := range list {
			records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "acme/car-%d", car), Value: []byte(row)})
		}
	}
	if err := w.client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := w.client.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

// write writes all rows: those from `from` to before `to`, once more as duplicates, and every tenth dated anew; and others
// that are given up.
func (w *writer) write(t *testing.T, from, to int) {
	t.Helper()
	first := map[string]func(car, seq int) string{
		"wb1.samples":   func(car, seq int) string { return sample(car, seq, nil) },
		"wb1.events":    func(car, seq int) string { return sample(car, seq, dated(seq, 0)) },
		"wb1.positions": position, "wb1.losses": loss,
	}
	for topic, row := range first {
		rows := map[int][]string{}
		for car := range cars {
			for seq := from; seq < to; seq++ {
				rows[car] = append(rows[car], row(car, seq))
			}
		}
		w.transaction(t, topic, kgo.TryCommit, rows)
		abandoned := map[int][]string{0: {row(0, 1_000_000+from)}}
		w.transaction(t, topic, kgo.TryAbort, abandoned)
		if topic == "wb1.samples" || topic == "wb1.events" {
			for car := range cars {
				for i := range rows[car] {
					if seq := from + i; seq%10 == 0 {
						rows[car][i] = sample(car, seq, dated(seq, 1))
					}
				}
			}
		}
		w.transaction(t, topic, kgo.TryCommit, rows)
	}
}

// dated is the time of a row, in its first or its second dating.
func dated(seq, dating int) *time.Time {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC).Add(time.Duration(seq+dating*100000) * time.Second)
	return &at
}

func TestConnect(t *testing.T) {
	kafka, database, documents := deps.Kafka(t, deps.KafkaOptions{}), deps.Postgres(t, "fsync = off"), deps.Mongo(t)
	if _, err := stream.Init(t.Context(), stream.Options{Brokers: []string{kafka.Addr}}, stream.TopicOptions{Partitions: 2, Replication: 1, Retention: time.Hour, Decoded: true}, false); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(deps.Root(t), "deploy", "connect")
	ddl, err := os.ReadFile(filepath.Join(folder, "tables.sql"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), database.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), string(ddl)); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addr), kgo.TransactionalID("decoded"), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	w := &writer{client}
	w.write(t, 0, perCar/2)

	var files []string
	for _, name := range []string{"jdbc-rows.json", "jdbc-positions.json", "jdbc-losses.json", "mongo.json"} {
		files = append(files, filepath.Join(folder, name))
	}
	worker := deps.Connect(t, []string{
		"WAYBILL_BROKERS=" + kafka.Addr, "WAYBILL_REPLICATION=1",
		"WAYBILL_JDBC_URL=jdbc:postgresql://" + database.Addr + "/postgres", "WAYBILL_JDBC_USER=waybill", "WAYBILL_JDBC_PASSWORD=" + database.Password,
		"WAYBILL_MONGO_URI=mongodb://" + documents.Addr,
	}, filepath.Join(folder, "worker.properties"), files...)
	reader, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + documents.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Disconnect(context.Background())
	check := func(n int) {
		t.Helper()
		var faults []string
		for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(time.Second) {
			if faults = append(tableFaults(t, conn, n), documentFaults(t, reader.Database("fleet"), n)...); len(faults) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d faults, the first of them %q", len(faults), faults[0])
			}
		}
	}
	check(perCar / 2)

	// A worker that is killed takes up what it had not told Kafka once more.
	worker.Kill()
	w.write(t, perCar/2, perCar)
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "wb1.samples", Key: []byte("acme/car-0"), Value: []byte("no JSON")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	worker.Start()
	check(perCar)
	dead, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addr), kgo.ConsumeTopics("wb1.dead"))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if list := dead.PollRecords(ctx, 1).Records(); len(list) != 1 || string(list[0].Value) != "no JSON" {
		t.Errorf("dead letters: %v, want what is no JSON", list)
	}
}

// tableFaults says what is not in the tables as it was written, for n rows of each car.
func tableFaults(t *testing.T, conn *pgx.Conn, n int) (faults []string) {
	t.Helper()
	for _, q := range []struct{ what, count string }{
		{"samples", `SELECT count(*) FROM wb1_samples WHERE value = seq + 0.25 AND text IS NOT DISTINCT FROM CASE WHEN seq % 3 = 0 THEN 'Ü ' || seq END
			AND time IS NOT DISTINCT FROM CASE WHEN seq % 10 = 0 THEN timestamptz '2026-01-02 03:04:05.678901Z' + (seq + 100000) * interval '1 s' END
			AND boot_ns = 9007199254740993 AND received = '2026-01-02 03:04:06.000001Z' AND name = 'door'`},
		{"events", `SELECT count(*) FROM wb1_events WHERE time = timestamptz '2026-01-02 03:04:05.678901Z' + (seq + CASE WHEN seq % 10 = 0 THEN 100000 ELSE 0 END) * interval '1 s'`},
		{"positions", `SELECT count(*) FROM wb1_positions WHERE speed = seq AND altitude IS NULL AND suspect = (seq % 2 = 0) AND latitude = 48.25 AND time = '2026-01-02 03:04:05.678901Z'`},
		{"losses", `SELECT count(*) FROM wb1_losses WHERE count = seq AND lane IS NOT DISTINCT FROM CASE WHEN seq % 2 = 1 THEN 'telemetry' END`},
	} {
		var right, all int
		if err := conn.QueryRow(t.Context(), q.count).Scan(&right); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM wb1_"+q.what).Scan(&all); err != nil {
			t.Fatal(err)
		}
		if right != cars*n || all != cars*n {
			faults = append(faults, fmt.Sprintf("%s: %d rows, %d of them right, want %d", q.what, all, right, cars*n))
		}
	}
	return faults
}

// documentFaults says the same of the documents.
func documentFaults(t *testing.T, db *mongo.Database, n int) (faults []string) {
	t.Helper()
	for _, name := range []string{"events", "losses"} {
		cursor, err := db.Collection(name).Find(t.Context(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		var list []struct {
			Seq   int
			Time  string
			Count int
		}
		if err := cursor.All(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		right := 0
		for _, d := range list {
			want := dated(d.Seq, 0)
			if d.Seq%10 == 0 {
				want = dated(d.Seq, 1)
			}
			if name == "losses" && d.Count == d.Seq || name == "events" && d.Time == want.Format("2006-01-02T15:04:05.000000Z") {
				right++
			}
		}
		if right != cars*n || len(list) != cars*n {
			faults = append(faults, fmt.Sprintf("%s: %d documents, %d of them right, want %d", name, len(list), right, cars*n))
		}
	}
	return faults
}
