package telemetrypb

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// encoders serve the package's functions; a goroutine that seals often keeps its own.
var encoders = sync.Pool{New: func() any { return new(Encoder) }}

// Encoder writes columnar bodies and keeps its memory from one to the next. The zero value is ready. Not safe for use
// from several goroutines.
type Encoder struct {
	body     []byte
	envelope []byte
	order    []Sample
}

// AppendSamples appends the columnar body of samples to dst.
func AppendSamples(dst []byte, samples []Sample) ([]byte, error) {
	e := encoders.Get().(*Encoder)
	defer encoders.Put(e)
	return e.AppendSamples(dst, samples)
}

// AppendSamples appends the columnar body of samples to dst.
func (e *Encoder) AppendSamples(dst []byte, samples []Sample) ([]byte, error) {
	if len(samples) > MaxSamples {
		return dst, fmt.Errorf("%d samples: %w: at most %d", len(samples), ErrTooLarge, MaxSamples)
	}
	e.order = append(e.order[:0], samples...)
	slices.SortStableFunc(e.order, func(a, b Sample) int { return int(int64(a.Signal) - int64(b.Signal)) })
	for _, s := range e.order {
		dst = protowire.AppendVarint(dst, uint64(s.Signal))
		dst = append(dst, byte(s.Kind))
		dst = protowire.AppendVarint(dst, uint64(s.Time))
		if s.Kind == KindString {
			dst = protowire.AppendString(dst, s.Str)
		} else {
			dst = protowire.AppendFixed64(dst, s.Bits)
		}
	}
	return dst, nil
}

// DecodeSamples appends the samples of a columnar body to dst.
func DecodeSamples(dst []Sample, body []byte) ([]Sample, error) {
	bad := fmt.Errorf("body: %w", ErrMalformed)
	for len(body) > 0 {
		id, n := protowire.ConsumeVarint(body)
		if n < 0 || len(body) < n+1 {
			return dst, bad
		}
		s := Sample{Signal: uint32(id), Kind: Kind(body[n])}
		body = body[n+1:]
		t, n := protowire.ConsumeVarint(body)
		if n < 0 {
			return dst, bad
		}
		s.Time = int64(t)
		body = body[n:]
		if s.Kind == KindString {
			s.Str, n = protowire.ConsumeString(body)
		} else {
			s.Bits, n = protowire.ConsumeFixed64(body)
		}
		if n < 0 {
			return dst, bad
		}
		body = body[n:]
		dst = append(dst, s)
	}
	return dst, nil
}
