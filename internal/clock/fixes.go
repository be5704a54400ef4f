package clock

import "time"

// What makes fixes of a receiver a source of time.
const (
	// fixesNeeded is how many fixes in a row have to agree before their time is believed.
	fixesNeeded = 3
	// fixesAgainst is how many it takes where they contradict what GPS itself said before: a jump, a leap second.
	fixesAgainst = 8
	// fixSpread is how far the offsets of two neighbouring fixes may be apart: what a sentence's delay varies by.
	fixSpread = 400 * time.Millisecond
	// fixGap is how far apart in time two fixes in a row may be.
	fixGap = 10 * time.Second
	// fixWindow is how many fixes the least delayed is chosen from.
	fixWindow = 16
)

// fix is one epoch: its time, and when its first byte came.
type fix struct{ boot, unix int64 }

func (f fix) offset() int64 { return f.unix - f.boot }

// fixes is a run of fixes that agree with their neighbours.
type fixes struct {
	run   [fixWindow]fix // the latest, as a ring
	count int            // of the whole run
	began int64          // boottime of its first
}

func (f *fixes) latest() fix { return f.run[(f.count-1)%fixWindow] }

// take adds a fix. One that does not follow from the fix before begins a new run, and the old one is given back.
func (f *fixes) take(now fix) (ended fixes, broken bool) {
	if f.count > 0 {
		before := f.latest()
		apart := now.offset() - before.offset()
		if now.boot <= before.boot || now.unix <= before.unix || now.boot-before.boot > int64(fixGap) ||
			apart > int64(fixSpread) || apart < -int64(fixSpread) {
			ended, broken = *f, true
			*f = fixes{}
		}
	}
	if f.count == 0 {
		f.began = now.boot
	}
	f.run[f.count%fixWindow] = now
	f.count++
	return ended, broken
}

// best is the fix of the latest ones that came with the least delay: the others were held up in the receiver, on the
// line or in the kernel. It says nothing of the delay that all have. after leaves out those no later than that.
func (f *fixes) best(after int64) (best fix, ok bool) {
	for i := max(0, f.count-fixWindow); i < f.count; i++ {
		if x := f.run[i%fixWindow]; x.boot > after && (!ok || x.offset() > best.offset()) {
			best, ok = x, true
		}
	}
	return best, ok
}
