package uplink_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// TestReconnectLosesNothing: a connection that is left under load costs no resent batch and no will.
func TestReconnectLosesNothing(t *testing.T) {
	b := newBench(t, true)
	b.proxy.SetDelay(5 * time.Millisecond)
	o := b.options()
	o.PayloadBytes, o.WakeGap = 4<<10, time.Millisecond
	b.add(telemetry, 600)
	u, stop := b.start(o)
	for n := uint64(1); n <= 4; n++ {
		b.wait("a connection that works", func() bool {
			s := u.State()
			return s.Connections == n && s.BatchesReleased > 40*n
		})
		u.Reconnect("the test wants to")
		u.Reconnect("twice is once")
	}
	b.arrived(600)
	if s := u.State(); s.Losses != 0 || s.BatchesResent != 0 || s.Connections != 5 {
		t.Errorf("%d losses, %d batches resent, %d connections of 5", s.Losses, s.BatchesResent, s.Connections)
	}
	stop()
	u.Reconnect("without a connection nothing happens")
	u.Drop("nor here")
	u.Retry(uplink.CauseNetwork, "nor here")
}

// TestDrop: a connection whose network is gone is not waited for.
func TestDrop(t *testing.T) {
	b := newBench(t, true)
	u, _ := b.start(b.options())
	b.wait("online", func() bool { return u.State().Phase == uplink.Online })
	b.proxy.Drop(true, true)
	u.Drop("the link is gone")
	b.wait("the loss", func() bool { return u.State().Losses == 1 })
	b.proxy.Drop(false, false)
	b.add(telemetry, 3)
	b.arrived(3)
}

// TestRetryIsNoStorm: a network that flaps makes tries as far apart as WakeGap says, and one try at once.
func TestRetryIsNoStorm(t *testing.T) {
	b := newBench(t, false)
	var attempts atomic.Int32
	var mu sync.Mutex
	var at []time.Time
	o := b.options()
	o.BackoffBase, o.BackoffCap, o.WakeGap = time.Hour, 2*time.Hour, 100*time.Millisecond
	var open atomic.Bool
	o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		at = append(at, time.Now())
		mu.Unlock()
		if attempts.Add(1); !open.Load() {
			return nil, errors.New("no network")
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	u, _ := b.start(o)
	b.wait("a first try", func() bool { return attempts.Load() == 1 })
	b.wait("ten tries", func() bool {
		u.Retry(uplink.CauseNetwork, "it flaps")
		return attempts.Load() >= 10
	})
	mu.Lock()
	for i := 1; i < len(at); i++ {
		if d := at[i].Sub(at[i-1]); d < o.WakeGap*9/10 {
			t.Errorf("tries %d and %d are %s apart, want %s", i, i+1, d, o.WakeGap)
		}
	}
	mu.Unlock()
	open.Store(true)
	u.Retry(uplink.CauseNetwork, "it is there")
	b.add(telemetry, 3)
	b.arrived(3)
}

// TestAllowed: a lane that may not travel waits, the others do not; what waits goes when it may.
func TestAllowed(t *testing.T) {
	b := newBench(t, false)
	var open atomic.Bool
	o := b.options()
	o.Allowed = func(l telemetrypb.Lane) bool { return l != telemetry || open.Load() }
	b.add(telemetry, 50)
	b.add(event, 5)
	b.add(control, 5)
	u, _ := b.start(o)
	b.wait("events and control", func() bool { return b.store.Len() == 10 && u.State().BatchesReleased == 10 })
	b.add(event, 5)
	b.wait("more events", func() bool { return u.State().BatchesReleased == 15 })
	if n := b.queue.Len(); n != 50 {
		t.Errorf("%d batches held, want 50", n)
	}
	open.Store(true)
	b.arrived(65)
}

// countedConn counts for itself.
type countedConn struct {
	net.Conn
	sent, got *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.got.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// TestTrafficIsWhatTravelled: each byte below TLS is told of once, a batch's under its lane.
func TestTrafficIsWhatTravelled(t *testing.T) {
	b := newBench(t, false)
	o := b.options()
	var sent, got, lanes, other, received atomic.Int64
	var connects, failed atomic.Int32
	o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connects.Load()+failed.Load() == 0 {
			return nil, errors.New("not the first time")
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return countedConn{conn, &sent, &got}, nil
	}
	o.OnConnect = func(err error) {
		if err != nil {
			failed.Add(1)
		} else {
			connects.Add(1)
		}
	}
	o.OnTraffic = func(l telemetrypb.Lane, s, g int) {
		if l == telemetry {
			lanes.Add(int64(s))
		} else {
			other.Add(int64(s))
		}
		received.Add(int64(g))
	}
	b.add(telemetry, 100)
	size := int64(b.queue.Stats().Lanes[buffer.Lane(telemetry)].Bytes)
	u, stop := b.start(o)
	b.arrived(100)
	u.Reconnect("once more")
	b.wait("a second connection", func() bool { return u.State().Connections == 2 })
	stop()
	if n := lanes.Load(); n < size || n > size+size/10+1000 {
		t.Errorf("%d bytes for batches of %d", n, size)
	}
	if lanes.Load()+other.Load() != sent.Load() || received.Load() != got.Load() {
		t.Errorf("told of %d + %d bytes sent and %d received, on the wire were %d and %d", lanes.Load(), other.Load(), received.Load(), sent.Load(), got.Load())
	}
	if connects.Load() != 2 || failed.Load() != 1 || u.State().Attempts != 3 {
		t.Errorf("%d connects, %d failures, %d attempts", connects.Load(), failed.Load(), u.State().Attempts)
	}
}

// TestTransientCredentials: what may be over by itself is an alarm, and tried again as soon as anything else.
func TestTransientCredentials(t *testing.T) {
	b := newBench(t, false)
	var ask atomic.Int32
	o := b.options()
	o.RefusedRetry = time.Hour
	o.User = func() (string, error) { return "car", nil }
	o.Password = func() (string, error) {
		if ask.Add(1) < 4 {
			return "", &uplink.CredentialError{Text: "the token service does not answer", Transient: true}
		}
		return "now", nil
	}
	b.broker.SetRules(uplinktest.Rules{Login: func(client, _, password string) bool { return client != device || password == "now" }})
	b.add(telemetry, 3)
	u, _ := b.start(o)
	b.arrived(3)
	if u.State().Refusals != 3 || b.raised("uplink.credentials") {
		t.Errorf("%d refusals; alarm %v", u.State().Refusals, b.raised("uplink.credentials"))
	}
}
