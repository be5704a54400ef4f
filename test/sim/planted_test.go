//go:build !race

// Without the race detector: it shuffles goroutines on purpose, and costs ten times as much.

package sim

import "testing"

// A simulation that finds nothing proves little: bugs of each kind are put in, at the seams that only tests have, and
// each must be found within a thousand weeks.
func TestPlantedBugs(t *testing.T) {
	oneProcessor(t)
	for _, p := range []plant{ackOnToken, releaseOnSend, wallClock, awakeClock, lieOfCommit} {
		t.Run(string(p), func(t *testing.T) {
			for seed := range uint64(1000) {
				if _, err := liveWeek(t, seed, p, false).verdict(); err != nil {
					t.Logf("found in seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not found in 1000 weeks")
		})
	}
}

// A seed is the same week each time.
func TestWeekRepeats(t *testing.T) {
	oneProcessor(t)
	for seed := range uint64(10) {
		if a, b := liveWeek(t, seed, soundAgent, false), liveWeek(t, seed, soundAgent, false); a.trace != b.trace {
			t.Errorf("seed %d: what was published when was not the same twice", seed)
		}
	}
}
