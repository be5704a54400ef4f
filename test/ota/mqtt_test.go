package ota

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/fleet/ota"
	"github.com/waybill-telematics/waybill/fleet/ota/chunks"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const long = 2 * time.Minute

// published is an image that ota publish took, and what a vehicle was told of it.
type published struct {
	folder string // public
	data   []byte
	sum    [sha256.Size]byte
}

func publish(t *testing.T, n int) *published {
	dir := t.TempDir()
	p := &published{folder: filepath.Join(dir, "oem", "public"), data: make([]byte, n)}
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p.data) // it never fails
	p.sum = sha256.Sum256(p.data)
	path := filepath.Join(dir, "agent")
	must(t, os.WriteFile(path, p.data, 0o755))
	keys := map[string][]*ota.Key{}
	o := ota.Options{Dir: filepath.Join(dir, "oem"), Now: time.Now}
	_, err := ota.Init(ota.InitOptions{Options: o, Bench: true, Lines: []ota.Line{{Name: "sedan", ECUs: map[string]string{"agent": "linux/arm64"}}},
		Keep: func(path string, k []*ota.Key) error { keys[filepath.Base(filepath.Dir(path))] = k; return nil }})
	must(t, err)
	w, err := ota.Open(o)
	must(t, err)
	_, err = w.Publish(&ota.PublishOptions{Path: path, Name: "agent", Hardware: []string{"linux/arm64"}, Version: "1.1", Release: 2},
		append(keys["online"], keys["team-linux-arm64"]...))
	must(t, err)
	return p
}

// The metadata's word, as a delivery asks for it.
func (p *published) Name() string       { return "linux-arm64/agent-1.1" }
func (p *published) Remote() string     { return "unused" }
func (p *published) Length() int64      { return int64(len(p.data)) }
func (p *published) Hash(string) []byte { return p.sum[:] }
func (p *published) Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil || !bytes.Equal(h.Sum(nil), p.sum[:]) {
		return nil, errors.Join(err, errors.New("not the image"), f.Close())
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// serve runs an image server until the test ends.
func (p *published) serve(t *testing.T, broker, id string, l chunks.Limits) *chunks.Server {
	t.Helper()
	images, err := chunks.OpenImages(p.folder, slog.New(slog.DiscardHandler))
	must(t, err)
	s, err := chunks.New(chunks.Options{Broker: "tcp://" + broker, ClientID: id, Share: "images", Limits: l, Retry: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}, images)
	must(t, err)
	run(t, "image server", s.Run)
	wait(t, "the image server is subscribed", s.Connected)
	t.Cleanup(func() { _ = images.Close() })
	return s
}

// run has something run until the test ends.
func run(t *testing.T, what string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", long, what)
		}
	}
}

// hostileRequests are for a file of no repository, for bytes behind the end, in chunks of a byte, and none at all; at first, and
// now and then, for more at once than any vehicle may.
func (p *published) hostileRequests(i int) [][]byte {
	list := [][]byte{
		(&delivery.Request{File: sha256.Sum256([]byte("/etc/passwd")), Chunk: 1000, Ranges: []delivery.Range{{Offset: 0, Length: 1000}}}).Encode(),
		(&delivery.Request{File: p.sum, Chunk: 1000, Ranges: []delivery.Range{{Offset: p.Length() - 1, Length: 2}}}).Encode(),
		(&delivery.Request{File: p.sum, Chunk: 1, Ranges: []delivery.Range{{Offset: int64(i) % 1000 * 1000, Length: 1000}}}).Encode(),
		[]byte("GET / HTTP/1.1"),
	}
	if i%100 == 0 {
		all := []delivery.Range{{Offset: 0, Length: 1 << 20}, {Offset: 1 << 20, Length: 1 << 20}, {Offset: 2 << 20, Length: 1 << 20}}
		list = append(list, (&delivery.Request{File: p.sum, Chunk: 64 << 10, Ranges: all}).Encode())
	}
	return list
}

// hostileChunks are of another file, beyond this one's end, empty, too long, and none.
func (p *published) hostileChunks() [][]byte {
	return [][]byte{
		(&delivery.Chunk{File: sha256.Sum256([]byte("/etc/passwd")), Offset: 0, Bytes: make([]byte, 1000)}).Encode(),
		(&delivery.Chunk{File: p.sum, Offset: p.Length() - 10, Bytes: make([]byte, 1000)}).Encode(),
		(&delivery.Chunk{File: p.sum, Offset: 0}).Encode(),
		make([]byte, 70_000), {},
	}
}

// client is somebody else at the broker.
func client(t *testing.T, broker, id string) mqtt.Client {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + broker).SetClientID(id).SetOrderMatters(false))
	if token := c.Connect(); !token.WaitTimeout(long) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

// TestImageOverMQTT: an image goes from the folder that the OEM's tool wrote to a verified file on the vehicle's disk, through Mosquitto, while
// the vehicle's connection is cut again and again and telemetry flows; alone, and while other vehicles ask for what they must not have and for
// more than they may, and somebody sends chunks that are none.
func TestImageOverMQTT(t *testing.T) {
	for name, hostile := range map[string]bool{"alone": false, "among others": true} {
		t.Run(name, func(t *testing.T) { overMQTT(t, hostile) })
	}
}

