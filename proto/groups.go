package telemetrypb

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// Signals of one message have their times in common, but for those at which one of them said nothing new. Columns with such
// times are parts of one time column, a base, which holds what any of them has.

const (
	groupsTried = 3  // the latest groups that a column may belong to
	groupWork   = 16 // steps for each sample, that looking for groups may take in a body
	sparse      = 16 // a list this many times as long as another is searched, not walked through
)

// timeSet is times that one or more columns have.
type timeSet struct {
	hash   uint64
	at     []uint64
	group  int
	number int // among the body's time columns; -1: not written yet
}

// timeGroup is sets that are parts of one base.
type timeGroup struct {
	union  []uint64
	own    []uint64 // memory for a union that is not one set's
	closed bool     // not ascending: nothing else is part of it
	number int      // of its base among the body's time columns; -1: not written yet
	base   int      // among the bases
}

// group finds the set of each column and the groups of sets.
func (e *Encoder) group() {
	places := 1 << bits.Len(uint(2*len(e.columns)))
	e.setsAt = slices.Grow(e.setsAt[:0], places)[:places]
	clear(e.setsAt)
	e.sets, e.groups = e.sets[:0], e.groups[:0]
	work := groupWork * len(e.at)
	for i := range e.columns {
		c := &e.columns[i]
		at := e.at[c.begin:c.end]
		if last := len(e.sets) - 1; last >= 0 && slices.Equal(at, e.sets[last].at) {
			c.set = last
			continue
		}
		hash, ascending := hashTimes(at)
		place := hash >> 32 & uint64(places-1)
		for c.set = -1; e.setsAt[place] != 0; place = (place + 1) & uint64(places-1) {
			known := int(e.setsAt[place] - 1)
			if s := &e.sets[known]; s.hash == hash && slices.Equal(at, s.at) {
				c.set = known
				break
			}
		}
		if c.set >= 0 {
			continue
		}
		c.set = len(e.sets)
		e.setsAt[place] = uint32(c.set + 1)
		set := timeSet{hash: hash, at: at, group: -1, number: -1}
		if ascending && work > 0 {
			set.group = e.join(at, &work)
		}
		if set.group < 0 {
			set.group = e.newGroup(at, !ascending)
		}
		e.sets = append(e.sets, set)
	}
}

// timeRange is the earliest and the latest time of the groups; 0, 0 of none.
func (e *Encoder) timeRange() (first, last int64) {
	if len(e.groups) == 0 {
		return 0, 0
	}
	first, last = math.MaxInt64, math.MinInt64
	for i := range e.groups {
		g := &e.groups[i]
		if !g.closed {
			first, last = min(first, int64(g.union[0])), max(last, int64(g.union[len(g.union)-1]))
			continue
		}
		for _, t := range g.union {
			first, last = min(first, int64(t)), max(last, int64(t))
		}
	}
	return first, last
}

// newGroup begins a group with a set.
func (e *Encoder) newGroup(at []uint64, closed bool) int {
	n := len(e.groups)
	if n < cap(e.groups) {
		e.groups = e.groups[:n+1]
	} else {
		e.groups = append(e.groups, timeGroup{})
	}
	e.groups[n] = timeGroup{union: at, own: e.groups[n].own[:0], closed: closed, number: -1}
	return n
}

// join puts times into one of the latest groups, the one that has most of them: at least half of them, or it has at least
// half of its own in them. -1: there is none.
func (e *Encoder) join(at []uint64, work *int) int {
	best, most := -1, 0
	for i := len(e.groups) - 1; i >= max(0, len(e.groups)-groupsTried) && 2*most < len(at); i-- {
		g := &e.groups[i]
		if g.closed {
			continue
		}
		*work -= min(len(g.union)+len(at), len(at)*bits.Len(uint(len(g.union))))
		if n := shared(at, g.union); n > most && 2*n >= min(len(at), len(g.union)) {
			best, most = i, n
		}
	}
	if best < 0 {
		return -1
	}
	if missing := len(at) - most; missing > 0 {
		g := &e.groups[best]
		n := len(g.union)
		*work -= n + len(at)
		if len(g.own) == 0 {
			g.own = append(g.own, g.union...)
		}
		g.own = slices.Grow(g.own, missing)[:n+missing]
		g.union = g.own
		for to, i, k := n+missing-1, n-1, len(at)-1; k >= 0; to-- { // from the end
			switch {
			case i < 0 || int64(g.union[i]) < int64(at[k]):
				g.union[to] = at[k]
				k--
			case g.union[i] == at[k]:
				k--
				fallthrough
			default:
				g.union[to] = g.union[i]
				i--
			}
		}
	}
	return best
}

