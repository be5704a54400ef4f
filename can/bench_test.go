package can

import (
	"testing"

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

// can-go on the same frame and signals.
func BenchmarkDecode8MixedCanGo(b *testing.B) {
	m := ParseDBC([]byte(benchmarkDBC)).Messages[0]
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
	b.ReportAllocs()
	for b.Loop() {
		for _, s := range signals {
			sum += s.UnmarshalPhysical(data)
		}
	}
	_ = sum
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
