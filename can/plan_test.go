package can

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// bitByBit reads a signal the slow way, one bit at a time, as a DBC file's bit numbers define it: little-endian signals go
// up from their least significant bit; big-endian ones go down within a byte from their most significant bit, and on at
// bit 7 of the next byte.
func bitByBit(s *Signal, data []byte) uint64 {
	var v uint64
	if s.BigEndian {
		bit := s.Start
		for range s.Size {
			v = v<<1 | uint64(data[bit/8]>>(bit%8)&1)
			if bit%8 == 0 {
				bit += 15
			} else {
				bit--
			}
		}
	} else {
		for i := s.Size - 1; i >= 0; i-- {
			v = v<<1 | uint64(data[(s.Start+i)/8]>>((s.Start+i)%8)&1)
		}
	}
	if s.Signed && v>>(s.Size-1)&1 == 1 && s.Size < 64 {
		v |= math.MaxUint64 << s.Size
	}
	return v
}

// Every place and size in a 64-byte frame, in both byte orders, with and without sign.
func TestDecodeEveryPlace(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var f Frame
	for i := range f.Data {
		f.Data[i] = byte(random.Uint32())
	}
	f.Len = MaxLen
	m := &Message{Name: "M", Length: MaxLen}
	count, step := 0, 1
	if testing.Short() {
		step = 3 // an odd step still meets every bit of a byte
	}
	for start := 0; start < 8*MaxLen; start += step {
		for size := 1; size <= 64; size++ {
			for kind := range 4 {
				s := &Signal{Name: "S", Start: start, Size: size, BigEndian: kind&1 != 0, Signed: kind&2 != 0, Scale: 1}
				plan := planOf(m, s)
				got := plan.Decode(&f, nil)
				if s.firstBit()+size > 8*MaxLen {
					if len(got) != 0 || len(plan.Warnings()) != 1 {
						t.Fatalf("%+v lies beyond the frame and gives %v, warnings %v", s, got, plan.Warnings())
					}
					continue
				}
				want := telemetrypb.Sample{Signal: 1, Kind: telemetrypb.KindUint, Bits: bitByBit(s, f.Data[:])}
				if s.Signed {
					want.Kind = telemetrypb.KindInt
				}
				if len(got) != 1 || got[0] != want {
					t.Fatalf("%+v: got %+v, want %+v", s, got, want)
				}
				count++
			}
		}
	}
	if count < 100_000/step {
		t.Errorf("only %d places tried", count)
	}
}

// planOf is a plan of some signals of one message, with ids from 1.
func planOf(m *Message, signals ...*Signal) *Plan {
	var subscriptions []Subscription
	for i, s := range signals {
		subscriptions = append(subscriptions, Subscription{ID: uint32(i + 1), Message: m, Signal: s})
	}
	return Compile(subscriptions, PlanOptions{})
}

func TestDecodeFloats(t *testing.T) {
	m := &Message{Name: "M", Length: 64}
	for _, bigEndian := range []bool{false, true} {
		for _, offset := range []int{0, 3, 8, 13, 100} {
			start := func(size int) int {
				if bigEndian { // the most significant bit of the first byte that the offset lies in
					return offset&^7 | 7 - offset&7
				}
				return offset
			}
			for _, value := range []float64{0, 1.5, -3.25e6, math.Inf(-1), math.NaN(), math.SmallestNonzeroFloat32, math.MaxFloat32} {
				for _, size := range []int{32, 64} {
					s := &Signal{Name: "F", Start: start(size), Size: size, BigEndian: bigEndian, Scale: 1, Encoding: EncodingFloat64}
					raw := math.Float64bits(value)
					if size == 32 {
						s.Encoding = EncodingFloat32
						raw = uint64(math.Float32bits(float32(value)))
					}
					f := Frame{Len: 64}
					for i := range size { // bit i of the value, from the least significant
						if raw>>i&1 == 1 {
							place := offset + i
							if bigEndian {
								place = (offset + size - 1 - i)
								place = place&^7 | 7 - place&7
							}
							f.Data[place/8] |= 1 << (place % 8)
						}
					}
					got := planOf(m, s).Decode(&f, nil)
					if len(got) != 1 || got[0].Kind != telemetrypb.KindFloat || !(got[0].Float() == value || math.IsNaN(value) && math.IsNaN(got[0].Float())) {
						t.Errorf("%v of %d bits at %d, big-endian %t: %+v", value, size, offset, bigEndian, got)
					}
				}
			}
		}
	}
}

