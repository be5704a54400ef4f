// Package deploy runs what deploy/ gives to operators, as it is but for folders and ports, and sees that it does what its
// comments say.
package deploy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
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
	patience = 30 * time.Second
)

// fleetBroker is Mosquitto with the configuration of deploy/mosquitto.
type fleetBroker struct {
	*deps.Broker
	t                       *testing.T
	vehicles, fleet, server *certs.Authority
	ports                   []int // of vehicles, of stores
}

func startFleetBroker(t *testing.T) *fleetBroker {
	dir := t.TempDir()
	f := &fleetBroker{t: t, vehicles: certs.NewAuthority(t, "vehicles"), fleet: certs.NewAuthority(t, "fleet")}
	server := certs.NewAuthority(t, "brokers")
	server.Leaf("broker").Write(dir, "broker")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("vehicles-ca.pem", string(f.vehicles.CertPEM()))
	write("fleet-ca.pem", string(f.fleet.CertPEM()))
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(deps.Root(t), "deploy", "mosquitto", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	write("vehicles.acl", strings.ReplaceAll(read("vehicles.acl"), "TENANT", tenant))
	write("fleet.acl", read("fleet.acl"))
	f.Broker = deps.Mosquitto(t, deps.MosquittoOptions{Dir: dir, Ports: 2, Whole: func(ports []int) string {
		f.ports = ports
		text := read("mosquitto.conf")
		for what, with := range map[string]string{
			"listener 8883":       fmt.Sprintf("listener %d 127.0.0.1", ports[0]),
			"listener 8884":       fmt.Sprintf("listener %d 127.0.0.1", ports[1]),
			"/etc/mosquitto/":     dir + "/",
			"/var/lib/mosquitto/": dir + "/",
			"log_dest stderr":     "",
		} {
			if !strings.Contains(text, what) {
				t.Fatalf("deploy/mosquitto/mosquitto.conf has no %q any more: the test runs something else", what)
			}
			text = strings.ReplaceAll(text, what, with)
		}
		return text
	}})
	f.server = server
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
		BackoffBase: 50 * time.Millisecond, WakeGap: 10 * time.Millisecond, ReceiptTimeout: 2 * time.Second,
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
		TLS: func() (*tls.Config, error) { return f.tls(mine), nil }, BackoffBase: 50 * time.Millisecond,
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

// TestMosquittoDelivers: vehicle to store and receipt back, through a restart of the broker.
func TestMosquittoDelivers(t *testing.T) {
	f := startFleetBroker(t)
	s := f.receive()
	q, _ := f.vehicle("car-0000001")
	add(t, q, 20)
	f.wait("everything has its receipt", func() bool { return q.Len() == 0 })
	f.Restart()
	add(t, q, 20)
	f.wait("what came after the restart has its receipt", func() bool { return q.Len() == 0 })
	if n := s.Totals(); n.Batches != 40 || n.Gaps != 0 || n.Letters != 0 {
		t.Errorf("the store has %d batches, %d gaps, %d dead letters, want 40, 0, 0", n.Batches, n.Gaps, n.Letters)
	}
}

// TestMosquittoKeepsVehiclesApart: what one vehicle may do to another with a certificate of its own.
func TestMosquittoKeepsVehiclesApart(t *testing.T) {
	f := startFleetBroker(t)
	s := f.receive()
	q, up := f.vehicle("car-0000001")
	add(t, q, 1)
	f.wait("the honest vehicle is online", func() bool { return q.Len() == 0 })

	heard := make(chan string, 100)
	took := func(_ mqtt.Client, m mqtt.Message) { heard <- m.Topic() }
	// The client id of another: the broker puts the certificate's name in its place.
	thief, err := f.client(0, f.tls(f.vehicles.Leaf("car-6666666")), "car-0000001", took)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{
		telemetrypb.Topic(tenant, "car-0000001", "down/#"), telemetrypb.Topic("+", "+", "up/#"), "$share/fleet/" + telemetrypb.Topic("+", "+", "up/#"), "#",
	} {
		thief.Subscribe(topic, 1, nil).WaitTimeout(patience)
	}
	for _, topic := range []string{
		telemetrypb.Topic(tenant, "car-0000001", "up/control"), telemetrypb.Topic(tenant, "car-0000001", telemetrypb.TopicReceipt), telemetrypb.Topic("other", "car-6666666", "up/control"),
	} {
		if token := thief.Publish(topic, 1, false, "garbage"); !token.WaitTimeout(patience) {
			t.Fatalf("no answer to a publish on %s", topic)
		}
	}
	add(t, q, 5)
	f.wait("the honest vehicle goes on", func() bool { return q.Len() == 0 })
	if l := up.State().Losses; l != 0 {
		t.Errorf("the honest vehicle lost %d connections", l)
	}
	// Its own topic is all that is left to it: garbage there is a dead letter, and shows that what came before it was taken.
	thief.Publish(telemetrypb.Topic(tenant, "car-6666666", "up/control"), 1, false, "garbage").WaitTimeout(patience)
	f.wait("the last publish is set aside", func() bool { return s.Totals().Letters > 0 })
	if n := s.Totals(); n.Letters != 1 || n.Batches != 6 {
		t.Errorf("%d dead letters and %d batches, want 1 and 6", n.Letters, n.Batches)
	}
	select {
	case topic := <-heard:
		t.Errorf("the thief was sent a message on %s", topic)
	default:
	}
}

// TestMosquittoDoors: who comes in where.
func TestMosquittoDoors(t *testing.T) {
	f := startFleetBroker(t)
	stranger := certs.NewAuthority(t, "stranger")
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
			t.Errorf("%s: %v", name, err)
		}
	}
}
