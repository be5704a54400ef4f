//go:build !race

// Without the race detector: it shuffles goroutines on purpose, and costs ten times as much.

package sim

import (
	"fmt"
	"slices"
	"testing"
)

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

// A seed is the same week each time, unless a busy machine takes the processor from a goroutine at another moment: then
// again. Weeks that something else than the seed made would not come out the same at all.
func TestWeekRepeats(t *testing.T) {
	oneProcessor(t)
	for seed := range uint64(10) {
		var traces []string
		for again := false; !again; {
			trace := fmt.Sprint(liveWeek(t, seed, soundAgent, false).trace)
			again = slices.Contains(traces, trace)
			if traces = append(traces, trace); len(traces) > 4 {
				t.Fatalf("seed %d: what was published when was not the same twice in %d times", seed, len(traces))
			}
		}
	}
}
