package uplink

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// reach is what is known of which batches of a lane get through. Brokers of MQTT 3.1.1 have no word for it: some close the
// connection on what is too large or denied, some acknowledge and drop it. It is guarded by Uplink.mu.
//
// A batch that failed alone, twice, bars all of its lane that are nearer to its weight than to the largest that got through,
// or the whole lane where none did: they wait, and one at a time is tried, ever more rarely, until one gets through.
type reach struct {
	passed int       // weight of the largest publish that got through; 0: none did
	failed int       // weight of the smallest batch that failed alone; 0: none did
	large  intervals // those that wait for their weight
	cursor uint64    // the one tried last
	wait   time.Duration
	retry  time.Time // when the next is tried
}

// trial is a payload of more weight than any that got through. While it is out, others stay at half its size; where it
// fails, the next one takes twice as many PUBACKs as this. Guarded by Uplink.mu.
type trial struct {
	flight *flight // nil: none is out
	misses uint    // in a row
}

// maxMisses bounds how rare trials become: 2⁵ × growAfter PUBACKs.
const maxMisses = 5

// probeChoice is among how many batches of a lane that lets nothing through the lightest is chosen, the newest aside.
const probeChoice = 8

// growAfterLocked is how many PUBACKs in a row make payloads grow: more where the next trial would be as large as what has failed.
func (u *Uplink) growAfterLocked() int {
	shift := u.trial.misses
	for l := range u.win.lanes {
		if u.win.lanes[l].reach.bars(2 * u.payload) {
			shift += maxMisses / 2
			break
		}
	}
	return growAfter << min(shift, maxMisses)
}

func (r *reach) bars(weight int) bool { return r.failed > 0 && weight > (r.passed+r.failed)/2 }

func (r *reach) shut() bool { return r.failed > 0 && r.passed == 0 }

// weight is what a batch counts in a payload of its own.
func (p *parcel) weight() int { return p.size + proto.Size(p.clock) }

// limitLocked is what a payload may hold now.
func (u *Uplink) limitLocked() int {
	if u.trial.flight != nil {
		return max(u.payload/2, minPayload)
	}
	return u.payload
}

// launchedLocked notes a flight that is a trial.
func (u *Uplink) launchedLocked(f *flight) {
	if len(f.seqs) > 1 && f.weight > u.payload/2 && u.win.lanes[f.lane].reach.passed <= u.payload/2 {
		u.trial.flight = f
	}
}

// reached notes what a receipt says has come to the store.
func (u *Uplink) reached(found []held) {
	var last *flight
	for _, h := range found {
		if h.flight != nil && h.flight != last {
			last = h.flight
			u.mu.Lock()
			u.win.receipted(last, time.Now())
			u.mu.Unlock()
			u.through(last)
		}
	}
}

// through notes that a flight got to whoever acknowledges for good: the store, or with AckPuback the broker.
func (u *Uplink) through(f *flight) {
	u.mu.Lock()
	if f == u.trial.flight {
		u.trial = trial{}
	}
	r := &u.win.lanes[f.lane].reach
	r.passed = max(r.passed, f.weight)
	if r.failed > 0 && f.weight >= r.failed { // weight was not it, or the limit was lifted
		r.failed = 0
	}
	if r.failed == 0 || f.large {
		r.wait, r.retry = 0, time.Time{} // the next at once
		r.large.clear()
	}
	u.win.cleared(f, true)
	innocent := len(u.win.suspects) == 0
	u.mu.Unlock()
	if innocent {
		u.o.Alarms.Clear(alarmPoison)
	}
}

// lostLocked notes a flight that a lost connection took along.
func (u *Uplink) lostLocked(f *flight) {
	if f.large {
		u.win.lanes[f.lane].reach.putOff(time.Now(), &u.o)
	}
	if f != u.trial.flight {
		return
	}
	// It may not have been the cause. But the PUBACKs of what went before are lost with a connection that the broker resets.
	u.trial.flight = nil
	u.trial.misses++
	u.payload = max(u.payload/2, minPayload)
}

