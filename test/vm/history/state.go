// Package history holds an agent's queue to what was confirmed before its power was cut, over any number of cuts of the
// same queue. Look says what a queue holds, in the guest; History compares that with what the agent had said. It is
// used by tests only and writes nothing.
package history

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Name is what a batch is called within one queue.
type Name struct {
	Lane buffer.Lane
	Seq  uint64
}

func (n Name) String() string { return fmt.Sprintf("%s %d", n.Lane, n.Seq) }

// Batch is a sealed batch as it stands in the queue.
type Batch struct {
	Name
	Epoch   uint64
	Samples int
	Boot    string // the boot's id, hexadecimal
	Count   uint32 // which boot that is
	First   int64  // CLOCK_BOOTTIME ns
	Last    int64
	Sum     string // of its bytes
	Copy    bool   // a thinned one, which stands for others
}

// Open is what the journal holds of a batch that is not sealed.
type Open struct {
	Name
	Samples int
	Boot    string
	Last    int64
}

// Lost is a range of batches that a loss record names.
type Lost struct {
	Lane        buffer.Lane
	First, Last uint64
}

// State is what a queue holds.
type State struct {
	Epoch   uint64
	Next    map[buffer.Lane]uint64 // numbers that come next
	Batches []Batch
	Journal []Open
	Lost    []Lost
	Damage  []string
	Bytes   int64 // blocks on disk
}

// Look reads the whole queue in dir without changing it.
func Look(dir string) (*State, error) {
	s := &State{Next: map[buffer.Lane]uint64{}}
	q, err := buffer.Open(dir, buffer.Options{
		ReadOnly: true, OnDamage: func(d buffer.Damage) { s.Damage = append(s.Damage, d.String()) },
	})
	if err != nil {
		return nil, err
	}
	defer q.Close()
	s.Epoch = q.Epoch()
	for _, l := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				return nil, err
			}
			if err := s.take(&r); err != nil {
				return nil, fmt.Errorf("batch %s %d: %w", l, r.Seq, err)
			}
			from = r.Seq + 1
		}
	}
	for _, e := range q.Recovered() {
		if err := s.journaled(&e); err != nil {
			return nil, fmt.Errorf("journal of %s %d: %w", e.Lane, e.Seq, err)
		}
	}
	stats := q.Stats()
	s.Bytes = stats.DiskBytes
	for l, lane := range stats.Lanes {
		s.Next[l] = lane.Next
	}
	return s, nil
}

// take decodes a batch to its last sample.
func (s *State) take(r *buffer.Record) error {
	view, err := telemetrypb.OpenBatch(r.Bytes)
	if err != nil {
		return err
	}
	e := view.Envelope
	if buffer.Lane(e.Lane) != r.Lane || e.Seq != r.Seq || e.Epoch != r.Epoch {
		return fmt.Errorf("calls itself lane %d, seq %d, epoch %x", e.Lane, e.Seq, e.Epoch)
	}
	sum := sha256.Sum256(r.Bytes)
	s.Batches = append(s.Batches, Batch{
		Name: Name{r.Lane, r.Seq}, Epoch: r.Epoch, Samples: int(e.Samples), Boot: hex.EncodeToString(e.BootId), Count: e.BootCount,
		First: r.First, Last: r.Last, Sum: hex.EncodeToString(sum[:12]), Copy: len(e.Supersedes) > 0,
	})
	if r.Lane != buffer.Control {
		_, err := view.Samples(nil)
		return err
	}
	records, err := view.Records()
	if err != nil {
		return err
	}
	for _, record := range records.GetRecords() {
		loss := record.GetLoss()
		for _, seqs := range loss.GetSeqs() {
			s.Lost = append(s.Lost, Lost{buffer.Lane(loss.GetLane()), seqs.GetFirst(), seqs.GetLast()})
		}
	}
	return nil
}

// journaled takes an entry in.
func (s *State) journaled(e *buffer.JournalEntry) error {
	before, samples, err := pipeline.DecodeJournal(nil, e.Bytes)
	if err != nil {
		return err
	}
	name := Name{e.Lane, e.Seq}
	if i := len(s.Journal) - 1; i < 0 || s.Journal[i].Name != name {
		s.Journal = append(s.Journal, Open{Name: name, Boot: hex.EncodeToString(e.Boot[:])})
	}
	open := &s.Journal[len(s.Journal)-1]
	if int(before) != open.Samples {
		return fmt.Errorf("an entry of what follows %d samples comes behind %d", before, open.Samples)
	}
	open.Samples += len(samples)
	for _, sample := range samples {
		open.Last = max(open.Last, sample.Time)
	}
	return nil
}
