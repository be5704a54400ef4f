// Package deploy runs what deploy/ gives to operators, as it is but for folders and ports, and sees that it does what its
// comments say.
package deploy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const (
	tenant   = "acme"
	patience = time.Minute
)

// fleetBroker is a broker with a configuration of deploy/.
type fleetBroker struct {
	*deps.Broker
	t                       *testing.T
	vehicles, fleet, server *certs.Authority
	ports                   []int // of vehicles, of stores
}

func newFleetBroker(t *testing.T) *fleetBroker {
	return &fleetBroker{t: t, vehicles: certs.NewAuthority(t, "vehicles"), fleet: certs.NewAuthority(t, "fleet"), server: certs.NewAuthority(t, "brokers")}
}

// adapt puts other folders and ports into a configuration, each of which must be in it.
func adapt(t *testing.T, text string, with map[string]string) string {
	t.Helper()
	for old, now := range with {
		if !strings.Contains(text, old) {
			t.Fatalf("the configuration has no %q any more: the test would run something else", old)
		}
		text = strings.ReplaceAll(text, old, now)
	}
	return text
}

// ready waits until every door is open; the broker's own start waits for the first.
func (f *fleetBroker) ready() *fleetBroker {
	f.t.Helper()
	for _, port := range f.ports {
		f.wait("the doors open", func() bool {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return f
}

// tls is what a client with a certificate speaks.
func (f *fleetBroker) tls(mine certs.Pair) *tls.Config {
	return &tls.Config{RootCAs: f.server.Pool(), Certificates: []tls.Certificate{mine.TLS()}, MinVersion: tls.VersionTLS12}
}

// client connects a plain MQTT client to a door, and says whether it was let in.
func (f *fleetBroker) client(door int, config *tls.Config, id string, took mqtt.MessageHandler) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("ssl://127.0.0.1:%d", f.ports[door])).SetClientID(id).SetTLSConfig(config).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(5 * time.Second).SetDefaultPublishHandler(took)
	c := mqtt.NewClient(o)
	token := c.Connect()
	if !token.WaitTimeout(patience) {
		f.t.Fatal("no answer to CONNECT")
	}
	if token.Error() == nil {
		f.t.Cleanup(func() { c.Disconnect(0) })
	}
	return c, token.Error()
}

// vehicle is an uplink with its defaults behind a certificate.
func (f *fleetBroker) vehicle(device string) (*uplinktest.Queue, *uplink.Uplink) {
	q, err := uplinktest.NewQueue(tenant, device, 7)
	if err != nil {
		f.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	u, err := uplink.New(uplink.Options{
		URL: fmt.Sprintf("mqtts://127.0.0.1:%d", f.ports[0]), Tenant: tenant, Device: device,
		TLS:         func() (*tls.Config, error) { return f.tls(f.vehicles.Leaf(device)), nil },
		BackoffBase: 50 * time.Millisecond, BackoffCap: time.Second, WakeGap: 10 * time.Millisecond, ReceiptTimeout: 2 * time.Second,
		Alarms: alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, log), Log: log,
	}, q)
	if err != nil {
		f.t.Fatal(err)
	}
	f.background(func(ctx context.Context) { _ = u.Run(ctx) })
	return q, u
}

// background runs a task until the test ends.
func (f *fleetBroker) background(task func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { task(ctx) })
	f.t.Cleanup(func() { cancel(); done.Wait() })
}

// receive runs the fleet's receiver on the store's door.
func (f *fleetBroker) receive() *store.SQLite {
	s, err := store.Open(context.Background(), filepath.Join(f.t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { s.Close() })
	mine := f.fleet.Leaf("store-0")
	r, err := ingest.NewReceiver(ingest.ReceiverOptions{
		Broker: fmt.Sprintf("ssl://127.0.0.1:%d", f.ports[1]), ClientID: "waybill-fleet-0",
		TLS: func() (*tls.Config, error) { return f.tls(mine), nil }, BackoffBase: 50 * time.Millisecond, BackoffCap: time.Second,
	}, ingest.New(ingest.Options{}, s))
	if err != nil {
		f.t.Fatal(err)
	}
	f.background(func(ctx context.Context) { _ = r.Run(ctx) })
	return s
}

func (f *fleetBroker) wait(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// add gives the queue records; samples would need a catalogue.
func add(t *testing.T, q *uplinktest.Queue, n int) {
	t.Helper()
	for range n {
		if _, err := q.Add(telemetrypb.Lane_LANE_CONTROL, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// delivers wants what a vehicle sends in the store, and its receipts back, through a restart of the broker.
func (f *fleetBroker) delivers() {
	s := f.receive()
	q, _ := f.vehicle("car-0000001")
	add(f.t, q, 20)
	f.wait("everything has its receipt", func() bool { return q.Len() == 0 })
	f.Restart()
	add(f.t, q, 20)
	f.wait("what came after the restart has its receipt", func() bool { return q.Len() == 0 })
	if n := s.Totals(); n.Batches != 40 || n.Gaps != 0 || n.Letters != 0 {
		f.t.Errorf("the store has %d batches, %d gaps, %d dead letters, want 40, 0, 0", n.Batches, n.Gaps, n.Letters)
	}
}

// doors sees who comes in where.
func (f *fleetBroker) doors() {
	stranger := certs.NewAuthority(f.t, "stranger")
	old := f.vehicles.Sign("car-0000001", time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour))
	for name, c := range map[string]struct {
		door   int
		config *tls.Config
		in     bool
	}{
		"a vehicle by the vehicles' door":           {0, f.tls(f.vehicles.Leaf("car-0000001")), true},
		"the store by its door":                     {1, f.tls(f.fleet.Leaf("store-0")), true},
		"a vehicle by the store's door":             {1, f.tls(f.vehicles.Leaf("store-0")), false},
		"the store by the vehicles' door":           {0, f.tls(f.fleet.Leaf("store-0")), false},
		"somebody without a certificate":            {0, &tls.Config{RootCAs: f.server.Pool()}, false},
		"somebody with a stranger's certificate":    {0, f.tls(stranger.Leaf("car-0000001")), false},
		"a vehicle whose certificate has run out":   {0, f.tls(old), false},
		"a vehicle that speaks nothing but TLS 1.1": {0, &tls.Config{RootCAs: f.server.Pool(), Certificates: []tls.Certificate{f.vehicles.Leaf("car-0000001").TLS()}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
	} {
		if _, err := f.client(c.door, c.config, "somebody", nil); (err == nil) != c.in {
			f.t.Errorf("%s: %v", name, err)
		}
	}
}
