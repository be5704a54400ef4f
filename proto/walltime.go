package telemetrypb

import (
	"math"
	"math/bits"
)

// driftPerNS: outside its anchors a crystal is trusted to 50 ppm, 4.3 s a day: 1 ns of doubt for 20,000 ns of distance.
const driftPerNS = 20_000

// WallTime is the wall time of a CLOCK_BOOTTIME of this boot: Unix ns, its half-width uncertainty in ns, and where it
// comes from; TIME_SOURCE_NONE when the record says nothing.
//
// Between two anchors of one piece the time is interpolated and as uncertain as the worse of them. Outside a piece its
// nearest anchor's offset holds, and the uncertainty grows by 50 ppm of the distance. A suspend or a step begins a new
// piece, across which nothing is interpolated; of several pieces the one that is surest of this moment speaks, so that
// a late GPS fix repairs what an unset clock said before it. A boot that never synchronised and has bounds on both
// sides gets their middle (TIME_SOURCE_NEIGHBOUR).
func (c *ClockRecord) WallTime(bootNS int64) (unixNS int64, uncertaintyNS uint64, source TimeSource) {
	anchors := c.GetAnchors()
	if len(anchors) == 0 {
		return c.boundsTime(bootNS)
	}
	uncertaintyNS = math.MaxUint64
	for begin := 0; begin < len(anchors); {
		end := begin + 1
		for end < len(anchors) && !anchors[end].GetNewPiece() {
			end++
		}
		at, doubt, from := pieceTime(anchors[begin:end], bootNS)
		if begin == 0 || doubt < uncertaintyNS {
			unixNS, uncertaintyNS, source = at, doubt, from
		}
		begin = end
	}
	return unixNS, uncertaintyNS, source
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
	doubt, carry := bits.Add64(a.GetUncertaintyNs(), distance/driftPerNS, 0)
	if carry != 0 {
		doubt = math.MaxUint64
	}
	return a.GetUnixNs() + (bootNS - a.GetBootNs()), doubt, a.GetSource()
}

// boundsTime is WallTime of a boot without anchors: it began after not_before and ended before not_after.
func (c *ClockRecord) boundsTime(bootNS int64) (int64, uint64, TimeSource) {
	if c == nil || c.NotBeforeUnixNs == nil || c.NotAfterUnixNs == nil {
		return 0, 0, TimeSource_TIME_SOURCE_NONE
	}
	low, high := c.GetNotBeforeUnixNs(), c.GetNotAfterUnixNs()
	if bootNS > 0 && low <= math.MaxInt64-bootNS {
		low += bootNS
	}
	if low > high {
		return 0, 0, TimeSource_TIME_SOURCE_NONE
	}
	width := uint64(high - low)
	return low + int64(width/2), width - width/2, TimeSource_TIME_SOURCE_NEIGHBOUR
}
