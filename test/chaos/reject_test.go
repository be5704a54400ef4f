//go:build system

package chaos

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// TestRejected: whatever a broker denies, the vehicle says so within a minute, by the timers that vehicles have, keeps what it
// has, does not storm, and delivers once the cause is mended. docs/TESTING.md has the cases in a table.
func TestRejected(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"mosquitto/ACL, acknowledged and dropped":    aclSilent,
		"mosquitto/message_size_limit":               messageSizeLimit,
		"mosquitto/max_packet_size":                  maxPacketSize,
		"mosquitto/max_connections":                  maxConnections,
		"mosquitto/max_queued_messages of the store": maxQueued,
		"mosquitto/user removed while connected":     userRemoved,
		"rabbitmq/topic permissions, closed":         rabbitDenies,
		"rabbitmq/memory alarm":                      rabbitBlocks,
		"hivemq/max-packet-size and max-connections": hiveLimits,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func aclSilent(t *testing.T) {
	acl := write(t, filepath.Join(t.TempDir(), "acl"), "topic read wb1/#\ntopic write wb1/+/+/down/#\ntopic write wb1/+/+/up/status\n")
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"acl_file " + acl}})
	store := attach(t, b.Addr)
	r := newTrial(t, device)
	r.add(mass, 300, small)
	r.add(event, 3, small)
	r.drive(b.Addr)
	r.says("uplink.receipt", "ACL", "PUBACK")
	r.calm(1)
	if n := r.queue.Len(); n != r.added || store.Len() > 0 {
		t.Errorf("%d of %d batches are held, %d in the store", n, r.added, store.Len())
	}
	reconfigure(t, b, "mosquitto.conf", "acl_file")
	r.arrives(store)
	r.calm(5)
}

func messageSizeLimit(t *testing.T) {
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"message_size_limit 6000"}})
	store := attach(t, b.Addr)
	r := newTrial(t, device)
	r.add(mass, 100, small)
	r.add(mass, 2, big)
	r.add(mass, 100, small)
	r.drive(b.Addr)
	r.says("uplink.receipt", "message_size_limit")
	r.holds(2)
	r.wait("the batch that is too large is known", 2*said, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.raised["uplink.poison"].text != ""
	})
	t.Logf("uplink.poison after %s: %s", time.Since(r.began).Round(time.Second), r.raised["uplink.poison"].text)
	r.calm(1)
	reconfigure(t, b, "mosquitto.conf", "message_size_limit")
	r.drive(b.Addr) // as after a restart of the agent; without it the next try comes within an hour
	r.arrives(store)
}

func maxPacketSize(t *testing.T) {
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"max_packet_size 6000"}})
	store := attach(t, b.Addr)
	r := tooLarge(t, b, false)
	reconfigure(t, b, "mosquitto.conf", "max_packet_size")
	r.drive(b.Addr) // as after a restart of the agent; without it the next try comes within an hour
	r.arrives(store)
}

// tooLarge has a broker that closes on 12 KiB.
func tooLarge(t *testing.T, b *deps.Broker, patient bool) *trial {
	t.Helper()
	r := newTrial(t, device)
	r.patient = patient
	r.add(mass, 100, small)
	r.add(mass, 20, big)
	r.add(mass, 100, small)
	r.drive(b.Addr)
	r.says("uplink.poison", "packet limit", "largest publish that got through")
	r.holds(20)
	r.add(mass, 50, small)
	r.add(event, 5, small)
	r.holds(20)
	r.calm(12)
	t.Logf("%s; %d attempts, %d losses in %s", r.up.State(), r.up.State().Attempts, r.up.State().Losses, time.Since(r.began).Round(time.Second))
	return r
}

func maxConnections(t *testing.T) {
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"max_connections 2"}})
	store := attach(t, b.Addr)
	others := occupy(t, b.Addr)
	r := newTrial(t, device)
	r.add(mass, 10, small)
	r.drive(b.Addr)
	r.says("uplink.unavailable", "connections")
	r.calm(8)
	others()
	r.arrives(store)
	r.calm(10)
}

// occupy takes all of a broker's places that are free, one or more, until vacate.
func occupy(t *testing.T, addr string) (vacate func()) {
	t.Helper()
	var taken []mqtt.Client
	vacate = func() {
		for _, c := range taken {
			c.Disconnect(0)
		}
		taken = nil
	}
	t.Cleanup(func() { vacate() })
	for end := time.Now().Add(said); len(taken) < 10; {
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(fmt.Sprintf("other-%d", len(taken))).SetAutoReconnect(false).SetProtocolVersion(4))
		token := c.Connect()
		switch {
		case token.WaitTimeout(said) && token.Error() == nil:
			taken = append(taken, c)
		case len(taken) > 0:
			return vacate
		case time.Now().After(end):
			t.Fatal("the broker has no place left for others")
		default: // whoever has just left is still counted
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.Fatal("the broker has no limit")
	return vacate
}

// maxQueued: the store is away, and the broker drops what does not go into its queue.
func maxQueued(t *testing.T) {
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"max_queued_messages 5"}})
	store := uplinktest.NewStore(b.Addr, "store")
	attached(t, store)
	store.Close()
	r := newTrial(t, device)
	for range 20 {
		r.add(mass, 1, big)
	}
	r.drive(b.Addr)
	r.says("uplink.receipt", "store is not running")
	r.calm(1)
	if n := r.queue.Len(); n != r.added {
		t.Errorf("%d of %d batches are held", n, r.added)
	}
	back := attach(t, b.Addr)
	r.drive(b.Addr)
	r.arrives(back)
}

