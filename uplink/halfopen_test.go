package uplink_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// halfOpen is within what a half-open link has to be found.
const halfOpen = 45 * time.Second

// TestHalfOpenWithDefaults: a link that is dead without a word is found in time with the timers that vehicles have,
// whichever way is dead, with publishes under way or none, and whenever between two of paho's ticks it dies. Under
// virtual time; test/chaos shows the same in real time.
func TestHalfOpenWithDefaults(t *testing.T) {
	for _, dead := range []string{"nothing comes back", "nothing gets there", "nothing is read"} {
		for _, busy := range []string{"idle", "publishing", "one publish before the ping"} {
			t.Run(fmt.Sprintf("%s, %s", dead, busy), func(t *testing.T) {
				var worst time.Duration
				for at := 20 * time.Second; at < 85*time.Second; at += 1300 * time.Millisecond {
					synctest.Test(t, func(t *testing.T) {
						worst = max(worst, findHalfOpen(t, dead, busy, at))
					})
				}
				t.Logf("found after %s at most", worst)
				if worst > halfOpen {
					t.Errorf("found after %s, want %s at most", worst, halfOpen)
				}
			})
		}
	}
}

// findHalfOpen lets a link die and says how long that went unnoticed.
func findHalfOpen(t *testing.T, dead, busy string, at time.Duration) time.Duration {
	q, err := uplinktest.NewQueue(tenant, device, epoch)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, queue: q, boot: [16]byte{1}}
	log := b.logger()
	peer := &pipeBroker{dead: make(chan struct{}), deaf: dead == "nothing is read", talks: dead == "nothing gets there"}
	u, err := uplink.New(uplink.Options{
		URL: "mqtt://broker.test", Insecure: true, Tenant: tenant, Device: device, Ack: uplink.AckPuback,
		Dial: peer.dial, Alarms: alarm.NewBoard(func() int64 { return 1 }, log), Log: log,
	}, q)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = u.Run(ctx) })
	defer func() {
		cancel()
		peer.close()
		tasks.Wait()
		peer.tasks.Wait()
	}()
	sample := []telemetrypb.Sample{telemetrypb.IntSample(1, 1, 1)}
	feed := func() {
		if _, err := q.Add(telemetry, telemetrypb.Head{BootID: b.boot, Catalogue: [16]byte{9}}, sample); err != nil {
			t.Error(err)
		}
	}
	feed()
	time.Sleep(at)
	if s := u.State(); s.Phase != uplink.Online || s.Losses != 0 || s.BatchesReleased == 0 {
		t.Fatalf("before the link died: %+v", s)
	}
	close(peer.dead)
	died := time.Now()
	for u.State().Losses == 0 {
		since := time.Since(died)
		if since > 10*time.Minute {
			t.Fatal("not found within 10 minutes")
		}
		if busy == "publishing" && since%(2*time.Second) == 0 || busy == "one publish before the ping" && since == 14*time.Second {
			feed()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(died)
}

// pipeBroker acknowledges over connections in memory until they die. A write to one that nobody reads waits, as one does
// when the kernel's buffer is full.
type pipeBroker struct {
	dead  chan struct{} // closed: the link is
	deaf  bool          // a dead link takes no bytes
	talks bool          // a dead link still brings something now and then
	tasks sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func (p *pipeBroker) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p.mu.Lock()
	p.conns = append(p.conns, far)
	p.mu.Unlock()
	p.tasks.Go(func() { p.serve(far) })
	return near, nil
}

func (p *pipeBroker) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func (p *pipeBroker) gone() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

func (p *pipeBroker) serve(c net.Conn) {
	if p.talks {
		p.tasks.Go(func() {
			<-p.dead
			for {
				m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
				m.TopicName = "somebody/else"
				if m.Write(c) != nil {
					return
				}
				time.Sleep(3 * time.Second)
			}
		})
	}
	for {
		packet, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		if p.gone() {
			if !p.deaf {
				_, _ = io.Copy(io.Discard, c)
			}
			return // without closing: nobody tells the vehicle
		}
		if reply := answer(packet); reply != nil && reply.Write(c) != nil {
			return
		}
	}
}

// answer is what a broker says to a packet; nil: nothing.
func answer(packet packets.ControlPacket) packets.ControlPacket {
	switch p := packet.(type) {
	case *packets.ConnectPacket:
		return packets.NewControlPacket(packets.Connack)
	case *packets.SubscribePacket:
		granted := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		granted.MessageID, granted.ReturnCodes = p.MessageID, []byte{1}
		return granted
	case *packets.PublishPacket:
		ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		ack.MessageID = p.MessageID
		return ack
	case *packets.PingreqPacket:
		return packets.NewControlPacket(packets.Pingresp)
	}
	return nil
}