// troubleLocked says whether a flight that a lost connection took along was not the first: a batch of it, or one of its lane
// that now waits for others, has broken connections before.
func (u *Uplink) troubleLocked(f *flight) bool {
	s := u.win.suspects[key{f.lane, f.seqs[0]}]
	return f.large || s != nil && s.losses > 1 || !u.win.lanes[f.lane].aside.empty()
}

// overdueLocked deals with flights whose receipts stay out: the broker may have acknowledged and dropped them for their size.
// Text is what is known once a batch fails alone; empty: nothing.
func (u *Uplink) overdueLocked(batches int, now time.Time) (text string) {
	if u.trial.flight != nil && u.win.settled(u.trial.flight) { // it is sent again, within smaller payloads
		u.trial.flight = nil
	}
	if batches > 0 && (u.win.believed.IsZero() || u.win.silence > 1) {
		u.payload = minPayload // the next to ask a silent store goes alone
	}
	for _, f := range u.win.unheard {
		r := &u.win.lanes[f.lane].reach
		if f.large {
			r.putOff(now, &u.o)
			continue
		}
		if len(f.seqs) > 1 && f.weight > r.passed {
			u.trial.misses++
			u.payload = max(min(u.payload, f.weight)/2, minPayload)
		}
		for _, seq := range f.seqs {
			s := u.win.suspect(key{f.lane, seq})
			if s.mute++; s.mute > 1 {
				u.win.lanes[f.lane].aside.add(seq, seq)
			}
			if len(f.seqs) > 1 {
				continue
			}
			if s.alone++; s.alone >= poisonLosses {
				s.putOff(now, &u.o)
				text = fmt.Sprintf("the broker acknowledges batch %d of lane %s and the store never hears of it, although it hears of others: a limit that drops what is larger (Mosquitto's message_size_limit) is the likely cause; %s. It is kept and tried alone, now and then, and so is what is nearly as large",
					seq, laneName(f.lane), u.barLocked(f))
			}
		}
	}
	return text
}

// barLocked takes a batch that failed alone for what the broker does not let through, and says in words what is known of its
// limit. Other suspects of the lane go free: they are barred for their weight, or were only near.
func (u *Uplink) barLocked(f *flight) string {
	at := &u.win.lanes[f.lane]
	r := &at.reach
	if r.passed >= f.weight {
		r.passed = 0 // it is not its weight, or the limit was lowered
	}
	if r.failed == 0 || f.weight < r.failed {
		r.failed = f.weight
	}
	for k, s := range u.win.suspects {
		if k.lane == f.lane && s.alone < poisonLosses {
			delete(u.win.suspects, k)
			at.aside.remove(k.seq, k.seq)
		}
	}
	if r.passed == 0 {
		return fmt.Sprintf("it has %d bytes, and of its lane nothing has got through since the last that failed", f.weight)
	}
	return fmt.Sprintf("it has %d bytes, and the largest publish that got through %d", f.weight, r.passed)
}

func (r *reach) putOff(now time.Time, o *Options) {
	r.wait = min(max(2*r.wait, o.PoisonRetry), max(poisonCap, o.PoisonRetry))
	r.retry = now.Add(r.wait)
}

// untried takes a try back that came when the session was over.
func (u *Uplink) untried(l buffer.Lane) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.win.lanes[l].reach.retry = time.Time{}
}

// barred says whether nothing of a lane is to be sent but by gatherLarge.
func (u *Uplink) barred(l buffer.Lane) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.win.lanes[l].reach.shut()
}

// tooLarge keeps a batch back that weighs as much as one that did not get through.
func (u *Uplink) tooLarge(p *parcel) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.win.lanes[p.key.lane].reach
	if !r.bars(p.weight()) {
		return false
	}
	r.large.add(p.key.seq, p.key.seq)
	return true
}

