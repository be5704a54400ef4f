package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Why Ask does not ask.
var (
	ErrOffline = errors.New("there is no connection to the broker")
	ErrHeld    = errors.New("this link's rules hold the lane raw, and images with it")
	ErrBusy    = errors.New("the link takes no request now")
)

// bulk is the lane by whose rules of links images travel: nothing is less urgent.
const bulk = telemetrypb.Lane_LANE_RAW

const (
	maxRequest = 4 << 10 // bytes

	// A broker that denies something ends the connection, or says so. A connection that ends at a request may be chance once.
	requestLosses  = 2
	requestWait    = time.Minute // after a denial, doubled with each further one
	requestWaitCap = time.Hour

	// chunkHead is what MQTT puts before a payload beside the topic: kind, length, the topic's length, packet id (3.1.1 §3.3).
	chunkHead = 8
)

// asks is what is known of requests beyond a connection.
type asks struct {
	turn chan struct{} // capacity 1: there is one request at a time

	// Guarded by Uplink.mu.
	broke int       // denials, or connections in a row that ended at a request
	until time.Time // no request before this
}

// request is one on its way.
type request struct {
	payload []byte
	over    chan struct{} // closed when err stands
	err     error
}

// hearing is whether a connection is subscribed to chunks.
type hearing uint8

const (
	deaf hearing = iota
	asked
	hears
)

// Ask publishes a request for bytes of an image on up/request, and subscribes to their topic, down/chunk, before the first one of a
// connection. It returns when the request is on its way; what comes of it goes to Options.OnChunk. An error says why it is not sent now:
// ErrOffline, ErrHeld, ErrBusy, or that the broker denied it. It waits for at most Options.AckTimeout, behind control and events.
//
// Its subscription is made here and not at the start, since a broker may end a connection for one that it denies: what has to be sent
// must not be held up by an image.
func (u *Uplink) Ask(ctx context.Context, payload []byte) error {
	if u.o.OnChunk == nil || len(payload) == 0 || len(payload) > maxRequest {
		return fmt.Errorf("a request of %d bytes: want 1 to %d, and somebody who takes the answers", len(payload), maxRequest)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, u.o.AckTimeout, ErrBusy)
	defer cancel()
	select {
	case u.asks.turn <- struct{}{}:
		defer func() { <-u.asks.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r := &request{payload: payload, over: make(chan struct{})}
	s, err := u.offer(r, time.Now())
	if err != nil {
		return err
	}
	signal(s.wake)
	err = ErrOffline
	select {
	case <-r.over:
		return r.err
	case <-s.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-r.over: // meanwhile
		return r.err
	default:
	}
	s.request = nil
	return err
}

// offer gives a request to the connection.
func (u *Uplink) offer(r *request, now time.Time) (*session, error) {
	if !u.allowed(bulk) {
		return nil, ErrHeld
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if wait := u.asks.until.Sub(now); wait > 0 {
		return nil, fmt.Errorf("the broker denied the last request; the next one may go in %s", wait.Round(time.Second))
	}
	s := u.live.Load()
	if s == nil || s.dead || s.stopping.Load() {
		return nil, ErrOffline
	}
	s.request = r
	return s, nil
}

// nextRequest is the request that waits, as soon as there is room for it and the broker lets its answers through.
func (s *session) nextRequest(now time.Time) (*flight, []byte) {
	u := s.u
	u.mu.Lock()
	r := s.request
	subscribe := r != nil && s.hears == deaf
	if subscribe {
		s.hears = asked
	}
	ready := r != nil && s.hears == hears
	u.mu.Unlock()
	if subscribe {
		u.tasks.Go(s.subscribeChunks)
	}
	if !ready || !u.allowed(bulk) || !s.room(now, 0, false).free {
		return nil, nil
	}
	f := &flight{request: true, bytes: len(r.payload)}
	if !s.launch(f, nil) {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s.request == r {
		s.request = nil
		close(r.over)
	}
	u.count.requests.Add(1)
	return f, r.payload
}

// subscribeChunks subscribes. A broker that refuses, or does not answer, costs the request and not the connection; one that ends the
// connection is brokeLocked's to see.
func (s *session) subscribeChunks() {
	u := s.u
	topic := u.topic(telemetrypb.TopicChunk)
	timeout := time.NewTimer(u.o.AckTimeout)
	defer timeout.Stop()
	token := s.client.Subscribe(topic, 1, nil).(*mqtt.SubscribeToken)
	select {
	case <-token.Done():
	case <-s.done:
		return
	case <-timeout.C:
	}
	granted := false
	select {
	case <-token.Done():
		code, answered := token.Result()[topic]
		if !answered {
			return
		}
		granted = code <= 2 // 0x80: refused (MQTT 3.1.1 §3.9.3)
	default:
	}
	u.mu.Lock()
	if granted {
		s.hears = hears
	} else {
		s.hears = deaf
		u.denyLocked(time.Now())
		if r := s.request; r != nil {
			r.err = fmt.Errorf("the broker refuses the subscription to %s", topic)
			s.request = nil
			close(r.over)
		}
	}
	u.mu.Unlock()
	if !granted {
		u.o.Alarms.Raise(alarmRequest, fmt.Sprintf("the broker refuses the subscription to %s, so no image can come over MQTT: allow it in the broker's ACL, or leave update.mqtt out", topic))
	}
	u.poke()
}

// denyLocked puts the next request off.
func (u *Uplink) denyLocked(now time.Time) {
	u.asks.until = now.Add(min(requestWait<<min(u.asks.broke, 10), requestWaitCap))
	u.asks.broke++
}

// brokeLocked looks at a connection that has ended: was it a request, or the subscription, that the broker ended it for? Then no batch is
// under suspicion, and where it happens again requests wait.
func (u *Uplink) brokeLocked(s *session, now time.Time) bool {
	if s.stopping.Load() || s.hears != asked && (len(s.flying) == 0 || !s.flying[0].request) {
		return false
	}
	if u.asks.broke++; u.asks.broke >= requestLosses {
		u.asks.until = now.Add(min(requestWait<<min(u.asks.broke-requestLosses, 10), requestWaitCap))
	}
	return true
}

// takeChunk takes a message with a part of an image.
func (u *Uplink) takeChunk(m mqtt.Message) {
	u.count.chunks.Add(1)
	u.received(len(m.Payload()) + len(m.Topic()) + chunkHead)
	if err := u.o.OnChunk(m.Payload()); err != nil {
		u.count.chunksDropped.Add(1)
		u.o.Log.Debug("a chunk is dropped", "bytes", len(m.Payload()), "why", err)
	}
}

// received tells of a chunk's bytes. They may be told of before account has seen them, and are then taken off the next sum.
func (u *Uplink) received(bytes int) {
	if u.o.OnTraffic == nil {
		return
	}
	u.wire.mu.Lock()
	u.wire.chunks += uint64(bytes)
	u.wire.mu.Unlock()
	u.o.OnTraffic(bulk, 0, bytes)
}
