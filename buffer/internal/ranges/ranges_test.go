package ranges

import (
	"math/rand/v2"
	"testing"
)

// TestAgainstMap compares the set with a map of numbers, over random additions and removals.
func TestAgainstMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const top = 80
	for round := range 300 {
		var s Set
		model := map[uint64]bool{}
		for range 40 {
			first := 1 + rnd.Uint64N(top)
			r := Range{first, first + rnd.Uint64N(8) - 1} // sometimes empty
			add := rnd.IntN(3) > 0
			if add {
				s.Add(r)
			} else {
				s.Remove(r)
			}
			for x := r.First; x <= r.Last; x++ {
				model[x] = add
			}
		}
		var other Set
		for range 5 {
			first := 1 + rnd.Uint64N(top)
			other.Add(Range{first, first + rnd.Uint64N(10)})
		}
		n := uint64(0)
		for x := uint64(1); x < top+12; x++ {
			if s.Contains(x) != model[x] {
				t.Fatalf("round %d: Contains(%d) = %v in %v", round, x, s.Contains(x), s)
			}
			if model[x] {
				n++
			}
			want, wantOutside := uint64(0), uint64(0)
			for y := x; y < top+12; y++ {
				if model[y] && want == 0 {
					want = y
				}
				if model[y] && !other.Contains(y) && wantOutside == 0 {
					wantOutside = y
				}
			}
			if got, ok := s.Next(x); got != want || ok != (want != 0) {
				t.Fatalf("round %d: Next(%d) = %d in %v, want %d", round, x, got, s, want)
			}
			if got, ok := s.NextOutside(x, other); got != wantOutside || ok != (wantOutside != 0) {
				t.Fatalf("round %d: NextOutside(%d) = %d in %v without %v, want %d", round, x, got, s, other, wantOutside)
			}
			in := s.Within(Range{x, x + 9})
			for y := uint64(1); y < top+30; y++ {
				if in.Contains(y) != (model[y] && y >= x && y <= x+9) {
					t.Fatalf("round %d: Within(%d, %d) = %v of %v", round, x, x+9, in, s)
				}
			}
		}
		if s.Count() != n {
			t.Fatalf("round %d: Count() = %d, want %d", round, s.Count(), n)
		}
		for i, r := range s {
			if r.First > r.Last || i > 0 && s[i-1].Last+1 >= r.First {
				t.Fatalf("round %d: %v is not sorted and apart", round, s)
			}
		}
	}
}

// TestEnds holds the set to the largest numbers there are.
func TestEnds(t *testing.T) {
	const last = ^uint64(0)
	var s Set
	s.Add(Range{last, last})
	s.Add(Range{0, 0})
	s.Add(Range{last - 2, last - 1})
	if len(s) != 2 || !s.Contains(last) || !s.Contains(0) || s.Contains(1) {
		t.Errorf("%v", s)
	}
	if x, ok := s.NextOutside(1, Set{{5, last}}); ok {
		t.Errorf("NextOutside found %d", x)
	}
	s.Remove(Range{last, last})
	if s.Contains(last) || s.Max() != last-1 {
		t.Errorf("%v after Remove", s)
	}
}
