package uplink

import (
	"testing"
	"time"
)

// behind is a store that takes what it gets in order, so many a second, and a vehicle that sends it a batch a second.
type behind struct {
	w       window
	now     time.Time
	line    []*flight // at the store, in order
	pace    func(second int) int
	lost    func(seq uint64, copy int) bool // on the way to the store
	copies  map[uint64]int
	arrived map[uint64]time.Time
	next    uint64
	unheard int
}

func (b *behind) send(seq uint64) {
	f := &flight{lane: 3, seqs: []uint64{seq}, ackedAt: b.now}
	if t, late := b.w.tardy[key{3, seq}]; late {
		f.since, f.tries = t.since, t.tries
	}
	b.w.hold(key{3, seq}, held{size: 10, flight: f})
	b.w.waiting = append(b.w.waiting, f)
	b.copies[seq]++
	if b.lost == nil || !b.lost(seq, b.copies[seq]) {
		b.line = append(b.line, f)
	}
}

// run lets seconds pass; for the first `driving` of them there is a new batch each.
func (b *behind) run(seconds, driving int, timeout time.Duration) {
	b.w, b.now = newWindow(), time.Unix(1000, 0)
	b.copies, b.arrived = map[uint64]int{}, map[uint64]time.Time{}
	for second := range seconds {
		b.now = b.now.Add(time.Second)
		for seq, _ := b.w.lanes[3].nextFree(1); seq <= b.next; seq, _ = b.w.lanes[3].nextFree(seq + 1) { // unsent, oldest first
			b.send(seq)
		}
		if second < driving {
			b.next++
			b.send(b.next)
		}
		for range min(b.pace(second), len(b.line)) {
			f := b.line[0]
			b.line = b.line[1:]
			seq := f.seqs[0]
			if h, open := b.w.held[key{3, seq}]; open {
				b.w.receipted(h.flight, b.now)
				b.w.released(3, seq, seq)
				b.arrived[seq] = b.now
			}
			b.w.believe(3, b.now)
		}
		b.w.late(b.now, timeout)
		b.unheard += len(b.w.unheard)
	}
}

func (b *behind) sent() (n int) {
	for _, copies := range b.copies {
		n += copies
	}
	return n
}

// TestAStoreThatIsBehindIsNotPutFurtherBehind: a store that takes less than comes for a while, or was away, gets few copies.
func TestAStoreThatIsBehindIsNotPutFurtherBehind(t *testing.T) {
	for name, pace := range map[string]func(second int) int{
		"away for a quarter of an hour": func(second int) int {
			if second > 100 && second < 1000 {
				return 0
			}
			return 2
		},
		"half as fast for a while": func(second int) int {
			if second < 1000 {
				return second & 1
			}
			return 2
		},
		"a third as fast": func(second int) int {
			if second%3 > 0 {
				return 0
			}
			return 1
		},
	} {
		b := &behind{pace: pace}
		const driving = 1200
		b.run(2*3600, driving, 45*time.Second)
		if len(b.arrived) != driving || len(b.w.held) != 0 || len(b.w.tardy) != 0 {
			t.Errorf("%s: %d of %d arrived, %d are held, %d tardy", name, len(b.arrived), driving, len(b.w.held), len(b.w.tardy))
		}
		if n := b.sent(); n > driving*8/5 {
			t.Errorf("%s: %d batches were sent %d times", name, driving, n)
		}
		if b.unheard > 0 {
			t.Errorf("%s: %d are taken for lost, and nothing was", name, b.unheard)
		}
		t.Logf("%s: %d batches, sent %d times", name, driving, b.sent())
	}
}

// TestWhatIsLostGoesAgainSoon: what was sent later has its receipt, so it is lost, and goes again after one receipt timeout, however
// far behind the store was before; what nothing follows goes again as well.
func TestWhatIsLostGoesAgainSoon(t *testing.T) {
	b := &behind{
		pace: func(second int) int {
			if second < 600 {
				return 0
			}
			return 4
		},
		lost: func(seq uint64, copy int) bool {
			return copy == 1 && seq >= 1500 && seq%20 == 0 || seq == 2000 && copy < 4
		},
	}
	const driving, timeout = 2000, 45 * time.Second
	b.run(2*3600, driving, timeout)
	if len(b.arrived) != driving {
		t.Errorf("%d of %d arrived", len(b.arrived), driving)
	}
	for seq := uint64(1500); seq < 2000; seq += 20 {
		sent := time.Unix(1000+int64(seq), 0)
		if b.copies[seq] != 2 || b.arrived[seq].Sub(sent) > timeout+5*time.Second {
			t.Errorf("batch %d: %d copies, %v", seq, b.copies[seq], b.arrived[seq].Sub(sent))
		}
	}
	if b.unheard < 24 {
		t.Errorf("%d are taken for lost, 25 are", b.unheard)
	}
	if late := b.arrived[2000].Sub(time.Unix(3000, 0)); late > time.Hour {
		t.Errorf("the last, of which three copies are lost, arrived after %v", late)
	}
}

// TestPatienceHasAnEnd, however long receipts took and however often nothing came.
func TestPatienceHasAnEnd(t *testing.T) {
	w := newWindow()
	w.delay.add(30 * 24 * time.Hour)
	for _, tries := range []uint{0, 3, 100} {
		if d := w.patience(45*time.Second, tries); d != time.Hour {
			t.Errorf("after %d tries %v", tries, d)
		}
	}
}

// TestReceiptBeforeItsPuback: a store that is faster than the broker's acknowledgement shows what was lost before.
func TestReceiptBeforeItsPuback(t *testing.T) {
	w, now := newWindow(), time.Unix(1000, 0)
	lost := &flight{lane: 3, seqs: []uint64{1}, ackedAt: now}
	w.hold(key{3, 1}, held{size: 10, flight: lost})
	w.waiting = append(w.waiting, lost)
	w.receipted(&flight{lane: 3, seqs: []uint64{2}}, now.Add(time.Second))
	w.believe(3, now.Add(time.Second))
	if n := w.late(now.Add(time.Minute), 45*time.Second); n != 1 || len(w.unheard) != 1 {
		t.Errorf("%d go again, %d are taken for lost", n, len(w.unheard))
	}
}
