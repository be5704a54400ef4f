package uplink

import (
	"fmt"
	"testing"
	"time"
)

// path is a link in made-up time: a queue without end, a line, a delay. What is sent over it follows a budget.
type path struct {
	rate   float64       // bytes/s
	delay  time.Duration // there and back
	batch  int           // bytes; payloads are whole batches
	urgent int           // bytes of what is sent besides each second, whatever the budget says; 0: none
	event  time.Time     // the last of it

	b       budget
	now     time.Time
	free    time.Time // when the line has carried what it was given
	flying  []*flight
	acks    []time.Time // of flying
	arrived int64
	standby time.Duration // the longest that anything had to wait for the line
	most    int           // in flight
}

func newPath(rate float64, delay time.Duration, batch int) *path {
	p := &path{rate: rate, delay: delay, batch: batch, b: budget{most: 640 << 10, places: 10, start: smallPayload}, now: time.Unix(1e9, 0)}
	p.send(300) // the status
	return p
}

func (p *path) bytes() (n int) {
	for _, f := range p.flying {
		n += f.bytes
	}
	return n
}

func (p *path) send(bytes int) {
	p.flying = append(p.flying, &flight{bytes: bytes, mark: p.b.launched(p.now, p.bytes())})
	p.most = max(p.most, p.bytes())
	if p.free.Before(p.now) {
		p.free = p.now
	}
	p.free = p.free.Add(time.Duration(float64(bytes) / p.rate * float64(time.Second)))
	p.standby = max(p.standby, p.free.Sub(p.now))
	p.acks = append(p.acks, p.free.Add(p.delay))
}

// run sends for a time: all that the budget allows, or where every is above 0, one batch at each such time. It returns the
// bytes that were acknowledged in it.
func (p *path) run(lasts, every time.Duration) int64 {
	before, end := p.arrived, p.now.Add(lasts)
	p.standby, p.most = 0, 0
	for next := p.now; p.now.Before(end); {
		var wake time.Time
		if every > 0 {
			if !p.now.Before(next) {
				p.send(p.batch)
				next = next.Add(every)
			}
			p.b.ranDry(p.bytes())
			wake = next
		} else {
			for {
				limit := min(p.b.payload(), 64<<10)
				ok, wait := p.b.room(p.now, limit, p.flying)
				if len(p.flying) >= p.b.places {
					p.b.ranDry(p.bytes())
					break
				}
				if !ok {
					if wait > 0 {
						wake = p.now.Add(wait)
					}
					break
				}
				p.send(max(limit/p.batch, 1) * p.batch)
			}
		}
		if len(p.acks) > 0 && (wake.IsZero() || !p.acks[0].After(wake)) {
			p.now = p.acks[0]
			f := p.flying[0]
			p.flying, p.acks = p.flying[1:], p.acks[1:]
			p.b.acked(p.now, f.mark, f.bytes)
			if p.urgent > 0 && p.now.Sub(p.event) > time.Second {
				p.event = p.now
				p.send(p.urgent)
			}
			p.arrived += int64(f.bytes)
			continue
		}
		p.now = wake
	}
	return p.arrived - before
}

// share is what run carries, of what the line could.
func (p *path) share(lasts time.Duration) float64 {
	return float64(p.run(lasts, 0)) / p.rate / lasts.Seconds()
}

// TestBudgetFillsTheLink: any link is filled, soon, and for minutes, and no more stands before it than is needed.
func TestBudgetFillsTheLink(t *testing.T) {
	for _, c := range []struct {
		rate    float64
		delay   time.Duration
		batch   int
		share   float64
		standby time.Duration // what an event sees
	}{
		{1 << 20, 100 * time.Millisecond, 2 << 10, 0.97, 200 * time.Millisecond},
		{1 << 20, 100 * time.Millisecond, 16600, 0.97, 200 * time.Millisecond},
		{20 << 10, 40 * time.Millisecond, 2 << 10, 0.97, time.Second},
		{20 << 10, 40 * time.Millisecond, 16600, 0.95, 1400 * time.Millisecond},
		{20 << 10, 600 * time.Millisecond, 2 << 10, 0.97, 1200 * time.Millisecond},
		{1 << 20, 600 * time.Millisecond, 2 << 10, 0.85, 700 * time.Millisecond}, // 640 KiB are no more than what fills it
		{10 << 20, 20 * time.Millisecond, 2 << 10, 0.97, 100 * time.Millisecond},
		{100 << 20, time.Millisecond, 2 << 10, 0.97, 20 * time.Millisecond},
		{2 << 10, 300 * time.Millisecond, 2 << 10, 0.95, 3 * time.Second},
	} {
		t.Run(fmt.Sprintf("%.0f-%v-%d", c.rate, c.delay, c.batch), func(t *testing.T) {
			p := newPath(c.rate, c.delay, c.batch)
			p.urgent = min(300, c.batch/50)
			p.run(10*time.Second+20*c.delay, 0)
			if got := p.share(2 * time.Minute); got < c.share {
				t.Errorf("%.3f of the link, want %.2f", got, c.share)
			}
			if p.standby > c.standby {
				t.Errorf("something waits for %v, want %v at most; %d bytes in flight", p.standby, c.standby, p.most)
			}
		})
	}
}

