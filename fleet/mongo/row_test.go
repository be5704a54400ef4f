package mongo

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const sample = `{"tenant":"acme","device":"car-1","epoch":"00000000000000a1","lane":"telemetry","seq":12,"index":3,"name":"speed","unit":"m/s",` +
	`"value":5,"text":null,"label":null,"time":"2026-01-02T03:04:05.678901Z","uncertainty_ns":1000,"boot_id":"x","boot_ns":"9007199254740993","received":"2026-01-02T03:04:06.000001Z"}`

func TestRow(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	want := bson.D{
		{Key: "tenant", Value: "acme"}, {Key: "device", Value: "car-1"}, {Key: "epoch", Value: "00000000000000a1"}, {Key: "lane", Value: "telemetry"},
		{Key: "seq", Value: int64(12)}, {Key: "index", Value: int64(3)}, {Key: "name", Value: "speed"}, {Key: "unit", Value: "m/s"}, {Key: "value", Value: 5.0},
		{Key: "time", Value: bson.NewDateTimeFromTime(at)}, {Key: "time_us", Value: at.UnixMicro()}, {Key: "uncertainty_ns", Value: int64(1000)}, {Key: "boot_id", Value: "x"},
		{Key: "boot_ns", Value: int64(9007199254740993)}, {Key: "received", Value: bson.NewDateTimeFromTime(at.Add(time.Second))},
	}
	want[len(want)-1].Value = bson.NewDateTimeFromTime(time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC))
	for _, value := range []string{sample, "\x00\x00\x00\x00\x07" + sample} { // as it is, and under a registry's schema
		r, err := parse([]byte(value))
		if err != nil {
			t.Fatal(err)
		}
		if r.id != "acme/car-1/00000000000000a1/telemetry/12/3" || fmt.Sprintf("%T%v", r.fields, r.fields) != fmt.Sprintf("%T%v", want, want) {
			t.Errorf("%s %v, want %v", r.id, r.fields, want)
		}
		for i, f := range r.fields {
			if have, want := fmt.Sprintf("%T", f.Value), fmt.Sprintf("%T", want[i].Value); have != want {
				t.Errorf("%s is %s, want %s", f.Key, have, want)
			}
		}
	}
}

