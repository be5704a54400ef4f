package uplink

import (
	"sort"

	"github.com/waybill-telematics/waybill/buffer"
)

// intervals is a set of sequence numbers, kept as closed ranges that ascend and never touch. The zero value is empty.
// It is not safe for use from several goroutines.
type intervals struct {
	ranges []buffer.Range
}

// at is the index of the first range that ends at or after seq.
func (s *intervals) at(seq uint64) int {
	return sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].Last >= seq })
}

// contains says whether seq is in the set.
func (s *intervals) contains(seq uint64) bool {
	i := s.at(seq)
	return i < len(s.ranges) && s.ranges[i].First <= seq
}

// covers says whether all of first…last is in the set.
func (s *intervals) covers(first, last uint64) bool {
	i := s.at(first)
	return i < len(s.ranges) && s.ranges[i].First <= first && s.ranges[i].Last >= last
}

// nextFree is the smallest number ≥ from that is not in the set; ok is false when there is none.
func (s *intervals) nextFree(from uint64) (seq uint64, ok bool) {
	i := s.at(from)
	if i == len(s.ranges) || s.ranges[i].First > from {
		return from, true
	}
	free := s.ranges[i].Last + 1
	return free, free != 0
}

// first is the smallest number ≥ from that is in the set.
func (s *intervals) first(from uint64) (seq uint64, ok bool) {
	i := s.at(from)
	if i == len(s.ranges) {
		return 0, false
	}
	return max(from, s.ranges[i].First), true
}

// add puts first…last into the set and joins what touches.
func (s *intervals) add(first, last uint64) {
	if first > last {
		return
	}
	// A range that ends right before first is joined, hence the search for first − 1.
	i := s.at(first)
	if first > 0 {
		i = s.at(first - 1)
	}
	j := i
	for j < len(s.ranges) && (last+1 == 0 || s.ranges[j].First <= last+1) {
		first, last = min(first, s.ranges[j].First), max(last, s.ranges[j].Last)
		j++
	}
	s.replace(i, j, buffer.Range{First: first, Last: last})
}

// remove takes first…last out of the set.
func (s *intervals) remove(first, last uint64) {
	if first > last {
		return
	}
	i := s.at(first)
	j := i
	var rest []buffer.Range
	for j < len(s.ranges) && s.ranges[j].First <= last {
		if r := s.ranges[j]; r.First < first {
			rest = append(rest, buffer.Range{First: r.First, Last: first - 1})
		}
		if r := s.ranges[j]; r.Last > last {
			rest = append(rest, buffer.Range{First: last + 1, Last: r.Last})
		}
		j++
	}
	s.replace(i, j, rest...)
}

// keep takes out of the set what is not in t.
func (s *intervals) keep(t *intervals) {
	next, over := uint64(0), false // the first number that was not looked at
	for _, r := range t.ranges {
		if r.First > next {
			s.remove(next, r.First-1)
		}
		next, over = r.Last+1, r.Last+1 == 0
	}
	if !over {
		s.remove(next, ^uint64(0))
	}
}

// replace puts with in the place of ranges i…j−1.
func (s *intervals) replace(i, j int, with ...buffer.Range) {
	if len(with) <= j-i {
		n := copy(s.ranges[i:], with)
		s.ranges = append(s.ranges[:i+n], s.ranges[j:]...)
		return
	}
	tail := append([]buffer.Range(nil), s.ranges[j:]...)
	s.ranges = append(append(s.ranges[:i], with...), tail...)
}

// clear empties the set and keeps its memory.
func (s *intervals) clear() { s.ranges = s.ranges[:0] }

// empty says whether nothing is in the set.
func (s *intervals) empty() bool { return len(s.ranges) == 0 }
