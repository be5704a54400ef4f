package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// batch decides about one batch and stores it. Its key goes in first, so that whatever follows happens once.
func (a *application) batch(b *openedBatch) error {
	if b.broken != nil {
		// Without a checksum that holds there is no name to answer to. The vehicle sends it again, and sets it aside
		// when it comes to nothing.
		a.malformed()
		return a.deadLetter("malformed", b.broken, a.bytesOf(b))
	}
	if b.tenant != a.tenant || b.device != a.name {
		a.reject()
		a.ranges.add(b.row.Key, b.row.CRC, rejected("foreign: the batch names another device than its topic"))
		return a.deadLetter("foreign", fmt.Errorf("a batch of %s/%s came on the topic of %s/%s", b.tenant, b.device, a.tenant, a.name), a.bytesOf(b))
	}
	if b.row.Samples > 0 && b.row.Lane != telemetrypb.Lane_LANE_CONTROL && !a.watch.admits(a.device, a.now) {
		a.counts.Deferred++
		a.offender().Deferred++
		return nil // without a receipt it comes again
	}
	if b.late { // decoded now, and let go of behind it
		whole := openSealed(b.bytes, nil)
		b = &whole
	}
	catalogue, err := a.prepare(b)
	if errors.Is(err, store.ErrLimit) {
		a.full(b, err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	put, err := a.tx.PutBatch(a.device, &b.row)
	if err != nil {
		return err
	}
	switch put.Outcome {
	case store.OutcomeDuplicate:
		a.counts.Duplicates++
		a.ranges.add(b.row.Key, b.row.CRC, verdictOf(put))
		return nil
	case store.OutcomeFull:
		a.full(b, put.Reason)
		return nil
	case store.OutcomeConflict:
		// Two different batches under one name: a queue was restored from a copy, or two vehicles share an id. The
		// first stands. The reason asks for a new epoch.
		a.reject()
		a.log.Error("conflict: a key came with other bytes than the first time; the vehicle must begin a new epoch",
			"tenant", a.tenant, "device", a.name, "epoch", fmt.Sprintf("%016x", b.row.Epoch), "lane", b.row.Lane, "seq", b.row.Seq)
		a.ranges.add(b.row.Key, b.row.CRC, rejected(telemetrypb.ReasonConflict+": another batch has this seq; begin a new epoch"))
		return a.deadLetter("conflict", fmt.Errorf("epoch %016x, lane %d, seq %d is taken by other bytes", b.row.Epoch, b.row.Lane, b.row.Seq), a.bytesOf(b))
	}
	a.counts.Batches++
	a.ranges.add(b.row.Key, b.row.CRC, verdictOf(put))
	switch b.row.State {
	case store.StateParked:
		a.counts.Parked++
		return nil
	case store.StateRejected:
		a.reject()
		return a.deadLetter("malformed", b.inside, a.bytesOf(b))
	case store.StateSuperseded:
		return nil
	}
	if b.records != nil {
		return a.records(put.ID, b)
	}
	return a.samples(put.ID, b, catalogue)
}

// full answers for a batch that the store has no room for: the vehicle keeps it. Nothing of it is stored here, so that it is
// no dead letter either.
func (a *application) full(b *openedBatch, reason string) {
	a.counts.Limited++
	a.offender().Limited++
	v := verdict{verdict: telemetrypb.Verdict_VERDICT_PARKED, reason: reason}
	if b.row.State == store.StateParked && b.row.Reason == store.ReasonCatalogue {
		v.want = bytes.Clone(b.row.Catalogue[:])
	}
	a.ranges.add(b.row.Key, b.row.CRC, v)
}

// prepare settles the state in which a batch goes in, and looks its catalogue up.
func (a *application) prepare(b *openedBatch) (*store.Catalogue, error) {
	b.row.Received, b.row.State, b.row.Reason, b.row.Bytes = a.now, store.StateStored, "", nil
	if b.newer != nil {
		b.row.State, b.row.Reason, b.row.Bytes = store.StateParked, store.ReasonFormat, b.bytes
		return nil, nil
	}
	var catalogue *store.Catalogue
	if b.inside == nil && b.row.Catalogue != [16]byte{} {
		var err error
		if catalogue, err = a.tx.Catalogue(a.device, b.row.Catalogue); err != nil {
			return nil, err
		}
	}
	if b.inside == nil && len(b.samples) > 0 {
		if catalogue == nil {
			b.row.State, b.row.Reason, b.row.Bytes = store.StateParked, store.ReasonCatalogue, b.bytes
			return nil, nil
		}
		b.inside = inCatalogue(b.samples, catalogue)
	}
	if b.inside != nil {
		b.row.State, b.row.Reason = store.StateRejected, rejection(b.inside)
		return nil, nil
	}
	if b.row.Form == store.FormPlain {
		if err := a.nameSignals(b.plain, catalogue); err != nil {
			return nil, err
		}
	}
	if len(b.row.Supersedes) > 0 {
		all, err := a.tx.AllStored(a.device, b.row.Epoch, b.row.Lane, b.row.Supersedes)
		if err != nil {
			return nil, err
		}
		if all {
			b.row.State = store.StateSuperseded
		}
	}
	return catalogue, nil
}

// rejection is the reason that a vehicle reads; bounded, since it stands in every receipt of the batch.
func rejection(err error) string {
	text := "malformed: " + err.Error()
	if len(text) > 200 {
		text = string([]rune(text[:200])) + "…"
	}
	return text
}

// inCatalogue checks that every sample has a signal.
func inCatalogue(samples []telemetrypb.Sample, c *store.Catalogue) error {
	for i := range samples {
		if _, ok := c.ByID[samples[i].Signal]; !ok {
			return fmt.Errorf("signal %d is not in catalogue %x", samples[i].Signal, c.Hash[:16])
		}
	}
	return nil
}

// samples stores the samples of a batch, in either form.
func (a *application) samples(batch int64, b *openedBatch, c *store.Catalogue) error {
	clock, err := a.clockOf(b.row.BootID)
	if err != nil {
		return err
	}
	stored := uint64(len(b.plain) + len(b.samples))
	if b.row.Form == store.FormPlain {
		rows, err := a.plainRows(b.plain, c, clock)
		if err != nil {
			return err
		}
		if err := a.tx.PutSamples(batch, rows); err != nil {
			return err
		}
	}
	for from := 0; from < len(b.samples); from += rowsAtOnce {
		part := b.samples[from:min(from+rowsAtOnce, len(b.samples))]
		if err := a.tx.PutSamples(batch, columnRows(part, uint32(from), c, clock)); err != nil {
			return err
		}
	}
	a.watch.charge(a.device, int(stored)+textsOf(b.samples)/textPerSample, a.now)
	gone, err := a.tx.Yield(a.device, batch, &b.row)
	a.counts.Samples += stored - min(gone, stored)
	return err
}

// nameSignals makes the signals of a plain batch that its catalogue does not know, ahead of the batch: there may be no room.
func (a *application) nameSignals(samples []*telemetrypb.PlainSample, c *store.Catalogue) error {
	for _, s := range samples {
		if c != nil {
			if _, known := c.ByName[s.GetName()]; known {
				continue
			}
		}
		if err := a.nameSignal(s); err != nil {
			return err
		}
	}
	return nil
}

// nameSignal finds the row of a signal that came by name, once a message.
func (a *application) nameSignal(s *telemetrypb.PlainSample) error {
	key := [2]string{s.GetName(), s.GetUnit()}
	if a.named[key] != 0 {
		return nil
	}
	row, err := a.tx.NamedSignal(a.device, s.GetName(), s.GetUnit())
	if err == nil {
		a.named[key] = row
	}
	return err
}

// columnRows makes rows of decoded samples, of which the first has this index; every signal is in c.
func columnRows(samples []telemetrypb.Sample, first uint32, c *store.Catalogue, clock *telemetrypb.ClockRecord) []store.Row {
	rows := make([]store.Row, len(samples))
	for i, s := range samples {
		signal := c.ByID[s.Signal]
		rows[i] = store.Row{
			Index: first + uint32(i), Signal: signal.Row, BootNS: s.Time, Time: dateBy(clock, s.Time),
			Raw: store.RawOf(s), Value: store.ValueOf(s, signal.Spec.GetScale(), signal.Spec.GetOffset()),
		}
	}
	return rows
}

// plainRows makes rows of rendered samples. Where the catalogue is known they become the same rows that the columns
// would have made; without it they stand under their names.
func (a *application) plainRows(samples []*telemetrypb.PlainSample, c *store.Catalogue, clock *telemetrypb.ClockRecord) ([]store.Row, error) {
	rows := make([]store.Row, len(samples))
	for i, s := range samples {
		r := store.Row{Index: s.GetIndex(), BootNS: s.GetBootNs(), Time: dateBy(clock, s.GetBootNs())}
		if clock == nil && s.GetTimeSource() != telemetrypb.TimeSource_TIME_SOURCE_NONE {
			r.Time = timeOf(s.GetTimeUnixNs(), s.GetTimeUncertaintyNs(), s.GetTimeSource())
		}
		var signal store.Signal
		known := false
		if c != nil {
			signal, known = c.ByName[s.GetName()]
		}
		if known {
			r.Signal = signal.Row
			r.Raw, r.Value = rawOfPlain(s, signal.Spec)
		} else {
			if err := a.nameSignal(s); err != nil {
				return nil, err
			}
			r.Signal, r.Label = a.named[[2]string{s.GetName(), s.GetUnit()}], s.GetLabel()
			r.Raw, r.Value = rawOfPlain(s, nil)
		}
		rows[i] = r
	}
	return rows, nil
}

// rawOfPlain gives the raw and the physical value of a rendered sample.
func rawOfPlain(s *telemetrypb.PlainSample, spec *telemetrypb.Signal) (raw, value store.Scalar) {
	switch v := s.GetValue().(type) {
	case *telemetrypb.PlainSample_Integer:
		raw = store.Scalar{Kind: telemetrypb.KindInt, Bits: uint64(v.Integer)}
		if spec.GetType() == telemetrypb.ValueType_VALUE_TYPE_UINT && v.Integer >= 0 {
			raw.Kind = telemetrypb.KindUint
		}
		return raw, raw
	case *telemetrypb.PlainSample_Natural:
		raw = store.Scalar{Kind: telemetrypb.KindUint, Bits: v.Natural}
		return raw, raw
	case *telemetrypb.PlainSample_Text:
		return store.Scalar{Kind: telemetrypb.KindString, Text: v.Text}, store.Scalar{}
	case *telemetrypb.PlainSample_Blob:
		return store.Scalar{Kind: store.KindBlob, Text: string(v.Blob)}, store.Scalar{}
	case *telemetrypb.PlainSample_Number:
		value = store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(v.Number)}
		return rawOfNumber(v.Number, spec), value
	}
	return store.Scalar{}, store.Scalar{}
}

// rawOfNumber finds the raw value behind a physical one, where exactly one gives it; else none is claimed.
func rawOfNumber(number float64, spec *telemetrypb.Signal) store.Scalar {
	scale, offset := spec.GetScale(), spec.GetOffset()
	if scale == 0 {
		scale = 1
	}
	var kind telemetrypb.Kind
	switch spec.GetType() {
	case telemetrypb.ValueType_VALUE_TYPE_FLOAT:
		if scale == 1 && offset == 0 {
			return store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(number)}
		}
		return store.Scalar{}
	case telemetrypb.ValueType_VALUE_TYPE_INT:
		kind = telemetrypb.KindInt
	case telemetrypb.ValueType_VALUE_TYPE_UINT:
		kind = telemetrypb.KindUint
	default:
		return store.Scalar{}
	}
	guess := math.Round((number - offset) / scale)
	if !(math.Abs(guess) < 1<<52) || kind == telemetrypb.KindUint && guess < 0 {
		return store.Scalar{}
	}
	physical := func(raw int64) float64 {
		return telemetrypb.IntSample(0, 0, raw).Physical(scale, offset)
	}
	raw := int64(guess)
	if physical(raw) != number || physical(raw-1) == number || physical(raw+1) == number {
		return store.Scalar{}
	}
	return store.Scalar{Kind: kind, Bits: uint64(raw)}
}

