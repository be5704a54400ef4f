package buffer_test

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// promised is what the child had said by some time, see cutWork.
type promised struct {
	batches  map[batchID]int  // confirmed
	journal  map[batchID]int  // confirmed parts of what is not sealed
	perhaps  map[batchID]bool // released, or recorded as lost, and not known to be durably so
	released map[batchID]bool
	lost     map[batchID]bool // named by a loss record that was released itself
	when     map[batchID]int  // the epoch in which it was confirmed, by its order
	epochs   map[uint64]int   // in which order they began
	epoch    uint64           // 0 = not opened yet
	wounded  bool             // meta was removed, and the queue has not been opened since
	version  int              // of all this
}

func newPromised() *promised {
	return &promised{
		batches: map[batchID]int{}, journal: map[batchID]int{}, perhaps: map[batchID]bool{}, released: map[batchID]bool{},
		lost: map[batchID]bool{}, when: map[batchID]int{}, epochs: map[uint64]int{},
	}
}

func (p *promised) hear(t testing.TB, said string) {
	for line := range bytes.Lines([]byte(said)) {
		var word string
		var lane uint8
		var seq uint64
		var arg int
		if n, _ := fmt.Sscan(string(line), &word, &lane, &seq, &arg); n < 4 {
			t.Fatalf("the child says %q", line)
		}
		p.version++
		id := batchID{buffer.Lane(lane), seq}
		switch word {
		case "O":
			p.epoch, p.wounded = seq, false
			p.epochs[seq] = p.order(seq)
		case "B", "J": // after a wound a number may be given anew, in another epoch
			delete(p.perhaps, id)
			delete(p.released, id)
			delete(p.lost, id)
			p.when[id] = p.order(p.epoch)
			if word == "J" {
				p.journal[id] = arg + 1
			} else {
				p.batches[id] = arg
				delete(p.journal, id)
			}
		case "f", "r":
			p.perhaps[id] = true
			delete(p.released, id)
		case "F":
			p.released[id] = true
		case "l":
			p.lost[id] = true
			p.perhaps[id] = true
		case "W":
			p.wounded = true
			clear(p.released)
			clear(p.lost)
			for id := range p.perhaps { // and its number may be given again
				delete(p.batches, id)
			}
		}
	}
}

// order is an epoch's place among the others; one that began after the cut comes last.
func (p *promised) order(epoch uint64) int {
	if n, ok := p.epochs[epoch]; ok {
		return n
	}
	return len(p.epochs)
}

// found is what a queue holds. A number may be used again after meta was lost, in another epoch: so there goes the
// order of the batch's epoch with it, and in lost that of the record's.
type found struct {
	there, lost map[batchID]int
	open        map[batchID]bool // in the journal
	broken      []string
	next        [5]uint64
}

// has says whether a batch that was confirmed in an epoch is there, or in a record of that epoch or a later one.
func (f *found) has(id batchID, epoch int) bool {
	_, there := f.there[id]
	record, lost := f.lost[id]
	return there || lost && record >= epoch
}

func (f *found) say(format string, args ...any) {
	f.broken = append(f.broken, fmt.Sprintf(format, args...))
}

// look reads everything: no wrong bytes, nothing twice, nothing both lost and there.
func (p *promised) look(q *buffer.Queue) *found {
	f := &found{there: map[batchID]int{}, lost: map[batchID]int{}, open: map[batchID]bool{}}
	copies := map[batchID]bool{}
	for _, l := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				f.say("%v", err)
				break
			}
			id := batchID{l, r.Seq}
			if r.Seq < from {
				f.say("%v comes after %d", id, from-1)
				break
			}
			from = r.Seq + 1
			f.there[id] = p.order(r.Epoch)
			f.next[l] = from
			if _, known := p.epochs[r.Epoch]; !known && r.Epoch != q.Epoch() {
				f.say("%v is of epoch %x, which never was", id, r.Epoch)
			}
			record, isLoss := parseLoss(r.Bytes)
			for _, seq := range record.gone {
				gone := batchID{record.lane, seq}
				if epoch, twice := f.lost[gone]; twice && epoch == p.order(r.Epoch) {
					f.say("%v is recorded as lost twice", gone)
				}
				f.lost[gone] = p.order(r.Epoch)
			}
			for _, seq := range record.copies {
				copies[batchID{record.lane, seq}] = true
			}
			want := buffertest.Batch(l, r.Seq, len(r.Bytes))
			if !isLoss && !bytes.HasPrefix(r.Bytes, []byte("copy ")) && (!bytes.Equal(r.Bytes, want.Bytes) || r.First != want.First || r.Samples != want.Samples) {
				f.say("%v is not what was committed", id)
			}
		}
	}
	for id, record := range f.lost {
		if epoch, there := f.there[id]; there && epoch <= record {
			f.say("%v is recorded as lost, and there", id)
		}
	}
	for id := range copies {
		if !f.has(id, 0) && !p.perhaps[id] && !p.lost[id] {
			f.say("%v: a copy that is neither there nor lost", id)
		}
	}
	return f
}

