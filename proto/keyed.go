package telemetrypb

import (
	"fmt"
	"slices"
)

// A column beside a dictionary, a frame's data beside its identifier say, is keyed by it: a value is told from the last one
// that stood beside the same entry, byte by byte. Which bytes of an entry change is learnt from how they did.
// FORMAT.md, "Keyed column".

const (
	wordBytes   = 8
	aboveBits   = 2 // outcomes of the bytes above this one, of which a model depends
	aboveMask   = 1<<aboveBits - 1
	changedBits = pastBits + aboveBits
	keysBeside  = 0           // a key is the index in the latest dictionary
	keysNone    = 1           // all keys are 0
	byteCost    = 9 * bitCost // of a byte that changed, about
)

// keyedModels is what is known of the bytes of a keyed column. It starts anew with each.
type keyedModels struct {
	changed [wordBytes][1 << changedBits]chance
	by      [wordBytes][1 << 8]chance // trees of by how much
	last    [entriesMost]lastWord
}

// lastWord is the last value beside an entry, and which of its bytes changed of late.
type lastWord struct {
	word uint64
	past [wordBytes]uint8
}

func (m *keyedModels) reset(width uint) {
	for i := range width {
		for k := range m.changed[i] {
			m.changed[i][k] = unknown
		}
		for k := range m.by[i] {
			m.by[i][k] = unknown
		}
	}
	clear(m.last[:])
}

// beside finds the indices of the dictionary at these times, a part of the dictionary's; false: they are none.
func beside(dst, indices []uint16, of, at []uint64) ([]uint16, bool) {
	if len(of)/partKeyed > len(at) {
		return dst, false
	}
	for _, t := range at {
		next := 0
		for next < len(of) && of[next] != t {
			next++
		}
		if next == len(of) {
			return dst, false
		}
		dst = append(dst, indices[next])
		indices, of = indices[next+1:], of[next+1:]
	}
	return dst, true
}

// keyedCost is about how many bits a column takes beside its keys, in 1/16, and in how many bytes its values differ.
func (c *dictionaryCoder) keyedCost(values []uint64) (cost int, width uint) {
	clear(c.keyed.last[:])
	all, changed := uint64(0), 0
	for i, v := range values {
		last := &c.keyed.last[c.keys[i]&(entriesMost-1)]
		by := v ^ last.word
		last.word = v
		all |= by
		for ; by != 0; by >>= 8 {
			if by&0xff != 0 {
				changed++
			}
		}
	}
	for ; all != 0; all >>= 8 {
		width++
	}
	return changed*byteCost + len(values)*int(width)*bitCost/8, width
}

// putKeyed writes a column beside its keys.
func (c *dictionaryCoder) putKeyed(w *rangeWriter, m *integerModels, values []uint64, width uint, keyed bool) {
	w.put(&m.same, 1)
	w.put(&m.order, orderKeyed)
	if keyed {
		w.put(&m.keys, keysBeside)
	} else {
		w.put(&m.keys, keysNone)
	}
	w.put(&m.width, uint64(width))
	k := &c.keyed
	k.reset(width)
	for i, v := range values {
		last := &k.last[c.keys[i]&(entriesMost-1)]
		above := uint(0)
		for at := width - 1; at < width; at-- {
			by := uint8(v>>(at*8)) - uint8(last.word>>(at*8))
			past := &last.past[at&7]
			chance := &k.changed[at&7][uint(*past&pastMask)<<aboveBits|above]
			*past <<= 1
			above = above << 1 & aboveMask
			if by == 0 {
				w.put0(chance)
				continue
			}
			w.put1(chance)
			w.putTree(k.by[at&7][:], uint(by), 8)
			*past |= 1
			above |= 1
		}
		last.word = v
	}
}