// TestBudgetFollowsTheLink: a link that becomes slow is not flooded for long, one that becomes fast is filled again, and one
// with a longer way too.
func TestBudgetFollowsTheLink(t *testing.T) {
	p := newPath(1<<20, 100*time.Millisecond, 2<<10)
	p.run(10*time.Second, 0)
	p.rate = 20 << 10
	p.run(30*time.Second, 0)
	if p.run(time.Minute, 0); p.standby > time.Second {
		t.Errorf("on a link that has become slow something waits for %v", p.standby)
	}
	p.rate = 1 << 20
	p.run(20*time.Second, 0)
	if got := p.share(time.Minute); got < 0.95 {
		t.Errorf("%.3f of a link that has become fast", got)
	}
	p.delay = 500 * time.Millisecond
	p.run(30*time.Second, 0)
	if got := p.share(time.Minute); got < 0.9 {
		t.Errorf("%.3f of a link whose way has become long", got)
	}
	p.delay = 20 * time.Millisecond
	p.run(30*time.Second, 0)
	if p.run(time.Minute, 0); p.standby > 150*time.Millisecond {
		t.Errorf("on a link whose way has become short something waits for %v", p.standby)
	}
}

// TestBudgetOfAVehicleAtRest: a batch now and then says nothing of the link, so a backlog finds it as it was.
func TestBudgetOfAVehicleAtRest(t *testing.T) {
	p := newPath(1<<20, 100*time.Millisecond, 2<<10)
	p.run(10*time.Second, 0)
	before := p.b.rate()
	p.run(10*time.Minute, 5*time.Second)
	if got := p.b.rate(); got < before {
		t.Errorf("%.0f bytes/s after ten minutes with little to send, %.0f before", got, before)
	}
	if got := p.share(time.Second); got < 0.8 {
		t.Errorf("%.3f of the link in the first second of a backlog", got)
	}
}

// TestBudgetAndBunches: PUBACKs that were held up and come together tell how fast their payloads went, not how fast they came.
func TestBudgetAndBunches(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1e9, int64(ms)*1e6) }
	b := budget{most: 640 << 10, places: 10}
	first := b.launched(at(0), 0)
	second := b.launched(at(500), 1000)
	b.acked(at(1000), first, 1000)
	b.acked(at(1001), second, 1000)
	if got := b.rate(); got > 2000 {
		t.Errorf("%.0f bytes/s where 2000 bytes took a second", got)
	}
	third := b.launched(at(2000), 0)
	fourth := b.launched(at(2900), 1000)
	b.acked(at(2901), third, 1000)
	b.acked(at(2902), fourth, 1000)
	if got := b.rate(); got > 2300 {
		t.Errorf("%.0f bytes/s where 2000 bytes took 0.9 s to send", got)
	}
}

// TestBudgetIsBounded: whatever the link, what the options say is not exceeded, and something can always go.
func TestBudgetIsBounded(t *testing.T) {
	for _, places := range []int{1, 2, 10} {
		for _, most := range []int{1 << 10, 64 << 10} {
			for _, delay := range []time.Duration{0, 20 * time.Millisecond, time.Second} {
				p := newPath(50<<10, delay, 1<<10)
				p.b.places, p.b.most = places, most
				if got := p.run(2*time.Minute, 0); got < 20<<10 {
					t.Errorf("%d places, %d bytes, %v: %d bytes in two minutes", places, most, delay, got)
				}
				if p.run(time.Minute, 0); p.most > max(most, p.batch) {
					t.Errorf("%d bytes in flight, %d allowed", p.most, most)
				}
				if got := p.b.payload(); got < minPayload {
					t.Errorf("payloads of %d bytes", got)
				}
			}
		}
	}
}

// TestBudgetThroughStalls: a link that says nothing for half a second, again and again, is not taken for a slow one.
func TestBudgetThroughStalls(t *testing.T) {
	p := newPath(1<<20, 100*time.Millisecond, 2<<10)
	p.run(5*time.Second, 0)
	var got int64
	for range 20 {
		p.free = p.now.Add(500 * time.Millisecond)
		got += p.run(2*time.Second, 0)
	}
	if share := float64(got) / p.rate / 40; share < 0.70 { // 0.75 less a round trip to begin again
		t.Errorf("%.3f of the link", share)
	}
}

