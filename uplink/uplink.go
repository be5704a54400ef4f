package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The alarms of this package.
const (
	alarmReceipt     = "uplink.receipt"     // the broker acknowledges, the store does not
	alarmMismatch    = "uplink.mismatch"    // a receipt speaks of other bytes than ours
	alarmCredentials = "uplink.credentials" // the broker refuses us
	alarmTLS         = "uplink.tls"         // the broker is not trusted, or speaks no TLS that we do
	alarmDuel        = "uplink.duel"        // another client with our id
	alarmPoison      = "uplink.poison"      // a batch that breaks connections
	alarmQueue       = "uplink.queue"       // the queue cannot be read, or does not let go
	alarmUnreadable  = "uplink.unreadable"  // a batch in the queue cannot be sent
	alarmDenied      = "uplink.denied"      // the broker ends the connection on whatever we publish
	alarmRequest     = "uplink.request"     // the broker does not let us ask for images
	alarmUnavailable = "uplink.unavailable" // the broker hangs up before it answers CONNECT, or says that it is not available
)

// Uplink drains a queue to a broker. Run does the work; the other methods are safe for use from several goroutines at
// any time.
type Uplink struct {
	o     Options
	end   *endpoint
	queue Queue
	count counts
	tasks sync.WaitGroup          // goroutines of all sessions; the last ends at most WriteTimeout after its session
	live  atomic.Pointer[session] // nil: offline

	rest rest

	statusWanted atomic.Bool  // an alarm changed
	statusAt     atomic.Int64 // of the last status, ns on the monotonic clock since born; 0: none in this session
	born         time.Time
	trouble      atomic.Bool // the queue failed, and has not worked since
	sessions     sessionCache
	wire         wire
	hints        hints
	asks         asks

	mu      sync.Mutex // guards what follows; nothing is called from under it
	running bool
	win     window
	payload int // bytes that a payload may have now
	trial   trial
	rate    float64       // bytes/s that the last connection measured; 0: none has
	changed chan struct{} // closed and made anew at each release
	phase   Phase
	reason  string
	since   time.Time
	nextTry time.Time
	store   string // who sent the last receipt
	newest  uint64 // its generation
	rec     recall
}

// New makes an Uplink and checks its options; it opens nothing.
func New(o Options, q Queue) (*Uplink, error) {
	o, end, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	u := &Uplink{
		o: o, end: end, queue: q, win: newWindow(), payload: min(firstPayload, o.PayloadBytes), changed: make(chan struct{}),
		hints: hints{wake: make(chan struct{}, 1)}, asks: asks{turn: make(chan struct{}, 1)},
		rec:   recall{nonce: newNonce()},
		phase: Offline, reason: "not started", born: time.Now(), since: time.Now(),
	}
	if err := u.register(o.Metrics); err != nil {
		return nil, fmt.Errorf("uplink metrics: %w", err)
	}
	o.Alarms.Watch(func(alarm.Alarm) {
		u.statusWanted.Store(true)
		u.poke()
	})
	return u, nil
}

// Run connects, drains, and connects again until ctx ends; then it says goodbye and returns nil. It runs once at a
// time.
func (u *Uplink) Run(ctx context.Context) error {
	u.mu.Lock()
	if u.running {
		u.mu.Unlock()
		return errors.New("uplink: Run runs already")
	}
	u.running = true
	u.mu.Unlock()
	defer u.stopped()
	pace := pace{base: u.o.BackoffBase, cap: u.o.BackoffCap, rand: u.o.Rand}
	for ctx.Err() == nil {
		u.sleep(ctx)
		awake, cancel, ok := u.rest.session(ctx)
		if !ok {
			continue
		}
		u.hints.forget()
		u.enter(Connecting, "to "+u.end.String(), time.Time{})
		tried := time.Now()
		out := newSession(u).run(awake)
		resting := awake.Err() != nil
		cancel()
		u.account()
		if ctx.Err() != nil {
			break
		}
		if resting {
			pace.reset()
			u.o.Log.Info("uplink rests", "broker", u.end.String(), "lived", out.lived.Round(time.Millisecond), "pubacks", out.acks)
			continue
		}
		wait, phase := u.judge(out, &pace)
		why := describe(out)
		u.o.Log.Warn("uplink is offline", "broker", u.end.String(), "why", why, "lived", out.lived.Round(time.Millisecond), "pubacks", out.acks, "next_try", wait.Round(time.Millisecond))
		u.enter(phase, why, time.Now().Add(wait))
		if u.pause(ctx, tried, wait, phase == Refused && !out.untrusted()) {
			pace.failed = 0
		}
	}
	return nil
}

// stopped waits for what the sessions left behind, for a bounded time: paho may hold a Publish on a dead link for up
// to WriteTimeout.
func (u *Uplink) stopped() {
	ended := make(chan struct{})
	go func() {
		u.tasks.Wait()
		close(ended)
	}()
	timer := time.NewTimer(u.o.StopTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		u.o.Log.Warn("a publish on a dead connection is still held; it ends with its write timeout", "timeout", u.o.WriteTimeout)
	}
	u.enter(Stopped, "stopped", time.Time{})
	u.mu.Lock()
	u.running = false
	u.mu.Unlock()
}

