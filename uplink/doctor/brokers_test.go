//go:build system

package doctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink/doctor"
	"github.com/waybill-telematics/waybill/uplink/profile"
)

// long is for brokers that take their time.
func long(name string) func(*doctor.Options) {
	return func(o *doctor.Options) {
		o.Timeout = time.Minute
		o.Profile = profile.Find(name)
	}
}

// TestHiveMQ: the store answers, its absence is told from a denial, and the limits are those of the profile.
func TestHiveMQ(t *testing.T) {
	broker := deps.HiveMQ(t, "")
	p := patient{url: broker.URL(), change: func(o *doctor.Options) { long("hivemq")(o); o.Timeout = 12 * time.Second }}
	steps := examine(t, p)
	wantFailed(t, steps, "receipt", "nobody is subscribed", "not the vehicle's ACL")
	startStore(t, broker.URL(), nil)
	p.change = long("hivemq")
	steps = examine(t, p)
	wantResults(t, steps, "ok connect subscribe publish receipt size limits")
	if !strings.Contains(steps["limits"].Found, "10 publishes without PUBACK") {
		t.Errorf("limits: %s", steps["limits"].Found)
	}
}

// TestRabbitMQ: what it denies ends the connection, or gets no answer: a store that is not there is told from both.
func TestRabbitMQ(t *testing.T) {
	t.Run("open", func(t *testing.T) {
		broker := deps.RabbitMQ(t, "")
		p := patient{url: broker.URL(), change: func(o *doctor.Options) { long("rabbitmq")(o); o.Timeout = 12 * time.Second }}
		wantFailed(t, examine(t, p), "receipt", "A denied publish would have closed the connection", "waybill-fleet serve")
		startStore(t, broker.URL(), nil)
		p.change = long("rabbitmq")
		wantResults(t, examine(t, p), "ok connect subscribe publish receipt size")
	})
	// RabbitMQ 3.10 takes default_permissions.read for what may be written, and .write for what may be read.
	for step, c := range map[string]struct{ key, word string }{"publish": {"read", "no PUBACK"}, "subscribe": {"write", "ends the connection at the subscription"}} {
		t.Run(step, func(t *testing.T) {
			lines := []string{"default_permissions.configure = .*", "default_permissions.read = .*", "default_permissions.write = .*"}
			for i, line := range lines {
				if strings.Contains(line, c.key) {
					lines[i] = "default_permissions." + c.key + " = ^mqtt-subscription.*"
				}
			}
			broker := deps.RabbitMQ(t, "", lines...)
			steps := examine(t, patient{url: broker.URL(), change: func(o *doctor.Options) { long("rabbitmq")(o); o.Timeout = 12 * time.Second }})
			wantFailed(t, steps, step, c.word, "RabbitMQ: ", "amq.topic", "topic permission")
			wantResults(t, steps, "ok connect; skipped receipt size")
		})
	}
}