func overMQTT(t *testing.T, hostile bool) {
	p := publish(t, 3<<20+77)
	broker := deps.Mosquitto(t, deps.MosquittoOptions{}).Addr
	servers := []*chunks.Server{p.serve(t, broker, "images-1", chunks.Limits{VehicleRate: 4 << 20}), p.serve(t, broker, "images-2", chunks.Limits{VehicleRate: 4 << 20, ChunkBytes: 10_000})}
	proxy, err := uplinktest.NewProxy(broker)
	must(t, err)
	defer proxy.Close()
	proxy.CutAfter(rand.New(rand.NewPCG(5, 6)), 1<<20)

	// The vehicle.
	const tenant, device = "acme", "car-1"
	queue, err := uplinktest.NewQueue(tenant, device, 7)
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	store := uplinktest.NewStore(broker, "store")
	defer store.Close()
	wait(t, "the store is subscribed", store.Attached)
	var d *delivery.Delivery
	var ready sync.WaitGroup
	ready.Add(1)
	u, err := uplink.New(uplink.Options{
		URL: "mqtt://" + proxy.Addr(), Tenant: tenant, Device: device, Insecure: true, BackoffBase: 10 * time.Millisecond, BackoffCap: 100 * time.Millisecond, ReceiptTimeout: 2 * time.Second,
		OnChunk: func(b []byte) error { ready.Wait(); return d.Chunk(b) },
		Alarms:  alarm.NewBoard(func() int64 { return 1 }, log), Log: log,
	}, queue)
	must(t, err)
	d, err = delivery.New(delivery.Options{Dir: t.TempDir(), Image: p, Campaign: "spring", Asker: u, Reserve: 1,
		Backoff: 20 * time.Millisecond, BackoffMax: time.Second, ChunkSilence: time.Second, Log: log})
	must(t, err)
	ready.Done()
	run(t, "uplink", u.Run)

	var beside sync.WaitGroup
	over := make(chan struct{})
	every := func(d time.Duration, f func(i int)) {
		beside.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				case <-time.After(d):
					f(i)
				}
			}
		})
	}
	if hostile {
		evil := client(t, broker, "evil")
		every(2*time.Millisecond, func(i int) {
			for _, request := range p.hostileRequests(i) {
				evil.Publish(telemetrypb.Topic(tenant, fmt.Sprintf("evil-%d", i%3), telemetrypb.TopicRequest), 1, false, request)
			}
		})
		every(100*time.Millisecond, func(int) {
			for _, chunk := range p.hostileChunks() {
				evil.Publish(telemetrypb.Topic(tenant, device, telemetrypb.TopicChunk), 0, false, chunk)
			}
		})
	}
	batches := 0
	every(5*time.Millisecond, func(int) {
		for _, l := range []telemetrypb.Lane{telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Lane_LANE_EVENT} {
			samples := []telemetrypb.Sample{telemetrypb.IntSample(1, int64(batches)*1e7, 1)}
			if _, err := queue.Add(l, telemetrypb.Head{BootCount: 3, Catalogue: [16]byte{9}}, samples); err != nil {
				t.Error(err)
			}
			batches++
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	began := time.Now()
	image, err := d.Run(ctx)
	took := time.Since(began)
	close(over)
	beside.Wait()
	must(t, err)
	data, err := io.ReadAll(image)
	if must(t, errors.Join(err, image.Close())); !bytes.Equal(data, p.data) {
		t.Error("what is on the disk is not the image")
	}
	var sum chunks.Counts
	for i, s := range servers {
		c := s.Counts()
		if t.Logf("server %d: %+v", i+1, c); c.Requests == 0 || c.Chunks == 0 {
			t.Errorf("server %d had no share of it", i+1)
		}
		sum.Unknown, sum.Outside, sum.Malformed, sum.Limited = sum.Unknown+c.Unknown, sum.Outside+c.Outside, sum.Malformed+c.Malformed, sum.Limited+c.Limited
	}
	if hostile != (sum.Unknown > 0) || hostile != (sum.Outside > 0) || hostile != (sum.Malformed > 0) || hostile != (sum.Limited > 0) {
		t.Errorf("hostile: %v, and what was refused: %+v", hostile, sum)
	}
	s := u.State()
	t.Logf("%d bytes in %s over %d connections; %d received; %d requests, %d chunks, %d of them dropped", len(data), took.Round(time.Millisecond), s.Connections,
		d.Progress().Received, s.Requests, s.Chunks, s.ChunksDropped)
	if s.Losses < 3 || hostile && s.ChunksDropped == 0 {
		t.Errorf("%d connections lost, %d chunks dropped: it was too easy", s.Losses, s.ChunksDropped)
	}
	if received := d.Progress().Received; !hostile && received > 2*p.Length() {
		t.Errorf("%d bytes received for an image of %d", received, p.Length())
	}
	proxy.CutAfter(nil, 0)
	wait(t, "the queue is empty", func() bool { return queue.Len() == 0 })
	seen := map[uplinktest.Key]bool{}
	for _, b := range store.Order() {
		seen[b.Key] = true
	}
	if len(seen) != batches {
		t.Errorf("%d of %d batches are in the store", len(seen), batches)
	}
	must(t, store.Err())
}