// Drain waits until everything that was committed before the call is released, or ctx ends. Run does the work.
func (u *Uplink) Drain(ctx context.Context) error {
	var target [lastLane + 1]uint64
	for l := buffer.Lane(1); l <= lastLane; l++ {
		target[l] = u.newestCommitted(l)
	}
	for l := buffer.Lane(1); l <= lastLane; {
		u.mu.Lock()
		changed := u.changed
		u.mu.Unlock()
		rec, err := u.queue.Next(l, 0)
		if errors.Is(err, buffer.ErrEmpty) || err == nil && rec.Seq > target[l] {
			l++
			continue
		}
		if err != nil {
			return fmt.Errorf("drain: lane %s: %w", laneName(l), err)
		}
		timer := time.NewTimer(time.Second) // the queue may release by itself: eviction
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("drain: lane %s holds batches from %d on: %w", laneName(l), rec.Seq, ctx.Err())
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// poke tells the feeder that there may be something to send.
func (u *Uplink) poke() {
	if s := u.live.Load(); s != nil {
		signal(s.wake)
	}
}

// begin puts a session in charge.
func (u *Uplink) begin(s *session) {
	var newest [lastLane + 1]uint64
	for l := buffer.Lane(1); l <= lastLane; l++ {
		newest[l] = u.newestCommitted(l)
	}
	u.mu.Lock()
	s.budget.most, s.budget.places, s.budget.start = u.o.InFlightBytes, u.o.InFlight, smallPayload
	if u.rate > 0 { // a link that was slow does not begin with seconds of it
		s.budget.start = int(min(u.rate*slowPayloadTime.Seconds(), smallPayload))
	}
	u.win.askAnew()
	if !s.present { // what it had may be gone with the session
		u.win.forget()
	}
	for l := range u.win.lanes {
		u.win.lanes[l].liveFrom = newest[l] + 1
		u.win.lanes[l].unread.clear()
	}
	u.mu.Unlock()
	u.statusAt.Store(0)
	u.live.Store(s)
	u.count.connections.Add(1)
	u.enter(Online, "to "+u.end.String(), time.Time{})
	u.o.Log.Info("uplink is online", "broker", u.end.String(), "ack", string(u.o.Ack))
	signal(s.wake)
}

// finish takes a session out of charge and counts its end against what was in flight.
func (u *Uplink) finish(s *session) {
	now := time.Now()
	var poison, known = []key(nil), ""
	u.mu.Lock()
	s.dead = true
	if s.budget.known {
		u.rate = s.budget.rate()
	}
	var lost []*flight // of batches
	for _, f := range s.flying {
		if f.lane != 0 {
			lost = append(lost, f)
		}
	}
	asking := u.brokeLocked(s, now)
	denied := asking && u.asks.broke >= requestLosses
	if !s.stopping.Load() && len(lost) > 0 && !asking {
		// A broker takes packets in order: with progress only the first is under suspicion, without any each is.
		suspects := lost
		if s.acks > 0 {
			suspects = lost[:1]
		}
		for _, f := range suspects {
			if !f.large && u.win.suspected(f, now, &u.o) {
				known, s.verdict = u.barLocked(f), true
				for _, seq := range f.seqs {
					poison = append(poison, key{f.lane, seq})
				}
			}
		}
		// Short connections that carry only a few payloads waste much of what they carry.
		if now.Sub(s.began) < u.o.ResetAfter && s.ackedBytes < 4*int64(u.payload) {
			u.payload = max(u.payload/2, minPayload)
		}
	}
	s.few = s.ackedBytes < 4*int64(u.payload)
	s.mute = len(s.flying) > 0 && s.pubacks == 0
	for _, f := range lost {
		u.win.lose(f)
		u.lostLocked(f)
		s.verdict = s.verdict || f.large
	}
	s.troubled = len(lost) > 0 && u.troubleLocked(lost[0])
	s.quiet = len(s.flying) == 0
	s.flying, s.flyingBytes = nil, 0
	u.mu.Unlock()
	if !s.stopping.Load() {
		u.count.losses.Add(1)
	}
	if denied {
		u.o.Alarms.Raise(alarmRequest, fmt.Sprintf("the broker ends the connection at a request for an image, or at the subscription to what comes of it: allow %s and %s in its ACL, or leave update.mqtt out; requests wait meanwhile",
			u.topic(telemetrypb.TopicRequest), u.topic(telemetrypb.TopicChunk)))
	}
	for _, k := range poison {
		u.o.Alarms.Raise(alarmPoison, fmt.Sprintf("the broker closes the connection whenever batch %d of lane %s arrives: its packet limit or its ACL is the likely cause; %s. It is kept and tried alone, now and then, and so is what is nearly as large", k.seq, laneName(k.lane), known))
	}
}

// acked takes a PUBACK.
func (u *Uplink) acked(s *session, f *flight) {
	trip, usual, sent := u.wire.ask()
	u.mu.Lock()
	if s.dead {
		u.mu.Unlock()
		return
	}
	s.flying = s.flying[1:] // the acker takes them in the order they were made
	s.flyingBytes -= f.bytes
	s.pubacks++
	now := time.Now()
	s.budget.acked(now, f.mark, f.bytes)
	s.budget.learned(now, trip, usual, sent)
	if f.lane == 0 {
		if f.request {
			u.asks.broke, u.asks.until = 0, time.Time{}
		}
		u.mu.Unlock()
		if f.request {
			u.o.Alarms.Clear(alarmRequest)
		}
		u.o.Alarms.Clear(alarmDenied)
		u.poke()
		return
	}
	f.ackedAt = now
	s.acks++
	s.ackedBytes += int64(f.bytes)
	if 2*f.weight > u.payload { // a limit that is not used proves nothing
		s.inARow++
	}
	if s.inARow >= u.growAfterLocked() && u.payload < u.o.PayloadBytes {
		s.inARow, u.payload = 0, min(2*u.payload, u.o.PayloadBytes)
	}
	u.win.cleared(f, false)
	innocent := len(u.win.suspects) == 0
	if u.o.Ack == AckReceipt {
		u.win.waiting = append(u.win.waiting, f)
	}
	u.mu.Unlock()
	u.count.pubacks.Add(1)
	if innocent {
		u.o.Alarms.Clear(alarmPoison)
	}
	u.o.Alarms.Clear(alarmDenied)
	if u.o.Ack == AckPuback {
		u.through(f)
		u.release(f.lane, runs(f.seqs)...)
	}
	u.poke()
}

// release lets go of ranges in the queue, then here.
func (u *Uplink) release(l buffer.Lane, ranges ...buffer.Range) {
	if err := u.queue.Release(l, ranges...); err != nil {
		// They come again with the next connection.
		u.setTrouble(fmt.Sprintf("batches of lane %s that have arrived cannot be released: %v", laneName(l), err))
		return
	}
	u.endTrouble()
	u.mu.Lock()
	for _, r := range ranges {
		u.win.released(l, r.First, r.Last)
		u.arrivedAgain(l, r.First, r.Last)
		u.count.released.Add(r.Last - r.First + 1)
	}
	u.win.trim()
	close(u.changed)
	u.changed = make(chan struct{})
	u.mu.Unlock()
}

// setTrouble says once that the queue does not do as it should.
func (u *Uplink) setTrouble(text string) {
	if !u.trouble.Swap(true) {
		u.o.Log.Error("the queue fails the uplink", "text", text)
	}
	u.o.Alarms.Raise(alarmQueue, text)
}

func (u *Uplink) endTrouble() {
	if u.trouble.Load() && u.trouble.Swap(false) {
		u.o.Alarms.Clear(alarmQueue)
	}
}

// runs joins ascending seqs to ranges.
func runs(seqs []uint64) []buffer.Range {
	var out []buffer.Range
	for _, seq := range seqs {
		if n := len(out); n > 0 && out[n-1].Last+1 == seq {
			out[n-1].Last = seq
			continue
		}
		out = append(out, buffer.Range{First: seq, Last: seq})
	}
	return out
}

// tick is how often timers are looked at.
func (u *Uplink) tick() time.Duration {
	return max(min(time.Second, u.o.ReceiptTimeout/4, u.o.ParkedRetry/4, u.o.StatusEvery/4, u.o.PoisonRetry/4), 5*time.Millisecond)
}

// onTick looks at the receipts that are out and at what was parked.
func (u *Uplink) onTick(s *session, now time.Time) {
	u.mu.Lock()
	overdue := 0
	if u.o.Ack == AckReceipt {
		u.win.trim()
		overdue = u.win.late(now, u.o.ReceiptTimeout)
	}
	u.win.unpark(now)
	dropped := u.overdueLocked(overdue, now)
	u.mu.Unlock()
	u.account()
	if dropped != "" {
		u.o.Alarms.Raise(alarmPoison, dropped)
	}
	if overdue > 0 {
		u.count.overdue.Add(uint64(overdue))
		u.o.Alarms.Raise(alarmReceipt, fmt.Sprintf("%d batches have had their PUBACK but no receipt for %s or more: either the store is not running, or the broker's ACL denies this vehicle's publishes, which Mosquitto and EMQX acknowledge and drop, or they are larger than the broker allows (Mosquitto's message_size_limit acknowledges and drops), or the store may not publish on %s; they are sent again",
			overdue, u.o.ReceiptTimeout, u.topic(telemetrypb.TopicReceipt)))
	}
	u.poke()
}

// newestCommitted is the highest seq of a lane that was ever committed.
func (u *Uplink) newestCommitted(l buffer.Lane) uint64 { return u.queue.Stats().Lanes[l].Newest }

func (u *Uplink) topic(rest string) string { return telemetrypb.Topic(u.o.Tenant, u.o.Device, rest) }
