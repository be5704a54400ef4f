package decoded

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/decoded/decodedpb"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// protoWriter writes the messages of decoded.proto.
type protoWriter struct {
	of *store.DecodedBatch
	// What is written anew for each row: the messages are kept for their memory.
	s decodedpb.Sample
	p decodedpb.Position

	value       float64
	text, label string
	time        int64
}

// valid is what a protobuf string may hold.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// appendMessage cannot fail: all strings are UTF-8 and no field is required.
func appendMessage(b []byte, m proto.Message) []byte {
	b, _ = proto.MarshalOptions{}.MarshalAppend(b, m)
	return b
}

func (w *protoWriter) begin(of *store.DecodedBatch) {
	if w.of == of {
		return
	}
	w.of = of
	s, p, received := &w.s, &w.p, of.Received.UnixNano()
	s.Tenant, s.Device, s.Epoch, s.Lane, s.Seq = valid(of.Tenant), valid(of.Device), epochName(of.Epoch), telemetrypb.LaneName(of.Lane), of.Seq
	s.BootId, s.ReceivedNs = uuid(of.BootID), received
	p.Tenant, p.Device, p.Epoch, p.Lane, p.Seq, p.ReceivedNs = s.Tenant, s.Device, s.Epoch, s.Lane, s.Seq, received
}

func (w *protoWriter) sample(b []byte, of *store.DecodedBatch, s *store.DecodedSample) []byte {
	w.begin(of)
	m := &w.s
	m.Index, m.Name, m.Unit, m.BootNs = s.Index, valid(s.Name), valid(s.Unit), s.BootNS
	m.Value, m.Text, m.Label, m.TimeNs, m.UncertaintyNs = nil, nil, nil, nil, 0
	if s.HasValue {
		w.value, m.Value = s.Value, &w.value
	}
	if s.HasText {
		w.text, m.Text = valid(s.Text), &w.text
	}
	if s.Label != "" {
		w.label, m.Label = valid(s.Label), &w.label
	}
	if s.Dated {
		w.time, m.TimeNs, m.UncertaintyNs = s.WallNS, &w.time, uint64(s.UncertaintyNS)
	}
	return appendMessage(b, m)
}

func (w *protoWriter) position(b []byte, p *Position) []byte {
	w.begin(p.DecodedBatch)
	m := &w.p
	m.Index, m.Source, m.Latitude, m.Longitude, m.Suspect = p.At.Index, valid(p.Source), p.Latitude, p.Longitude, p.Suspect
	m.Altitude, m.Speed, m.Course = p.Altitude, p.Speed, p.Course
	m.TimeNs, m.UncertaintyNs = nil, 0
	if p.At.Dated {
		m.TimeNs, m.UncertaintyNs = &p.At.WallNS, uint64(p.At.UncertaintyNS)
	}
	return appendMessage(b, m)
}

func (w *protoWriter) loss(b []byte, l *store.DecodedLoss) []byte {
	m := &decodedpb.Loss{
		Tenant: valid(l.Tenant), Device: valid(l.Device), Epoch: epochName(l.Epoch), Seq: l.Seq, Index: uint32(l.Index), Source: valid(l.Source), Reason: l.Reason.String(),
		Count: uint64(l.Count), Unit: valid(l.Unit), Detail: valid(l.Detail), ReceivedNs: l.Received.UnixNano(),
	}
	if l.Of != telemetrypb.Lane_LANE_UNSPECIFIED {
		m.Lane = proto.String(telemetrypb.LaneName(l.Of))
	}
	return appendMessage(b, m)
}
