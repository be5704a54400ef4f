//go:build system

package crowd

import (
	"math/rand/v2"
	"slices"
	"time"
)

// The back-off as docs/UPLINK.md states it, written down once more.
const (
	base = 2 * time.Second
	most = 5 * time.Minute
)

// lives is how many times each vehicle is foretold.
const lives = 20

// foretell says what full jitter lets expect of vehicles that lost their connections so long before the broker came back:
// how long after that each makes its first try, and how many tries that takes one of them at most. Negative: after it.
func foretell(down []time.Duration) (at []time.Duration, tries int) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, down := range slices.Repeat(down, lives) {
		after := -down
		for n := 0; n == 0 || after < 0; n++ {
			after += time.Duration(random.Int64N(int64(min(base<<n, most))))
			tries = max(tries, n+1)
		}
		at = append(at, after)
	}
	return at, tries
}

// perSecond counts by seconds. What is negative counts as the first second's.
func perSecond(at []time.Duration) (counts []int) {
	for _, d := range at {
		second := max(0, int(d/time.Second))
		for len(counts) <= second {
			counts = append(counts, 0)
		}
		counts[second]++
	}
	return counts
}

// share is the largest count's part of all.
func share(counts []int) float64 {
	top, sum := 0, 0
	for _, n := range counts {
		top, sum = max(top, n), sum+n
	}
	return float64(top) / float64(max(1, sum))
}
