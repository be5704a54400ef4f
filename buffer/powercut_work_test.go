package buffer_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// cutOptions are those of a queue that is small enough to do everything within some hundred commits: roll over, evict
// and thin, keep for a while what was released.
func cutOptions(now *time.Time) buffer.Options {
	return buffer.Options{
		SegmentBytes: 256 << 10, MaxBytes: 3 << 20, ControlReserve: 512 << 10, OnEvict: evicts, Thin: true,
		KeepReleased: time.Hour, Now: func() time.Time { return *now },
	}
}

// cutWork is a child at work on a queue. It says what it was promised, after it was confirmed, and what it takes back,
// before it does, in lines of a word and three numbers:
//
//	O 0 epoch 0      opened
//	B lane seq size  a batch is stored
//	J lane seq part  a journal entry is
//	f lane seq 0     may be released from now on; F: and is, durably
//	r lane seq 0     may be back
//	l lane seq 0     a loss record names it, which is released and may be gone
//	W 0 0 0          meta is going to be removed: what only it knew is not promised any more
type cutWork struct {
	dir  string
	rnd  *rand.Rand
	now  time.Time
	q    *buffer.Queue
	said strings.Builder
	open map[batchID]int // journal entries of what is not sealed
	sent []batchID       // released since the queue was opened
}

// Read makes epochs.
func (w *cutWork) Read(b []byte) (int, error) {
	return copy(b, binary.BigEndian.AppendUint64(nil, w.rnd.Uint64())), nil
}

func (w *cutWork) say(word string, id batchID, arg int) {
	fmt.Fprintln(&w.said, word, uint8(id.lane), id.seq, arg)
}

func (w *cutWork) flush() {
	os.Stdout.WriteString(w.said.String()) // one write: whole lines, or none
	w.said.Reset()
}

// childCuts works through as many lives as stand behind the seed.
func childCuts(dir, arg string) {
	var seed uint64
	var lives int
	fmt.Sscan(arg, &seed, &lives)
	w := &cutWork{dir: dir, rnd: rand.New(rand.NewPCG(seed, 3)), now: time.Unix(1_700_000_000, 0), open: map[batchID]int{}}
	for life := range lives {
		if err := w.life(life); err != nil {
			fmt.Println("E", err)
			return
		}
	}
}

// life is that of one process: it ends properly, or as in a kill; before every third one meta is lost.
func (w *cutWork) life(n int) (err error) {
	if n%3 == 2 {
		w.say("W", batchID{}, 0)
		w.flush()
		if err := os.Remove(filepath.Join(w.dir, "meta")); err != nil {
			return err
		}
	}
	o := cutOptions(&w.now)
	o.Rand = w
	if w.q, err = buffer.Open(w.dir, o); err != nil {
		return err
	}
	w.say("O", batchID{seq: w.q.Epoch()}, 0)
	w.flush()
	clear(w.open)
	w.sent = nil
	var sealed []buffer.Record
	for _, e := range w.q.Recovered() {
		id := batchID{e.Lane, e.Seq}
		if w.open[id]++; w.open[id] > 1 || w.rnd.IntN(4) == 0 {
			continue
		}
		sealed = append(sealed, buffertest.Batch(e.Lane, e.Seq, 400))
	}
	if err := w.commit(sealed, nil); err != nil {
		return err
	}
	for range 25 + w.rnd.IntN(20) {
		w.now = w.now.Add(2 * time.Minute)
		if err := w.step(); err != nil {
			return err
		}
	}
	if n%2 == 0 {
		return w.q.Close()
	}
	w.q.Abandon()
	return nil
}