// What is not known is kept as it is.
func TestRowOfMore(t *testing.T) {
	r, err := parse([]byte(strings.Replace(sample, `"value":5`, `"value":-0.5,"more":{"list":[1,2.5,null,{"time":"x"}],"big":12345678901234567890}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.fields {
		if f.Key == "more" {
			want := bson.D{{Key: "list", Value: bson.A{int64(1), 2.5, nil, bson.D{{Key: "time", Value: "x"}}}}, {Key: "big", Value: 12345678901234567890.0}}
			if fmt.Sprintf("%#v", f.Value) != fmt.Sprintf("%#v", want) {
				t.Errorf("%#v, want %#v", f.Value, want)
			}
			return
		}
	}
	t.Error("the field is gone")
}

func TestJudge(t *testing.T) {
	with := func(old, new string) string {
		s := strings.Replace(sample, old, new, 1)
		if s == sample {
			t.Fatalf("%s is not there", old)
		}
		return s
	}
	for _, c := range []struct{ key, value, want string }{
		{"acme/car-1", sample, ""},
		{"acme/car-1", with(`"telemetry"`, "null"), ""}, // a loss that is of no lane
		{"acme/car-2", sample, "key"},
		{"acme", sample, "key"},
		{"acme/car-1/00000000000000a1", sample, "key"},
		{"", sample, "key"},
		{"acme/car-1", "", "no value"},
		{"acme/car-1", "\x00\x00\x00\x00\x07\x00\x0a\x04acme", "schema 7"},
		{"acme/car-1", "\x00\x00", "schema 0"},
		{"acme/car-1", "[1]", "no JSON object"},
		{"acme/car-1", sample + "1", "follows"},
		{"acme/car-1", sample[:len(sample)-1], "JSON"},
		{"acme/car-1", with(`"car-1"`, `"car/1"`), "device"},
		{"acme/car-1", with(`"device":"car-1",`, ""), "device"},
		{"acme/car-1", with("00000000000000a1", "00000000000000A1"), "epoch"},
		{"acme/car-1", with("00000000000000a1", "a1"), "epoch"},
		{"acme/car-1", with(`"telemetry"`, `"a/b"`), "lane"},
		{"acme/car-1", with(`"seq":12`, `"seq":-1`), "seq"},
		{"acme/car-1", with(`"seq":12`, `"seq":18446744073709551615`), "seq"}, // no int64: it cannot be compared in MongoDB
		{"acme/car-1", with(`"index":3,`, ""), "index"},
		{"acme/car-1", with(`"value":5`, `"value":"5"`), "value"},
		{"acme/car-1", with(`"value":5`, `"value":1e999`), "value"},
		{"acme/car-1", with(`05.678901Z`, `65Z`), "time"},
		{"acme/car-1", with(`"name":`, `"_id":1,"name":`), "_id"},
		{"acme/car-1", with(`"name":`, `"kafka":1,"name":`), "kafka"},
		{"acme/car-1", with(`"name":`, `"a.b":1,"name":`), "a.b"},
		{"acme/car-1", with(`"name":`, `"$a":1,"name":`), "$a"},
		{"acme/car-1", with(`"name":`, `"unit":1,"name":`), "unit"},
		{"acme/car-1", with(`"name":`, `"seq":13,"name":`), "twice"},
		{"acme/car-1", with(`"name":`, `"a":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,"name":`), "levels"},
	} {
		err := Judge([]byte(c.key), []byte(c.value))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.20s %.300s: %v, want %q", c.key, c.value, err, c.want)
		}
	}
}

// Whatever passes becomes a document that BSON holds, and the same one again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("\x00\x00\x00\x00\x07" + sample))
	f.Add([]byte(strings.Replace(sample, `"value":5`, `"value":1e-400,"more":{"list":[1,2.5,null,{"a":true}]}`, 1)))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := parse(value)
		if err != nil {
			return
		}
		document := append(bson.D{{Key: "_id", Value: r.id}}, r.fields...)
		b, err := bson.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		if err := bson.Raw(b).Validate(); err != nil {
			t.Fatal(err)
		}
		var back bson.D
		if err := bson.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if strings.Count(r.id, "/") != 5 {
			t.Errorf("_id %q", r.id)
		}
	})
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		uri, database, err string
		tls                bool
	}{
		{uri: "mongodb://127.0.0.1", database: "waybill"},
		{uri: "mongodb://localhost:27017/fleet", database: "fleet"},
		{uri: "mongodb://[::1]:27017,127.0.0.1:2/fleet?replicaSet=a", database: "fleet"},
		{uri: "mongodb://me@a.example:27017,b.example/fleet?authSource=admin", database: "fleet", tls: true},
		{uri: "mongodb://a.example/?tls=false", database: "waybill"},
		{uri: "mongodb://a.example/?tlsCAFile=ca.pem", database: "waybill"}, // the driver turns it on
		{uri: "mongodb+srv://a.example/x", database: "x"},
		{uri: "mongodb://me:hunter2@a.example/x", err: "no password"},
		{uri: "postgres://me:hunter2@a.example/x", err: "want mongodb://"},
		{uri: "mongodb://", err: "want mongodb://"},
		{uri: "mongodb://a/b/c", err: "want mongodb://"},
		{uri: "a.example:27017", err: "want mongodb://"},
	} {
		a, err := parseAddress(c.uri)
		switch {
		case c.err == "" && (err != nil || a != address{c.database, c.tls}):
			t.Errorf("%s: %+v, %v", c.uri, a, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2")):
			t.Errorf("%s: %v, want %q", c.uri, err, c.err)
		}
	}
}

// A user's password comes from where it is asked, and a user needs one.
func TestOpenWithUser(t *testing.T) {
	s, err := Open(Options{URI: "mongodb://me@127.0.0.1:1/x", Password: func() (string, error) { return "hunter2", nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := Open(Options{URI: "mongodb://me@127.0.0.1:1/x", Password: func() (string, error) { return "", fmt.Errorf("no file") }}); err == nil {
		t.Error("opened without a password")
	}
}
