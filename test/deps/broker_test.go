//go:build system

package deps

import (
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// What was acknowledged for a session is still there when a broker that keeps sessions was stopped and started.
func TestBrokersKeepSessions(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *Broker{
		"mosquitto": func(t testing.TB) *Broker { return Mosquitto(t, MosquittoOptions{Persistence: true}) },
		"rabbitmq":  func(t testing.TB) *Broker { return RabbitMQ(t, "") },
		"hivemq":    func(t testing.TB) *Broker { return HiveMQ(t, "") },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			got := make(chan string, 10)
			connect := func(id string) mqtt.Client {
				o := mqtt.NewClientOptions().AddBroker(b.URL()).SetClientID(id).SetCleanSession(false).SetAutoReconnect(false).SetProtocolVersion(4)
				o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- string(m.Payload()) })
				c := mqtt.NewClient(o)
				await(t, "CONNACK", c.Connect())
				return c
			}
			taker := connect("taker")
			await(t, "SUBACK", taker.Subscribe("wb1/+/+/up/telemetry", 1, nil))
			taker.Disconnect(100)
			giver := connect("giver")
			await(t, "PUBACK", giver.Publish("wb1/t/d/up/telemetry", 1, false, "kept"))
			giver.Disconnect(100)
			b.Restart()
			taker = connect("taker")
			defer taker.Disconnect(100)
			select {
			case payload := <-got:
				if payload != "kept" {
					t.Errorf("got %q", payload)
				}
			case <-time.After(30 * time.Second):
				t.Error("what was acknowledged did not come after the broker's restart")
			}
		})
	}
}

func await(t *testing.T, what string, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(30 * time.Second) {
		t.Fatalf("no %s within 30 s", what)
	}
	if err := token.Error(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