// records applies the records of a control batch.
func (a *application) records(batch int64, b *openedBatch) error {
	for i, r := range b.records.GetRecords() {
		var err error
		switch {
		case r.GetCatalogue() != nil:
			err = a.catalogue(r.GetCatalogue())
		case r.GetClock() != nil:
			err = a.clock(r.GetClock())
		case r.GetLoss() != nil:
			err = a.tx.PutLoss(a.device, batch, i, r.GetLoss())
		case r.GetEpoch() != nil:
			err = a.tx.PutEpoch(a.device, r.GetEpoch(), a.now)
		case r.GetDevice() != nil:
			err = a.tx.PutInfo(a.device, batch, i, b.row.BootCount, r.GetDevice())
		case r.GetResult() != nil:
			err = a.tx.PutResult(a.device, r.GetResult(), a.now)
		}
		if errors.Is(err, store.ErrLimit) {
			bytes, _ := proto.Marshal(r) // it came from bytes
			err = a.limited(err, bytes)
		}
		if err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	return nil
}

// catalogue takes a part; when it completes a catalogue, what waited for it is decoded.
func (a *application) catalogue(p *telemetrypb.CataloguePart) error {
	c, err := a.tx.PutPart(a.device, p, a.now)
	if errors.Is(err, store.ErrParts) {
		return a.deadLetter("catalogue", err, p.GetData())
	}
	if err != nil || c == nil {
		return err
	}
	parked, err := a.tx.ParkedFor(a.device, [16]byte(c.Hash[:16]))
	if err != nil {
		return err
	}
	for _, p := range parked {
		if err := a.unpark(p, c); err != nil {
			return fmt.Errorf("parked batch %016x/%d/%d: %w", p.Epoch, p.Lane, p.Seq, err)
		}
	}
	return nil
}

// unpark decides about a batch that has waited for c.
func (a *application) unpark(p store.Parked, c *store.Catalogue) error {
	b := openSealed(p.Bytes, nil)
	a.counts.Unparked++
	if err := errors.Join(b.broken, b.inside, inCatalogue(b.samples, c)); err != nil {
		a.reject()
		a.ranges.addAlone(p.Key, p.CRC, rejected(rejection(err)))
		if err := a.tx.Settle(p.ID, store.StateRejected, rejection(err)); err != nil {
			return err
		}
		return a.deadLetter("malformed", err, p.Bytes)
	}
	superseded, err := a.tx.AllStored(a.device, b.row.Epoch, b.row.Lane, b.row.Supersedes)
	if err != nil {
		return err
	}
	a.ranges.addAlone(p.Key, p.CRC, stored)
	if superseded {
		return a.tx.Settle(p.ID, store.StateSuperseded, "")
	}
	if err := a.tx.Settle(p.ID, store.StateStored, ""); err != nil {
		return err
	}
	return a.samples(p.ID, &b, c)
}

// bytesOf is what a dead letter keeps of a batch: its own bytes, or the payload that it came rendered in.
func (a *application) bytesOf(b *openedBatch) []byte {
	if b.bytes != nil {
		return b.bytes
	}
	return a.message.Payload
}
