package telemetrypb

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Limits of a catalogue on its way.
const (
	// PartBytes is how much of a catalogue one part carries: its batch, envelope included, stays below 16 KiB.
	PartBytes = 15 << 10
	// MaxPart is the most that is accepted in one part.
	MaxPart = 16 << 10
	// MaxCatalogue is the most bytes of a catalogue: about 50,000 signals.
	MaxCatalogue = 8 << 20
)

// EncodeCatalogue is the one way to write a catalogue, and the SHA-256 that names it: the same catalogue gives the
// same bytes on every machine and with every version of the protobuf library, signals ascending by id whatever
// their order in c. Text that is not UTF-8, which no reader would take, has U+FFFD in place of the broken bytes.
func EncodeCatalogue(c *Catalogue) (data []byte, hash [32]byte) {
	signals := c.GetSignals()
	if !slices.IsSortedFunc(signals, compareSignals) {
		signals = slices.Clone(signals)
		slices.SortStableFunc(signals, compareSignals)
	}
	format := c.GetFormat()
	if format == 0 {
		format = Format
	}
	data = appendUint(nil, 1, uint64(format))
	var scratch, label []byte
	for _, s := range signals {
		scratch, label = appendSignal(scratch[:0], label, s)
		data = protowire.AppendTag(data, 2, protowire.BytesType)
		data = protowire.AppendBytes(data, scratch)
	}
	data = appendValidText(data, 3, c.GetVssVersion())
	return data, sha256.Sum256(data)
}

// compareSignals orders signals by id.
func compareSignals(a, b *Signal) int { return cmp.Compare(a.GetId(), b.GetId()) }

// appendSignal appends the fields of a Signal, as numbered in telemetry.proto. label is scratch.
func appendSignal(dst, label []byte, s *Signal) (out, scratch []byte) {
	dst = appendUint(dst, 1, uint64(s.GetId()))
	dst = appendValidText(dst, 2, s.GetName())
	dst = appendValidText(dst, 3, s.GetUnit())
	dst = appendDouble(dst, 4, s.GetScale(), false)
	dst = appendDouble(dst, 5, s.GetOffset(), false)
	dst = appendDouble(dst, 6, s.GetMin(), s != nil && s.Min != nil)
	dst = appendDouble(dst, 7, s.GetMax(), s != nil && s.Max != nil)
	for _, l := range s.GetLabels() {
		label = appendUint(label[:0], 1, uint64(l.GetValue()))
		label = appendValidText(label, 2, l.GetText())
		dst = protowire.AppendTag(dst, 8, protowire.BytesType)
		dst = protowire.AppendBytes(dst, label)
	}
	dst = appendUint(dst, 9, uint64(s.GetType()))
	dst = appendValidText(dst, 10, s.GetSource())
	dst = appendValidText(dst, 11, s.GetMessage())
	dst = appendValidText(dst, 12, s.GetVssPath())
	dst = appendBytes(dst, 13, s.GetDbcHash())
	dst = appendValidText(dst, 14, s.GetComment())
	return appendUint(dst, 15, uint64(s.GetGroup())), label
}

func appendValidText(dst []byte, field protowire.Number, v string) []byte {
	return appendText(dst, field, strings.ToValidUTF8(v, "\uFFFD"))
}

// appendDouble appends a double; +0 is left out unless its presence says something.
func appendDouble(dst []byte, field protowire.Number, v float64, present bool) []byte {
	pattern := math.Float64bits(v)
	if pattern == 0 && !present {
		return dst
	}
	return binary.LittleEndian.AppendUint64(protowire.AppendTag(dst, field, protowire.Fixed64Type), pattern)
}

// DecodeCatalogue reads a catalogue's bytes and checks that its signals are ascending by id, from 1.
func DecodeCatalogue(data []byte) (*Catalogue, error) {
	if len(data) > MaxCatalogue {
		return nil, fmt.Errorf("catalogue of %d bytes: %w: at most %d", len(data), ErrTooLarge, MaxCatalogue)
	}
	c := new(Catalogue)
	if err := proto.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("catalogue: %w: %v", ErrMalformed, err)
	}
	if c.Format > Format {
		return nil, fmt.Errorf("catalogue of format %d: %w", c.Format, ErrNewerFormat)
	}
	last := uint32(0)
	for i, s := range c.Signals {
		if s.Id <= last {
			return nil, fmt.Errorf("catalogue: %w: signal %d of %d has id %d after %d", ErrMalformed, i+1, len(c.Signals), s.Id, last)
		}
		last = s.Id
	}
	return c, nil
}

