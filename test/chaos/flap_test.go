//go:build system

package chaos

import (
	"context"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// TestDuel: two agents with one name, as two vehicles with one image have it, throw each other out. Both say so, neither
// storms, and once one is gone what both hold arrives once.
func TestDuel(t *testing.T) {
	t.Parallel()
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true})
	store := attach(t, b.Addr)
	one, two := newTrial(t, device), newTrial(t, device)
	one.drive(b.Addr)
	one.wait("online", said, func() bool { return one.up.State().Phase == uplink.Online })
	two.drive(b.Addr)
	one.began = two.began
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		one.add(mass, 1, small)
		two.add(mass, 1, small)
		two.add(event, 1, small)
	}
	one.says("uplink.duel", "another client", device)
	two.says("uplink.duel", "another client", device)
	one.calm(40)
	two.calm(40)
	one.stop()
	two.drive(b.Addr)
	two.arrives(store)
	two.stop()
	one.drive(b.Addr)
	one.arrives(store)
}

// TestFlappingLink: a link that comes for 6 to 20 s and goes carries what there is, with a few tries each time.
func TestFlappingLink(t *testing.T) {
	t.Parallel()
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true})
	store := attach(t, b.Addr)
	proxy, err := uplinktest.NewProxy(b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	var up atomic.Bool
	r := newTrial(t, device)
	r.drive(proxy.Addr(), func(o *uplink.Options) {
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !up.Load() {
				return nil, syscall.ENETUNREACH
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	cycles, useful := 0, 0
	for ; time.Since(r.began) < 100*time.Second; cycles++ {
		before := r.up.State().BatchesReleased
		up.Store(true)
		r.up.Retry(uplink.CauseNetwork, "as the kernel tells") // ends a wait, no sooner than 5 s after the try before
		for end := time.Now().Add(6*time.Second + rand.N(14*time.Second)); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
			r.add(mass, 1, big)
		}
		if r.up.State().BatchesReleased > before {
			useful++
		}
		up.Store(false)
		proxy.Cut(true)
		time.Sleep(time.Second + rand.N(7*time.Second))
	}
	t.Logf("%d times up, %d of them useful; %s, %d attempts", cycles, useful, r.up.State(), r.up.State().Attempts)
	if useful*4 < cycles*3 {
		t.Errorf("data moved in %d of %d times that the link was up", useful, cycles)
	}
	r.calm(uint64(6 * cycles)) // up to five while it is away: the back-off begins anew after each PUBACK
	up.Store(true)
	r.arrives(store)
}

// TestHalfOpen: the virtual time of uplink's TestHalfOpenWithDefaults is real here, and so are the broker and the kernel's
// buffers.
func TestHalfOpen(t *testing.T) {
	b := deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true})
	store := attach(t, b.Addr)
	for name, c := range map[string]struct {
		kill func(*uplinktest.Proxy)
		busy bool
	}{
		"both ways, idle":           {func(p *uplinktest.Proxy) { p.Drop(true, true) }, false},
		"both ways, publishing":     {func(p *uplinktest.Proxy) { p.Drop(true, true) }, true},
		"upwards, idle":             {func(p *uplinktest.Proxy) { p.Drop(true, false) }, false},
		"upwards, publishing":       {func(p *uplinktest.Proxy) { p.Drop(true, false) }, true},
		"downwards, idle":           {func(p *uplinktest.Proxy) { p.Drop(false, true) }, false},
		"downwards, publishing":     {func(p *uplinktest.Proxy) { p.Drop(false, true) }, true},
		"frozen with full buffers":  {func(p *uplinktest.Proxy) { p.Freeze() }, true},
		"frozen, nothing under way": {func(p *uplinktest.Proxy) { p.Freeze() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, err := uplinktest.NewProxy(b.Addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(proxy.Close)
			r := newTrial(t, strings.NewReplacer(" ", "-", ",", "").Replace(name))
			r.drive(proxy.Addr(), func(o *uplink.Options) {
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil {
						err = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
					}
					return conn, err
				}
			})
			r.add(mass, 1, small)
			r.arrives(store)
			time.Sleep(rand.N(20 * time.Second)) // between two ticks, two pings
			before := r.up.State().Losses
			c.kill(proxy)
			died := time.Now()
			feed := func() {
				if c.busy {
					r.add(mass, 10, big)
				}
			}
			feed()
			r.wait("the loss", 2*said, func() bool {
				if time.Since(died).Milliseconds()%1000 < 10 && r.added < 400 {
					feed()
				}
				return r.up.State().Losses > before
			})
			found := time.Since(died)
			t.Logf("found after %s: %s", found.Round(time.Millisecond), r.up.State().Why)
			if found > 45*time.Second {
				t.Errorf("found after %s, want 45 s at most", found)
			}
			proxy.Drop(false, false)
			proxy.Thaw()
			proxy.Cut(true)
			r.arrives(store)
		})
	}
}