// getKeyed appends a column beside its keys to dst.
func (c *dictionaryReader) getKeyed(r *rangeReader, m *integerModels, dst []uint64, keys []uint16) []uint64 {
	width := uint(r.get(&m.width))
	if width == 0 || width > wordBytes {
		r.bad = true
		return dst
	}
	k := &c.keyed
	k.reset(width)
	for _, key := range keys {
		if r.bad {
			break
		}
		last := &k.last[key&(entriesMost-1)]
		above := uint(0)
		word := last.word
		for at := width - 1; at < width; at-- {
			past := &last.past[at&7]
			changed := uint8(r.bit(&k.changed[at&7][uint(*past&pastMask)<<aboveBits|above]))
			*past = *past<<1 | changed
			above = above<<1&aboveMask | uint(changed)
			if changed == 1 {
				by := uint8(r.getTree(k.by[at&7][:], 8))
				word = word&^(0xff<<(at*8)) | uint64(uint8(word>>(at*8))+by)<<(at*8)
			}
		}
		last.word = word
		dst = append(dst, word)
	}
	return dst
}

// putWhole writes a column of whole numbers: as a shape, as a dictionary, or keyed by the latest dictionary if that has
// its times.
func (e *Encoder) putWhole(c *signalColumn, values []uint64) {
	m, n := &e.models.values, len(values)
	s := e.integers.choose(values, false)
	if n < fewKeyed || s.order == 0 {
		e.integers.putShape(&e.w, m, s, values, 0)
		return
	}
	least, d := e.integers.least/min(n, mostWeighed)*n, &e.entries
	keyed := e.keys(c)
	if !keyed && least > n*wideCost && seen(values) && d.gather(values) && d.cost() < least {
		d.put(&e.w, m)
		d.set = c.set
		return
	}
	if !keyed && least > n*wordCost {
		d.keys = slices.Grow(d.keys[:0], n)[:n]
		clear(d.keys)
	}
	if keyed || least > n*wordCost {
		if cost, width := d.keyedCost(values); cost < least {
			d.putKeyed(&e.w, m, values, width, keyed)
			return
		}
	}
	e.integers.putShape(&e.w, m, s, values, 0)
}

// keys finds the entries of the latest dictionary beside a column's samples; false: there are none.
func (e *Encoder) keys(c *signalColumn) (found bool) {
	d := &e.entries
	if d.set < 0 || e.sets[d.set].group != e.sets[c.set].group {
		return false
	}
	d.keys, found = beside(d.keys[:0], d.indices, e.sets[d.set].at, e.sets[c.set].at)
	return found
}

// getWhole appends samples of whole numbers that have nothing but a value.
func (d *decoder) getWhole(dst []Sample, times []uint64) ([]Sample, error) {
	m := &d.models.values
	order, same := d.r.getOrder(m)
	if order >= orders && len(times) < fewKeyed {
		return dst, fmt.Errorf("%w: order %d for %d values", ErrMalformed, order, len(times))
	}
	if order >= orders && d.entries == nil {
		d.entries = &dictionaryReader{times: -1}
	}
	switch {
	case order == orderDictionary:
		d.values = d.entries.get(&d.r, m, d.values[:0], len(times))
		d.entries.times = d.lastTimes
	case order == orderKeyed:
		if err := d.getKeys(times); err != nil {
			return dst, err
		}
		d.values = d.entries.getKeyed(&d.r, m, d.values[:0], d.keys)
	default:
		d.values = getShape(&d.r, m, d.values[:0], len(times), 0, false, order, same)
	}
	if d.r.bad {
		return dst, fmt.Errorf("values: %w", ErrMalformed)
	}
	dst = slices.Grow(dst, len(times))
	for _, v := range d.values {
		dst = append(dst, Sample{Bits: v})
	}
	return dst, nil
}

// getKeys reads whether a column is keyed, and finds the keys at its times; they are all 0 if it is not.
func (d *decoder) getKeys(times []uint64) error {
	switch d.r.get(&d.models.values.keys) {
	case keysBeside:
		if d.entries.times < 0 {
			return fmt.Errorf("%w: a keyed column before any dictionary", ErrMalformed)
		}
		var found bool
		if d.keys, found = beside(d.keys[:0], d.entries.indices, d.timesOf(d.entries.times), times); !found {
			return fmt.Errorf("%w: a time of a keyed column that its dictionary has not", ErrMalformed)
		}
		return nil
	case keysNone:
		d.keys = slices.Grow(d.keys[:0], len(times))[:len(times)]
		clear(d.keys)
		return nil
	}
	return fmt.Errorf("%w: keys of no kind", ErrMalformed)
}
