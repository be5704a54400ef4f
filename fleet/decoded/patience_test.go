package decoded

import (
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What is carried in one transaction has time for it, up to the largest batch there is; and Kafka does not end it before.
func TestPatience(t *testing.T) {
	for _, n := range []int{0, 1, 20_000, telemetrypb.MaxSamples} {
		c := &store.Carry{Batches: []store.DecodedBatch{{Samples: make([]store.DecodedSample, n)}}}
		got, want := patience(c), min(time.Duration(3*n)*time.Second/slowest, 4*time.Minute)
		if got < max(want, settleTimeout) || got+settleTimeout > transactionTimeout {
			t.Errorf("%d samples have %v, want %v, and to be done within %v", n, got, want, transactionTimeout)
		}
	}
}
