package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Cause is why a try to connect may fare better than the one before.
type Cause int

// The causes.
const (
	CauseNetwork     Cause = iota // a route, an address or a link has appeared
	CauseCredentials              // credentials have changed, or the clock was set
)

// hints are what Retry was told since the last try began.
type hints struct {
	told [2]atomic.Bool
	wake chan struct{} // capacity 1
}

func (h *hints) forget() {
	for i := range h.told {
		h.told[i].Store(false)
	}
	select {
	case <-h.wake:
	default:
	}
}

// Retry ends the wait for the next try to connect, but never makes two tries follow each other closer than
// Options.WakeGap. A network that has appeared changes nothing for a broker that refuses us, so that one waits on.
// Without a wait it does nothing; a hint that comes during a try counts when that fails.
func (u *Uplink) Retry(c Cause, why string) {
	if !u.hints.told[c].Swap(true) {
		u.o.Log.Debug("uplink: a try may fare better", "why", why)
	}
	signal(u.hints.wake)
}

// Reconnect leaves the connection in good order, once what was sent is acknowledged, and connects anew at once: for
// credentials that are about to expire, or a better link. Without a connection it does nothing.
func (u *Uplink) Reconnect(why string) {
	if s := u.live.Load(); s != nil {
		select {
		case s.leave <- why:
		default:
		}
	}
}

// Drop gives the connection up: the network below it is gone. Without a connection it does nothing.
func (u *Uplink) Drop(why string) {
	if s := u.live.Load(); s != nil {
		s.link.Load().kill(fmt.Errorf("given up: %s", why))
	}
}

// pause waits until the next try, and says whether what went wrong before means nothing for it: there is a new network,
// or somebody has ended the wait.
func (u *Uplink) pause(ctx context.Context, tried time.Time, wait time.Duration, refused bool) (afresh bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	network := false
	for {
		why, hurry, changed := u.rest.look()
		if why != "" || hurry {
			return true
		}
		select {
		case <-timer.C:
			return network
		case <-ctx.Done():
			return network
		case <-changed:
			continue
		case <-u.hints.wake:
		}
		network = u.hints.told[CauseNetwork].Load() && !refused
		if !network && !u.hints.told[CauseCredentials].Load() {
			continue
		}
		// A little later: an address comes before its route, a certificate before its key.
		soon := max(time.Until(tried.Add(u.o.WakeGap)), u.o.WakeGap/20) + rand.N(u.o.WakeGap/20+1)
		u.mu.Lock()
		next := time.Now().Add(soon)
		if sooner := next.Before(u.nextTry); sooner {
			u.nextTry = next
			timer.Reset(soon)
		}
		u.mu.Unlock()
	}
}

// depart ends a session in good order: nothing new is sent, what was sent gets its PUBACKs and receipts for a bounded
// time, and a DISCONNECT keeps the will from being published.
func (s *session) depart(ctx context.Context, why string) {
	s.u.o.Log.Info("uplink connects anew", "why", why)
	s.stopping.Store(true)
	limit := time.NewTimer(s.u.o.StopTimeout)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting && !s.settled(); {
		select {
		case <-tick.C:
		case m := <-s.inbox:
			s.u.receive(s, m)
		case <-s.lost:
			return
		case <-ctx.Done():
			waiting = false
		case <-limit.C:
			waiting = false
		}
	}
	s.client.Disconnect(uint(min(s.u.o.StopTimeout, 250*time.Millisecond).Milliseconds()))
	s.link.Load().kill(fmt.Errorf("left: %s", why))
}

// settled: what was sent is released, or will not be in this session.
func (s *session) settled() bool {
	s.u.mu.Lock()
	defer s.u.mu.Unlock()
	return len(s.flying) == 0 && (s.u.o.Ack == AckPuback || len(s.u.win.waiting) == 0)
}
