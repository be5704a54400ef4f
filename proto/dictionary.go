package telemetrypb

import (
	"math/bits"
	"slices"
)

// A bus recorded as it is gives one column of identifiers, all of them mixed, and beside it columns of what each frame
// holds. Numbers do not tell which identifier comes next, but what came after this one before does: such a column is a
// dictionary and indices into it. FORMAT.md, "Dictionary".

const (
	orderDictionary = orders     // in place of the order of a shape
	orderKeyed      = orders + 1 // keyed.go

	entriesBits = 10
	entriesMost = 1 << entriesBits // different values of a dictionary
	fewKeyed    = 64               // a column of fewer values is neither a dictionary nor keyed
	partKeyed   = 16               // nor is one keyed by a dictionary of more than so many times its values
	pastBits    = 3                // outcomes of which a model depends
	pastMask    = 1<<pastBits - 1
	seekProbes  = 16 // values looked for among those that follow them
	seekSpan    = 128
	seekFound   = 5            // of them, where a dictionary may be worth its while
	seekFirst   = 6            // probes of which one at least has to be found
	wideCost    = 8 * bitCost  // for what costs less, a dictionary is not tried
	wordCost    = 24 * bitCost // for what costs less, bytes by themselves are not tried
)

// follower is what came after an entry: the latest, the one that was the latest before it, and how often of late it was
// another than that, the latest outcome lowest.
type follower struct {
	next, other uint16
	past        uint8
}

// dictionaryModels is what is known of which entry comes next. It starts anew with each dictionary.
type dictionaryModels struct {
	next, other [1 << pastBits]chance
	index       [entriesMost]chance // a tree, its root in place 1
	follows     [entriesMost]follower
}

func (m *dictionaryModels) reset(entries int) {
	for i := range m.next {
		m.next[i], m.other[i] = unknown, unknown
	}
	for i := range m.index[:1<<indexBits(entries)] {
		m.index[i] = unknown
	}
	for i := range m.follows[:entries] {
		m.follows[i] = follower{past: pastMask}
	}
}

// indexBits is how many bits the index of one of so many entries has.
func indexBits(entries int) uint { return uint(bits.Len(uint(entries - 1))) }

// take enters what came next.
func (f *follower) take(index uint16) {
	f.past = f.past << 1 & pastMask
	if index != f.next {
		f.past |= 1
		f.next, f.other = index, f.next
	}
}

// dictionaryCoder writes dictionaries and what is keyed by them; it holds the memory for both.
type dictionaryCoder struct {
	models  dictionaryModels
	keyed   keyedModels
	set     int      // of times, that of the latest dictionary in the body; −1: there is none
	indices []uint16 // of that column
	keys    []uint16 // those beside another
	entries []uint64
	places  [2 * entriesMost]uint16 // hash table: 1 + the index of an entry
	ranks   [entriesMost]uint16
	gaps    []uint64
}

// seen says whether values come again soon, the first thing to ask of what may be a dictionary.
func seen(values []uint64) bool {
	if len(values) < mostWeighed {
		return false
	}
	step := (len(values) - 1) / (seekProbes + 1)
	found := 0
	for i := range seekProbes {
		at := i * step
		if slices.Contains(values[at+1:min(at+1+seekSpan, len(values))], values[at]) {
			found++
		}
		if i == seekFirst && found == 0 {
			break
		}
	}
	return found >= seekFound
}

// place is where in the hash table a value stands, or would.
func (c *dictionaryCoder) place(v uint64) uint64 {
	at := v * 0x9e3779b97f4a7c15 >> (64 - entriesBits - 1)
	for c.places[at] != 0 && c.entries[c.places[at]-1] != v {
		at = (at + 1) % uint64(len(c.places))
	}
	return at
}