// check holds what was found to what was promised.
func (p *promised) check(q *buffer.Queue, f *found) {
	if epoch := q.Epoch(); epoch != p.epoch && p.epoch != 0 && !p.wounded {
		f.say("a new epoch began: %x after %x", epoch, p.epoch)
	}
	highest := [5]uint64{}
	use := func(id batchID) { highest[id.lane] = max(highest[id.lane], id.seq) }
	for id := range p.batches {
		if !f.has(id, p.when[id]) && !p.perhaps[id] {
			f.say("confirmed batch %v is gone", id)
		}
		use(id)
	}
	for id := range p.released {
		if _, there := f.there[id]; there {
			f.say("released batch %v is back", id)
		}
		use(id)
	}
	for id := range p.lost {
		if _, there := f.there[id]; there {
			f.say("%v was recorded as lost, and is back", id)
		}
	}
	parts := map[batchID]int{}
	for _, e := range q.Recovered() {
		id := batchID{e.Lane, e.Seq}
		_, there := f.there[id]
		if want := buffertest.Entry(e.Lane, e.Seq, parts[id]); !bytes.Equal(e.Bytes, want.Bytes) || e.Boot != want.Boot || there {
			f.say("journal of %v, part %d: %q", id, parts[id], e.Bytes)
		}
		parts[id]++
		f.open[id] = true
		use(id)
	}
	for id, n := range p.journal {
		if !f.has(id, p.when[id]) && !p.perhaps[id] && parts[id] < n {
			f.say("%d journal entries of %v, confirmed were %d", parts[id], id, n)
		}
		use(id)
	}
	lanes := q.Stats().Lanes
	for _, l := range buffer.Lanes() {
		highest[l] = max(highest[l], f.next[l]-min(f.next[l], 1))
		if next := lanes[l].Next; next <= highest[l] && !p.wounded {
			f.say("%s: %d is given next, %d is in use", l, next, highest[l])
		}
	}
}

// hold opens what a power cut has left, holds it to the promises, goes on with it, drains it, and opens it again. It
// lists what is broken.
func (p *promised) hold(dir string) []string {
	now := time.Unix(1_700_100_000, 0)
	o := cutOptions(&now)
	o.Rand = crand.Reader
	var damage []string
	o.OnDamage = func(d buffer.Damage) { damage = append(damage, d.String()) }
	q, err := buffer.Open(dir, o)
	if err != nil {
		return []string{err.Error()}
	}
	defer q.Close()
	f := p.look(q)
	p.check(q, f)
	broken := append(f.broken, damage...)
	if len(broken) > 0 {
		return broken
	}
	if err := p.goOn(q, f); err != nil {
		return []string{"going on: " + err.Error()}
	}
	epoch, lanes := q.Epoch(), q.Stats().Lanes
	if err := q.Close(); err != nil {
		return []string{"closing: " + err.Error()}
	}
	if q, err = buffer.Open(dir, o); err != nil {
		return []string{"opening again: " + err.Error()}
	}
	defer q.Close()
	again := q.Stats().Lanes
	for _, l := range buffer.Lanes() {
		if again[l].Batches != 0 || again[l].Next != lanes[l].Next {
			broken = append(broken, fmt.Sprintf("%s, drained and opened again: %+v, it was %+v", l, again[l], lanes[l]))
		}
	}
	if !q.CleanStop() || q.Epoch() != epoch || len(q.Recovered()) != 0 || len(damage) > 0 {
		broken = append(broken, fmt.Sprintf("opened again: clean %v, epoch %x after %x, %d in the journal, damage %v",
			q.CleanStop(), q.Epoch(), epoch, len(q.Recovered()), damage))
	}
	return broken
}

// goOn seals what the journal held, commits to every lane, and drains.
func (p *promised) goOn(q *buffer.Queue, f *found) error {
	var batches []buffer.Record
	for id := range f.open {
		batches = append(batches, buffertest.Batch(id.lane, id.seq, 700))
	}
	for _, l := range buffer.Lanes() {
		batches = append(batches, buffertest.Batch(l, q.Reserve(l), 5000))
	}
	var stored, refused []buffer.Record
	for _, b := range batches {
		err := q.Commit([]buffer.Record{b}, nil)
		switch {
		case errors.Is(err, buffer.ErrFull): // of what is worth more: it goes in when that is sent
			refused = append(refused, b)
		case err != nil:
			return err
		default:
			stored = append(stored, b)
		}
	}
	after := p.look(q)
	for _, b := range stored {
		if id := (batchID{b.Lane, b.Seq}); !after.has(id, 0) {
			after.say("%v was committed after the cut and is gone", id)
		}
	}
	for id := range f.there {
		if !after.has(id, 0) {
			after.say("%v was there after the cut and is gone", id)
		}
	}
	if len(after.broken) > 0 {
		return errors.New(after.broken[0])
	}
	if err := drain(q); err != nil {
		return err
	}
	for _, b := range refused {
		if err := q.Commit([]buffer.Record{b}, nil); err != nil {
			return fmt.Errorf("drained: %w", err)
		}
		if r, err := q.Next(b.Lane, b.Seq); err != nil || r.Seq != b.Seq {
			return fmt.Errorf("drained, then batch %d of %s: %d, %w", b.Seq, b.Lane, r.Seq, err)
		}
	}
	return drain(q)
}

func drain(q *buffer.Queue) error {
	for _, l := range buffer.Lanes() {
		if err := q.Release(l, buffer.Range{First: 1, Last: 1 << 60}); err != nil {
			return err
		}
	}
	return q.Sync()
}