// shared counts what two ascending lists have in common.
func shared(at, union []uint64) (n int) {
	if len(union) > sparse*len(at) {
		for _, t := range at {
			i, found := slices.BinarySearchFunc(union, int64(t), compareTimes)
			if found {
				n++
			}
			union = union[i:]
		}
		return n
	}
	i := 0
	for _, t := range at {
		for i < len(union) && int64(union[i]) < int64(t) {
			i++
		}
		if i == len(union) {
			break
		}
		if union[i] == t {
			n++
		}
	}
	return n
}

// appendGaps appends how many of union are left out before each of at, which is a part of it.
func appendGaps(dst, at, union []uint64) []uint64 {
	if len(union) > sparse*len(at) {
		for _, t := range at {
			i, _ := slices.BinarySearchFunc(union, int64(t), compareTimes)
			dst = append(dst, uint64(i))
			union = union[i+1:]
		}
		return dst
	}
	next := 0
	for i, t := range union {
		if len(at) == 0 {
			break
		}
		if t == at[0] {
			dst = append(dst, uint64(i-next))
			at, next = at[1:], i+1
		}
	}
	return dst
}

func compareTimes(a uint64, b int64) int { return cmp.Compare(int64(a), b) }

// meanGap is the running mean before the first gap: n of so many times are there.
func meanGap(n, of int) uint64 { return uint64(of-n) << meanBits / uint64(n) }

// hashTimes finds equal sets, and says whether each time is after the one before.
func hashTimes(at []uint64) (hash uint64, ascending bool) {
	hash, ascending = uint64(len(at)), true
	for i, t := range at {
		hash = (bits.RotateLeft64(hash, 23) ^ t) * 0x9e3779b97f4a7c15
		if i > 0 && int64(t) <= int64(at[i-1]) {
			ascending = false
		}
	}
	return hash, ascending
}

// putTimes writes which times a column has, and what of them was not written before.
func (e *Encoder) putTimes(number int) {
	if number == e.lastSet {
		e.w.put(&e.models.times, timesSame)
		return
	}
	e.lastSet = number
	s := &e.sets[number]
	g := &e.groups[s.group]
	whole := len(g.union) == len(s.at)
	if whole {
		s.number = g.number
	}
	if s.number >= 0 {
		e.w.put(&e.models.times, timesBack+uint64(s.number))
		return
	}
	if g.number < 0 {
		if whole {
			e.w.put(&e.models.times, timesNew)
		} else {
			e.w.put(&e.models.times, timesBase)
		}
		e.putNewTimes(g.union)
		g.number, g.base = e.timesPut, e.basesPut
		e.timesPut++
		e.basesPut++
		if whole {
			s.number = g.number
			return
		}
	}
	e.w.put(&e.models.times, timesPart)
	e.w.put(&e.models.base, uint64(e.basesPut-1-g.base))
	e.w.putWide(&e.models.part, uint64(len(s.at)-1))
	e.values = appendGaps(e.values[:0], s.at, g.union)
	e.w.putScaled(&e.models.gaps, e.values, meanGap(len(s.at), len(g.union)))
	s.number = e.timesPut
	e.timesPut++
}

// putNewTimes writes a time column that is no part of another.
func (e *Encoder) putNewTimes(at []uint64) {
	e.w.putWide(&e.models.count, uint64(len(at)-1))
	unit := timeUnit(at)
	e.w.put(&e.models.unit, uint64((unit+maxUnit+1-e.lastUnit)%(maxUnit+1)))
	e.lastUnit = unit
	values, origin := at, e.lastFirst
	if unit > 0 {
		nanoseconds := powerOfTen(unit)
		e.values = e.values[:0]
		for _, t := range at {
			e.values = append(e.values, uint64(int64(t)/nanoseconds))
		}
		values, origin = e.values, origin/nanoseconds
	}
	e.integers.put(&e.w, &e.models.at, values, uint64(origin), true)
	e.lastFirst = int64(at[0])
}

// timeUnit is the largest power of ten, as its exponent, that all times are multiples of.
func timeUnit(at []uint64) uint {
	if int64(at[0])%10 != 0 { // as most of a kernel's
		return 0
	}
	unit, nanoseconds := uint(maxUnit), powerOfTen(maxUnit)
	for _, t := range at {
		for unit > 0 && int64(t)%nanoseconds != 0 {
			unit--
			nanoseconds /= 10
		}
		if unit == 0 {
			break
		}
	}
	return unit
}