// gather makes the dictionary of a column, ascending, and the column's indices; false: it has too many different values.
func (c *dictionaryCoder) gather(values []uint64) bool {
	most := min(entriesMost, len(values)/2)
	clear(c.places[:])
	c.entries, c.indices = c.entries[:0], c.indices[:0]
	c.set = -1 // the indices are another's now
	for _, v := range values {
		at := c.place(v)
		if c.places[at] == 0 {
			if len(c.entries) == most {
				return false
			}
			c.entries = append(c.entries, v)
			c.places[at] = uint16(len(c.entries))
		}
		c.indices = append(c.indices, c.places[at]-1)
	}
	c.gaps = append(c.gaps[:0], c.entries...)
	slices.Sort(c.gaps)
	for rank, v := range c.gaps {
		c.ranks[c.places[c.place(v)]-1] = uint16(rank)
	}
	c.entries, c.gaps = c.gaps, c.entries // the table is of no more use
	for i, index := range c.indices {
		c.indices[i] = c.ranks[index]
	}
	c.gaps = c.gaps[:0]
	for i, v := range c.entries[1:] {
		c.gaps = append(c.gaps, v-c.entries[i]-1)
	}
	return true
}

// cost is about how many bits the gathered column takes, in 1/16.
func (c *dictionaryCoder) cost() int {
	for i := range c.entries {
		c.models.follows[i] = follower{past: pastMask}
	}
	missed, last := 0, uint16(0)
	for _, index := range c.indices {
		f := &c.models.follows[last]
		if f.next != index {
			missed++
		}
		f.take(index)
		last = index
	}
	return residualCost(c.gaps) + bitCost*(len(c.indices)+missed*int(1+indexBits(len(c.entries))))
}

// put writes the gathered column.
func (c *dictionaryCoder) put(w *rangeWriter, m *integerModels) {
	w.put(&m.same, 1)
	w.put(&m.order, orderDictionary)
	w.putWide(&m.entries, uint64(len(c.gaps)))
	w.putWide(&m.first, zigzag(c.entries[0]))
	w.putResiduals(m, c.gaps)
	c.models.reset(len(c.entries))
	depth, last := indexBits(len(c.entries)), uint16(0)
	for _, index := range c.indices {
		f := &c.models.follows[last]
		past := f.past & pastMask
		if index == f.next {
			w.put0(&c.models.next[past])
		} else {
			w.put1(&c.models.next[past])
			if index == f.other {
				w.put0(&c.models.other[past])
			} else {
				w.put1(&c.models.other[past])
				w.putTree(c.models.index[:], uint(index), depth)
			}
		}
		f.take(index)
		last = index
	}
}

// dictionaryReader reads what dictionaryCoder wrote.
type dictionaryReader struct {
	models  dictionaryModels
	keyed   keyedModels
	times   int // time column of the latest dictionary in the body; −1: there is none
	indices []uint16
	entries []uint64
}

// get appends a column of n values to dst.
func (c *dictionaryReader) get(r *rangeReader, m *integerModels, dst []uint64, n int) []uint64 {
	c.indices = c.indices[:0]
	count := r.getWide(&m.entries) + 1
	if count == 0 || count > entriesMost || count > uint64(n) {
		r.bad = true
		return dst
	}
	first := unzigzag(r.getWide(&m.first))
	c.entries = r.getResiduals(m, append(c.entries[:0], first), int(count)-1)
	if r.bad {
		return dst
	}
	for i := 1; i < len(c.entries); i++ {
		c.entries[i] += c.entries[i-1] + 1
	}
	c.models.reset(int(count))
	depth, last := indexBits(int(count)), uint16(0)
	for range n {
		f := &c.models.follows[last]
		past := f.past & pastMask
		index := f.next
		if r.bit(&c.models.next[past]) == 1 {
			index = f.other
			if r.bit(&c.models.other[past]) == 1 {
				index = uint16(r.getTree(c.models.index[:], depth))
			}
		}
		if r.bad || int(index) >= len(c.entries) {
			r.bad = true
			return dst
		}
		f.take(index)
		last = index
		c.indices = append(c.indices, index)
		dst = append(dst, c.entries[index])
	}
	return dst
}