func ids(samples []telemetrypb.Sample) []uint32 {
	var list []uint32
	for _, s := range samples {
		list = append(list, s.Signal)
	}
	slices.Sort(list)
	return list
}

func TestDecodeMultiplexed(t *testing.T) {
	db := ParseDBC([]byte(`BO_ 5 M: 8 X
 SG_ Top M : 0|4@1+ (1,0) [0|0] "" X
 SG_ Mid m1M : 4|4@1+ (1,0) [0|0] "" X
 SG_ Leaf m3 : 8|8@1+ (1,0) [0|0] "" X
 SG_ Other m2 : 8|8@1+ (1,0) [0|0] "" X
 SG_ Far m2 : 56|8@1+ (1,0) [0|0] "" X
SG_MUL_VAL_ 5 Mid Top 1-1;
SG_MUL_VAL_ 5 Leaf Mid 3-5, 9-9;
SG_MUL_VAL_ 5 Other Top 2-2;
SG_MUL_VAL_ 5 Far Top 2-2;
`))
	m := db.Messages[0]
	plan := planOf(m, m.Signals...) // ids: Top 1, Mid 2, Leaf 3, Other 4, Far 5
	withoutSwitches := planOf(m, m.Signal("Leaf"), m.Signal("Other"))
	for _, test := range []struct {
		data      []byte
		want      []uint32
		wantAlone []uint32 // of Leaf (1) and Other (2), with no multiplexor subscribed
		short     uint64
	}{
		{[]byte{0x31, 7, 0, 0, 0, 0, 0, 0}, []uint32{1, 2, 3}, []uint32{1}, 0},
		{[]byte{0x51, 7, 0, 0, 0, 0, 0, 0}, []uint32{1, 2, 3}, []uint32{1}, 0},
		{[]byte{0x91, 7, 0, 0, 0, 0, 0, 0}, []uint32{1, 2, 3}, []uint32{1}, 0},
		{[]byte{0x61, 7, 0, 0, 0, 0, 0, 0}, []uint32{1, 2}, nil, 0},
		{[]byte{0x32, 7, 0, 0, 0, 0, 0, 0}, []uint32{1, 4, 5}, []uint32{2}, 0},
		{[]byte{0x32, 7}, []uint32{1, 4}, []uint32{2}, 1},
		{[]byte{0x31}, []uint32{1, 2}, nil, 1},
		{[]byte{0x30}, []uint32{1}, nil, 0},
		{nil, nil, nil, 1},
	} {
		f := Frame{ID: 5, Len: uint8(len(test.data))}
		for i := range f.Data {
			f.Data[i] = 0x31 // what lies behind the end must not matter
		}
		copy(f.Data[:], test.data)
		before := plan.Counters.Short.Load()
		if got := ids(plan.Decode(&f, nil)); !slices.Equal(got, test.want) {
			t.Errorf("%x: got %v, want %v", test.data, got, test.want)
		}
		if got := plan.Counters.Short.Load() - before; got != test.short {
			t.Errorf("%x: %d frames counted as short, want %d", test.data, got, test.short)
		}
		if got := ids(withoutSwitches.Decode(&f, nil)); !slices.Equal(got, test.wantAlone) {
			t.Errorf("%x without the multiplexors: got %v, want %v", test.data, got, test.wantAlone)
		}
	}
}

