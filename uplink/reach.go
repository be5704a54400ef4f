package uplink

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
)

// reach is what is known of how large a publish may be to get through. Brokers of MQTT 3.1.1 have no word for it: some
// close the connection on a larger one, some acknowledge and drop it. It is guarded by Uplink.mu.
//
// A payload larger than any that got through is a trial: while it is out the others stay at half its size, and where it
// fails it takes twice as many PUBACKs as before until the next. A batch that fails alone, twice, bars all that are as
// large: they wait, and one at a time is tried, ever more rarely, until one gets through.
type reach struct {
	passed int     // weight of the largest publish that got through
	trial  *flight // nil: none is out
	misses uint    // trials in a row that failed
	barred int     // weight of the least batch that failed alone; 0: none
	wait   time.Duration
	retry  time.Time // when the next of the large batches is tried
	cursor key       // the one tried last
}

// maxMisses bounds how rare trials become: 2⁸ × growAfter PUBACKs.
const maxMisses = 8

// limitLocked is what a payload may hold now.
func (u *Uplink) limitLocked() int {
	if u.reach.trial != nil {
		return max(u.payload/2, minPayload)
	}
	return u.payload
}

// growAfter is how many PUBACKs in a row make payloads grow.
func (r *reach) growAfter() int { return growAfter << min(r.misses, maxMisses) }

// launched notes a flight that is larger than any that got through.
func (r *reach) launched(f *flight, payload int) {
	if len(f.seqs) > 1 && f.weight > payload/2 && r.passed <= payload/2 {
		r.trial = f
	}
}

// bars says whether a batch is as large as one that did not get through.
func (r *reach) bars(p *parcel) bool { return r.barred > 0 && p.weight() >= r.barred }

// through notes that flights reached whoever acknowledges for good: the store, or with AckPuback the broker.
func (u *Uplink) through(flights ...*flight) {
	u.mu.Lock()
	r := &u.reach
	for _, f := range flights {
		if f == nil {
			continue
		}
		if f == r.trial {
			r.trial = nil
		}
		if f.weight > r.passed {
			r.passed, r.misses = f.weight, 0
		}
		if r.barred > 0 && f.weight >= r.barred { // size was not it, or the limit was lifted
			r.barred, r.wait, r.retry = 0, 0, time.Time{}
			for l := range u.win.lanes {
				u.win.lanes[l].large.clear()
			}
		}
		u.win.cleared(f, true)
	}
	innocent := len(u.win.suspects) == 0
	u.mu.Unlock()
	if innocent {
		u.o.Alarms.Clear(alarmPoison)
	}
}

// failedLocked notes a flight that a lost connection took along. Brokers take packets in order: only the head of what was in
// flight may have been the cause.
func (u *Uplink) failedLocked(f *flight, head bool) {
	r := &u.reach
	if f != r.trial {
		return
	}
	r.trial = nil
	if head {
		r.misses++
		u.payload = max(min(u.payload, f.weight)/2, minPayload)
	}
}

// troubleLocked says whether a flight that a lost connection took along was not the first: a batch of it, or one of its lane
// that now waits for others, has broken connections before.
func (u *Uplink) troubleLocked(f *flight) bool {
	s := u.win.suspects[key{f.lane, f.seqs[0]}]
	return s != nil && s.losses > 1 || !u.win.lanes[f.lane].aside.empty()
}

// reached notes what a receipt says has come to the store.
func (u *Uplink) reached(found []held) {
	var last *flight
	for _, h := range found {
		if h.flight != last {
			last = h.flight
			u.through(last)
		}
	}
}

// overdueLocked deals with flights whose receipts stay out: the broker may have acknowledged and dropped them for their size.
// Text is what is known once a batch fails alone; empty: nothing.
func (u *Uplink) overdueLocked(batches int, now time.Time) (text string) {
	r := &u.reach
	if r.trial != nil && u.win.settled(r.trial) { // it is sent again, within smaller payloads
		r.trial = nil
	}
	if batches > 0 && (r.passed == 0 || u.win.silence > 1) {
		u.payload = minPayload // the next to ask a silent store goes alone
	}
	for _, f := range u.win.unheard {
		if f.weight > r.passed && len(f.seqs) > 1 {
			r.misses++
			u.payload = max(min(u.payload, f.weight)/2, minPayload)
		}
		if f.large {
			continue
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
				text = fmt.Sprintf("the broker acknowledges batch %d of lane %s and the store never hears of it, although it hears of others: a limit that drops what is larger (Mosquitto's message_size_limit) is the likely cause; %s. What is as large is kept and tried alone, now and then",
					seq, laneName(f.lane), u.barLocked(f, now))
			}
		}
	}
	return text
}

// barLocked takes a batch that failed alone for the broker's limit, and says in words what is known of that.
func (u *Uplink) barLocked(f *flight, now time.Time) string {
	r := &u.reach
	if r.passed >= f.weight {
		r.passed = 0 // it may be that the limit was lowered
	}
	if r.barred == 0 || f.weight < r.barred {
		r.barred = f.weight
	}
	if r.passed == 0 {
		return fmt.Sprintf("the batch has %d bytes, and nothing as large has got through", f.weight)
	}
	return fmt.Sprintf("the batch has %d bytes, the largest publish that got through has %d", f.weight, r.passed)
}

// tooLarge keeps a batch back that is as large as one that did not get through.
func (u *Uplink) tooLarge(p *parcel) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.reach.bars(p) {
		return false
	}
	u.win.lanes[p.key.lane].large.add(p.key.seq, p.key.seq)
	return true
}

// weight is what a batch counts in a payload of its own.
func (p *parcel) weight() int { return p.size + proto.Size(p.clock) }

// gatherLarge packs one of the batches that are as large as one that failed, where a try is due.
func (u *Uplink) gatherLarge(now time.Time) *load {
	for {
		u.mu.Lock()
		r := &u.reach
		k, ok := u.nextLargeLocked()
		if !ok || r.barred == 0 || now.Before(r.retry) {
			u.mu.Unlock()
			return nil
		}
		r.cursor = k
		u.win.lanes[k.lane].large.remove(k.seq, k.seq) // where it fails, it comes back by gather
		liveFrom := u.win.lanes[k.lane].liveFrom
		u.mu.Unlock()
		rec, err := u.queue.Next(k.lane, k.seq)
		if err != nil || rec.Seq != k.seq { // evicted meanwhile
			continue
		}
		p, err := u.open(rec)
		if err != nil {
			u.setUnreadable(rec, err)
			continue
		}
		u.mu.Lock()
		r.wait = min(max(2*r.wait, u.o.PoisonRetry), max(poisonCap, u.o.PoisonRetry))
		r.retry = now.Add(r.wait)
		u.mu.Unlock()
		p.backlog = rec.Seq < liveFrom
		cargo := &load{large: true}
		cargo.put(*p)
		return cargo
	}
}

// nextLargeLocked takes turns: the next after the one that was tried last.
func (u *Uplink) nextLargeLocked() (key, bool) {
	from := u.reach.cursor
	for turn := 0; turn <= len(u.win.lanes); turn++ {
		l := (int(from.lane) + turn) % len(u.win.lanes)
		seq := uint64(0)
		if turn == 0 {
			seq = from.seq + 1
		}
		if first, ok := u.win.lanes[l].large.first(seq); ok {
			return key{buffer.Lane(l), first}, true
		}
	}
	return key{}, false
}
