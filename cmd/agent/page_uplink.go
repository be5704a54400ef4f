package main

import (
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
)

// uplinkOf tells of the way to the broker and the store.
func (t *teller) uplinkOf(now time.Time) *local.Uplink {
	st := t.uplink.State()
	u := &local.Uplink{
		Phase: string(st.Phase), Text: fmt.Sprintf("%s: %s", st.Phase, st.Why),
		SinceMS: t.bootMS(st.Since), NextTryMS: t.bootMS(st.NextTry),
		Broker: t.settings.Uplink.Broker.Redacted(), Insecure: !secure(t.settings.Uplink.Broker), Links: []local.Link{},
		SendRate: t.rate("sent", now, float64(st.BytesSent)), Bandwidth: local.Missing(), RoundTripMS: local.Missing(),
		BytesSent: st.BytesSent, InFlight: st.InFlight, Unreceipted: st.Unreceipted,
		Sent: st.BatchesSent, Released: st.BatchesReleased, Resent: st.BatchesResent, Rejected: st.BatchesRejected,
		Parked: st.BatchesParked, Receipts: st.Receipts, Store: st.Store,
		Connections: st.Connections, Losses: st.Losses, PayloadBytes: st.PayloadBytes,
	}
	if st.Bandwidth > 0 {
		u.Bandwidth = local.Number(st.Bandwidth)
	}
	if st.Delay > 0 {
		u.RoundTripMS = local.Number(float64(st.Delay.Microseconds()) / 1e3)
	}
	if t.links != nil {
		u.Link = t.links.Current()
		for _, l := range t.links.States() {
			u.Links = append(u.Links, local.Link{Name: l.Name, Up: l.Down == "", Why: l.Down, Metered: l.Metered})
		}
	}
	return u
}