// troubled says what does not go with the mass: suspects, and what is barred by weight; and when the next of either is tried.
func (w *window) troubled() (alone, barred int, next time.Time) {
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for k, s := range w.suspects {
		if at := &w.lanes[k.lane]; at.aside.contains(k.seq) && !at.parked.contains(k.seq) {
			alone++
			sooner(s.retry)
		}
	}
	for l := range w.lanes {
		r := &w.lanes[l].reach
		for _, run := range r.large.ranges {
			barred += int(run.Last - run.First + 1)
		}
		if r.shut() || !r.large.empty() {
			sooner(r.retry)
		}
	}
	return alone, barred, next
}

// suspectDue says whether a batch is to be sent alone now.
func (u *Uplink) suspectDue(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k, s := range u.win.suspects {
		if u.win.due(k, s, now) {
			return true
		}
	}
	for l := range u.win.lanes {
		if r := &u.win.lanes[l].reach; !now.Before(r.retry) && (r.shut() || !r.large.empty()) {
			return true
		}
	}
	return false
}

// gatherLarge packs one of the batches that are barred, where a try is due.
func (u *Uplink) gatherLarge(now time.Time) *load {
	for l := buffer.Lane(1); l <= lastLane; l++ {
		if !u.allowed(telemetrypb.Lane(l)) {
			continue
		}
		u.mu.Lock()
		r := &u.win.lanes[l].reach
		due, shut, cursor, liveFrom := !now.Before(r.retry), r.shut(), r.cursor, u.win.lanes[l].liveFrom
		u.mu.Unlock()
		if !due {
			continue
		}
		var p *parcel
		if shut {
			p = u.lightest(l, cursor)
		} else {
			p = u.nextLarge(l)
		}
		u.mu.Lock()
		r.retry = now.Add(u.o.PoisonRetry)
		if p != nil {
			r.cursor = p.key.seq
			r.large.remove(p.key.seq, p.key.seq) // where it fails, it comes back by gather
		}
		u.mu.Unlock()
		if p != nil {
			p.backlog = p.key.seq < liveFrom
			cargo := &load{large: true}
			cargo.put(*p)
			return cargo
		}
	}
	return nil
}

// lightest finds what is most likely to get through a lane that is shut: of a few behind the cursor and the newest.
func (u *Uplink) lightest(l buffer.Lane, cursor uint64) (best *parcel) {
	consider := func(from uint64) (seq uint64, ok bool) {
		rec, ok := u.nextUnsent(l, from, ^uint64(0))
		if !ok {
			return 0, false
		}
		if p, err := u.open(rec); err == nil && (best == nil || p.weight() < best.weight()) {
			best = p
		}
		return rec.Seq, true
	}
	seq, ok := cursor, true
	for range probeChoice {
		if seq, ok = consider(seq + 1); !ok {
			break
		}
	}
	if newest := u.newestCommitted(l); newest > seq && ok {
		consider(newest)
	}
	if best == nil && cursor > 0 { // begin anew
		return u.lightest(l, 0)
	}
	return best
}

// nextLarge takes turns among those that are barred for their weight.
func (u *Uplink) nextLarge(l buffer.Lane) *parcel {
	r := &u.win.lanes[l].reach
	for {
		u.mu.Lock()
		seq, ok := r.large.first(r.cursor + 1)
		if !ok {
			seq, ok = r.large.first(0)
		}
		if ok {
			r.large.remove(seq, seq)
			r.cursor = seq
		}
		u.mu.Unlock()
		if !ok {
			return nil
		}
		rec, err := u.queue.Next(l, seq)
		if err != nil || rec.Seq != seq { // evicted meanwhile
			continue
		}
		p, err := u.open(rec)
		if err != nil {
			u.setUnreadable(rec, err)
			continue
		}
		return p
	}
}