func TestDecodeOtherFrames(t *testing.T) {
	m := &Message{Name: "M", ID: 5, Length: 1}
	plan := planOf(m, &Signal{Name: "S", Size: 8, Scale: 1})
	for _, f := range []Frame{{ID: 6, Len: 1}, {ID: 5, Len: 1, Flags: FlagExtended}, {ID: 5, Flags: FlagRemote}, {ID: 5, Flags: FlagError}} {
		if got := plan.Decode(&f, nil); len(got) != 0 || plan.Match(&f) != nil {
			t.Errorf("%+v gives %v", f, got)
		}
	}
	c := &plan.Counters
	if c.Unknown.Load() != 2 || c.Remote.Load() != 1 || c.Error.Load() != 1 || c.Short.Load() != 0 {
		t.Errorf("unknown %d, remote %d, error %d, short %d", c.Unknown.Load(), c.Remote.Load(), c.Error.Load(), c.Short.Load())
	}
	f := Frame{ID: 5, Len: 1, Time: 42, Data: [64]byte{7}}
	if got := plan.Decode(&f, nil); len(got) != 1 || got[0] != telemetrypb.UintSample(1, 42, 7) {
		t.Errorf("%+v", got)
	}
}

func TestMatchJ1939(t *testing.T) {
	message := func(name string, id uint32, j1939 bool) *Message {
		return &Message{Name: name, ID: id, Extended: true, J1939: j1939, Length: 8}
	}
	subscriptions := []Subscription{
		{Message: message("any", 0x18FEF1FE, true)},
		{Message: message("of42", 0x18FEF142, true)},
		{Message: message("exact", 0x0CFEF133, false)},
		{Message: message("toAny", 0x18EF00FE, true)},
		{Message: message("plain", 0x18FEF2FE, false)},
	}
	standard := &Message{Name: "standard", ID: 0x7F1, Length: 8}
	subscriptions = append(subscriptions, Subscription{Message: standard})
	plan := Compile(subscriptions, PlanOptions{})
	all := Compile(subscriptions, PlanOptions{J1939: true})
	for _, test := range []struct {
		id         uint32
		want, wide string
	}{
		{0x18FEF1FE, "any", "any"},
		{0x0CFEF100, "any", "any"},     // another priority and source
		{0x0CFEF142, "of42", "of42"},   // the source address decides
		{0x0CFEF133, "exact", "exact"}, // an exact identifier goes first
		{0x18FEF133, "any", "exact"},   // with the switch it has a PGN too, and a source address that fits
		{0x19FEF1FE, "", ""},           // another data page
		{0x18EF2A17, "toAny", "toAny"}, // PF below 240: PS is an address
		{0x18FEF242, "", "plain"},
		{0x18FEF300, "", ""},
	} {
		f := Frame{ID: test.id, Flags: FlagExtended}
		name := func(m *Message) string {
			if m == nil {
				return ""
			}
			return m.Name
		}
		if got := name(plan.Match(&f)); got != test.want {
			t.Errorf("%#x: %q, want %q", test.id, got, test.want)
		}
		if got := name(all.Match(&f)); got != test.wide {
			t.Errorf("%#x with the switch: %q, want %q", test.id, got, test.wide)
		}
		passes := func(p *Plan) bool {
			return slices.ContainsFunc(p.Filters(), func(filter Filter) bool { return filter.Pass(&f) })
		}
		if passes(plan) != (test.want != "") || passes(all) != (test.wide != "") {
			t.Errorf("%#x: the filters pass it: %t, with the switch %t", test.id, passes(plan), passes(all))
		}
	}
	if f := (Frame{ID: 0x7F1}); plan.Match(&f) != standard {
		t.Error("the standard identifier is not matched")
	}
	if len(found(&Database{Warnings: plan.Warnings()}, SeverityWarning, "same PGN")) != 1 {
		t.Errorf("%+v", plan.Warnings())
	}
}

