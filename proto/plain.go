package telemetrypb

import (
	"fmt"
	"math"
	"strings"
)

// RenderPlain renders a stored batch for tools that want ready values: physical value, unit, label, wall time as
// clock (nil: unknown) says now. Samples keep their place in the batch as index. A control batch comes with its
// records. It fails where a sample's signal is not in c, since a value without a name is of no use to a tool.
func RenderPlain(v BatchView, c *Catalogue, clock *ClockRecord) (*PlainBatch, error) {
	e := v.Envelope
	plain := &PlainBatch{
		Tenant: e.GetTenant(), Device: e.GetDevice(), Epoch: e.GetEpoch(), Lane: e.GetLane(), Seq: e.GetSeq(),
		BootId: e.GetBootId(), BootCount: e.GetBootCount(), Crc32C: e.GetCrc32C(),
		Supersedes: e.GetSupersedes(), Catalogue: e.GetCatalogue(),
	}
	if e.GetCodec() == Codec_CODEC_RECORDS {
		records, err := v.Records()
		plain.Records = records
		return plain, err
	}
	samples, err := v.Samples(nil)
	if err != nil {
		return nil, err
	}
	plain.Samples = make([]*PlainSample, len(samples))
	for i := range samples {
		s := &samples[i]
		signal := c.Signal(s.Signal)
		if signal == nil {
			return nil, fmt.Errorf("signal %d is not in the catalogue, which has %d signals: is it another batch's?", s.Signal, len(c.GetSignals()))
		}
		p := &PlainSample{Index: uint32(i), Name: signal.Name, Unit: signal.Unit, BootNs: s.Time, Label: signal.Label(*s)}
		p.TimeUnixNs, p.TimeUncertaintyNs, p.TimeSource = clock.WallTime(s.Time)
		p.setValue(s, signal)
		plain.Samples[i] = p
	}
	return plain, nil
}

// setValue puts the value where it is exact: integers of scale 1 and offset 0 as integers, text as text, the rest as
// physical numbers.
func (p *PlainSample) setValue(s *Sample, signal *Signal) {
	identity := (signal.Scale == 1 || signal.Scale == 0) && signal.Offset == 0
	switch {
	case s.Kind == KindString:
		p.Value = &PlainSample_Text{Text: strings.ToValidUTF8(s.Str, "\uFFFD")}
	case identity && (s.Kind == KindInt || s.Kind == KindUint && s.Bits <= math.MaxInt64):
		p.Value = &PlainSample_Integer{Integer: int64(s.Bits)}
	case identity && s.Kind == KindUint:
		p.Value = &PlainSample_Natural{Natural: s.Bits}
	default:
		p.Value = &PlainSample_Number{Number: s.Physical(signal.Scale, signal.Offset)}
	}
}

// Label is the enum label of an integer sample of this signal; empty if it has none.
func (s *Signal) Label(v Sample) string {
	if v.Kind != KindInt && (v.Kind != KindUint || v.Bits > math.MaxInt64) {
		return ""
	}
	for _, l := range s.GetLabels() {
		if l.GetValue() == int64(v.Bits) {
			return l.GetText()
		}
	}
	return ""
}
