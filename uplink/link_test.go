package uplink

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

func testQueue(t testing.TB, epoch uint64) *uplinktest.Queue {
	t.Helper()
	q, err := uplinktest.NewQueue("acme", "car", epoch)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func testUplink(t testing.TB, q Queue, change func(*Options)) *Uplink {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	o := Options{
		URL: "mqtt://127.0.0.1:1", Tenant: "acme", Device: "car", Insecure: true,
		Alarms: alarm.NewBoard(func() int64 { return 1 }, log), Log: log,
	}
	if change != nil {
		change(&o)
	}
	u, err := New(o, q)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestSocketOptions asks the kernel what it was told.
func TestSocketOptions(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u := testUplink(t, testQueue(t, 1), func(o *Options) { o.URL = "mqtt://" + l.Addr().String() })
	conn, err := u.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*wiredConn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil || got != 30_000 {
			t.Errorf("TCP_USER_TIMEOUT is %d ms, %v; want 30000", got, err)
		}
		got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		if err != nil || got != unsentBytes {
			t.Errorf("TCP_NOTSENT_LOWAT is %d bytes, %v; want %d", got, err, unsentBytes)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPace: full jitter, doubling from the base to the cap.
func TestPace(t *testing.T) {
	p := pace{base: 2 * time.Second, cap: 5 * time.Minute, rand: rand.New(rand.NewPCG(1, 1))}
	top := 2 * time.Second
	for range 20 {
		var most time.Duration
		for range 300 {
			w := p.wait()
			if w < 0 || w >= top {
				t.Fatalf("after %d failures a wait of %s, want less than %s", p.failed, w, top)
			}
			most = max(most, w)
		}
		if most < top*9/10 {
			t.Errorf("after %d failures no wait above %s of %s: the jitter is not full", p.failed, most, top)
		}
		p.failed++
		top = min(2*top, 5*time.Minute)
	}
}

// TestBackoffResets: after a PUBACK or a long life, not on connecting.
func TestBackoffResets(t *testing.T) {
	u := testUplink(t, testQueue(t, 1), nil)
	for _, c := range []struct {
		out  outcome
		want int
	}{
		{outcome{err: io.EOF}, 6},
		{outcome{online: true, lived: 10 * time.Second, err: io.EOF}, 6},
		{outcome{online: true, lived: 10 * time.Second, acks: 1, err: io.EOF}, 1},
		{outcome{online: true, lived: time.Minute, err: io.EOF}, 1},
	} {
		p := pace{base: time.Second, cap: time.Minute, rand: rand.New(rand.NewPCG(1, 1)), failed: 5}
		if _, phase := u.judge(c.out, &p); p.failed != c.want || phase != Offline {
			t.Errorf("%+v: failed = %d, want %d", c.out, p.failed, c.want)
		}
	}
	p := pace{base: time.Second, cap: time.Minute, rand: rand.New(rand.NewPCG(1, 1))}
	for _, code := range []byte{4, 5} {
		if wait, phase := u.judge(outcome{code: code, err: io.EOF}, &p); wait < 15*time.Minute/2 || wait > 15*time.Minute || phase != Refused {
			t.Errorf("CONNACK %d: %s, %s", code, wait, phase)
		}
	}
	if wait, phase := u.judge(outcome{code: 3, err: io.EOF}, &p); wait > time.Minute || phase != Offline {
		t.Errorf("CONNACK 3: %s, %s", wait, phase)
	}
}

// TestSilenceIsProbed: a silent store is asked with one publish at a time, further and further apart; when it speaks
// again, what it kept gets a receipt timeout of patience, and then all that is missing goes again.
func TestSilenceIsProbed(t *testing.T) {
	w := newWindow()
	at := time.Unix(1000, 0)
	const timeout = time.Minute
	send := func(seq uint64) {
		f := &flight{lane: 3, seqs: []uint64{seq}, ackedAt: at}
		w.hold(key{3, seq}, held{size: 10, flight: f})
		w.waiting = append(w.waiting, f)
	}
	for seq := uint64(1); seq <= 100; seq++ {
		send(seq)
	}
	probes := 0
	for range 60 * 60 {
		at = at.Add(time.Second)
		if n := w.late(at, timeout); n > 0 {
			probes++
			if n != 1 {
				t.Fatalf("%d batches go again while the store is silent", n)
			}
		}
	}
	if probes < 4 || probes > 8 {
		t.Errorf("%d probes in an hour", probes)
	}
	w.believe(3, at)
	if n := w.late(at.Add(timeout-time.Second), timeout); n != 0 {
		t.Errorf("%d batches go again at once", n)
	}
	if n := w.late(at.Add(timeout), timeout); n != 100-probes {
		t.Errorf("%d batches go again, want %d", n, 100-probes)
	}
	if len(w.held) != 0 || w.bytes != 0 {
		t.Errorf("%d batches, %d bytes are held", len(w.held), w.bytes)
	}
}

// message is what paho hands over.
type message struct {
	topic   string
	payload []byte
}

func (m message) Duplicate() bool   { return false }
func (m message) Qos() byte         { return 1 }
func (m message) Retained() bool    { return false }
func (m message) Topic() string     { return m.topic }
func (m message) MessageID() uint16 { return 1 }
func (m message) Payload() []byte   { return m.payload }
func (m message) Ack()              {}

// FuzzReceipt: whatever arrives as a receipt, only what a range with the right count and checksum names is released.
func FuzzReceipt(f *testing.F) {
	const epoch = 5
	fresh := func(t testing.TB) (*uplinktest.Queue, []uint32) {
		q := testQueue(t, epoch)
		var sums []uint32
		for i := range 6 {
			rec, err := q.Add(telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Head{BootID: [16]byte{1}, Catalogue: [16]byte{2}},
				[]telemetrypb.Sample{telemetrypb.IntSample(1, int64(i), int64(i))})
			if err != nil {
				t.Fatal(err)
			}
			view, err := telemetrypb.OpenBatch(rec.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, view.Envelope.GetCrc32C())
		}
		return q, sums
	}
	_, sums := fresh(f)
	for _, verdict := range []telemetrypb.Verdict{1, 2, 3, 4} {
		for _, flip := range []uint32{0, 1} {
			b, err := proto.Marshal(&telemetrypb.Receipt{Store: "s", Ranges: []*telemetrypb.ReceiptRange{
				{Epoch: epoch, Lane: 3, First: 2, Last: 4, Count: 3, CrcXor: sums[1] ^ sums[2] ^ sums[3] ^ flip, Verdict: verdict, WantCatalogue: make([]byte, 16)},
			}})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, sums := fresh(t)
		u := testUplink(t, q, func(o *Options) {
			o.OnRejected = func(*telemetrypb.Loss) {}
			o.OnWantCatalogue = func([16]byte) {}
		})
		u.receive(nil, message{"wb1/acme/car/down/receipt", b})
		allowed := map[uint64]bool{}
		r := new(telemetrypb.Receipt)
		if proto.Unmarshal(b, r) == nil {
			for _, g := range r.Ranges {
				var xor uint32
				if g.First < 1 || g.Last > 6 || g.First > g.Last {
					continue
				}
				for seq := g.First; seq <= g.Last; seq++ {
					xor ^= sums[seq-1]
				}
				if g.Epoch == epoch && g.Lane == 3 && xor == g.CrcXor && uint64(g.Count) == g.Last-g.First+1 && (g.Verdict == 1 || g.Verdict == 3) {
					for seq := g.First; seq <= g.Last; seq++ {
						allowed[seq] = true
					}
				}
			}
		}
		for seq := uint64(1); seq <= 6; seq++ {
			rec, err := q.Next(3, seq)
			if gone := err != nil || rec.Seq != seq; gone && !allowed[seq] {
				t.Errorf("batch %d was released by %v", seq, r)
			}
		}
	})
}
