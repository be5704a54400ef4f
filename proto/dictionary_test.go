package telemetrypb

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// framesOf is a bus recorded as it is (docs/RECORDING.md): identifiers with a period each, of which every third repeats itself,
// every third counts and has a checksum, and every third has a byte of noise; from the 13th on, FD frames of 20 bytes.
func framesOf(random *rand.Rand, signal uint32, ids, n int) (out []Sample) {
	words := make([][3]uint64, ids)
	at := int64(1e12)
	for range n {
		id := min(random.IntN(ids), random.IntN(ids)) // some are seldom
		if random.IntN(4) > 0 {
			id = len(out) % ids // most have a place
		}
		at += 200e3 + random.Int64N(100e3)
		length := uint64(1 + id%8)
		if id > 12 {
			length = 20
		}
		for i := range words[id] {
			switch w := &words[id][i]; id % 3 {
			case 1:
				*w = *w&^0xff<<8 + 1<<16 + uint64(random.Uint32()&0xff)
			case 2:
				*w = *w&^(0xff<<40) | uint64(random.Uint32()&0xff)<<40
			}
		}
		out = append(out, UintSample(signal, at, uint64(id*37+0x100)|1<<31), UintSample(signal+1, at, length))
		for i := range words[id] {
			if bytes := min(8, int(length)-8*i); i == 0 || bytes > 0 {
				out = append(out, UintSample(signal+2+uint32(i), at, words[id][i]&(1<<(8*uint(bytes))-1)))
			}
		}
	}
	return out
}

// keyedSets are columns that are dictionaries or keyed, or may be.
func keyedSets() map[string][]Sample {
	random := rand.New(rand.NewPCG(31, 32))
	equal := framesOf(random, 1, 9, 300)
	for i := range equal {
		equal[i].Time = 5
	}
	gone := framesOf(random, 1, 9, 300)
	for i := range gone {
		if i%7 == 6 {
			gone[i].Time++ // the dictionary has no such time
		}
	}
	patterns := []uint64{0, math.MaxUint64, 1 << 63, 0x123456789abcdef0, 77}
	return map[string][]Sample{
		"frames":             framesOf(random, 1, 60, 3000),
		"two buses":          slices.Concat(framesOf(random, 1, 60, 700), framesOf(random, 7, 20, 700)),
		"equal times":        equal,
		"other times":        gone,
		"one identifier":     framesOf(random, 1, 1, 500),
		"a bus and a signal": slices.Concat(framesOf(random, 3, 20, 700), column(1, 900, func(i int) Sample { return IntSample(0, 0, int64(i)) })),
		"signed entries": column(1, 700, func(i int) Sample {
			return IntSample(0, 0, []int64{math.MinInt64, -1, 0, math.MaxInt64, 12345}[i*i%5])
		}),
		"entries of 64 bits":       column(1, 64, func(i int) Sample { return UintSample(0, 0, patterns[i*i%5]) }),
		"too few for one":          column(1, 63, func(i int) Sample { return UintSample(0, 0, patterns[i*i%5]) }),
		"as many entries as may":   column(1, 4096, func(i int) Sample { return UintSample(0, 0, uint64(i%1024*379%1024)<<30) }),
		"more entries than may":    column(1, 4100, func(i int) Sample { return UintSample(0, 0, uint64(i%1025*379%1025)<<30) }),
		"wide words by themselves": column(1, 700, func(i int) Sample { return UintSample(0, 0, uint64(random.Uint32()&0xff)<<56|uint64(i)) }),
	}
}

func TestDictionaryRoundTrip(t *testing.T) {
	for name, samples := range keyedSets() {
		t.Logf("%s: %d samples in %d bytes", name, len(samples), len(roundTrip(t, samples)))
	}
}

// A frame that repeats what its identifier had before costs hardly more than its time.
func TestFramesAreSmall(t *testing.T) {
	random := rand.New(rand.NewPCG(33, 34))
	words := make([]uint64, 50)
	for i := range words {
		words[i] = random.Uint64()
	}
	var samples []Sample
	const frames = 5000
	for i := range int64(frames) {
		id := i * 7 % 50
		samples = append(samples, UintSample(1, i*1e6, uint64(id*id)), UintSample(2, i*1e6, uint64(1+id%8)), UintSample(3, i*1e6, words[id]>>(8*(7-id%8))))
	}
	if n := len(roundTrip(t, samples)); n > frames/4 {
		t.Errorf("%d bytes for %d frames", n, frames)
	}
	// The identifiers once more, of another bus, whose signals are not at the same times.
	more := slices.Clone(samples)
	for i := range more {
		more[i].Signal += 3
		more[i].Time += 500
	}
	if n := len(roundTrip(t, slices.Concat(samples, more))); n > frames/2 {
		t.Errorf("%d bytes for %d frames of two buses", n, 2*frames)
	}
}