// Signal finds a signal by id in a catalogue that is ascending by id; nil if it is not there.
func (c *Catalogue) Signal(id uint32) *Signal {
	signals := c.GetSignals()
	i, found := slices.BinarySearchFunc(signals, id, func(s *Signal, id uint32) int { return cmp.Compare(s.GetId(), id) })
	if !found {
		return nil
	}
	return signals[i]
}

// SplitCatalogue cuts a catalogue's bytes into parts that each fit a batch of 16 KiB. The parts alias data.
func SplitCatalogue(data []byte) []*CataloguePart {
	hash := sha256.Sum256(data)
	count := max(1, (len(data)+PartBytes-1)/PartBytes)
	parts := make([]*CataloguePart, count)
	for i := range parts {
		end := min(len(data), (i+1)*PartBytes)
		parts[i] = &CataloguePart{Hash: hash[:], Index: uint32(i), Count: uint32(count), Data: data[i*PartBytes : end : end]}
	}
	return parts
}

// assemblies is how many unfinished catalogues are kept at once; the oldest makes room.
const assemblies = 4

// CatalogueAssembler puts catalogues together from parts in any order, repeated or mixed. Its memory is bounded by
// four catalogues of MaxCatalogue. The zero value is ready. Not safe for use from several goroutines.
type CatalogueAssembler struct {
	pending []*assembly // oldest first
}

type assembly struct {
	hash    [32]byte
	parts   [][]byte
	missing int
	bytes   int
}

// Add takes one part. When it was the last one missing, the catalogue comes back with its hash; otherwise nil and
// the hash of the catalogue that the part belongs to. Bytes that do not have the hash they are named by are thrown
// away as a whole, so that parts sent again can make it good.
func (a *CatalogueAssembler) Add(p *CataloguePart) (*Catalogue, [32]byte, error) {
	var hash [32]byte
	if len(p.GetHash()) != len(hash) {
		return nil, hash, fmt.Errorf("catalogue part: %w: hash of %d bytes", ErrMalformed, len(p.GetHash()))
	}
	copy(hash[:], p.GetHash())
	switch {
	case p.Count == 0 || p.Index >= p.Count:
		return nil, hash, fmt.Errorf("catalogue part: %w: number %d of %d", ErrMalformed, p.Index, p.Count)
	case len(p.Data) > MaxPart || p.Count > MaxCatalogue/PartBytes+1:
		return nil, hash, fmt.Errorf("catalogue part: %w: %d bytes, %d parts", ErrTooLarge, len(p.Data), p.Count)
	case len(p.Data) == 0 && p.Count > 1:
		return nil, hash, fmt.Errorf("catalogue part: %w: number %d of %d is empty", ErrMalformed, p.Index, p.Count)
	}
	at := slices.IndexFunc(a.pending, func(have *assembly) bool { return have.hash == hash })
	if at < 0 {
		if len(a.pending) == assemblies {
			a.pending = slices.Delete(a.pending, 0, 1)
		}
		at = len(a.pending)
		a.pending = append(a.pending, &assembly{hash: hash, parts: make([][]byte, p.Count), missing: int(p.Count)})
	}
	have := a.pending[at]
	if len(have.parts) != int(p.Count) {
		return nil, hash, fmt.Errorf("catalogue part: %w: one of %d, earlier ones of %d", ErrMalformed, p.Count, len(have.parts))
	}
	if have.parts[p.Index] == nil {
		if have.bytes += len(p.Data); have.bytes > MaxCatalogue {
			a.pending = slices.Delete(a.pending, at, at+1)
			return nil, hash, fmt.Errorf("catalogue: %w: more than %d bytes", ErrTooLarge, MaxCatalogue)
		}
		have.parts[p.Index] = append([]byte{}, p.Data...)
		have.missing--
	}
	if have.missing > 0 {
		return nil, hash, nil
	}
	a.pending = slices.Delete(a.pending, at, at+1)
	data := slices.Concat(have.parts...)
	if sum := sha256.Sum256(data); sum != hash {
		return nil, hash, fmt.Errorf("catalogue %x: %w: its parts give %x", hash[:8], ErrChecksum, sum[:8])
	}
	c, err := DecodeCatalogue(data)
	return c, hash, err
}
