package clock

import (
	"slices"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// driftPerNS is what the format trusts a crystal to: 1 ns in 20,000 ns, 50 ppm.
const driftPerNS = 20_000

// Bounds of a record.
const (
	maxAnchors = 64 // about 1.8 KB
	maxBreaks  = 64
)

// point ties CLOCK_BOOTTIME to wall time: an anchor before it stands in a record.
type point struct {
	boot, unix int64 // ns
	doubt      uint64
	source     telemetrypb.TimeSource
	carried    bool // what was known before a suspend, at its end: worth nothing once somebody knows better
}

// at is the wall time of a boottime by this point alone, and its doubt.
func (p point) at(boot int64) (unix int64, doubt uint64) {
	return p.unix + (boot - p.boot), p.doubt + distance(boot, p.boot)/driftPerNS
}

// trusted: somebody vouches for it.
func (p point) trusted() bool { return p.doubt < Unbounded }

func distance(a, b int64) uint64 {
	if a < b {
		a, b = b, a
	}
	return uint64(a - b)
}

// rupture is a moment at which the two clocks parted, or may have.
type rupture struct {
	boot int64
	gap  uint64 // by at most this, ns; 0: the anchors differ there, and the surer one may be right on both sides
	// claimed: two anchors of the system's clock contradict each other, nothing else. GPS decides between them.
	claimed bool
}

// track is what is known of one boot: points ascending by boottime, and the ruptures between them. Points between two
// ruptures are a piece.
type track struct {
	points   []point
	ruptures []rupture
}

// last is the newest point; ok is false while there is none.
func (t *track) last() (p point, ok bool) {
	if len(t.points) == 0 {
		return p, false
	}
	return t.points[len(t.points)-1], true
}

// gaps sums the gaps of the ruptures between two moments, but for those that are only claimed.
func (t *track) gaps(from, to int64) (sum uint64) {
	for _, r := range t.ruptures {
		if from < r.boot && r.boot <= to && !r.claimed {
			sum = min(sum+r.gap, Unbounded)
		}
	}
	return sum
}

// predict is what the newest point says of a moment after it.
func (t *track) predict(boot int64) (unix int64, doubt uint64, ok bool) {
	p, ok := t.last()
	if !ok || boot < p.boot {
		return 0, 0, false
	}
	unix, doubt = p.at(boot)
	return unix, doubt + t.gaps(p.boot, boot), true
}

// worthless is how many times the doubt of a later point an earlier one may have at its own moment, and stay.
const worthless = 4

// add appends a point that is later than all others, and lets go of those that it makes worthless: where it speaks with
// far less doubt than they do of their own moment.
func (t *track) add(p point) {
	kept := t.points[:0]
	for _, old := range t.points {
		_, doubt := p.at(old.boot)
		doubt += t.gaps(old.boot, p.boot)
		if old.doubt <= doubt || old.doubt/worthless <= doubt && !old.carried {
			kept = append(kept, old)
		}
	}
	t.points = append(kept, p)
	t.thin()
}

// replace puts a point in place of the newest, if it lies after the one before.
func (t *track) replace(p point) {
	n := len(t.points)
	if n == 0 || n > 1 && p.boot <= t.points[n-2].boot {
		return
	}
	if m := len(t.ruptures); m > 0 && p.boot < t.ruptures[m-1].boot {
		return
	}
	t.points[n-1] = p
}

// withdraw removes the points that do not agree with p, and says how many they were and how far off the worst was.
// Those of p's own source stay: that is another matter. Contradictions that were claimed by what is gone go with it.
func (t *track) withdraw(p point) (n int, worst int64) {
	kept := t.points[:0]
	for _, old := range t.points {
		unix, doubt := p.at(old.boot)
		off := int64(distance(unix, old.unix))
		if old.source == p.source || uint64(off) <= doubt+old.doubt+t.gaps(old.boot, p.boot) {
			kept = append(kept, old)
			continue
		}
		n, worst = n+1, max(worst, off)
	}
	t.points = kept
	t.ruptures = slices.DeleteFunc(t.ruptures, func(r rupture) bool { return r.claimed && !t.contradicted(r) })
	return n, worst
}

// contradicted says whether the points on both sides of a rupture still contradict each other.
func (t *track) contradicted(r rupture) bool {
	i := slices.IndexFunc(t.points, func(p point) bool { return p.boot >= r.boot })
	if i < 1 {
		return false
	}
	unix, doubt := t.points[i-1].at(t.points[i].boot)
	return distance(unix, t.points[i].unix) > doubt+t.points[i].doubt
}

// rupture adds a rupture after all others.
func (t *track) rupture(r rupture) {
	if n := len(t.ruptures); n > 0 {
		r.boot = max(r.boot, t.ruptures[n-1].boot)
	}
	if len(t.ruptures) == maxBreaks {
		t.ruptures[1].gap += t.ruptures[0].gap
		t.ruptures = slices.Delete(t.ruptures, 0, 1)
	}
	t.ruptures = append(t.ruptures, r)
}

// between says whether a rupture lies between two neighbouring points.
func (t *track) between(a, b point) bool {
	return slices.ContainsFunc(t.ruptures, func(r rupture) bool { return a.boot < r.boot && r.boot <= b.boot })
}

// thin keeps the track within its bound: the point goes whose neighbours are nearest to each other, so that what stays
// is spread evenly; ends of pieces stay as long as anything else can go.
func (t *track) thin() {
	for len(t.points) > maxAnchors {
		best, span := 0, uint64(0)
		for pass := 0; pass < 2 && best == 0; pass++ {
			for i := 1; i < len(t.points)-1; i++ {
				before, p, after := t.points[i-1], t.points[i], t.points[i+1]
				if pass == 0 && (t.between(before, p) || t.between(p, after)) {
					continue
				}
				if d := distance(after.boot, before.boot); best == 0 || d < span {
					best, span = i, d
				}
			}
		}
		t.points = slices.Delete(t.points, best, best+1)
	}
}

// anchors writes the track as a record has it. A record says of each beginning of a piece where it lies by an anchor; where
// nothing is known between two ruptures, what is known beside them is carried there, so that the time between them is
// not taken for either side's.
func (t *track) anchors() []*telemetrypb.Anchor {
	var list []*telemetrypb.Anchor
	spare := maxAnchors - len(t.points)
	next := 0
	for i, p := range t.points {
		a := &telemetrypb.Anchor{BootNs: p.boot, UnixNs: p.unix, UncertaintyNs: p.doubt, Source: p.source}
		ruptured := false
		for ; next < len(t.ruptures) && t.ruptures[next].boot <= p.boot; next++ {
			r := t.ruptures[next]
			if a.GapNs > 0 && r.gap > 0 && spare > 0 && a.BeginsNs < r.boot && p.trusted() {
				from, gap := p, t.gapsBetween(a.BeginsNs, p.boot)
				if i > 0 {
					from, gap = t.points[i-1], t.gapsBetween(t.points[i-1].boot, a.BeginsNs)
				}
				unix, doubt := from.at(a.BeginsNs)
				list = append(list, &telemetrypb.Anchor{BootNs: a.BeginsNs, UnixNs: unix, UncertaintyNs: min(doubt+gap, Unbounded), Source: from.source,
					NewPiece: true, BeginsNs: a.BeginsNs, GapNs: a.GapNs})
				a.GapNs = 0
				spare--
			}
			ruptured = true
			a.BeginsNs, a.GapNs = r.boot, min(a.GapNs+r.gap, Unbounded)
		}
		if a.NewPiece = ruptured && (i > 0 || a.GapNs > 0); !a.NewPiece {
			a.BeginsNs = 0
		}
		list = append(list, a)
	}
	return list
}

// gapsBetween sums all gaps of the ruptures after one moment and up to another.
func (t *track) gapsBetween(from, to int64) (sum uint64) {
	for _, r := range t.ruptures {
		if from < r.boot && r.boot <= to {
			sum = min(sum+r.gap, Unbounded)
		}
	}
	return sum
}

// trackOf reads a record that this package has written.
func trackOf(r *telemetrypb.ClockRecord) (t track) {
	for _, a := range r.GetAnchors() {
		if a.GetNewPiece() {
			// A record does not say which gaps are only claimed; one of a suspend's size may hold a suspend.
			gap := a.GetGapNs()
			if a.GetSource() != telemetrypb.TimeSource_TIME_SOURCE_GPS {
				if gap >= suspendGap {
					t.ruptures = append(t.ruptures, rupture{boot: a.GetBeginsNs(), gap: suspendGap})
					gap -= suspendGap
				}
				if gap > 0 || a.GetGapNs() == 0 {
					t.ruptures = append(t.ruptures, rupture{a.GetBeginsNs(), gap, true})
				}
			} else {
				t.ruptures = append(t.ruptures, rupture{boot: a.GetBeginsNs(), gap: gap})
			}
		}
		carried := a.GetNewPiece() && a.GetBootNs() == a.GetBeginsNs()
		t.points = append(t.points, point{a.GetBootNs(), a.GetUnixNs(), a.GetUncertaintyNs(), a.GetSource(), carried})
	}
	return t
}
