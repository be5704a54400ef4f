package telemetrypb

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// PayloadView is one publish, taken apart. Batches alias the input.
type PayloadView struct {
	Batches [][]byte // each as it was sealed; not yet verified: OpenBatch
	Backlog bool
	Clocks  []*ClockRecord
	Plain   []*PlainBatch
	Probe   []byte // a question to the store; nil: none. Aliases the input
}

// MaxProbe bounds Payload.probe and Receipt.probe, bytes. A longer one is not answered.
const MaxProbe = 64

// Field numbers of Payload, as in telemetry.proto.
const (
	fieldPayloadFormat  = protowire.Number(1)
	fieldPayloadBatches = protowire.Number(2)
	fieldPayloadBacklog = protowire.Number(3)
	fieldPayloadClocks  = protowire.Number(4)
	fieldPayloadPlain   = protowire.Number(5)
	fieldPayloadProbe   = protowire.Number(6)
	fieldPayloadPadding = protowire.Number(7)
)

// AppendProbe appends a publish that carries nothing but a question to the store, and padding bytes that mean nothing.
func AppendProbe(dst, probe []byte, padding int) []byte {
	dst = appendUint(dst, fieldPayloadFormat, Format)
	dst = protowire.AppendTag(dst, fieldPayloadProbe, protowire.BytesType)
	dst = protowire.AppendBytes(dst, probe)
	if padding > 0 {
		dst = protowire.AppendTag(dst, fieldPayloadPadding, protowire.BytesType)
		dst = protowire.AppendBytes(dst, make([]byte, padding))
	}
	return dst
}

// AppendPayload appends a publish of whole batches, byte for byte as they were sealed. A clock record that cannot be
// written (text that is not UTF-8 cannot stand in one) is left out; the batches go.
func AppendPayload(dst []byte, backlog bool, clocks []*ClockRecord, batches ...[]byte) []byte {
	dst = appendUint(dst, fieldPayloadFormat, Format)
	for _, b := range batches {
		dst = protowire.AppendTag(dst, fieldPayloadBatches, protowire.BytesType)
		dst = protowire.AppendBytes(dst, b)
	}
	dst = appendUint(dst, fieldPayloadBacklog, protowire.EncodeBool(backlog))
	for _, c := range clocks {
		encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
		if err != nil {
			continue
		}
		dst = protowire.AppendTag(dst, fieldPayloadClocks, protowire.BytesType)
		dst = protowire.AppendBytes(dst, encoded)
	}
	return dst
}

// AppendPlainPayload appends a publish of rendered batches: protobuf, or with json the protobuf JSON mapping.
func AppendPlainPayload(dst []byte, json, backlog bool, clocks []*ClockRecord, plain ...*PlainBatch) ([]byte, error) {
	p := &Payload{Format: Format, Backlog: backlog, Clocks: clocks, Plain: plain}
	var out []byte
	var err error
	if json {
		out, err = protojson.MarshalOptions{}.MarshalAppend(dst, p)
	} else {
		out, err = proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, p)
	}
	if err != nil {
		return dst, fmt.Errorf("plain payload: %w", err)
	}
	return out, nil
}

// OpenPayload takes a publish apart. Batches come as they were sealed, each to be verified by OpenBatch; one that is
// damaged does not spoil its neighbours. A payload that starts with '{' is read as JSON.
func OpenPayload(b []byte) (PayloadView, error) {
	if len(b) > MaxPayload {
		return PayloadView{}, fmt.Errorf("payload of %d bytes: %w: at most %d", len(b), ErrTooLarge, MaxPayload)
	}
	if text := bytes.TrimLeft(b, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		return openJSON(text)
	}
	var v PayloadView
	var format uint64
	for rest := b; len(rest) > 0; {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return PayloadView{}, fmt.Errorf("payload: %w at byte %d: %v", ErrMalformed, len(b)-len(rest), protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(field, kind, rest[n:])
		if size < 0 {
			return PayloadView{}, fmt.Errorf("payload: %w at byte %d: %v", ErrMalformed, len(b)-len(rest), protowire.ParseError(size))
		}
		value := rest[n : n+size]
		if err := v.take(field, kind, value, &format); err != nil {
			return PayloadView{}, fmt.Errorf("payload, field %d at byte %d: %w", field, len(b)-len(rest), err)
		}
		rest = rest[n+size:]
	}
	return v, checkPayloadFormat(format)
}

// take reads one field of a payload; unknown ones are skipped.
func (v *PayloadView) take(field protowire.Number, kind protowire.Type, value []byte, format *uint64) error {
	want := protowire.BytesType
	switch field {
	case fieldPayloadFormat, fieldPayloadBacklog:
		want = protowire.VarintType
	case fieldPayloadBatches, fieldPayloadClocks, fieldPayloadPlain, fieldPayloadProbe:
	default:
		return nil
	}
	if kind != want {
		return fmt.Errorf("%w: wire type %d", ErrMalformed, kind)
	}
	if want == protowire.VarintType {
		number, _ := protowire.ConsumeVarint(value)
		if field == fieldPayloadFormat {
			*format = number
		} else {
			v.Backlog = protowire.DecodeBool(number)
		}
		return nil
	}
	inner, _ := protowire.ConsumeBytes(value)
	switch field {
	case fieldPayloadBatches:
		v.Batches = append(v.Batches, inner)
	case fieldPayloadProbe:
		if v.Probe = nil; len(inner) > 0 && len(inner) <= MaxProbe {
			v.Probe = inner
		}
	case fieldPayloadClocks:
		if len(v.Clocks) == MaxClocks {
			return fmt.Errorf("%w: more than %d clock records", ErrTooLarge, MaxClocks)
		}
		c := new(ClockRecord)
		if err := proto.Unmarshal(inner, c); err != nil {
			return fmt.Errorf("%w: clock record: %v", ErrMalformed, err)
		}
		v.Clocks = append(v.Clocks, c)
	case fieldPayloadPlain:
		p := new(PlainBatch)
		if err := proto.Unmarshal(inner, p); err != nil {
			return fmt.Errorf("%w: plain batch: %v", ErrMalformed, err)
		}
		v.Plain = append(v.Plain, p)
	}
	return nil
}

// openJSON reads a payload in protobuf's JSON mapping. Sealed batches do not travel in JSON: their bytes would have
// to be made anew.
func openJSON(text []byte) (PayloadView, error) {
	p := new(Payload)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, p); err != nil {
		return PayloadView{}, fmt.Errorf("payload in JSON: %w: %v", ErrMalformed, err)
	}
	if len(p.Batches) > 0 {
		return PayloadView{}, fmt.Errorf("payload in JSON: %w: sealed batches cannot be carried in JSON", ErrMalformed)
	}
	if len(p.Clocks) > MaxClocks {
		return PayloadView{}, fmt.Errorf("payload in JSON: %w: more than %d clock records", ErrTooLarge, MaxClocks)
	}
	v := PayloadView{Backlog: p.Backlog, Clocks: p.Clocks, Plain: p.Plain}
	if len(p.Probe) > 0 && len(p.Probe) <= MaxProbe {
		v.Probe = p.Probe
	}
	return v, checkPayloadFormat(uint64(p.Format))
}

func checkPayloadFormat(format uint64) error {
	switch {
	case format == 0:
		return fmt.Errorf("payload: %w: no format version", ErrMalformed)
	case format > Format:
		return fmt.Errorf("payload of format %d, this reader knows %d: %w", format, Format, ErrNewerFormat)
	}
	return nil
}
