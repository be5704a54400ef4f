// Package profile knows what brokers of several makers take and refuse, so that a configuration that cannot work with
// one is refused before a vehicle drives off with it, and so that uplink/doctor can say what a failure commonly means
// with that broker. docs/BROKERS.md has the sources. It opens no connection and reads no configuration.
package profile

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Denial is what a broker does with a QoS 1 publish that its access rules deny.
type Denial string

// The ways to deny.
const (
	DenialUnknown Denial = ""
	DenialDrops   Denial = "drops"  // it sends a PUBACK and throws the message away: only a missing receipt shows it
	DenialCloses  Denial = "closes" // it closes the connection, again and again
)

// Profile is one maker's broker with its usual configuration. The zero value of a limit means that none is known. It is
// read only.
type Profile struct {
	Name  string // as configurations have it
	Title string

	Packet        int // bytes of a PUBLISH, head and topic included
	InFlight      int // publishes from one client without PUBACK
	TopicSlashes  int
	TopicLevels   int
	TopicBytes    int
	ClientIDBytes int

	KeepAliveMin, KeepAliveMax time.Duration // outside of it the broker goes by these
	SessionExpiry              time.Duration // after which it forgets a vehicle that is away; 0: never

	NoPlainText bool   // TLS only
	NoShared    bool   // shared subscriptions, by which several stores share the work
	TopicDots   bool   // '.' and '/' mean the same to it
	Denial      Denial // by default
	Ports       string // on which it usually listens

	Hints map[string]string // what a failed step of the doctor commonly means here, with the remedy
}

// Names are all profiles' names, sorted.
func Names() []string {
	var names []string
	for _, p := range table() {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

// Find is the profile of a name; nil: there is none.
func Find(name string) *Profile {
	for _, p := range table() {
		if p.Name == name {
			return &p
		}
	}
	return nil
}

// PacketHead is more than what a PUBLISH has beside its batches: its head, the topic (MaxTopic) and the clock records.
const PacketHead = 1 << 10

// PayloadBytes is the most that a publish's batches may have together; 0: no limit is known.
func (p *Profile) PayloadBytes() int { return max(0, p.Packet-PacketHead) }

// Bound lowers bytes of a payload and publishes in flight to what this broker takes.
func (p *Profile) Bound(payload, inFlight int) (int, int) {
	if most := p.PayloadBytes(); most > 0 {
		payload = min(payload, most)
	}
	if p.InFlight > 0 {
		inFlight = min(inFlight, p.InFlight)
	}
	return payload, inFlight
}

// ALPN is what TLS has to offer (RFC 7301) so that a port is MQTT's; nil: nothing.
func (p *Profile) ALPN(scheme, port string) []string {
	if p.Name == "aws" && port == "443" && scheme != "wss" {
		return []string{"x-amzn-mqtt-ca"}
	}
	return nil
}

// Use is what a configuration asks of a broker.
type Use struct {
	Secure    bool
	ClientID  string
	Topics    []string
	KeepAlive time.Duration // 0: not said
	Payload   int           // bytes of batches in one publish; 0: not said
}

// Finding is one thing that cannot work, by the key of uplink: (or of device:, for topics) that says so.
type Finding struct{ Key, Text string }

// The keys that a Finding names.
const (
	KeyBroker    = "broker"
	KeyClientID  = "client_id"
	KeyKeepAlive = "keep_alive"
	KeyPayload   = "payload_bytes"
	KeyTopic     = "topic"
)

// Check says what cannot work with this broker, and what to do.
func (p *Profile) Check(u Use) (out []Finding) {
	add := func(key, format string, args ...any) {
		out = append(out, Finding{key, fmt.Sprintf(format, args...)})
	}
	if p.NoPlainText && !u.Secure {
		add(KeyBroker, "%s takes TLS only; use mqtts: or wss:", p.Title)
	}
	if p.ClientIDBytes > 0 && len(u.ClientID) > p.ClientIDBytes {
		add(KeyClientID, "has %d bytes, %s takes %d; choose a shorter one", len(u.ClientID), p.Title, p.ClientIDBytes)
	}
	if p.KeepAliveMin > 0 && u.KeepAlive > 0 && u.KeepAlive < p.KeepAliveMin {
		add(KeyKeepAlive, "is %v, %s goes by no less than %v, and would notice a vehicle that is gone later than this says; use %v or more", u.KeepAlive, p.Title, p.KeepAliveMin, p.KeepAliveMin)
	}
	if p.KeepAliveMax > 0 && u.KeepAlive > p.KeepAliveMax {
		add(KeyKeepAlive, "is %v, %s ends connections that are silent for longer than it allows with %v; use %v or less", u.KeepAlive, p.Title, p.KeepAliveMax, p.KeepAliveMax)
	}
	if most := p.PayloadBytes(); most > 0 && u.Payload > most {
		add(KeyPayload, "is %d bytes, %s takes packets of %d, which leaves %d for batches; use %d or less", u.Payload, p.Title, p.Packet, most, most)
	}
	for _, topic := range u.Topics {
		slashes := strings.Count(topic, "/")
		switch {
		case p.TopicSlashes > 0 && slashes > p.TopicSlashes:
			add(KeyTopic, "topic %s has %d slashes, %s takes %d", topic, slashes, p.Title, p.TopicSlashes)
		case p.TopicLevels > 0 && slashes+1 > p.TopicLevels:
			add(KeyTopic, "topic %s has %d levels, %s takes %d", topic, slashes+1, p.Title, p.TopicLevels)
		case p.TopicBytes > 0 && len(topic) > p.TopicBytes:
			add(KeyTopic, "topic %s has %d bytes, %s takes %d; choose a shorter device id or tenant", topic, len(topic), p.Title, p.TopicBytes)
		case p.TopicDots && strings.Contains(topic, "."):
			add(KeyTopic, "topic %s has a dot, which %s takes for a slash; leave it out", topic, p.Title)
		}
	}
	return out
}
