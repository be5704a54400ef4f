package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// memStore is a store.Store in memory for one vehicle, with the rules of the one in SQLite as far as the weeks need
// them: a key once, parked until the catalogue comes, dated again with each clock record, gaps counted. A thousand
// weeks go through it in the time that ten take in SQLite. It is used by one goroutine at a time.
type memStore struct {
	store.Store // nil: what is not written here is not called
	generation  uint64
	s           memState
}

type memState struct {
	batches    map[store.Key]*memBatch
	order      []*memBatch // by id, from 1
	catalogues map[[16]byte]*store.Catalogue
	assembling map[[32]byte]*telemetrypb.CatalogueAssembler
	signals    []string // by row, from 1
	clocks     map[[16]byte]*telemetrypb.ClockRecord
	retimings  map[[16]byte]int64
	losses     []*telemetrypb.Loss
	letters    []store.DeadLetter
	receipts   uint64
}

type memBatch struct {
	store.Batch
	rows []store.Row
}

func newMemStore() *memStore {
	return &memStore{generation: 1, s: memState{batches: map[store.Key]*memBatch{}, catalogues: map[[16]byte]*store.Catalogue{},
		assembling: map[[32]byte]*telemetrypb.CatalogueAssembler{}, clocks: map[[16]byte]*telemetrypb.ClockRecord{}, retimings: map[[16]byte]int64{}}}
}

// copy is a backup.
func (m *memStore) copy() memState {
	c := m.s
	c.batches = map[store.Key]*memBatch{}
	c.order = nil
	for _, b := range m.s.order {
		kept := *b
		kept.rows = slices.Clone(b.rows)
		c.batches[b.Key] = &kept
		c.order = append(c.order, &kept)
	}
	c.catalogues, c.clocks, c.retimings = maps.Clone(m.s.catalogues), maps.Clone(m.s.clocks), maps.Clone(m.s.retimings)
	c.assembling = map[[32]byte]*telemetrypb.CatalogueAssembler{}
	c.signals, c.losses, c.letters = slices.Clone(m.s.signals), slices.Clone(m.s.losses), slices.Clone(m.s.letters)
	return c
}

// restore puts a backup in the place of the store, which is another generation from then on.
func (m *memStore) restore(c memState) { m.s, m.generation = c, m.generation+1 }

func (m *memStore) Name() string       { return "memory" }
func (m *memStore) Generation() uint64 { return m.generation }
func (m *memStore) Close() error       { return nil }

func (m *memStore) Update(_ context.Context, f func(store.Tx) error) error { return f(memTx{s: &m.s}) }