func TestEncoderOfFramesAllocatesNothing(t *testing.T) {
	samples := framesOf(rand.New(rand.NewPCG(35, 36)), 1, 60, 1500)
	var e Encoder
	var body, again []byte
	encode := func() {
		var err error
		if body, err = e.AppendSamples(body[:0], samples); err != nil {
			t.Fatal(err)
		}
	}
	encode()
	if n := testing.AllocsPerRun(20, encode); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
	again, err := new(Encoder).AppendSamples(nil, samples)
	if err != nil || !slices.Equal(again, body) {
		t.Errorf("an encoder that was used writes %d bytes, a new one %d (%v)", len(body), len(again), err)
	}
	decoded, err := DecodeSamples(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	// The race detector has sync.Pool forget a decoder now and then.
	if n := testing.AllocsPerRun(20, func() { decoded, _ = DecodeSamples(decoded[:0], body) }); n > 100 {
		t.Errorf("%v allocations to decode %d samples", n, len(samples))
	}
}

// What no encoder writes of a dictionary or a keyed column is refused; beside each stands what makes the difference.
func TestKeyedColumnsRefuse(t *testing.T) {
	for name, change := range map[string]func(b *keyedBody){
		"":                                   func(*keyedBody) {}, // fine
		"more entries than a dictionary has": func(b *keyedBody) { b.entries = entriesMost + 1; b.n, b.keyedN = 3000, 3000 },
		"more entries than values":           func(b *keyedBody) { b.entries = 101 },
		"a dictionary of few values":         func(b *keyedBody) { b.n, b.keyedN = fewKeyed-1, fewKeyed-1 },
		"an index beyond the entries":        func(b *keyedBody) { b.index = 3 },
		"keyed before a dictionary":          func(b *keyedBody) { b.order = 1 },
		"few keyed values":                   func(b *keyedBody) { b.keyedN = fewKeyed - 1 },
		"keyed by other times":               func(b *keyedBody) { b.late = 1 },
		"keyed by more times than that":      func(b *keyedBody) { b.keyedN = 101 },
		"keyed by far too many times":        func(b *keyedBody) { b.n = 100*partKeyed + partKeyed },
		"keys of no kind":                    func(b *keyedBody) { b.keys = 2 },
		"keyed by as many times as may be":   func(b *keyedBody) { b.n = 100*partKeyed + partKeyed - 1 }, // fine
		"no bytes":                           func(b *keyedBody) { b.width = 0 },
		"nine bytes":                         func(b *keyedBody) { b.width = 9 },
		"of an order above":                  func(b *keyedBody) { b.order2 = orderKeyed + 1 },
		"floats":                             func(b *keyedBody) { b.kind = 1 },
	} {
		b := keyedBody{n: 100, entries: 3, order: orderDictionary, keyedN: 100, order2: orderKeyed, keys: keysBeside, width: 1}
		change(&b)
		fine := name == "" || name == "keyed by as many times as may be"
		samples, err := DecodeSamples(nil, b.bytes())
		if fine && (err != nil || len(samples) != b.n+b.keyedN) || !fine && !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %d samples, %v", name, len(samples), err)
		}
	}
}

// keyedBody is a body of a dictionary and a column keyed by it.
type keyedBody struct {
	n, entries   int
	index        uint // the tree's
	order        uint64
	keyedN, late int
	kind         uint64
	order2       uint64
	keys, width  uint64
	w            rangeWriter
	m            *bodyModels
}

func (b *keyedBody) times(n, first int) {
	b.w.put(&b.m.id, 0)
	b.w.put(&b.m.times, timesNew)
	b.w.putWide(&b.m.count, uint64(n-1))
	b.w.put(&b.m.unit, 0)
	at := make([]uint64, n)
	for i := range at {
		at[i] = uint64(first + i)
	}
	var c integerCoder
	c.put(&b.w, &b.m.at, at, 0, true)
}

func (b *keyedBody) bytes() []byte {
	b.m = newModels()
	b.w.reset()
	b.w.putWide(&b.m.columns, 2)
	b.times(b.n, 0)
	v := &b.m.values
	b.w.put(&b.m.kind, 1)
	b.w.put(&v.same, 1)
	b.w.put(&v.order, b.order)
	switch b.order {
	case orderDictionary:
		b.w.putWide(&v.entries, uint64(b.entries-1))
		b.w.putWide(&v.first, 0)
		b.w.putResiduals(v, make([]uint64, b.entries-1))
		var m dictionaryModels
		m.reset(3)
		for range b.n {
			f := &m.follows[0]
			if b.index == 0 {
				b.w.put0(&m.next[f.past])
				f.take(0)
				continue
			}
			b.w.put1(&m.next[f.past])
			b.w.put1(&m.other[f.past])
			b.w.putTree(m.index[:], b.index, 2)
		}
	default:
		b.w.putWide(&v.first, 0)
		b.w.put(&v.memory, 0)
		b.w.putSigned(&v.drift, 0)
		b.w.putResiduals(v, make([]uint64, b.n-1))
	}
	b.times(b.keyedN, b.late)
	b.w.put(&b.m.kind, b.kind)
	if b.kind == 1 {
		b.w.put(&b.m.decimals, 0)
	}
	b.w.put(&v.same, 1)
	b.w.put(&v.order, b.order2)
	b.w.put(&v.keys, b.keys)
	b.w.put(&v.width, b.width)
	var k keyedModels
	k.reset(1)
	for range b.keyedN {
		b.w.put0(&k.changed[0][0])
	}
	return b.w.finish([]byte{columnsVersion})
}
