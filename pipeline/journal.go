package pipeline

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// A journal entry's bytes, numbers as in protobuf (uvarint; varint: zigzag before):
//
//	┌──────────┬─────────────────────────────┬──────┬──────┬───
//	│ 2 (byte) │ samples before it (uvarint) │ row  │ row  │ …
//	└──────────┴─────────────────────────────┴──────┴──────┴───
//	row := uvarint   zigzag(signal − signal of the row before − 1) << 2 | another kind << 1 | another time
//	       byte      kind, if it is another than in the row before
//	       varint    time − time of the row before, if it is another
//	       int: varint; uint: uvarint; float: uvarint of its 8 bytes, last first; text: uvarint length, bytes
//
// Before the first row stand signal 0, time 0 and kind 0. The rows are as they came and nothing is predicted: an entry
// lives for seconds, a commit costs about 20 KB of flash whatever it holds, and the batch is encoded when it is sealed.
//
// The number of samples before it makes an entry that was committed although the disk said no, and then committed again
// with what had come meanwhile, harmless: the later entry stands for the earlier one.
//
// Format 1, a columnar body, was in no release; its entries are damaged ones.
const journalFormat = 2

// Flags of a row.
const (
	otherTime = 1 << iota
	otherKind
	rowFlags = iota // bits
)

// AppendJournal appends a journal entry of samples, of whose batch so many are in earlier entries.
func AppendJournal(dst []byte, before int, samples []telemetrypb.Sample) []byte {
	dst = append(dst, journalFormat)
	dst = binary.AppendUvarint(dst, uint64(before))
	signal, kind, at := uint32(0), telemetrypb.KindNone, int64(0)
	for i := range samples {
		s := &samples[i]
		tag := zigzag(int64(s.Signal)-int64(signal)-1) << rowFlags
		signal = s.Signal
		if s.Time != at {
			tag |= otherTime
		}
		if s.Kind != kind {
			tag |= otherKind
		}
		dst = appendUvarint(dst, tag)
		if s.Kind != kind {
			kind = s.Kind
			dst = append(dst, byte(kind))
		}
		if s.Time != at {
			dst = appendUvarint(dst, zigzag(s.Time-at))
			at = s.Time
		}
		switch kind {
		case telemetrypb.KindInt:
			dst = appendUvarint(dst, zigzag(int64(s.Bits)))
		case telemetrypb.KindFloat:
			dst = appendUvarint(dst, bits.ReverseBytes64(s.Bits))
		case telemetrypb.KindString:
			dst = append(appendUvarint(dst, uint64(len(s.Str))), s.Str...)
		default:
			dst = appendUvarint(dst, s.Bits)
		}
	}
	return dst
}

// appendUvarint is binary.AppendUvarint, quicker for a byte or two.
func appendUvarint(dst []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(dst, byte(v))
	case v < 1<<14:
		return append(dst, byte(v)|1<<7, byte(v>>7))
	}
	return binary.AppendUvarint(dst, v)
}

// zigzag maps 0, −1, 1, −2… to 0, 1, 2, 3….
func zigzag(v int64) uint64 { return uint64(v<<1 ^ v>>63) }

func unzigzag(u uint64) int64 { return int64(u>>1 ^ -(u & 1)) }

// journalReader takes numbers off an entry; once one is missing it is bad.
type journalReader struct {
	b   []byte
	bad bool
}

func (r *journalReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *journalReader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

// DecodeJournal appends the samples of a journal entry to dst, ordered by signal and, within it, as they came. Memory grows
// only with what is there: a row has two bytes at least.
func DecodeJournal(dst []telemetrypb.Sample, b []byte) (before uint64, samples []telemetrypb.Sample, err error) {
	if len(b) == 0 || b[0] != journalFormat {
		return 0, dst, fmt.Errorf("journal entry of %d bytes: not of format %d: %w", len(b), journalFormat, telemetrypb.ErrMalformed)
	}
	r := journalReader{b: b[1:]}
	before = r.uvarint()
	if r.bad || before > telemetrypb.MaxSamples {
		return 0, dst, fmt.Errorf("journal entry of %d bytes: no place in its batch: %w", len(b), telemetrypb.ErrMalformed)
	}
	have := len(dst)
	samples = dst
	signal, kind, at := int64(0), telemetrypb.KindNone, int64(0)
	for len(r.b) > 0 {
		tag := r.uvarint()
		signal += unzigzag(tag>>rowFlags) + 1
		if tag&otherKind != 0 {
			if one := r.take(1); len(one) == 1 {
				kind = telemetrypb.Kind(one[0])
			}
		}
		if tag&otherTime != 0 {
			at += unzigzag(r.uvarint())
		}
		s := telemetrypb.Sample{Signal: uint32(signal), Kind: kind, Time: at}
		switch kind {
		case telemetrypb.KindInt:
			s.Bits = uint64(unzigzag(r.uvarint()))
		case telemetrypb.KindUint:
			s.Bits = r.uvarint()
		case telemetrypb.KindFloat:
			s.Bits = bits.ReverseBytes64(r.uvarint())
		case telemetrypb.KindString:
			s.Str = string(r.take(r.uvarint()))
		default:
			r.bad = true
		}
		row := len(samples) - have
		if r.bad || signal <= 0 || signal != int64(s.Signal) || row == telemetrypb.MaxSamples {
			return 0, dst[:have], fmt.Errorf("journal entry of %d bytes: row %d: %w", len(b), row, telemetrypb.ErrMalformed)
		}
		samples = append(samples, s)
	}
	slices.SortStableFunc(samples[have:], func(a, b telemetrypb.Sample) int { return cmp.Compare(a.Signal, b.Signal) })
	return before, samples, nil
}
