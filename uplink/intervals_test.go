package uplink

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
)

// TestIntervalsAgainstMap does a million random things to the set and to a map of bits.
func TestIntervalsAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const top = 200
	for range 200 {
		var s intervals
		var bits [top + 2]bool
		for range 200 {
			first := r.Uint64N(top)
			last := first + r.Uint64N(20)
			last = min(last, top-1)
			put := r.IntN(2) == 0
			if put {
				s.add(first, last)
			} else {
				s.remove(first, last)
			}
			for i := first; i <= last; i++ {
				bits[i] = put
			}
			for i, want := range bits {
				if s.contains(uint64(i)) != want {
					t.Fatalf("contains(%d) = %v after %+v", i, !want, s.ranges)
				}
			}
			from := r.Uint64N(top)
			want := from
			for bits[want] {
				want++
			}
			if got, ok := s.nextFree(from); !ok || got != want {
				t.Fatalf("nextFree(%d) = %d, %v, want %d in %+v", from, got, ok, want, s.ranges)
			}
			for i := 1; i < len(s.ranges); i++ {
				if s.ranges[i-1].Last+1 >= s.ranges[i].First {
					t.Fatalf("ranges touch: %+v", s.ranges)
				}
			}
			var kept, other intervals
			kept.ranges = append(kept.ranges, s.ranges...)
			other.add(first, last)
			other.add(from, from+1)
			kept.keep(&other)
			for i := range uint64(len(bits)) {
				if kept.contains(i) != (bits[i] && other.contains(i)) {
					t.Fatalf("%+v kept of %+v is %+v", other.ranges, s.ranges, kept.ranges)
				}
			}
			all := true
			for i := first; i <= last; i++ {
				all = all && bits[i]
			}
			if s.covers(first, last) != all {
				t.Fatalf("covers(%d, %d) = %v in %+v", first, last, !all, s.ranges)
			}
		}
	}
}

func TestIntervalsAtTheEnds(t *testing.T) {
	var s intervals
	s.add(0, 0)
	s.add(math.MaxUint64, math.MaxUint64)
	if _, ok := s.nextFree(math.MaxUint64); ok {
		t.Error("something is free after the last number")
	}
	if got, ok := s.nextFree(0); !ok || got != 1 {
		t.Errorf("nextFree(0) = %d, %v", got, ok)
	}
	s.add(0, math.MaxUint64)
	if len(s.ranges) != 1 {
		t.Errorf("the whole is %+v", s.ranges)
	}
	s.keep(&intervals{ranges: []buffer.Range{{First: math.MaxUint64, Last: math.MaxUint64}}})
	if len(s.ranges) != 1 || !s.contains(math.MaxUint64) {
		t.Errorf("the last number alone is %+v", s.ranges)
	}
	s.add(0, math.MaxUint64)
	s.keep(&s)
	if s.keep(&intervals{}); !s.empty() {
		t.Errorf("nothing kept is %+v", s.ranges)
	}
	s.add(0, math.MaxUint64)
	s.remove(0, math.MaxUint64)
	if !s.empty() {
		t.Errorf("nothing is %+v", s.ranges)
	}
	s.add(5, 3)
	s.remove(5, 3)
	if !s.empty() {
		t.Errorf("an inverted range left %+v", s.ranges)
	}
}
