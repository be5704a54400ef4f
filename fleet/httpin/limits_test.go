package httpin

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func compressed(t *testing.T, encoding string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&out)
	if encoding == "zstd" {
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBodiesAreBounded(t *testing.T) {
	b, v := newBed(t, Options{MaxBody: 64 << 10, MaxDecompressed: 256 << 10}), newVehicle(t, "car-1")
	p := payload(v.control())
	for _, encoding := range []string{"gzip", "zstd"} {
		if resp, body := b.post(v.path("control"), compressed(t, encoding, p), "Content-Encoding", encoding); resp.StatusCode != 200 {
			t.Errorf("%s: %s %s", encoding, resp.Status, body)
		}
		bomb := compressed(t, encoding, make([]byte, 4<<20))
		if len(bomb) >= 64<<10 {
			bomb = bomb[:64<<10-1]
		}
		if resp, body := b.post(v.path("control"), bomb, "Content-Encoding", encoding); resp.StatusCode != 413 {
			t.Errorf("%s bomb of %d bytes: %s %s", encoding, len(bomb), resp.Status, body)
		}
		if resp, _ := b.post(v.path("control"), p, "Content-Encoding", encoding); resp.StatusCode != 400 {
			t.Errorf("%s that is none: %s", encoding, resp.Status)
		}
	}
	for name, test := range map[string]struct {
		body   []byte
		header []string
		want   int
	}{
		"too long":         {make([]byte, 65<<10), nil, 413},
		"nothing":          {nil, nil, 200}, // a dead letter, as on MQTT: checked below
		"unknown encoding": {p, []string{"Content-Encoding", "br"}, 415},
		"unknown type":     {p, []string{"Content-Type", "text/html"}, 415},
		"no type":          {p, []string{"Content-Type", ""}, 415},
	} {
		resp, body := b.post(v.path("control"), test.body, test.header...)
		if name == "nothing" {
			test.want = http.StatusNoContent
		}
		if resp.StatusCode != test.want {
			t.Errorf("%s: %s %s, want %d", name, resp.Status, body, test.want)
		}
	}
	for path, want := range map[string]int{"/": 404, "/v1/acme/car-1/down": 404, "/v1/acme/car.1/control": 404, "/v1/acme/car-1/control/x": 404, "/v1/acme/a%2Fb/control": 404} {
		if resp, _ := b.post(path, p); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if resp, err := b.http.Get(b.url + "/v1/batches"); err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %v %v", resp, err)
	}
	if all := b.s.held.all; all != (share{}) || len(b.s.held.senders) != 0 {
		t.Errorf("still held after all answers: %+v", all)
	}
}

func TestRateCostsOnlyItsDevice(t *testing.T) {
	b := newBed(t, Options{DeviceRate: 0.001, DeviceBurst: 3})
	v, other := newVehicle(t, "car-1"), newVehicle(t, "car-2")
	p := payload(v.control())
	for i := range 5 {
		resp, _ := b.post(v.path("control"), p)
		if limited := resp.StatusCode == 429; limited != (i >= 3) || limited && resp.Header.Get("Retry-After") == "" {
			t.Errorf("request %d: %s", i, resp.Status)
		}
	}
	if resp, _ := b.post(other.path("control"), payload(other.control())); resp.StatusCode != 200 {
		t.Errorf("another device: %s", resp.Status)
	}
	if c := b.s.Counts(); c.Limited != 2 {
		t.Errorf("counts %+v", c)
	}
}

func TestBucketsAreBounded(t *testing.T) {
	b, now := newBuckets(1, 2), time.Unix(0, 0)
	b.most = 100
	for i := range 1000 {
		b.take(fmt.Sprint(i), now)
	}
	if len(b.list) > b.most {
		t.Errorf("%d buckets", len(b.list))
	}
	if b.take("a", now); b.take("a", now) != 0 || b.take("a", now) != time.Second || b.take("a", now.Add(time.Second)) != 0 {
		t.Error("a burst of two and one a second is not what is given")
	}
}
