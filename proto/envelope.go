package telemetrypb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Head is what the writer of a batch knows of it; the rest of the envelope comes from its samples.
type Head struct {
	Tenant     string
	Device     string
	Epoch      uint64
	Lane       Lane
	Seq        uint64 // from 1
	BootID     [16]byte
	BootCount  uint32
	Catalogue  [16]byte // first 16 bytes of the catalogue's SHA-256; zero = none
	Supersedes []*SeqRange
}

// content is what the envelope says of the body.
type content struct {
	codec   Codec
	samples int
	first   int64 // CLOCK_BOOTTIME of the earliest sample, ns
	last    int64
}

// Field numbers of Envelope and Batch, as in telemetry.proto.
const (
	fieldFormat     = protowire.Number(1)
	fieldMinReader  = protowire.Number(2)
	fieldTenant     = protowire.Number(3)
	fieldDevice     = protowire.Number(4)
	fieldEpoch      = protowire.Number(5)
	fieldLane       = protowire.Number(6)
	fieldSeq        = protowire.Number(7)
	fieldBootID     = protowire.Number(8)
	fieldBootCount  = protowire.Number(9)
	fieldFirst      = protowire.Number(10)
	fieldSpan       = protowire.Number(11)
	fieldSamples    = protowire.Number(12)
	fieldCatalogue  = protowire.Number(13)
	fieldCodec      = protowire.Number(14)
	fieldSupersedes = protowire.Number(15)
	fieldCRC        = protowire.Number(31)

	fieldEnvelope = protowire.Number(1)
	fieldBody     = protowire.Number(2)
)

// crcBytes is the checksum field at the end of an envelope: a tag of two bytes, then four bytes, little-endian.
const crcBytes = 6

// check says what of a head could not be written so that a reader takes it.
func (h *Head) check() error {
	if err := CheckName("tenant", h.Tenant); err != nil {
		return err
	}
	if err := CheckName("device", h.Device); err != nil {
		return err
	}
	if h.Lane < Lane_LANE_CONTROL || h.Lane > Lane_LANE_RAW {
		return fmt.Errorf("lane %d does not exist", h.Lane)
	}
	if h.Seq == 0 {
		return fmt.Errorf("seq 0: sequence numbers start at 1")
	}
	return nil
}

// appendEnvelope appends the envelope's fields in ascending order, the checksum left out.
func appendEnvelope(dst []byte, h *Head, c *content) []byte {
	dst = appendUint(dst, fieldFormat, Format)
	dst = appendUint(dst, fieldMinReader, Format)
	dst = appendText(dst, fieldTenant, h.Tenant)
	dst = appendText(dst, fieldDevice, h.Device)
	if h.Epoch != 0 {
		dst = protowire.AppendTag(dst, fieldEpoch, protowire.Fixed64Type)
		dst = protowire.AppendFixed64(dst, h.Epoch)
	}
	dst = appendUint(dst, fieldLane, uint64(h.Lane))
	dst = appendUint(dst, fieldSeq, h.Seq)
	dst = appendBytes(dst, fieldBootID, h.BootID[:])
	dst = appendUint(dst, fieldBootCount, uint64(h.BootCount))
	dst = appendUint(dst, fieldFirst, uint64(c.first))
	dst = appendUint(dst, fieldSpan, uint64(c.last-c.first))
	dst = appendUint(dst, fieldSamples, uint64(c.samples))
	if h.Catalogue != [16]byte{} {
		dst = appendBytes(dst, fieldCatalogue, h.Catalogue[:])
	}
	dst = appendUint(dst, fieldCodec, uint64(c.codec))
	for _, r := range h.Supersedes {
		size := 0
		if r.GetFirst() != 0 {
			size += 1 + protowire.SizeVarint(r.GetFirst())
		}
		if r.GetLast() != 0 {
			size += 1 + protowire.SizeVarint(r.GetLast())
		}
		dst = protowire.AppendTag(dst, fieldSupersedes, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(size))
		dst = appendUint(dst, 1, r.GetFirst())
		dst = appendUint(dst, 2, r.GetLast())
	}
	return dst
}

// appendSealed frames envelope (without checksum) and body as a Batch.
func appendSealed(dst, envelope, body []byte) ([]byte, error) {
	if len(envelope)+crcBytes > MaxEnvelope {
		return nil, fmt.Errorf("envelope of %d bytes: %w: at most %d; supersede fewer ranges", len(envelope)+crcBytes, ErrTooLarge, MaxEnvelope)
	}
	sum := checksum(envelope, body)
	dst = protowire.AppendTag(dst, fieldEnvelope, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(envelope)+crcBytes))
	dst = append(dst, envelope...)
	dst = protowire.AppendTag(dst, fieldCRC, protowire.Fixed32Type)
	dst = binary.LittleEndian.AppendUint32(dst, sum)
	dst = protowire.AppendTag(dst, fieldBody, protowire.BytesType)
	return protowire.AppendBytes(dst, body), nil
}