func TestPGN(t *testing.T) {
	// SAE J1939-71: EEC1 is PGN 61444; TSC1 is PGN 0, sent to an address; SAE J1939-73: DM1 is 65226.
	for id, want := range map[uint32]uint32{0x0CF00400: 61444, 0x0C000003: 0, 0x0C00FF03: 0, 0x18FECA17: 65226, 0x19F80503: 129029} {
		if got := PGN(id); got != want {
			t.Errorf("%#x: %d, want %d", id, got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	var subscriptions []Subscription
	for i := range MaxFilters {
		subscriptions = append(subscriptions, Subscription{Message: &Message{Name: "M", ID: uint32(i)}})
	}
	if n := len(Compile(subscriptions, PlanOptions{}).Filters()); n != MaxFilters {
		t.Errorf("%d filters", n)
	}
	subscriptions = append(subscriptions, Subscription{Message: &Message{Name: "M", ID: MaxFilters}})
	if filters := Compile(subscriptions, PlanOptions{}).Filters(); filters != nil {
		t.Errorf("%d filters, the kernel takes %d", len(filters), MaxFilters)
	}
	if filters := Compile(nil, PlanOptions{}).Filters(); filters == nil || len(filters) != 0 {
		t.Errorf("a plan of nothing lets pass %v, want nothing", filters)
	}
}

func TestCompileSameIdentifier(t *testing.T) {
	a, b := &Message{Name: "A", ID: 5, Length: 1}, &Message{Name: "B", ID: 5, Length: 1}
	s := &Signal{Name: "S", Size: 8, Scale: 1}
	plan := Compile([]Subscription{{ID: 1, Message: a, Signal: s}, {ID: 2, Message: b, Signal: s}, {ID: 3}}, PlanOptions{})
	f := Frame{ID: 5, Len: 1}
	if got := ids(plan.Decode(&f, nil)); !slices.Equal(got, []uint32{1}) || len(plan.Warnings()) != 2 {
		t.Errorf("%v, %+v", got, plan.Warnings())
	}
}

func TestIDTable(t *testing.T) {
	var table idTable
	random := rand.New(rand.NewPCG(3, 4))
	want := map[uint32]uint16{}
	for i := range 3000 {
		id := random.Uint32N(MaxExtendedID + 1)
		if i%3 == 0 {
			id = 0x18FE0000 | uint32(i)<<4 // a run, as a bus has it
		}
		want[id] = uint16(i + 1)
		table.put(id, uint16(i+1))
	}
	for id, number := range want {
		if got, ok := table.get(id); got != number || !ok {
			t.Fatalf("%#x: %d %t, want %d", id, got, ok, number)
		}
	}
	for range 10000 {
		id := random.Uint32N(MaxExtendedID + 1)
		if got, ok := table.get(id); ok != (want[id] != 0) || got != want[id] {
			t.Fatalf("%#x: %d %t, want %d", id, got, ok, want[id])
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	db := ParseDBC([]byte(benchmarkDBC))
	m := db.Messages[0]
	plan := planOf(m, m.Signals...)
	f := Frame{ID: m.ID, Len: 8, Data: [64]byte{1, 2, 3, 4, 5, 6, 7, 8}}
	samples := make([]telemetrypb.Sample, 0, 8)
	if n := testing.AllocsPerRun(1000, func() { samples = plan.Decode(&f, samples[:0]) }); n != 0 || len(samples) != 8 {
		t.Errorf("%v allocations, %d samples", n, len(samples))
	}
}

func TestCatalogueSignal(t *testing.T) {
	db := ParseDBC([]byte("BO_ 1 M: 8 X\n SG_ A : 0|8@1- (0.5,-40) [-40|80] \"degC\" X\n SG_ B : 8|32@1+ (1,0) [0|0] \"\" X\nCM_ SG_ 1 A \"warm\";\nVAL_ 1 A -1 \"broken\";\nSIG_VALTYPE_ 1 B : 1;\n"))
	m := db.Messages[0]
	a, b := db.CatalogueSignal(m, m.Signals[0]), db.CatalogueSignal(m, m.Signals[1])
	if a.Name != "M.A" || a.Unit != "degC" || a.Scale != 0.5 || a.Offset != -40 || a.GetMin() != -40 || a.GetMax() != 80 || a.Comment != "warm" ||
		a.Message != "M" || a.Type != telemetrypb.ValueType_VALUE_TYPE_INT || len(a.Labels) != 1 || a.Labels[0].Value != -1 || a.Labels[0].Text != "broken" || string(a.DbcHash) != string(db.Hash[:]) {
		t.Errorf("%v", a)
	}
	if b.Type != telemetrypb.ValueType_VALUE_TYPE_FLOAT || b.Min != nil || b.Max != nil {
		t.Errorf("%v", b)
	}
}