// TestBudgetOfOnePayloadARoundTrip: a fast link that was slowed to a payload in each round trip is not taken for one
// that needs the round trip to carry it, where the kernel knows how long a segment's trip is.
func TestBudgetOfOnePayloadARoundTrip(t *testing.T) {
	const trip, payload = 600 * time.Millisecond, 16 << 10
	p := newPath(1<<20, trip, payload)
	now := time.Unix(1e9, 0)
	p.b = budget{most: 640 << 10, places: 10, known: true}
	for range 20 {
		m := p.b.launched(now, 0)
		now = now.Add(trip)
		p.b.acked(now, m, payload)
		p.b.learned(now, trip, trip, segments{})
	}
	if got, want := p.b.filled(), payload*9/10; got < want {
		t.Errorf("%d bytes fill the link, want %d at least", got, want)
	}
	if got := p.b.window(2 * minPayload); got < 2*payload*9/10 {
		t.Errorf("%d bytes may be in flight", got)
	}
}

// TestBudgetWhilePacketsAreLost: while the kernel sends a part of the segments again, the kernel is offered the next payload,
// whatever the PUBACKs say, within the bound, and no longer once that is long ago.
func TestBudgetWhilePacketsAreLost(t *testing.T) {
	const trip = 200 * time.Millisecond
	p := newPath(100<<10, trip, 4<<10)
	p.run(20*time.Second, 0)
	calm := p.b.window(2 * p.b.payload())
	usual := trip + trip/10
	var all segments
	lose := func(sent, again uint32) bool {
		all.sent, all.again = all.sent+sent, all.again+again
		p.now = p.now.Add(time.Second)
		p.b.learned(p.now, trip, usual, all)
		return p.b.lossy
	}
	if lose(100, 1) {
		t.Error("a single loss makes the link a lossy one")
	}
	if lose(10_000, 9) {
		t.Error("a segment of a thousand makes the link a lossy one")
	}
	p.now = p.now.Add(time.Minute)
	for range 20 {
		if !lose(100, 2) {
			t.Fatal("two segments of a hundred lost, and the link is none that loses packets")
		}
	}
	flying := []*flight{{bytes: 4 * calm, mark: p.b.launched(p.now, 0)}}
	if ok, _ := p.b.room(p.now, 4<<10, flying); !ok {
		t.Errorf("with %d bytes in flight, %d without losses, a payload has to wait for a PUBACK", 4*calm, calm)
	}
	p.b.most = 2 * calm
	if ok, _ := p.b.room(p.now, 4<<10, flying); ok {
		t.Errorf("with %d bytes in flight and %d allowed there is room", 4*calm, p.b.most)
	}
	p.b.most = 640 << 10
	usual = 3 * trip
	if lose(100, 2) {
		t.Error("segments that stand in a queue, and the losses are the link's")
	}
	usual = trip
	if !lose(100, 2) {
		t.Error("the queue is gone, and the losses do not count")
	}
	m := p.b.launched(p.now, 0)
	p.b.delayAt = p.now.Add(-time.Hour)
	if p.b.acked(p.now.Add(2*trip), m, 4<<10); p.b.probing {
		t.Error("the link runs empty for the sake of its delay")
	}
	before := p.b.lately
	p.b.learned(p.now, 0, 0, segments{}) // the kernel says nothing of a connection that was closed
	if p.b.lately != before || p.b.trip != trip {
		t.Errorf("what a closed connection says changes the counts from %v to %v, the trip to %v", before, p.b.lately, p.b.trip)
	}
	lossy := true
	for range 60 {
		lossy = lose(100, 0)
	}
	if lossy {
		t.Error("long after the losses the link is still a lossy one")
	}
}

// TestBudgetBegins: until the rate is known the kernel judges, unless a queue shows or PUBACKs come from far behind the other end.
func TestBudgetBegins(t *testing.T) {
	const trip = 200 * time.Millisecond
	for _, c := range []struct {
		name          string
		puback, usual time.Duration
		want          bool
	}{
		{"straight", trip + trip/2, trip + trip/10, true},
		{"a queue", trip + trip/2, 3 * trip, false},
		{"behind a proxy", 10 * trip, trip, false},
	} {
		b := budget{most: 640 << 10, places: 10, start: smallPayload}
		at := time.Unix(1000, 0)
		first := b.launched(at, 0)
		flying := []*flight{{bytes: 32 << 10, mark: b.launched(at, 8<<10)}, {bytes: 32 << 10, mark: b.launched(at, 40<<10)}}
		b.acked(at.Add(c.puback), first, 8<<10)
		b.learned(at.Add(c.puback), trip, c.usual, segments{sent: 10})
		if ok, _ := b.room(at.Add(c.puback), b.payload(), flying); ok != c.want {
			t.Errorf("%s: with 64 KiB in flight another payload may go: %t", c.name, ok)
		}
	}
}
