package ingest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// opened is a message taken apart and verified, before anything is looked up.
type opened struct {
	tenant, device string
	status         *telemetrypb.Status
	result         *telemetrypb.CommandResult
	clocks         []*telemetrypb.ClockRecord
	batches        []openedBatch
	probe          []byte // a question that wants an answer, whatever else there is
	others         bool   // it is sound for all we know, and not the store's to take
	err            error  // nothing can be made of the message
}

// openedBatch is one batch of a payload, in either form.
type openedBatch struct {
	tenant, device string // as the batch says
	row            store.Batch
	bytes          []byte // columns: as sealed; plain: nil
	samples        []telemetrypb.Sample
	plain          []*telemetrypb.PlainSample
	records        *telemetrypb.Records

	late bool // sound so far; its body is decoded when it is its turn

	broken error // its checksum does not hold: nothing in it is to be believed
	newer  error // sound, and for a newer reader
	inside error // sound, and its body makes no sense
}

// open takes a message apart. It reads no store, so that it may run anywhere.
// ahead is how many samples may still be decoded ahead of their turn.
func open(m Message, ahead *int) (o opened) {
	var rest string
	if o.tenant, o.device, rest, o.err = telemetrypb.ParseTopic(m.Topic); o.err != nil {
		return o
	}
	if len(m.Payload) > maxPayload {
		o.err = fmt.Errorf("%d bytes, at most %d", len(m.Payload), maxPayload)
		return o
	}
	switch rest {
	case telemetrypb.TopicStatus:
		o.status = new(telemetrypb.Status)
		if err := proto.Unmarshal(m.Payload, o.status); err != nil {
			o.err = fmt.Errorf("status: %w", err)
		}
		return o
	case telemetrypb.TopicResult:
		o.result = new(telemetrypb.CommandResult)
		if err := proto.Unmarshal(m.Payload, o.result); err != nil {
			o.err = fmt.Errorf("command result: %w", err)
		}
		return o
	}
	if rest == telemetrypb.TopicRequest { // waybill-fleet ota serve answers it; up/# brings it here too
		o.others = true
		return o
	}
	lane, isLane := strings.CutPrefix(rest, "up/")
	if !isLane {
		o.err = fmt.Errorf("topic %.200q is not one that vehicles publish to", m.Topic)
		return o
	}
	if _, err := telemetrypb.ParseLane(lane); err != nil {
		o.err = fmt.Errorf("topic %.200q: %w", m.Topic, err)
		return o
	}
	view, err := telemetrypb.OpenPayload(m.Payload)
	if err != nil {
		o.err = err
		return o
	}
	if n := len(view.Batches) + len(view.Plain); n > maxBatches {
		o.err = fmt.Errorf("%d batches, at most %d", n, maxBatches)
		return o
	}
	o.clocks, o.probe = view.Clocks, view.Probe
	for _, b := range view.Batches {
		o.batches = append(o.batches, openSealed(b, ahead))
	}
	for _, p := range view.Plain {
		o.batches = append(o.batches, openPlain(p))
	}
	return o
}

// openSealed verifies a batch that came byte for byte. It decodes what fits into ahead, with nil in any case.
func openSealed(bytes []byte, ahead *int) openedBatch {
	b := openedBatch{bytes: bytes}
	view, err := telemetrypb.OpenBatch(bytes)
	switch {
	case errors.Is(err, telemetrypb.ErrNewerFormat):
		b.newer = err
	case err != nil:
		b.broken = err
		return b
	}
	e := view.Envelope
	b.tenant, b.device = e.GetTenant(), e.GetDevice()
	sum := sha256.Sum256(bytes)
	b.row = store.Batch{
		Key: store.Key{Epoch: e.GetEpoch(), Lane: e.GetLane(), Seq: e.GetSeq()},
		CRC: e.GetCrc32C(), SHA256: sum[:], BootCount: e.GetBootCount(), FirstNS: e.GetFirstNs(), SpanNS: e.GetSpanNs(),
		Samples: e.GetSamples(), Form: store.FormColumns, Supersedes: e.GetSupersedes(),
	}
	copy(b.row.BootID[:], e.GetBootId())
	copy(b.row.Catalogue[:], e.GetCatalogue())
	if b.row.Seq == 0 || b.row.Seq > 1<<63-1 {
		b.broken = fmt.Errorf("seq %d is out of range", b.row.Seq)
		return b
	}
	if b.newer != nil {
		return b
	}
	if b.inside = checkSuperseded(b.row.Supersedes); b.inside != nil {
		b.row.Supersedes = nil
		return b
	}
	if claimed := int(min(b.row.Samples, telemetrypb.MaxSamples)); ahead != nil {
		if b.late = claimed > *ahead; b.late {
			return b
		}
		*ahead -= claimed
	}
	b.decode(view)
	return b
}

