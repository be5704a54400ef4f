package uplinktest

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Broker is an MQTT broker on a free loopback port. It can be stopped as by a power cut and started again on the same
// port, with or without its sessions. All methods are safe for use from several goroutines.
type Broker struct {
	mu      sync.Mutex // guards what follows
	addr    string
	server  *mqtt.Server
	listen  net.Listener // nil: stopped
	conns   map[*brokerConn]struct{}
	rules   Rules
	serving sync.WaitGroup
}

// Rules bend the broker. A nil function leaves its part as it is.
type Rules struct {
	// Login says whether a client may connect; false is CONNACK 4.
	Login func(client, user, password string) bool
	// Subscribe says whether a client may subscribe; false is SUBACK 0x80.
	Subscribe func(client, filter string) bool
	// Swallow says whether a publish is acknowledged and dropped, as Mosquitto and EMQX do where an ACL denies it.
	Swallow func(client, topic string, payload []byte) bool
	// Close says whether a publish makes the broker close the connection.
	Close func(client, topic string, payload []byte) bool
	// NoPuback says whether the PUBACKs to a client are withheld.
	NoPuback func(client string) bool
}

// NewBroker starts a broker.
func NewBroker() (*Broker, error) {
	b := &Broker{conns: map[*brokerConn]struct{}{}, addr: "127.0.0.1:0"}
	if err := b.Forget(); err != nil {
		return nil, err
	}
	return b, b.Start()
}

// Addr is host:port.
func (b *Broker) Addr() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr
}

// SetRules bends the broker from now on.
func (b *Broker) SetRules(r Rules) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules = r
}

// Start listens on the broker's port.
func (b *Broker) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listen != nil {
		return nil
	}
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return fmt.Errorf("test broker: %w", err)
	}
	b.addr, b.listen = l.Addr().String(), l
	b.serving.Go(func() { b.accept(l) })
	return nil
}

// Stop closes the listener and all connections without a word. Sessions and retained messages stay.
func (b *Broker) Stop() {
	b.mu.Lock()
	if b.listen != nil {
		_ = b.listen.Close()
		b.listen = nil
	}
	for c := range b.conns {
		_ = c.Close()
	}
	b.mu.Unlock()
	b.serving.Wait()
}

// Forget loses all sessions and retained messages, and with them what was acknowledged and not delivered. It is for a
// stopped broker.
func (b *Broker) Forget() error {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: mqtt.NewDefaultServerCapabilities(), InlineClient: true})
	if err := server.AddHook(&hook{broker: b}, nil); err != nil {
		return fmt.Errorf("test broker: %w", err)
	}
	if err := server.Serve(); err != nil {
		return fmt.Errorf("test broker: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		_ = b.server.Close()
	}
	b.server = server
	return nil
}

// Kick closes the connections of one client without a word.
func (b *Broker) Kick(client string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cl, ok := b.server.Clients.Get(client); ok {
		cl.Stop(packets.ErrUnspecifiedError)
	}
}

// Close ends the broker.
func (b *Broker) Close() {
	b.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.server.Close()
}

// Publish sends a message to whoever subscribed to its topic, with QoS 1.
func (b *Broker) Publish(topic string, payload []byte) error {
	b.mu.Lock()
	server := b.server
	b.mu.Unlock()
	return server.Publish(topic, payload, false, 1)
}

// Retained is the retained message of a topic; nil: none.
func (b *Broker) Retained(topic string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if pk, ok := b.server.Topics.Retained.Get(topic); ok {
		return pk.Payload
	}
	return nil
}

func (b *Broker) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		c := &brokerConn{Conn: conn, broker: b}
		b.mu.Lock()
		if b.listen != l {
			b.mu.Unlock()
			_ = conn.Close()
			continue
		}
		b.conns[c] = struct{}{}
		server := b.server
		b.mu.Unlock()
		b.serving.Go(func() {
			_ = server.EstablishConnection("test", c) // its error is how the client left
			_ = c.Close()
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		})
	}
}

func (b *Broker) bent() Rules {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rules
}

// brokerConn takes PUBACKs out of what the broker writes.
type brokerConn struct {
	net.Conn
	broker *Broker
	mu     sync.Mutex // guards client
	client string
}

func (c *brokerConn) named(client string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = client
}

// Write gets whole packets, one or more (mochi's WritePacket).
func (c *brokerConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	if rule := c.broker.bent().NoPuback; rule == nil || client == "" || !rule(client) {
		return c.Conn.Write(p)
	}
	var out []byte
	for rest := p; len(rest) > 0; {
		n := packetLength(rest)
		if rest[0]>>4 != packets.Puback {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// packetLength is the length of the first packet, its head included (MQTT 3.1.1 §2.2.3).
func packetLength(p []byte) int {
	length, shift := 0, 0
	for i := 1; i < len(p) && i < 5; i++ {
		length |= int(p[i]&0x7F) << shift
		shift += 7
		if p[i]&0x80 == 0 {
			return min(i+1+length, len(p))
		}
	}
	return len(p)
}

// hook applies the rules.
type hook struct {
	mqtt.HookBase
	broker *Broker
}

func (h *hook) ID() string { return "rules" }

func (h *hook) Provides(b byte) bool {
	return bytes.Contains([]byte{mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish}, []byte{b})
}

func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	if c, ok := cl.Net.Conn.(*brokerConn); ok {
		c.named(cl.ID)
	}
	rule := h.broker.bent().Login
	return rule == nil || rule(cl.ID, string(pk.Connect.Username), string(pk.Connect.Password))
}

func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	rule := h.broker.bent().Subscribe
	return write || rule == nil || rule(cl.ID, topic)
}

func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	rules := h.broker.bent()
	switch {
	case rules.Close != nil && rules.Close(cl.ID, pk.TopicName, pk.Payload):
		cl.Stop(packets.ErrUnspecifiedError)
		return pk, packets.ErrRejectPacket
	case rules.Swallow != nil && rules.Swallow(cl.ID, pk.TopicName, pk.Payload):
		return pk, packets.CodeSuccessIgnore
	}
	return pk, nil
}