// checksum is CRC-32C of the envelope without its checksum field, then the body.
func checksum(envelope, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the package
	return crc32.Update(crc32.Update(0, table, envelope), table, body)
}

// splitBatch takes a batch apart by position: exactly two fields, in order, lengths in their shortest form, the
// checksum at the end of the first. Anything else is not a batch, whatever a protobuf parser would make of it.
func splitBatch(b []byte) (envelope, body []byte, sum uint32, err error) {
	envelope, rest, ok := cutField(b, fieldEnvelope)
	if !ok {
		return nil, nil, 0, fmt.Errorf("batch of %d bytes: %w: no envelope", len(b), ErrMalformed)
	}
	body, rest, ok = cutField(rest, fieldBody)
	if !ok || len(rest) != 0 {
		return nil, nil, 0, fmt.Errorf("batch of %d bytes: %w: no body where the envelope ends, or bytes after it", len(b), ErrMalformed)
	}
	n := len(envelope) - crcBytes
	if n < 0 || len(envelope) > MaxEnvelope || !bytes.Equal(envelope[n:n+2], []byte{0xfd, 0x01}) {
		return nil, nil, 0, fmt.Errorf("batch of %d bytes: %w: the envelope does not end in its checksum", len(b), ErrMalformed)
	}
	return envelope[:n], body, binary.LittleEndian.Uint32(envelope[n+2:]), nil
}

// cutField takes one length-delimited field off the front, if it is the one asked for and its length stands in the
// shortest form.
func cutField(b []byte, want protowire.Number) (value, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != byte(protowire.EncodeTag(want, protowire.BytesType)) {
		return nil, nil, false
	}
	size, n := protowire.ConsumeVarint(b[1:])
	if n < 0 || n != protowire.SizeVarint(size) || size > uint64(len(b)-1-n) {
		return nil, nil, false
	}
	end := 1 + n + int(size)
	return b[1+n : end], b[end:], true
}

// readEnvelope reads verified envelope bytes and checks that they make sense. With ErrNewerFormat the envelope comes
// too, so that the batch can be kept under its name.
func readEnvelope(b []byte, sum uint32) (*Envelope, error) {
	e := new(Envelope)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("envelope: %w: %v", ErrMalformed, err)
	}
	e.Crc32C = sum
	if e.MinReader > Format {
		return e, fmt.Errorf("batch of format %d for readers from %d, this one reads %d: %w", e.Format, e.MinReader, Format, ErrNewerFormat)
	}
	if e.Format == 0 || len(e.BootId) != 16 || len(e.Catalogue) != 0 && len(e.Catalogue) != 16 {
		return nil, fmt.Errorf("envelope: %w: format %d, boot id of %d bytes, catalogue of %d", ErrMalformed, e.Format, len(e.BootId), len(e.Catalogue))
	}
	if e.Lane < Lane_LANE_CONTROL || e.Lane > Lane_LANE_RAW || e.Seq == 0 {
		return nil, fmt.Errorf("envelope: %w: lane %d, seq %d", ErrMalformed, e.Lane, e.Seq)
	}
	if err := CheckName("tenant", e.Tenant); err != nil {
		return nil, fmt.Errorf("envelope: %w: %v", ErrMalformed, err)
	}
	if err := CheckName("device", e.Device); err != nil {
		return nil, fmt.Errorf("envelope: %w: %v", ErrMalformed, err)
	}
	if sum, carry := bits.Add64(uint64(e.FirstNs)^1<<63, e.SpanNs, 0); carry != 0 {
		return nil, fmt.Errorf("envelope: %w: first %d + span %d leaves 64 bits (%d)", ErrMalformed, e.FirstNs, e.SpanNs, sum)
	}
	return e, nil
}

// LastNs is CLOCK_BOOTTIME of the latest sample, ns.
func (e *Envelope) LastNs() int64 { return e.GetFirstNs() + int64(e.GetSpanNs()) }

// appendUint appends a varint field; zero is left out, as proto3 does.
func appendUint(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

// appendText appends a string field; the empty string is left out.
func appendText(dst []byte, field protowire.Number, v string) []byte {
	if v == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), v)
}

// appendBytes appends a bytes field; the empty one is left out.
func appendBytes(dst []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return dst
	}
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), v)
}
