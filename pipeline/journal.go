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
//	│ 3 (byte) │ samples before it (uvarint) │ row  │ row  │ …
//	└──────────┴─────────────────────────────┴──────┴──────┴───
//	row := uvarint   number << 1: of the signal after that of the row before, at the same time, of the same kind, which
//	                 is not text
//	    or uvarint   zigzag(signal − signal of the row before − 1) << 3 | another kind << 2 | another time << 1 | 1
//	       byte      kind, if it is another than in the row before
//	       varint    time − time of the row before, if it is another
//	       uvarint   number; text: its length, then its bytes
//
// The number of an int is its zigzag, of a float its 8 bytes, last first. Before the first row stand signal 0, time 0 and
// kind 0. The rows are as they came and nothing is predicted: an entry lives for seconds, a commit costs about 20 KB of
// flash whatever it holds, and the batch is encoded when it is sealed. The short row is for the signals of one frame: it keeps a
// second of 1,000 samples within a page.
//
// The number of samples before it makes an entry that was committed although the disk said no, and then committed again
// with what had come meanwhile, harmless: the later entry stands for the earlier one.
//
// Formats 1 and 2 were in no release; their entries are damaged ones.
const journalFormat = 3

// Flags of a row.
const (
	longRow = 1 << iota
	otherTime
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
		number := s.Bits
		switch s.Kind {
		case telemetrypb.KindInt:
			number = zigzag(int64(s.Bits))
		case telemetrypb.KindFloat:
			number = bits.ReverseBytes64(s.Bits)
		case telemetrypb.KindString:
			number = uint64(len(s.Str))
		}
		if s.Signal == signal+1 && s.Time == at && s.Kind == kind && kind != telemetrypb.KindString && number < 1<<63 {
			dst = appendUvarint(dst, number<<1)
			signal++
			continue
		}
		tag := zigzag(int64(s.Signal)-int64(signal)-1)<<rowFlags | longRow
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
		dst = appendUvarint(dst, number)
		if kind == telemetrypb.KindString {
			dst = append(dst, s.Str...)
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
// only with what is there: a row has a byte at least.
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
		number := tag >> 1
		if tag&longRow == 0 {
			signal++
			r.bad = r.bad || kind == telemetrypb.KindString
		} else {
			signal += unzigzag(tag>>rowFlags) + 1
			if tag&otherKind != 0 {
				if one := r.take(1); len(one) == 1 {
					kind = telemetrypb.Kind(one[0])
				}
			}
			if tag&otherTime != 0 {
				at += unzigzag(r.uvarint())
			}
			number = r.uvarint()
		}
		s := telemetrypb.Sample{Signal: uint32(signal), Kind: kind, Time: at, Bits: number}
		switch kind {
		case telemetrypb.KindInt:
			s.Bits = uint64(unzigzag(number))
		case telemetrypb.KindUint:
		case telemetrypb.KindFloat:
			s.Bits = bits.ReverseBytes64(number)
		case telemetrypb.KindString:
			s.Bits, s.Str = 0, string(r.take(number))
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
