package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// startMosquitto starts Mosquitto with the configuration of deploy/mosquitto.
func startMosquitto(t *testing.T) *fleetBroker {
	dir := t.TempDir()
	f := newFleetBroker(t)
	f.server.Leaf("broker").Write(dir, "broker")
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
		return adapt(t, read("mosquitto.conf"), map[string]string{
			"listener 8883":       fmt.Sprintf("listener %d 127.0.0.1", ports[0]),
			"listener 8884":       fmt.Sprintf("listener %d 127.0.0.1", ports[1]),
			"/etc/mosquitto/":     dir + "/",
			"/var/lib/mosquitto/": dir + "/",
			"log_dest stderr":     "",
		})
	}})
	return f.ready()
}

func TestMosquittoDelivers(t *testing.T) { startMosquitto(t).delivers() }

func TestMosquittoDoors(t *testing.T) { startMosquitto(t).doors() }

// TestMosquittoKeepsVehiclesApart: what one vehicle may do to another with a certificate of its own.
func TestMosquittoKeepsVehiclesApart(t *testing.T) {
	f := startMosquitto(t)
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

// TestMosquittoImages: who serves images hears requests and sends chunks, by the stores' door, and nothing else.
func TestMosquittoImages(t *testing.T) {
	f := startMosquitto(t)
	s := f.receive()
	q, _ := f.vehicle("car-0000001")
	var mu sync.Mutex
	heard := map[string]int{}
	images, err := f.client(1, f.tls(f.fleet.Leaf("images")), "images", func(_ mqtt.Client, m mqtt.Message) {
		mu.Lock()
		defer mu.Unlock()
		heard[m.Topic()]++
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{"$share/images/wb1/+/+/up/request", "wb1/+/+/up/#", "#"} {
		images.Subscribe(filter, 1, nil).WaitTimeout(patience)
	}
	got := make(chan string, 10)
	car, err := f.client(0, f.tls(f.vehicles.Leaf("car-0000002")), "", func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() })
	if err != nil {
		t.Fatal(err)
	}
	mine := func(rest string) string { return telemetrypb.Topic(tenant, "car-0000002", rest) }
	car.Subscribe(mine("down/#"), 1, nil).WaitTimeout(patience)
	add(t, q, 5)
	f.wait("telemetry has its receipt", func() bool { return q.Len() == 0 })
	car.Publish(mine(telemetrypb.TopicRequest), 1, false, "a request").WaitTimeout(patience)
	f.wait("the request arrives", func() bool { mu.Lock(); defer mu.Unlock(); return heard[mine(telemetrypb.TopicRequest)] > 0 })
	for _, rest := range []string{telemetrypb.TopicCommand, telemetrypb.TopicCampaign, telemetrypb.TopicReceipt, telemetrypb.TopicChunk} {
		images.Publish(mine(rest), 1, false, "x").WaitTimeout(patience)
	}
	select {
	case topic := <-got:
		if topic != mine(telemetrypb.TopicChunk) {
			t.Errorf("the image server reached %s", topic)
		}
	case <-time.After(patience):
		t.Error("the image server reaches no vehicle")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(heard) != 1 {
		t.Errorf("the image server hears %v", heard)
	}
	if n := s.Totals(); n.Letters != 0 || n.Devices != 1 {
		t.Errorf("requests left %d dead letters, and %d devices where one has data", n.Letters, n.Devices)
	}
}
