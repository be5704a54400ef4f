// Package ranges keeps sets of sequence numbers as closed ranges, so that a million numbers in a row cost one entry.
package ranges

import "sort"

// Range is a closed range of numbers, First ≤ Last.
type Range struct{ First, Last uint64 }

// Count is how many numbers the range holds.
func (r Range) Count() uint64 { return r.Last - r.First + 1 }

// Set is a sorted list of ranges that neither overlap nor touch. The zero value is empty. It is not safe for use from
// several goroutines.
type Set []Range

// from is the index of the first range that ends at x or later.
func (s Set) from(x uint64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].Last >= x })
}

// Contains says whether x is in the set.
func (s Set) Contains(x uint64) bool {
	i := s.from(x)
	return i < len(s) && s[i].First <= x
}

// Next is the smallest member ≥ x.
func (s Set) Next(x uint64) (uint64, bool) {
	i := s.from(x)
	if i == len(s) {
		return 0, false
	}
	return max(x, s[i].First), true
}

// Count is how many numbers the set holds.
func (s Set) Count() uint64 {
	var n uint64
	for _, r := range s {
		n += r.Count()
	}
	return n
}

// Min is the smallest member, 0 for the empty set.
func (s Set) Min() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[0].First
}

// Max is the largest member, 0 for the empty set.
func (s Set) Max() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].Last
}

// Clone copies the set.
func (s Set) Clone() Set { return append(Set(nil), s...) }

// Add puts a range into the set. An empty range (Last < First) changes nothing.
func (s *Set) Add(r Range) {
	if r.Last < r.First {
		return
	}
	list := *s
	i := sort.Search(len(list), func(i int) bool { return list[i].Last >= r.First || list[i].Last+1 == r.First })
	j := i
	for j < len(list) && (list[j].First <= r.Last || list[j].First-1 == r.Last) {
		r.First, r.Last = min(r.First, list[j].First), max(r.Last, list[j].Last)
		j++
	}
	switch {
	case j == i: // nothing to join with: make room
		list = append(list, Range{})
		copy(list[i+1:], list[i:])
		list[i] = r
	default:
		list[i] = r
		list = append(list[:i+1], list[j:]...)
	}
	*s = list
}

// Remove takes a range out of the set.
func (s *Set) Remove(r Range) {
	if r.Last < r.First {
		return
	}
	list := *s
	i := list.from(r.First)
	if i == len(list) || list[i].First > r.Last {
		return
	}
	kept := make(Set, 0, len(list)+1)
	kept = append(kept, list[:i]...)
	for ; i < len(list) && list[i].First <= r.Last; i++ {
		if list[i].First < r.First {
			kept = append(kept, Range{list[i].First, r.First - 1})
		}
		if list[i].Last > r.Last {
			kept = append(kept, Range{r.Last + 1, list[i].Last})
		}
	}
	*s = append(kept, list[i:]...)
}

// AddSet puts every number of t into the set.
func (s *Set) AddSet(t Set) {
	for _, r := range t {
		s.Add(r)
	}
}

// RemoveSet takes every number of t out of the set.
func (s *Set) RemoveSet(t Set) {
	for _, r := range t {
		s.Remove(r)
	}
}

// Within is the part of the set that lies in r.
func (s Set) Within(r Range) Set {
	var in Set
	for i := s.from(r.First); i < len(s) && s[i].First <= r.Last; i++ {
		in = append(in, Range{max(s[i].First, r.First), min(s[i].Last, r.Last)})
	}
	return in
}

// NextOutside is the smallest member ≥ x that is not in t.
func (s Set) NextOutside(x uint64, t Set) (uint64, bool) {
	for {
		member, ok := s.Next(x)
		if !ok {
			return 0, false
		}
		i := t.from(member)
		if i == len(t) || t[i].First > member {
			return member, true
		}
		if t[i].Last == ^uint64(0) {
			return 0, false
		}
		x = t[i].Last + 1
	}
}
