package telemetrypb

import (
	"math"
	"math/bits"
)

// driftPerNS: outside its anchors a crystal is trusted to 50 ppm, 4.3 s a day: 1 ns of doubt for 20,000 ns of distance.
const driftPerNS = 20_000

// Unbounded is the uncertainty, in ns, of a time that nobody vouches for: 146 years.
const Unbounded = uint64(1) << 62

// WallTime is the wall time of a CLOCK_BOOTTIME of this boot: Unix ns, its half-width uncertainty in ns, and where it
// comes from; TIME_SOURCE_NONE when the record says nothing.
//
// Between two anchors of one piece the time is interpolated and as uncertain as the worse of them. Outside a piece its
// nearest anchor's offset holds, and the uncertainty grows by 50 ppm of the distance, and by the gap of each beginning
// of a piece that lies between. Nothing is interpolated from piece to piece; of several pieces the one that is surest of
// this moment speaks, so that a late GPS fix repairs what an unset clock said before it. An answer that the record's
// bounds refute is not taken; where none is left the bounds alone speak.
func (c *ClockRecord) WallTime(bootNS int64) (unixNS int64, uncertaintyNS uint64, source TimeSource) {
	b := boundsOf(c, bootNS)
	anchors := c.GetAnchors()
	var passed, ahead uint64 // gaps of the beginnings up to here that lie before bootNS, and after it
	all := gapsBefore(anchors, bootNS)
	found := false
	for begin := 0; begin < len(anchors); {
		end := begin + 1
		for end < len(anchors) && !anchors[end].GetNewPiece() {
			end++
		}
		if first := anchors[begin]; first.GetNewPiece() {
			if bootNS < first.GetBeginsNs() {
				ahead = addDoubt(ahead, first.GetGapNs())
			} else {
				passed = addDoubt(passed, first.GetGapNs())
			}
		}
		at, doubt, from := pieceTime(anchors[begin:end], bootNS)
		switch {
		case bootNS < anchors[begin].GetBootNs():
			doubt = addDoubt(doubt, ahead)
		case bootNS > anchors[end-1].GetBootNs():
			doubt = addDoubt(doubt, all-passed)
		}
		if (!found || doubt < uncertaintyNS) && !b.refute(at, doubt) {
			unixNS, uncertaintyNS, source, found = at, doubt, from, true
		}
		begin = end
	}
	if !found {
		return b.alone()
	}
	return unixNS, b.limit(unixNS, uncertaintyNS), source
}

// gapsBefore sums the gaps of the beginnings of pieces that lie at or before a moment.
func gapsBefore(anchors []*Anchor, bootNS int64) (sum uint64) {
	for _, a := range anchors {
		if a.GetNewPiece() && bootNS >= a.GetBeginsNs() {
			sum = addDoubt(sum, a.GetGapNs())
		}
	}
	return sum
}

// addDoubt adds, up to the largest number.
func addDoubt(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return math.MaxUint64
	}
	return sum
}

// pieceTime is WallTime by one piece: anchors ascending by boottime, at least one.
func pieceTime(piece []*Anchor, bootNS int64) (int64, uint64, TimeSource) {
	first, last := piece[0], piece[len(piece)-1]
	if bootNS <= first.GetBootNs() {
		return offsetTime(first, bootNS)
	}
	if bootNS >= last.GetBootNs() {
		return offsetTime(last, bootNS)
	}
	i := 1
	for i < len(piece)-1 && piece[i].GetBootNs() <= bootNS {
		i++
	}
	a, b := piece[i-1], piece[i]
	if bootNS < a.GetBootNs() || b.GetBootNs() <= a.GetBootNs() {
		return offsetTime(a, bootNS) // anchors out of order: foreign, and not worth more
	}
	span := uint64(b.GetBootNs() - a.GetBootNs())
	into := uint64(bootNS - a.GetBootNs())
	// The clock's error against boottime runs in a straight line from a to b; in 128 bits, and exact on every machine.
	gain := (b.GetUnixNs() - a.GetUnixNs()) - int64(span)
	unix := a.GetUnixNs() + int64(into) + scaleSigned(gain, into, span)
	worse := a
	if b.GetUncertaintyNs() > a.GetUncertaintyNs() {
		worse = b
	}
	return unix, worse.GetUncertaintyNs(), worse.GetSource()
}

// scaleSigned is v × part / whole, rounded towards zero; part < whole.
func scaleSigned(v int64, part, whole uint64) int64 {
	magnitude := uint64(v)
	if v < 0 {
		magnitude = -magnitude
	}
	hi, lo := bits.Mul64(magnitude, part)
	quotient, _ := bits.Div64(hi, lo, whole) // hi < whole, since part < whole
	if v < 0 {
		quotient = -quotient
	}
	return int64(quotient)
}

// offsetTime is WallTime by one anchor.
func offsetTime(a *Anchor, bootNS int64) (int64, uint64, TimeSource) {
	distance := uint64(bootNS - a.GetBootNs())
	if bootNS < a.GetBootNs() {
		distance = -distance
	}
	if a.GetSource() == TimeSource_TIME_SOURCE_LOG {
		distance = 0 // a replay's boottime is made of the log's stamps: no crystal runs between them
	}
	return a.GetUnixNs() + (bootNS - a.GetBootNs()), addDoubt(a.GetUncertaintyNs(), distance/driftPerNS), a.GetSource()
}

// bounds are what a record says of a moment whatever its anchors say.
type bounds struct {
	low, high       int64 // Unix ns
	hasLow, hasHigh bool
}

// boundsOf: the boot began after not_before and ended before not_after. Bounds that cross say nothing.
func boundsOf(c *ClockRecord, bootNS int64) (b bounds) {
	if c == nil {
		return b
	}
	if c.NotBeforeUnixNs != nil {
		b.low, b.hasLow = c.GetNotBeforeUnixNs(), true
		if bootNS > 0 && b.low <= math.MaxInt64-bootNS {
			b.low += bootNS
		}
	}
	if c.NotAfterUnixNs != nil {
		b.high, b.hasHigh = c.GetNotAfterUnixNs(), true
	}
	if b.hasLow && b.hasHigh && b.low > b.high {
		return bounds{}
	}
	return b
}

// refute: the whole of at ± doubt lies outside; of a time that nobody vouches for, it alone.
func (b bounds) refute(at int64, doubt uint64) bool {
	if doubt >= Unbounded {
		doubt = 0
	}
	return b.hasLow && at < b.low && uint64(b.low-at) > doubt || b.hasHigh && at > b.high && uint64(at-b.high) > doubt
}

// limit: a time between two bounds is no further off than the farther of them.
func (b bounds) limit(at int64, doubt uint64) uint64 {
	if !b.hasLow || !b.hasHigh || at < b.low || at > b.high {
		return doubt
	}
	return min(doubt, max(uint64(at-b.low), uint64(b.high-at)))
}

// alone is what is known without an anchor.
func (b bounds) alone() (int64, uint64, TimeSource) {
	switch {
	case b.hasLow && b.hasHigh:
		width := uint64(b.high - b.low)
		return b.low + int64(width/2), width - width/2, TimeSource_TIME_SOURCE_NEIGHBOUR
	case b.hasLow:
		return b.low, Unbounded, TimeSource_TIME_SOURCE_FLOOR
	}
	return 0, 0, TimeSource_TIME_SOURCE_NONE
}