// decode reads the body. What it refuses today it would refuse again: the batch is rejected, not parked, unless a newer
// version may read it.
func (b *openedBatch) decode(view telemetrypb.BatchView) {
	defer func() {
		if errors.Is(b.inside, telemetrypb.ErrNewerFormat) {
			b.newer, b.inside = b.inside, nil
		}
	}()
	if view.Envelope.GetCodec() == telemetrypb.Codec_CODEC_RECORDS {
		b.records, b.inside = view.Records()
		return
	}
	if b.samples, b.inside = view.Samples(nil); b.inside == nil && len(b.samples) > 0 && b.row.Catalogue == [16]byte{} {
		b.inside = errors.New("samples without a catalogue")
	}
	if n := textsOf(b.samples); b.inside == nil && n > maxTexts {
		b.samples, b.inside = nil, fmt.Errorf("texts of %d bytes, at most %d", n, maxTexts)
	}
}

// textsOf is how many bytes the texts of samples have.
func textsOf(samples []telemetrypb.Sample) (n int) {
	for i := range samples {
		n += len(samples[i].Str)
	}
	return n
}

// openPlain verifies a batch that came rendered.
func openPlain(p *telemetrypb.PlainBatch) openedBatch {
	b := openedBatch{tenant: p.GetTenant(), device: p.GetDevice(), plain: p.GetSamples(), records: p.GetRecords()}
	b.row = store.Batch{
		Key: store.Key{Epoch: p.GetEpoch(), Lane: p.GetLane(), Seq: p.GetSeq()},
		CRC: p.GetCrc32C(), BootCount: p.GetBootCount(), Form: store.FormPlain, Supersedes: p.GetSupersedes(),
		Samples: uint32(len(p.GetSamples()) + len(p.GetRecords().GetRecords())),
	}
	if err := errors.Join(checkPlain(p), checkSuperseded(p.GetSupersedes())); err != nil {
		b.broken = err
		return b
	}
	copy(b.row.BootID[:], p.GetBootId())
	copy(b.row.Catalogue[:], p.GetCatalogue())
	for i, s := range p.GetSamples() {
		if first := b.row.FirstNS; i == 0 || s.GetBootNs() < first {
			b.row.FirstNS = s.GetBootNs()
		}
	}
	for _, s := range p.GetSamples() {
		b.row.SpanNS = max(b.row.SpanNS, uint64(s.GetBootNs()-b.row.FirstNS))
	}
	return b
}

// checkPlain refuses what no agent renders. There is no checksum of its own that could hold, so it counts as broken.
func checkPlain(p *telemetrypb.PlainBatch) error {
	switch {
	case p.GetSeq() == 0 || p.GetSeq() > 1<<63-1:
		return fmt.Errorf("plain batch: seq %d is out of range", p.GetSeq())
	case p.GetLane() < telemetrypb.Lane_LANE_CONTROL || p.GetLane() > telemetrypb.Lane_LANE_RAW:
		return fmt.Errorf("plain batch: lane %d does not exist", p.GetLane())
	case len(p.GetBootId()) != 16:
		return fmt.Errorf("plain batch: boot id of %d bytes, want 16", len(p.GetBootId()))
	case len(p.GetCatalogue()) != 0 && len(p.GetCatalogue()) != 16:
		return fmt.Errorf("plain batch: catalogue hash of %d bytes, want 16", len(p.GetCatalogue()))
	case p.Records != nil && p.Lane != telemetrypb.Lane_LANE_CONTROL || p.Records != nil && len(p.Samples) > 0:
		return errors.New("plain batch: records outside the control lane, or beside samples")
	case len(p.GetSamples()) > telemetrypb.MaxSamples || len(p.GetRecords().GetRecords()) > telemetrypb.MaxRecords:
		return errors.New("plain batch: too many samples or records")
	}
	seen := make(map[uint32]struct{}, len(p.GetSamples()))
	for _, s := range p.GetSamples() {
		if _, twice := seen[s.GetIndex()]; twice {
			return fmt.Errorf("plain batch: index %d stands twice", s.GetIndex())
		}
		seen[s.GetIndex()] = struct{}{}
		if s.GetName() == "" {
			return fmt.Errorf("plain batch: sample %d has no name", s.GetIndex())
		}
	}
	return nil
}