func userRemoved(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	set := func(arguments ...string) {
		t.Helper()
		if out, err := deps.Program(t, "mosquitto", "mosquitto_passwd", arguments...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
	}
	set("-c", "-b", users, "car", "secret")
	_ = os.Chmod(users, 0o644)
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{"password_file " + users}})
	store := attach(t, b.Addr)
	r := newTrial(t, device)
	r.add(mass, 10, small)
	login := func(o *uplink.Options) {
		o.User = func() (string, error) { return "car", nil }
		o.Password = func() (string, error) { return "secret", nil }
	}
	r.drive(b.Addr, login)
	r.arrives(store)
	set("-D", users, "car")
	r.began = time.Now()
	r.add(mass, 10, small)
	b.Reload()
	r.says("uplink.credentials", "user")
	r.calm(4)
	if s := r.up.State(); s.Phase != uplink.Refused {
		t.Errorf("state %s", s)
	}
	set("-b", users, "car", "secret")
	b.Reload()
	r.up.Retry(uplink.CauseCredentials, "the user is there again")
	r.arrives(store)
	r.calm(5)
}

// rabbitDenies: RabbitMQ closes the connection on a publish that it denies.
func rabbitDenies(t *testing.T) {
	dir := t.TempDir()
	user := func(name string) string {
		sum := sha256.Sum256([]byte("salt" + name))
		return fmt.Sprintf(`{"name":%q,"password_hash":%q,"hashing_algorithm":"rabbit_password_hashing_sha256","tags":""}`, name, base64.StdEncoding.EncodeToString(append([]byte("salt"), sum[:]...)))
	}
	permission := func(name string) string {
		return fmt.Sprintf(`{"user":%q,"vhost":"/","configure":".*","write":".*","read":".*"}`, name)
	}
	topic := func(name, write string) string {
		return fmt.Sprintf(`{"user":%q,"vhost":"/","exchange":"amq.topic","write":%q,"read":".*"}`, name, write)
	}
	definitions := write(t, filepath.Join(dir, "definitions.json"), fmt.Sprintf(`{"vhosts":[{"name":"/"}],"users":[%s,%s,%s],"permissions":[%s,%s,%s],"topic_permissions":[%s,%s]}`,
		user("guest"), user("mute"), user("part"), permission("guest"), permission("mute"), permission("part"),
		topic("mute", "^none$"), topic("part", "up.(event|status|control)$")))
	b := deps.RabbitMQ(t, dir, "load_definitions = "+definitions)
	store := attach(t, b.Addr)
	as := func(name string) func(*uplink.Options) {
		return func(o *uplink.Options) {
			o.User = func() (string, error) { return name, nil }
			o.Password = func() (string, error) { return name, nil }
		}
	}
	t.Run("every topic", func(t *testing.T) {
		r := newTrial(t, "vehicle-mute")
		r.add(mass, 30, small)
		r.drive(b.Addr, as("mute"))
		r.says("uplink.denied", "ACL", "up/#")
		r.calm(8)
		if n := r.queue.Len(); n != r.added {
			t.Errorf("%d of %d batches are held", n, r.added)
		}
		r.drive(b.Addr, as("guest"))
		r.arrives(store)
	})
	t.Run("one lane", func(t *testing.T) {
		r := newTrial(t, "vehicle-part")
		r.add(mass, 30, small)
		r.add(event, 5, small)
		r.drive(b.Addr, as("part"))
		r.says("uplink.poison", "ACL", "lane telemetry")
		r.add(event, 5, small)
		r.holds(30)
		r.calm(12)
		r.drive(b.Addr, as("guest"))
		r.arrives(store)
	})
}

// rabbitBlocks: RabbitMQ reads nothing from clients while it has too little memory or disk, CONNECT included.
func rabbitBlocks(t *testing.T) {
	b := deps.RabbitMQ(t, "", "vm_memory_high_watermark.absolute = 20MB")
	r := newTrial(t, device)
	r.add(mass, 30, small)
	r.drive(b.Addr)
	r.says("uplink.unavailable", "memory")
	r.calm(4)
	if n := r.queue.Len(); n != r.added {
		t.Errorf("%d of %d batches are held", n, r.added)
	}
	r.stop()
	reconfigure(t, b, "rabbitmq.conf", "vm_memory")
	store := attach(t, b.Addr)
	r.drive(b.Addr)
	r.arrives(store)
}

func hiveLimits(t *testing.T) {
	b := deps.HiveMQ(t, "", "<mqtt><packets><max-packet-size>6000</max-packet-size></packets></mqtt>", "<restrictions><max-connections>2</max-connections></restrictions>")
	attach(t, b.Addr)
	r := tooLarge(t, b, true)
	r.stop()
	others := occupy(t, b.Addr)
	r.drive(b.Addr)
	r.says("uplink.credentials", "limit of connections")
	r.calm(1)
	r.add(event, 5, small)
	others()
	r.up.Retry(uplink.CauseCredentials, "the others have left") // by itself within 15 minutes
	r.holds(20)
}
