//go:build system

package mongo

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/stream"
	"github.com/waybill-telematics/waybill/test/deps"
)

const topic = "wb1.events"

// event is a row with a value and a time, as the decoded topics have it.
func event(seq int, value float64, at string) ingest.Message {
	return ingest.Message{Topic: topic, Payload: fmt.Appendf(nil, `{"tenant":"acme","device":"car-1","epoch":"00000000000000a1","lane":"event","seq":%d,"index":0,`+
		`"name":"door","unit":"","value":%v,"text":null,"label":null,"time":%s,"uncertainty_ns":5,"boot_id":"6b0c6f1e-0000-4000-8000-000000000000","boot_ns":7,"received":"2026-01-02T03:04:06.000000Z"}`,
		seq, value, at)}
}

func open(t *testing.T, addr string) *Store {
	t.Helper()
	s, err := Open(Options{URI: "mongodb://" + addr + "/fleet"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func take(t *testing.T, s *Store, from, to int64, messages ...ingest.Message) ingest.Counts {
	t.Helper()
	replies, counts, err := s.Take(t.Context(), stream.Progress{Topic: topic, Partition: 3, From: from, To: to}, messages)
	if err != nil || len(replies) != 0 {
		t.Fatalf("from %d to %d: %d receipts, %v", from, to, len(replies), err)
	}
	return counts
}

// values are the documents' values by _id.
func values(t *testing.T, s *Store) map[string]float64 {
	t.Helper()
	cursor, err := s.db.Collection("events").Find(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		ID    string  `bson:"_id"`
		Value float64 `bson:"value"`
	}
	if err := cursor.All(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, d := range list {
		all[d.ID] = d.Value
	}
	return all
}

func TestStoreOnServer(t *testing.T) {
	server := deps.Mongo(t)
	s := open(t, server.Addr)
	if err := s.Prepare(t.Context(), "events"); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), "events"); err != nil {
		t.Errorf("indexes that are there: %v", err)
	}
	const at = `"2026-01-02T03:04:05.678901Z"`
	id := func(seq int) string { return fmt.Sprintf("acme/car-1/00000000000000a1/event/%d/0", seq) }
	check := func(want map[string]float64) {
		t.Helper()
		if got := values(t, s); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("have %v, want %v", got, want)
		}
	}

	// New rows, one of them twice; then again, and dated anew.
	if n := take(t, s, 0, 10, event(1, 1, "null"), event(2, 2, at), event(1, 1.5, at)); n.Samples != 2 || n.Duplicates != 1 {
		t.Errorf("counted %+v, want 2 new rows and a duplicate", n)
	}
	check(map[string]float64{id(1): 1.5, id(2): 2})
	if n := take(t, s, 10, 20, event(2, 2.5, at), event(3, 3, at)); n.Samples != 1 || n.Duplicates != 1 {
		t.Errorf("counted %+v, want a new row and a duplicate", n)
	}
	check(map[string]float64{id(1): 1.5, id(2): 2.5, id(3): 3})

	// Who comes late is told so, and one that wrote before it was told has brought back nothing older.
	if _, _, err := s.Take(t.Context(), stream.Progress{Topic: topic, Partition: 3, From: 0, To: 5}, []ingest.Message{event(2, 9, at)}); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("a step from where the position is no more: %v, want %v", err, stream.ErrFenced)
	}
	models, err := s.models(stream.Progress{Topic: topic, Partition: 3, From: 0, To: 5}, 0, []ingest.Message{event(2, 9, at)})
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := s.write(t.Context(), "events", models); err != nil || fresh != 0 {
		t.Errorf("an old write: %d new rows, %v", fresh, err)
	}
	if err := s.move(t.Context(), stream.Progress{Topic: topic, Partition: 3, From: 0, To: 5}, 0); !errors.Is(err, stream.ErrFenced) {
		t.Errorf("an old move: %v, want %v", err, stream.ErrFenced)
	}
	check(map[string]float64{id(1): 1.5, id(2): 2.5, id(3): 3})

	// The topic is made anew: lower offsets are newer now.
	take(t, s, 20, 0)
	take(t, s, 0, 1, event(2, 4, "null"))
	check(map[string]float64{id(1): 1.5, id(2): 4, id(3): 3})
	positions, err := s.Positions(t.Context(), topic)
	if err != nil || len(positions) != 1 || positions[3] != 1 {
		t.Errorf("positions %v, %v; want partition 3 at 1", positions, err)
	}
	if other, err := s.Positions(t.Context(), "wb1.samples"); err != nil || len(other) != 0 {
		t.Errorf("positions of another topic: %v, %v", other, err)
	}

	// What a document is. A row without a time has none, also when it had one.
	document := func(seq int) (d bson.M) {
		if err := s.db.Collection("events").FindOne(t.Context(), bson.D{{Key: "_id", Value: id(seq)}}).Decode(&d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	when := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	d := document(3)
	if d["time"] != bson.NewDateTimeFromTime(when) || d["time_us"] != when.UnixMicro() || d["seq"] != int64(3) || d["value"] != 3.0 || d["name"] != "door" {
		t.Errorf("the document is %v", d)
	}
	d = document(2)
	if d["time"] != nil || d["time_us"] != nil {
		t.Errorf("the document is %v, want one without a time", d)
	}

	// Erasing takes a vehicle's rows and nobody else's.
	other := event(1, 1, at)
	other.Payload = append([]byte(`{"tenant":"acme","device":"car-10"`), other.Payload[len(`{"tenant":"acme","device":"car-1"`):]...)
	take(t, s, 1, 2, other)
	if n, err := s.Erase(t.Context(), "acme", "car-1"); err != nil || n != 3 {
		t.Errorf("%d documents erased, %v; want 3", n, err)
	}
	if left := values(t, s); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
}
