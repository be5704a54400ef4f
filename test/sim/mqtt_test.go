package sim

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// mqttBroker speaks as much of MQTT 3.1.1 as a vehicle needs: QoS 1, persistent sessions, take-over. What vehicles
// publish waits in it for the fleet. It can lose its memory after it has acknowledged.
type mqttBroker struct {
	latency time.Duration
	arrived chan struct{}                      // capacity 1: something waits for the fleet
	see     func(topic string, payload []byte) // each PUBLISH of the vehicle, as it comes in
	serving sync.WaitGroup

	mu       sync.Mutex // guards what follows
	down     bool       // refuses connections
	covered  bool       // the vehicle reaches the network
	withheld bool       // no PUBACKs
	statuses bool       // statuses wait for the fleet as well
	bound    int        // bytes after which a new connection breaks; 0: none does
	conns    map[*end]*mqttSession
	sessions map[string]*mqttSession
	waiting  []published // for the fleet, oldest first
	stats    brokerStats
}

type brokerStats struct{ connections, publishes, forgotten int }

type published struct {
	topic   string
	payload []byte
}

// mqttSession is what the broker keeps of a client beyond its connection.
type mqttSession struct {
	id      string
	filters map[string]bool
	next    uint16
	owed    []*packets.PublishPacket // sent or to be sent, not acknowledged
	conn    *end                     // nil: not connected
}

func newMQTTBroker(latency time.Duration) *mqttBroker {
	return &mqttBroker{latency: latency, arrived: make(chan struct{}, 1), covered: true, see: func(string, []byte) {},
		conns: map[*end]*mqttSession{}, sessions: map[string]*mqttSession{}}
}

// dial is uplink.Options.Dial.
func (b *mqttBroker) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	b.mu.Lock()
	covered, down, bound := b.covered, b.down, b.bound
	b.mu.Unlock()
	if !covered {
		<-ctx.Done() // SYNs vanish
		return nil, ctx.Err()
	}
	timer := time.NewTimer(2 * b.latency)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if down {
		return nil, syscall.ECONNREFUSED
	}
	vehicle, ours := newConnection(b.latency)
	if bound > 0 {
		vehicle.breakAfter(bound)
	}
	b.mu.Lock()
	b.conns[ours] = nil
	b.mu.Unlock()
	b.serving.Go(func() { b.serve(ours) })
	return vehicle, nil
}

// serve answers one connection until it ends.
func (b *mqttBroker) serve(c *end) {
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if s := b.conns[c]; s != nil && s.conn == c {
			s.conn = nil
		}
		delete(b.conns, c)
		_ = c.Close()
	}()
	var patience time.Duration
	for {
		if patience > 0 {
			_ = c.SetReadDeadline(time.Now().Add(patience)) // MQTT 3.1.1 §3.1.2.10
		}
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		if connect, ok := p.(*packets.ConnectPacket); ok {
			patience = time.Duration(connect.Keepalive) * time.Second * 3 / 2
		}
		if !b.answer(c, p) {
			return
		}
	}
}

// answer takes one packet; false ends the connection.
func (b *mqttBroker) answer(c *end, p packets.ControlPacket) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.conns[c]
	var reply packets.ControlPacket
	switch p := p.(type) {
	case *packets.ConnectPacket:
		return b.connectLocked(c, p)
	case *packets.PublishPacket:
		b.stats.publishes++
		b.see(p.TopicName, p.Payload)
		if b.statuses || ours(p.TopicName) {
			b.waiting = append(b.waiting, published{p.TopicName, p.Payload})
		}
		select {
		case b.arrived <- struct{}{}:
		default:
		}
		if b.withheld {
			return true
		}
		ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		ack.MessageID = p.MessageID
		reply = ack
	case *packets.PubackPacket:
		if s == nil {
			return false
		}
		for i, owed := range s.owed {
			if owed.MessageID == p.MessageID {
				s.owed = append(s.owed[:i:i], s.owed[i+1:]...)
				break
			}
		}
		return true
	case *packets.SubscribePacket:
		if s == nil {
			return false
		}
		ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		ack.MessageID = p.MessageID
		for i, filter := range p.Topics {
			s.filters[filter] = true
			ack.ReturnCodes = append(ack.ReturnCodes, p.Qoss[i])
		}
		reply = ack
	case *packets.PingreqPacket:
		reply = packets.NewControlPacket(packets.Pingresp)
	default: // DISCONNECT, or nothing that we know
		return false
	}
	return reply.Write(c) == nil
}

func (b *mqttBroker) connectLocked(c *end, p *packets.ConnectPacket) bool {
	s := b.sessions[p.ClientIdentifier]
	present := s != nil && !p.CleanSession
	if !present {
		s = &mqttSession{id: p.ClientIdentifier, filters: map[string]bool{}}
		b.sessions[p.ClientIdentifier] = s
	}
	if s.conn != nil {
		_ = s.conn.Close() // MQTT-3.1.4-2
	}
	s.conn, b.conns[c] = c, s
	b.stats.connections++
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.SessionPresent = present
	if ack.Write(c) != nil {
		return false
	}
	for _, owed := range s.owed {
		owed.Dup = true
		if owed.Write(c) != nil {
			return false
		}
	}
	return true
}

// publish brings a message of the fleet to whoever has subscribed to its topic.
func (b *mqttBroker) publish(topic string, payload []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		if !s.filters[topic] {
			continue
		}
		s.next = max(s.next+1, 1)
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.Qos, p.TopicName, p.Payload, p.MessageID = 1, topic, payload, s.next
		if s.owed = append(s.owed, p); len(s.owed) > 200 { // a queue has an end
			s.owed = s.owed[1:]
		}
		if s.conn != nil {
			_ = p.Write(s.conn) // the reader finds out
		}
	}
}

// take gives the fleet the oldest messages. They stay until they are settled.
func (b *mqttBroker) take(most int) []published {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]published(nil), b.waiting[:min(most, len(b.waiting))]...)
}

// settle takes out the messages that the fleet has acknowledged, unless they were forgotten meanwhile.
func (b *mqttBroker) settle(done []published) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range done {
		if len(b.waiting) == 0 || len(m.payload) == 0 || &b.waiting[0].payload[0] != &m.payload[0] {
			return
		}
		b.waiting = b.waiting[1:]
	}
}

// stop is the broker's power cut; forget: what was in memory only is gone, acknowledged or not.
func (b *mqttBroker) stop(forget bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	for c := range b.conns {
		c.reset()
	}
	if forget {
		b.stats.forgotten += len(b.waiting)
		b.waiting, b.sessions = nil, map[string]*mqttSession{}
		for c := range b.conns {
			b.conns[c] = nil
		}
	}
}

func (b *mqttBroker) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// each does something to all connections.
func (b *mqttBroker) each(f func(*end)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		f(c)
	}
}
