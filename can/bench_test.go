package can

import (
	"slices"
	"testing"
	"time"

	einride "go.einride.tech/can"
	"go.einride.tech/can/pkg/descriptor"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// benchmarkDBC is a frame of eight signals in both byte orders, with and without sign.
const benchmarkDBC = `BO_ 291 Mixed: 8 X
 SG_ A : 0|8@1+ (1,0) [0|255] "" X
 SG_ B : 8|12@1- (0.1,-40) [-245|165] "" X
 SG_ C : 20|4@1+ (1,0) [0|15] "" X
 SG_ D : 31|10@0+ (0.25,0) [0|256] "" X
 SG_ E : 37|6@0- (1,0) [-32|31] "" X
 SG_ F : 40|1@1+ (1,0) [0|1] "" X
 SG_ G : 55|12@0+ (0.5,10) [10|2058] "" X
 SG_ H : 56|4@1- (1,0) [-8|7] "" X
`

var benchmarkFrame = [8]byte{0x11, 0x92, 0x33, 0xA4, 0x55, 0xE6, 0x77, 0x88}

func BenchmarkDecode8Mixed(b *testing.B) {
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
	plan := planOf(m, m.Signals...)
	f := Frame{ID: m.ID, Len: 8}
	copy(f.Data[:], benchmarkFrame[:])
	samples := make([]telemetrypb.Sample, 0, 8)
	b.ReportAllocs()
	for b.Loop() {
		samples = plan.Decode(&f, samples[:0])
	}
}

// The same frame again, and again: nothing is new.
func BenchmarkUnchanged8Mixed(b *testing.B) {
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
	benchmarkChanges(b, m, &Frame{ID: m.ID, Len: 8, Data: [MaxLen]byte(append(benchmarkFrame[:], make([]byte, MaxLen-8)...))}, 0)
}

// The same where every frame says something new.
func BenchmarkChanged8Mixed(b *testing.B) {
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
	benchmarkChanges(b, m, &Frame{ID: m.ID, Len: 8}, 1)
}

func BenchmarkDecode8FD(b *testing.B) {
	m, f := fdMessage()
	plan := planOf(m, m.Signals...)
	samples := make([]telemetrypb.Sample, 0, 8)
	b.ReportAllocs()
	for b.Loop() {
		samples = plan.Decode(f, samples[:0])
	}
}

func BenchmarkUnchanged8FD(b *testing.B) {
	m, f := fdMessage()
	benchmarkChanges(b, m, f, 0)
}

// fdMessage has eight signals of 12 bits in both byte orders, spread over a frame of 64 bytes.
func fdMessage() (*Message, *Frame) {
	m, f := &Message{Name: "Wide", ID: 0x321, Length: MaxLen}, &Frame{ID: 0x321, Len: MaxLen, Flags: FlagFD}
	for i := range 8 {
		m.Signals = append(m.Signals, &Signal{Name: string(rune('A' + i)), Start: 64*i + 7, Size: 12, BigEndian: i%2 == 0, Signed: i%3 == 0, Scale: 1})
	}
	for i := range f.Data {
		f.Data[i] = byte(37 * i)
	}
	return m, f
}

// changesOf detects changes of all signals of a message.
func changesOf(m *Message) *Changes {
	var subscriptions []Subscription
	for i, s := range m.Signals {
		subscriptions = append(subscriptions, Subscription{ID: uint32(i + 1), Message: m, Signal: s, OnChange: true, Refresh: time.Minute})
	}
	return Compile(subscriptions, PlanOptions{}).NewChanges()
}

// benchmarkChanges decodes a frame of a message over and over, with its first byte higher by step each time.
func benchmarkChanges(b *testing.B, m *Message, f *Frame, step byte) {
	changes := changesOf(m)
	samples := make([]telemetrypb.Sample, 0, len(m.Signals))
	b.ReportAllocs()
	for b.Loop() {
		samples = changes.Decode(f, samples[:0])
		f.Data[0] += step
	}
}

// The same in an extended frame that is found by its PGN.
func BenchmarkDecode8MixedByPGN(b *testing.B) {
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
	m.ID, m.Extended, m.J1939 = 0x18FEF1FE, true, true
	plan := planOf(m, m.Signals...)
	f := Frame{ID: 0x0CFEF117, Len: 8, Flags: FlagExtended}
	copy(f.Data[:], benchmarkFrame[:])
	samples := make([]telemetrypb.Sample, 0, 8)
	b.ReportAllocs()
	for b.Loop() {
		samples = plan.Decode(&f, samples[:0])
	}
}

// A frame nobody asked for: most of a bus, where the kernel's filters are not in use.
func BenchmarkDecodeUnknown(b *testing.B) {
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
	plan := planOf(m, m.Signals...)
	f := Frame{ID: 0x124, Len: 8}
	var samples []telemetrypb.Sample
	b.ReportAllocs()
	for b.Loop() {
		samples = plan.Decode(&f, samples[:0])
	}
}

// canGo is can-go on the same frame and signals, as its generated code does it: one call a signal.
func canGo(m *Message) func() {
	var signals []*descriptor.Signal
	for _, s := range m.Signals {
		start := uint8(s.Start)
		signals = append(signals, &descriptor.Signal{
			Name: s.Name, Start: start, Length: uint8(s.Size), IsBigEndian: s.BigEndian, IsSigned: s.Signed,
			Scale: s.Scale, Offset: s.Offset, Min: s.Min, Max: s.Max,
		})
	}
	data := einride.Data(benchmarkFrame)
	var sum float64
	return func() {
		for _, s := range signals {
			sum += s.UnmarshalPhysical(data)
		}
	}
}

func BenchmarkDecode8MixedCanGo(b *testing.B) {
	peer := canGo(ParseDBC([]byte(benchmarkDBC)).Messages[0])
	b.ReportAllocs()
	for b.Loop() {
		peer()
	}
}

// What decoding costs, and how much faster it is than can-go on the same frame, in the same moments: rounds of all take
// turns, each so short that other programs on the machine rarely interrupt it. x-can-go is the median of the rounds'
// ratios, a time is that of the fastest round.
func BenchmarkDecodeBesideCanGo(b *testing.B) {
	const rounds, calls = 501, 1000
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
	f := &Frame{ID: m.ID, Len: 8}
	copy(f.Data[:], benchmarkFrame[:])
	wide, fd := fdMessage()
	plan, widePlan := planOf(m, m.Signals...), planOf(wide, wide.Signals...)
	changes, wideChanges := changesOf(m), changesOf(wide)
	samples := make([]telemetrypb.Sample, 0, 8)
	peer := canGo(m)
	list := []struct {
		unit string
		do   func()
	}{
		{"frame-ns", func() {
			for range calls {
				_ = plan.Decode(f, samples)
			}
		}},
		{"can-go-ns", func() {
			for range calls {
				peer()
			}
		}},
		{"unchanged-ns", func() {
			for range calls {
				_ = changes.Decode(f, samples)
			}
		}},
		{"fd-ns", func() {
			for range calls {
				_ = widePlan.Decode(fd, samples)
			}
		}},
		{"fd-unchanged-ns", func() {
			for range calls {
				_ = wideChanges.Decode(fd, samples)
			}
		}},
	}
	b.ReportAllocs()
	for b.Loop() {
		least, ratios := make([]time.Duration, len(list)), make([]float64, 0, rounds)
		for range rounds {
			var took [2]time.Duration // of ours and can-go's
			for i := range list {
				began := time.Now()
				list[i].do()
				t := time.Since(began)
				if i < len(took) {
					took[i] = t
				}
				if least[i] == 0 || t < least[i] {
					least[i] = t
				}
			}
			ratios = append(ratios, float64(took[1])/float64(took[0]))
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[rounds/2], "x-can-go")
		for i := range list {
			b.ReportMetric(float64(least[i])/calls, list[i].unit)
		}
		b.ReportMetric(0, "ns/op") // of a loop that measures itself it says nothing
	}
}

func BenchmarkScanner(b *testing.B) {
	line := []byte("(1620692699.796900) can0 18FEF117#1122334455667788\n")
	s := NewScanner(&repeatReader{line: line})
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		s.Scan()
	}
}

// repeatReader is an endless log of one line.
type repeatReader struct {
	line []byte
	at   int
}

func (r *repeatReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c := copy(p[n:], r.line[r.at:])
		n += c
		r.at = (r.at + c) % len(r.line)
	}
	return n, nil
}