func (w *cutWork) commit(batches []buffer.Record, journal []buffer.JournalEntry) error {
	err := w.q.Commit(batches, journal)
	if errors.Is(err, buffer.ErrFull) { // nothing was stored; what is given up was not promised
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range batches {
		id := batchID{r.Lane, r.Seq}
		w.say("B", id, len(r.Bytes))
		delete(w.open, id)
	}
	for _, e := range journal {
		id := batchID{e.Lane, e.Seq}
		w.say("J", id, w.open[id])
		w.open[id]++
	}
	w.flush()
	return nil
}

// step is a commit to some of the lanes, and perhaps a receipt.
func (w *cutWork) step() error {
	var batches []buffer.Record
	var journal []buffer.JournalEntry
	for _, of := range []struct {
		lane buffer.Lane
		size int
	}{{buffer.Control, 900}, {buffer.Event, 3000}, {buffer.Telemetry, 40000}, {buffer.Raw, 25000}} {
		if w.rnd.IntN(3) == 0 {
			continue
		}
		id := batchID{lane: of.lane}
		for open := range w.open { // at most one of a lane
			if open.lane == of.lane && (id.seq == 0 || open.seq < id.seq) {
				id = open
			}
		}
		if id.seq == 0 {
			id.seq = w.q.Reserve(of.lane)
		}
		if of.lane == buffer.Control && w.rnd.IntN(2) == 0 {
			continue // nothing evicts them
		}
		if of.lane != buffer.Control && w.rnd.IntN(2) > 0 {
			journal = append(journal, buffertest.Entry(id.lane, id.seq, w.open[id]))
		} else {
			batches = append(batches, buffertest.Batch(id.lane, id.seq, 100+w.rnd.IntN(of.size)))
		}
	}
	if err := w.commit(batches, journal); err != nil {
		return err
	}
	switch w.rnd.IntN(12) {
	case 0, 1, 2:
		return w.receipt()
	case 3:
		return w.recall()
	case 4:
		return w.q.Sync()
	}
	return nil
}

// receipt releases a batch somewhere, or everything up to it, so that segments go.
func (w *cutWork) receipt() error {
	lane := buffer.Lanes()[max(0, w.rnd.IntN(6)-2)] // control more often: nothing evicts it
	stats := w.q.Stats().Lanes[lane]
	if stats.Batches == 0 {
		return nil
	}
	r, err := w.q.Next(lane, stats.Oldest+w.rnd.Uint64N(stats.Newest-stats.Oldest+1))
	if errors.Is(err, buffer.ErrEmpty) { // the last ones are released
		return nil
	}
	if err != nil {
		return err
	}
	epoch, last := r.Epoch, r.Seq
	first := last
	if w.rnd.IntN(2) == 0 {
		first = stats.Oldest
	}
	var released []batchID
	for seq := first; seq <= last; {
		r, err := w.q.Next(lane, seq)
		if err != nil {
			return err
		}
		if seq = r.Seq + 1; r.Epoch != epoch || r.Seq > last {
			continue
		}
		released = append(released, batchID{lane, r.Seq})
		if record, ok := parseLoss(r.Bytes); ok {
			for _, gone := range record.gone {
				w.say("l", batchID{record.lane, gone}, 0)
			}
		}
		w.say("f", batchID{lane, r.Seq}, 0)
	}
	w.flush()
	if err := w.q.ReleaseEpoch(epoch, lane, buffer.Range{First: first, Last: last}); err != nil {
		return err
	}
	if lane != buffer.Control {
		w.sent = append(w.sent, released...)
	}
	if w.rnd.IntN(2) == 0 {
		return nil
	}
	if err := w.q.Sync(); err != nil {
		return err
	}
	for _, id := range released {
		w.say("F", id, 0)
	}
	w.flush()
	return nil
}

// recall takes back a batch that was sent and is kept.
func (w *cutWork) recall() error {
	if len(w.sent) == 0 {
		return nil
	}
	id := w.sent[w.rnd.IntN(len(w.sent))]
	w.say("r", id, 0)
	w.flush()
	_, err := w.q.Recall(w.q.Epoch(), id.lane, buffer.Range{First: id.seq, Last: id.seq})
	return err
}
