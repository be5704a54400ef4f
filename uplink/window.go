package uplink

import (
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// lastLane is the highest lane number; lanes count from 1.
const lastLane = buffer.Lane(telemetrypb.Lane_LANE_RAW)

// key names a batch of this queue: a new epoch counts on from the one before.
type key struct {
	lane buffer.Lane
	seq  uint64
}

// held is what must be known of a batch to believe a receipt for it.
type held struct {
	epoch   uint64
	crc     uint32
	size    uint32 // bytes of the stored batch
	samples uint32
	first   int64 // CLOCK_BOOTTIME ns
	last    int64
	flight  *flight
}

// flight is one publish.
type flight struct {
	lane    buffer.Lane // 0: the status, or a request
	request bool
	seqs    []uint64 // of its batches, ascending
	bytes   int      // of the publish
	alone   bool     // a suspect that travels alone
	large   bool     // it weighs as much as one that did not get through, and travels alone too
	weight  int      // what it counts against the payload limit
	token   mqtt.Token
	mark    mark
	lossy   bool // at its sending the link lost packets
	ackedAt time.Time
	since   time.Time // the first PUBACK of those of its batches whose receipt stayed out before; zero: none did
	tries   uint      // how often, of the one for which most did
}

// tardy is a batch whose receipt stayed out, while nobody could know that it was lost.
type tardy struct {
	since time.Time // its first PUBACK
	tries uint
}

// lane is what this process knows of one lane's batches beyond what the queue says.
type lane struct {
	liveFrom uint64    // what was committed since the connection began starts here
	taken    intervals // sent, and not known to be lost; or released since
	parked   intervals // the store keeps them until their catalogue comes
	runs     []parkedRun
	aside    intervals // suspects: they break connections, others go first
	reach    reach
	sent     intervals // sent at least once by this process
	unread   intervals // that could not be opened in this connection
	disputed intervals // a receipt named them with a wrong checksum
	overdue  bool      // a receipt stayed out too long, and none has come for this lane since
}

// parkedRun is a parked range and when it is sent again.
type parkedRun struct {
	buffer.Range
	until time.Time
}

// suspect counts the connections that broke with this batch in flight.
type suspect struct {
	losses int
	weight int
	alone  int           // of these, while it travelled alone
	mute   int           // times that the broker acknowledged it and the store, although it spoke of others, did not
	wait   time.Duration // before it is tried again
	retry  time.Time
}

// window is what has been sent and not been released. It is guarded by Uplink.mu.
type window struct {
	lanes    [lastLane + 1]lane // by lane number
	held     map[key]held
	bytes    int64     // of held
	waiting  []*flight // PUBACKed, in that order: some batch of it may still lack its receipt
	silence  uint      // probes in a row without any receipt
	probed   time.Time // the last of them
	believed time.Time // the last receipt that was believed
	resumed  time.Time // when receipts came again after a silence
	heard    time.Time // the last PUBACK of what has its receipt and was sent once
	delay    rtt       // from PUBACK to receipt
	tardy    map[key]tardy
	suspects map[key]*suspect
	unheard  []*flight // see late
}

func newWindow() window {
	return window{held: map[key]held{}, tardy: map[key]tardy{}, suspects: map[key]*suspect{}}
}

// forget drops what was sent: without the broker's session, everything that is not released is unsent again. What is
// parked stays so, and what is suspect.
func (w *window) forget() {
	clear(w.held)
	w.bytes, w.waiting = 0, nil
	for l := range w.lanes {
		w.lanes[l].taken.clear()
	}
}

// askAnew: a new connection is a reason to look whether the store is back.
func (w *window) askAnew() { w.silence, w.probed = 0, time.Time{} }

// lose makes unsent what a connection took along: what the broker has not acknowledged.
func (w *window) lose(f *flight) {
	for _, seq := range f.seqs {
		if k := (key{f.lane, seq}); w.held[k].flight == f {
			w.unsend(k)
		}
	}
}

// full says whether a lane has to wait for receipts. The backlog waits first, control and events last.
func (w *window) full(l buffer.Lane, backlog bool, count int, bytes int64) bool {
	quarters := 6
	switch {
	case l == buffer.Lane(telemetrypb.Lane_LANE_CONTROL), l == buffer.Lane(telemetrypb.Lane_LANE_EVENT):
		quarters = 8
	case backlog:
		quarters = 4
	}
	return len(w.held) >= count*quarters/4 || w.bytes >= bytes*int64(quarters)/4
}

// hold notes a batch as sent; again says whether this process has sent it before.
func (w *window) hold(k key, h held) (again bool) {
	l := &w.lanes[k.lane]
	again = l.sent.contains(k.seq)
	l.sent.add(k.seq, k.seq)
	l.taken.add(k.seq, k.seq)
	w.held[k] = h
	w.bytes += int64(h.size)
	return again
}

// drop forgets a batch that was held; it stays taken.
func (w *window) drop(k key) {
	if h, ok := w.held[k]; ok {
		w.bytes -= int64(h.size)
		delete(w.held, k)
	}
}

// unsend makes a batch unsent again.
func (w *window) unsend(k key) {
	w.drop(k)
	w.lanes[k.lane].taken.remove(k.seq, k.seq)
}

// released forgets all about a range: the queue will not name it again.
func (w *window) released(l buffer.Lane, first, last uint64) {
	for seq := first; ; seq++ {
		w.drop(key{l, seq})
		delete(w.suspects, key{l, seq})
		delete(w.tardy, key{l, seq})
		if seq == last {
			break
		}
	}
	at := &w.lanes[l]
	at.taken.add(first, last)
	at.parked.remove(first, last)
	at.aside.remove(first, last)
	at.reach.large.remove(first, last)
	at.disputed.remove(first, last)
}

// park keeps a range out of the way until a time.
func (w *window) park(l buffer.Lane, r buffer.Range, until time.Time) {
	for seq := r.First; ; seq++ {
		w.drop(key{l, seq})
		if seq == r.Last {
			break
		}
	}
	at := &w.lanes[l]
	if at.parked.covers(r.First, r.Last) {
		return
	}
	at.parked.add(r.First, r.Last)
	at.runs = append(at.runs, parkedRun{r, until})
}

// unpark makes unsent again what was parked long enough.
func (w *window) unpark(now time.Time) (any bool) {
	for l := range w.lanes {
		at := &w.lanes[l]
		keep := at.runs[:0]
		for _, run := range at.runs {
			if now.Before(run.until) {
				keep = append(keep, run)
				continue
			}
			for seq := run.First; ; seq++ {
				if at.parked.contains(seq) { // or it was released meanwhile
					at.parked.remove(seq, seq)
					at.taken.remove(seq, seq)
				}
				if seq == run.Last {
					break
				}
			}
			any = true
		}
		at.runs = keep
	}
	return any
}

// late makes batches unsent that are lost, or may be, and says how many those are. A store takes what it gets in the order in which the
// broker got it, within timeout, and so:
//
//   - What has no receipt after timeout, while something has one that was acknowledged later, is lost, and goes again at once. unheard
//     are those.
//   - What has none while the store says nothing at all: one publish at a time probes it, at intervals that double. Sending the
//     whole window over and over would cost much and help nobody.
//   - What has none while the store is at what came before it: the store is behind, and a copy would put it further behind. It
//     goes again after as long as receipts take of late, and a margin, each time twice as long.
func (w *window) late(now time.Time, timeout time.Duration) (batches int) {
	w.unheard = w.unheard[:0]
	waiting := w.waiting
	w.waiting = w.waiting[:0]
	if len(w.tardy) > maxTardy { // some were evicted meanwhile
		clear(w.tardy)
	}
	// What a store kept while it was away gets its receipt soon after it came back.
	settling := now.Sub(w.resumed) < timeout
	for _, f := range waiting {
		age := now.Sub(f.ackedAt)
		overtaken, silent := w.heard.After(f.ackedAt), !w.believed.After(f.ackedAt)
		switch {
		case age < timeout || settling,
			!overtaken && silent && now.Sub(w.probed) < timeout<<min(w.silence, maxDoublings),
			!overtaken && !silent && age < w.patience(timeout, f.tries):
			if !w.settled(f) {
				w.waiting = append(w.waiting, f)
			}
			continue
		}
		found := 0
		for _, seq := range f.seqs {
			k := key{f.lane, seq}
			if w.held[k].flight != f {
				continue
			}
			w.unsend(k)
			if overtaken {
				delete(w.tardy, k)
			} else {
				w.tardy[k] = tardy{f.first(), f.tries + 1}
			}
			found++
		}
		if found == 0 {
			continue
		}
		batches += found
		if overtaken {
			w.unheard = append(w.unheard, f)
		}
		w.lanes[f.lane].overdue = true
		if !overtaken && silent {
			w.probed = now
			w.silence++
		}
	}
	clear(waiting[len(w.waiting):])
	return batches
}

// first is when the broker had the oldest copy of it.
func (f *flight) first() time.Time {
	if f.since.IsZero() {
		return f.ackedAt
	}
	return f.since
}

// patience is how long the next copy waits for a store that is behind; patienceCap, or that of a store that is silent, at the most.
func (w *window) patience(timeout time.Duration, tries uint) time.Duration {
	most := max(timeout<<maxDoublings, patienceCap)
	return min(max(timeout, min(w.delay.bound(), most))<<min(tries, maxDoublings), most)
}

// receipted notes what a receipt says of how far the store is.
func (w *window) receipted(f *flight, now time.Time) {
	if f.ackedAt.IsZero() { // it came before the PUBACK, and all that waits was acknowledged before it
		if f.since.IsZero() {
			w.heard = now
		}
		return
	}
	took := now.Sub(f.ackedAt)
	if once := f.since.IsZero(); once && f.ackedAt.After(w.heard) {
		w.heard = f.ackedAt
	} else if !once && took < w.delay.usual { // which copy it is for cannot be known, so it may only tell of more (Karn)
		return
	}
	w.delay.add(took)
}

// rtt is a smoothed time and how far single ones are from it, by the rule of TCP's retransmission timer (RFC 6298, §2).
type rtt struct {
	known        bool
	usual, drift time.Duration
}

func (r *rtt) add(sample time.Duration) {
	if !r.known {
		r.known, r.usual, r.drift = true, sample, sample/2
		return
	}
	r.drift += ((r.usual - sample).Abs() - r.drift) / 4
	r.usual += (sample - r.usual) / 8
}

// bound is what hardly any exceeds.
func (r *rtt) bound() time.Duration { return r.usual + 4*r.drift }

// believe notes a receipt that fits; quiet says that no lane is overdue any more.
func (w *window) believe(l buffer.Lane, now time.Time) (quiet bool) {
	if w.silence > 0 {
		w.silence, w.resumed = 0, now
	}
	w.believed = now
	w.lanes[l].overdue = false
	for i := range w.lanes {
		if w.lanes[i].overdue {
			return false
		}
	}
	for _, s := range w.suspects {
		if s.mute > 0 {
			return false
		}
	}
	return true
}

// trim forgets waiting flights at the head that have all their receipts.
func (w *window) trim() {
	for len(w.waiting) > 0 && w.settled(w.waiting[0]) {
		w.waiting = w.waiting[1:]
	}
}

func (w *window) settled(f *flight) bool {
	for _, seq := range f.seqs {
		if w.held[key{f.lane, seq}].flight == f {
			return false
		}
	}
	return true
}

func (w *window) suspect(k key) *suspect {
	if w.suspects[k] == nil {
		w.suspects[k] = &suspect{}
	}
	return w.suspects[k]
}

// due says whether a suspect is to be tried now.
func (w *window) due(k key, s *suspect, now time.Time) bool {
	at := &w.lanes[k.lane]
	return at.aside.contains(k.seq) && !at.taken.contains(k.seq) && !at.parked.contains(k.seq) && !now.Before(s.retry)
}

// putOff says when a batch is tried again.
func (s *suspect) putOff(now time.Time, o *Options) {
	s.wait = min(max(2*s.wait, o.PoisonRetry), max(poisonCap, o.PoisonRetry))
	s.retry = now.Add(s.wait)
}

// suspected counts a lost connection against the batches of a flight.
func (w *window) suspected(f *flight, now time.Time, o *Options) (poison bool) {
	for _, seq := range f.seqs {
		k := key{f.lane, seq}
		s := w.suspect(k)
		s.losses++
		s.weight = int(w.held[k].size)
		if f.alone {
			s.alone++
		}
		if s.losses >= suspectLosses {
			w.lanes[k.lane].aside.add(k.seq, k.seq)
		}
		if s.alone >= poisonLosses {
			s.putOff(now, o)
			poison = true
		}
	}
	return poison
}

// cleared takes the suspicion from batches that got their PUBACK; where the PUBACK is what is doubted, from those that have
// arrived.
func (w *window) cleared(f *flight, arrived bool) {
	for _, seq := range f.seqs {
		k := key{f.lane, seq}
		if s := w.suspects[k]; s != nil && (arrived || s.mute == 0) {
			delete(w.suspects, k)
			w.lanes[k.lane].aside.remove(seq, seq)
		}
	}
}
