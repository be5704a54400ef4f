package telemetrypb

import "math"

// Kind says how the value of a Sample is kept.
type Kind uint8

// The kinds, one for each ValueType of a catalogue.
const (
	KindNone Kind = iota
	KindInt
	KindUint
	KindFloat
	KindString
)

// Sample is one raw value of one signal at one time: what runs from a reader to a sealed batch. It is passed by value
// in slices; nothing is allocated per sample. Scale and offset live in the catalogue, so that nothing is rounded.
type Sample struct {
	Signal uint32 // id within the catalogue in force, from 1
	Kind   Kind
	Time   int64  // CLOCK_BOOTTIME, ns
	Bits   uint64 // KindInt: two's complement; KindUint: the number; KindFloat: IEEE 754 binary64
	Str    string // KindString
}

// IntSample makes a signed integer sample.
func IntSample(signal uint32, bootNS, value int64) Sample {
	return Sample{Signal: signal, Kind: KindInt, Time: bootNS, Bits: uint64(value)}
}

// UintSample makes an unsigned integer sample.
func UintSample(signal uint32, bootNS int64, value uint64) Sample {
	return Sample{Signal: signal, Kind: KindUint, Time: bootNS, Bits: value}
}

// FloatSample makes a floating point sample; every bit pattern is kept, NaNs included.
func FloatSample(signal uint32, bootNS int64, value float64) Sample {
	return Sample{Signal: signal, Kind: KindFloat, Time: bootNS, Bits: math.Float64bits(value)}
}

// StringSample makes a text sample.
func StringSample(signal uint32, bootNS int64, value string) Sample {
	return Sample{Signal: signal, Kind: KindString, Time: bootNS, Str: value}
}

// Float is the raw value as a number; NaN for text.
func (s Sample) Float() float64 {
	switch s.Kind {
	case KindInt:
		return float64(int64(s.Bits))
	case KindUint:
		return float64(s.Bits)
	case KindFloat:
		return math.Float64frombits(s.Bits)
	}
	return math.NaN()
}

// Physical is float64(raw × scale) + offset. The explicit conversion forbids a fused multiply-add, so that every
// architecture agrees to the last bit. A scale of 0 reads as 1.
func (s Sample) Physical(scale, offset float64) float64 {
	if scale == 0 {
		scale = 1
	}
	return float64(s.Float()*scale) + offset
}