// Samples gives all rows, batch by batch in the order of their arrival.
func (m *memStore) Samples(_ context.Context, _ store.Query, f func(*store.Reading) error) error {
	for _, b := range m.s.order {
		for _, row := range b.rows {
			if err := f(&store.Reading{Key: b.Key, Index: row.Index, BootID: b.BootID, BootNS: row.BootNS, Time: row.Time,
				Signal: m.s.signals[row.Signal-1], Raw: row.Raw, Value: row.Value}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memStore) Losses(context.Context, string) (list []store.LossEntry, err error) {
	for _, l := range m.s.losses {
		e := store.LossEntry{Reason: l.GetReason().String(), Source: l.GetSource(), Count: l.GetCount(), CountIsBound: l.GetCountIsBound(),
			CountUnknown: l.GetCountUnknown(), Unit: l.GetUnit(), BootID: fmt.Sprintf("%x", l.GetBootId()), FirstNS: l.GetFirstNs(), LastNS: l.GetLastNs(),
			Epoch: fmt.Sprintf("%016x", l.GetEpoch()), Lane: telemetrypb.LaneName(l.GetLane()), Detail: l.GetDetail()}
		for _, r := range l.GetSeqs() {
			e.Seqs = append(e.Seqs, store.Range{First: r.GetFirst(), Last: r.GetLast()})
		}
		list = append(list, e)
	}
	return list, nil
}

func (m *memStore) Totals() (t store.Totals) {
	type lane struct {
		epoch uint64
		lane  telemetrypb.Lane
	}
	seen := map[lane]map[uint64]bool{}
	note := func(l lane, first, last uint64) {
		if seen[l] == nil {
			seen[l] = map[uint64]bool{}
		}
		for seq := first; seq <= last; seq++ {
			seen[l][seq] = true
		}
	}
	for _, b := range m.s.order {
		note(lane{b.Epoch, b.Lane}, b.Seq, b.Seq)
		t.Batches++
		t.Samples += int64(len(b.rows))
		switch b.State {
		case store.StateParked:
			t.Parked++
		case store.StateRejected:
			t.Rejected++
		}
	}
	for _, l := range m.s.losses {
		t.Losses++
		for _, r := range l.GetSeqs() {
			note(lane{l.GetEpoch(), l.GetLane()}, r.GetFirst(), r.GetLast())
		}
	}
	for _, seqs := range seen {
		newest := uint64(0)
		for seq := range seqs {
			newest = max(newest, seq)
		}
		t.Gaps += newest - uint64(len(seqs))
	}
	t.Letters = int64(len(m.s.letters))
	return t
}

// Lacks knows one vehicle of one epoch, as Totals does.
func (m *memStore) Lacks(_ int64, given []store.Given, _ int) (list []store.Lack, more bool) {
	type lane struct {
		epoch uint64
		lane  telemetrypb.Lane
	}
	known, last := map[lane]*store.Ranges{}, map[lane]uint64{}
	note := func(l lane, first, to uint64) {
		if known[l] == nil {
			known[l] = &store.Ranges{}
		}
		known[l].Add(first, to)
	}
	for _, b := range m.s.order {
		l := lane{b.Epoch, b.Lane}
		note(l, b.Seq, b.Seq)
		last[l] = max(last[l], b.Seq)
	}
	for _, l := range m.s.losses {
		for _, r := range l.GetSeqs() {
			note(lane{l.GetEpoch(), l.GetLane()}, r.GetFirst(), r.GetLast())
		}
	}
	for _, g := range given {
		l := lane{g.Epoch, g.Lane}
		note(l, 1, 0)
		last[l] = max(last[l], g.Last)
	}
	for l, newest := range last {
		if missing := known[l].Missing(newest); len(missing) > 0 {
			list = append(list, store.Lack{Epoch: l.epoch, Lane: l.lane, Seqs: missing})
		}
	}
	slices.SortFunc(list, func(a, b store.Lack) int { return int(a.Lane) - int(b.Lane) })
	return list, false
}

// memTx is a transaction that cannot fail.
type memTx struct {
	store.Tx // nil: what is not written here is not called
	s        *memState
}

func (t memTx) Device(string, string, time.Time) (int64, error) { return 1, nil }

func (t memTx) PutBatch(_ int64, b *store.Batch) (store.Put, error) {
	if len(b.Supersedes) > 0 {
		return store.Put{}, errors.New("this store takes no thinned copies")
	}
	if old := t.s.batches[b.Key]; old != nil {
		p := store.Put{Outcome: store.OutcomeDuplicate, State: old.State, Reason: old.Reason, Catalogue: old.Catalogue}
		if old.CRC != b.CRC || !bytes.Equal(old.SHA256, b.SHA256) {
			p.Outcome = store.OutcomeConflict
		}
		return p, nil
	}
	kept := &memBatch{Batch: *b}
	t.s.batches[b.Key] = kept
	t.s.order = append(t.s.order, kept)
	return store.Put{ID: int64(len(t.s.order)), Outcome: store.OutcomeNew, State: b.State, Reason: b.Reason, Catalogue: b.Catalogue}, nil
}

func (t memTx) Settle(batch int64, state store.State, reason string) error {
	b := t.s.order[batch-1]
	b.State, b.Reason, b.Bytes = state, reason, nil
	return nil
}

func (t memTx) ParkedFor(_ int64, catalogue [16]byte) (list []store.Parked, err error) {
	for i, b := range t.s.order {
		if b.State == store.StateParked && b.Catalogue == catalogue && b.Reason == store.ReasonCatalogue {
			list = append(list, store.Parked{ID: int64(i + 1), Key: b.Key, CRC: b.CRC, Bytes: b.Bytes})
		}
	}
	return list, nil
}

func (t memTx) AllStored(int64, uint64, telemetrypb.Lane, []*telemetrypb.SeqRange) (bool, error) {
	return false, nil
}

func (t memTx) Catalogue(_ int64, short [16]byte) (*store.Catalogue, error) {
	return t.s.catalogues[short], nil
}

func (t memTx) PutPart(_ int64, p *telemetrypb.CataloguePart, _ time.Time) (*store.Catalogue, error) {
	hash := [32]byte(p.GetHash())
	if t.s.catalogues[[16]byte(hash[:16])] != nil {
		return nil, nil
	}
	if t.s.assembling[hash] == nil {
		t.s.assembling[hash] = new(telemetrypb.CatalogueAssembler)
	}
	spec, _, err := t.s.assembling[hash].Add(p)
	if err != nil {
		return nil, errors.Join(store.ErrParts, err)
	}
	if spec == nil {
		return nil, nil
	}
	c := &store.Catalogue{Row: int64(len(t.s.catalogues) + 1), Hash: hash, ByID: map[uint32]store.Signal{}, ByName: map[string]store.Signal{}}
	for _, signal := range spec.GetSignals() {
		t.s.signals = append(t.s.signals, signal.GetName())
		named := store.Signal{Row: int64(len(t.s.signals)), Spec: signal}
		c.ByID[signal.GetId()], c.ByName[signal.GetName()] = named, named
	}
	t.s.catalogues[[16]byte(hash[:16])] = c
	return c, nil
}

func (t memTx) PutSamples(batch int64, rows []store.Row) error {
	t.s.order[batch-1].rows = append(t.s.order[batch-1].rows, rows...)
	return nil
}

func (t memTx) Yield(int64, int64, *store.Batch) (uint64, error) { return 0, nil }

func (t memTx) Clock(_ int64, boot [16]byte) (*telemetrypb.ClockRecord, error) {
	return t.s.clocks[boot], nil
}

func (t memTx) PutClock(_ int64, c *telemetrypb.ClockRecord, _ time.Time) error {
	t.s.clocks[[16]byte(c.GetBootId())] = c
	return nil
}

func (t memTx) PutRetiming(_ int64, boot [16]byte, from int64) error {
	if old, noted := t.s.retimings[boot]; noted {
		from = min(from, old)
	}
	t.s.retimings[boot] = from
	return nil
}

func (t memTx) NextRetiming() (store.Retiming, bool, error) {
	for boot := range t.s.retimings {
		return store.Retiming{Device: 1, Boot: boot}, true, nil
	}
	return store.Retiming{}, false, nil
}

func (t memTx) Retime(_ int64, boot [16]byte, _ int, date func(int64) store.Time) (changed int64, done bool, err error) {
	from, noted := t.s.retimings[boot]
	if !noted {
		return 0, true, nil
	}
	delete(t.s.retimings, boot)
	for _, b := range t.s.order {
		if b.BootID != boot {
			continue
		}
		for i := range b.rows {
			if row := &b.rows[i]; row.BootNS >= from {
				row.Time = date(row.BootNS)
				changed++
			}
		}
	}
	return changed, true, nil
}

func (t memTx) PutLoss(_, _ int64, _ int, l *telemetrypb.Loss) error {
	t.s.losses = append(t.s.losses, l)
	return nil
}

func (t memTx) PutEpoch(int64, *telemetrypb.Epoch, time.Time) error              { return nil }
func (t memTx) PutInfo(int64, int64, int, uint32, *telemetrypb.DeviceInfo) error { return nil }
func (t memTx) PutStatus(int64, *telemetrypb.Status, time.Time) error            { return nil }
func (t memTx) PutResult(int64, *telemetrypb.CommandResult, time.Time) error     { return nil }
func (t memTx) PutDeadLetter(d *store.DeadLetter) error {
	t.s.letters = append(t.s.letters, *d)
	return nil
}

func (t memTx) NextReceipt(int64) (uint64, error) {
	t.s.receipts++
	return t.s.receipts, nil
}
