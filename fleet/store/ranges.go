package store

import "sort"

// Range is a closed range of sequence numbers.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Ranges is a set of sequence numbers as ascending ranges that neither touch nor overlap. The zero value is empty.
// It is not safe for use from several goroutines.
type Ranges struct {
	list []Range
}

// Add puts a closed range into the set; an inverted one is ignored.
func (s *Ranges) Add(first, last uint64) {
	if first > last {
		return
	}
	// The common case: the next number in order.
	if n := len(s.list); n > 0 && first > s.list[n-1].First {
		tail := &s.list[n-1]
		if first <= tail.Last || first-tail.Last == 1 {
			tail.Last = max(tail.Last, last)
			return
		}
	}
	from := sort.Search(len(s.list), func(i int) bool { return s.list[i].Last >= first || first-s.list[i].Last == 1 })
	to := from
	for to < len(s.list) && (s.list[to].First <= last || s.list[to].First-last == 1) {
		first, last = min(first, s.list[to].First), max(last, s.list[to].Last)
		to++
	}
	if from == to {
		s.list = append(s.list, Range{})
		copy(s.list[from+1:], s.list[from:])
		s.list[from] = Range{first, last}
		return
	}
	s.list[from] = Range{first, last}
	s.list = append(s.list[:from+1], s.list[to:]...)
}

// Max is the highest number in the set, 0 when it is empty.
func (s *Ranges) Max() uint64 {
	if len(s.list) == 0 {
		return 0
	}
	return s.list[len(s.list)-1].Last
}

// Without lists those numbers of a closed range that are not in the set.
func (s *Ranges) Without(first, last uint64) []Range {
	var left []Range
	for _, r := range s.list {
		if first > last || r.First > last {
			break
		}
		if r.Last < first {
			continue
		}
		if r.First > first {
			left = append(left, Range{first, r.First - 1})
		}
		if r.Last >= last {
			return left
		}
		first = r.Last + 1
	}
	if first <= last {
		left = append(left, Range{first, last})
	}
	return left
}

// Missing lists the numbers from 1 to last that are not in the set.
func (s *Ranges) Missing(last uint64) []Range { return s.Without(1, last) }

// Within counts the numbers of the set inside a closed range.
func (s *Ranges) Within(first, last uint64) uint64 {
	var n uint64
	for _, r := range s.list {
		if lo, hi := max(first, r.First), min(last, r.Last); lo <= hi {
			n += hi - lo + 1
		}
	}
	return n
}

// List is the set, ascending. It must not be changed.
func (s *Ranges) List() []Range { return s.list }
