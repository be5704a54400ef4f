package profile

import (
	"slices"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// topics are all those of a vehicle with the longest names that there are.
func topics() (list []string) {
	name := strings.Repeat("n", telemetrypb.MaxName)
	for _, rest := range []string{telemetrypb.TopicStatus, telemetrypb.TopicReceipt, telemetrypb.TopicCampaign, telemetrypb.TopicLane(telemetrypb.Lane_LANE_TELEMETRY)} {
		list = append(list, telemetrypb.Topic(name, name, rest))
	}
	return list
}

// TestOurTopicsAndDefaultsFitEverywhere: whatever a vehicle may be called, and with the defaults.
func TestOurTopicsAndDefaultsFitEverywhere(t *testing.T) {
	if !slices.Equal(Names(), []string{"aws", "emqx", "hivemq", "mosquitto", "rabbitmq"}) {
		t.Errorf("profiles %v", Names())
	}
	for _, name := range Names() {
		p := Find(name)
		found := p.Check(Use{Secure: true, ClientID: strings.Repeat("c", telemetrypb.MaxName), Topics: topics(), Payload: 64 << 10})
		if len(found) > 0 {
			t.Errorf("%s: %+v", name, found)
		}
		if payload, inFlight := p.Bound(64<<10, 10); payload != 64<<10 || inFlight != 10 {
			t.Errorf("%s lowers the defaults to %d bytes, %d in flight", name, payload, inFlight)
		}
		if p.Denial == DenialUnknown || p.Title == "" || p.Ports == "" || p.Hints["connect"] == "" || p.Hints["publish"] == "" {
			t.Errorf("%s: the profile is not whole", name)
		}
		for step := range p.Hints {
			if !slices.Contains([]string{"tls", "certificate", "connect", "subscribe", "publish", "receipt", "size"}, step) {
				t.Errorf("%s: a hint for step %q, which is none", name, step)
			}
		}
	}
	if Find("mosquito") != nil {
		t.Error("a profile that is not there")
	}
}

func TestWhatCannotWorkIsNamed(t *testing.T) {
	for _, c := range []struct {
		name string
		use  Use
		key  string
		word string
	}{
		{"aws", Use{}, KeyBroker, "mqtts:"},
		{"aws", Use{Secure: true, KeepAlive: 15 * time.Second}, KeyKeepAlive, "30s or more"},
		{"aws", Use{Secure: true, KeepAlive: time.Hour}, KeyKeepAlive, "20m0s or less"},
		{"aws", Use{Secure: true, Payload: 256 << 10}, KeyPayload, "use 130048 or less"},
		{"aws", Use{Secure: true, ClientID: strings.Repeat("c", 129)}, KeyClientID, "takes 128"},
		{"aws", Use{Secure: true, Topics: []string{"a/b/c/d/e/f/g/h/i"}}, KeyTopic, "has 8 slashes"},
		{"aws", Use{Secure: true, Topics: []string{strings.Repeat("t", 257)}}, KeyTopic, "takes 256"},
		{"emqx", Use{Topics: []string{strings.Repeat("t/", 128)}}, KeyTopic, "has 129 levels"},
		{"rabbitmq", Use{Topics: []string{"wb1/acme/car.1/up/raw"}}, KeyTopic, "dot"},
		{"rabbitmq", Use{Topics: []string{strings.Repeat("t", 256)}}, KeyTopic, "takes 255"},
	} {
		found := Find(c.name).Check(c.use)
		if len(found) != 1 || found[0].Key != c.key || !strings.Contains(found[0].Text, c.word) {
			t.Errorf("%s, %+v: %+v, want %s with %q", c.name, c.use, found, c.key, c.word)
		}
	}
	if payload, inFlight := Find("aws").Bound(1<<20, 1000); payload != 128<<10-PacketHead || inFlight != 100 {
		t.Errorf("AWS gets payloads of %d bytes, %d in flight", payload, inFlight)
	}
	if got := Find("aws").ALPN("mqtts", "443"); len(got) != 1 || Find("aws").ALPN("mqtts", "8883") != nil || Find("aws").ALPN("wss", "443") != nil || Find("emqx").ALPN("mqtts", "443") != nil {
		t.Errorf("ALPN %v", got)
	}
}
