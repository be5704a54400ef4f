package uplink_test

import (
	"testing"
	"time"
)

// TestAKeptSessionKeepsWhatItAcknowledged: after a connection is lost, what the broker has acknowledged goes again only where it has
// lost the session.
func TestAKeptSessionKeepsWhatItAcknowledged(t *testing.T) {
	for name, forgets := range map[string]bool{"kept": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true)
			b.store.Silence(true)
			b.add(telemetry, 100)
			o := b.options()
			o.ReceiptTimeout = time.Minute
			u, _ := b.start(o)
			b.wait("everything acknowledged", func() bool {
				s := u.State()
				return s.InFlight == 0 && s.BatchesSent == 100 && s.Unreceipted == 100
			})
			if forgets {
				b.broker.Stop()
				if err := b.broker.Forget(); err != nil {
					t.Fatal(err)
				}
				if err := b.broker.Start(); err != nil {
					t.Fatal(err)
				}
			} else {
				b.proxy.Cut(true)
			}
			b.wait("the next connection", func() bool { return u.State().Connections >= 2 })
			b.add(event, 1) // behind which the backlog would go
			b.wait("the new one acknowledged", func() bool {
				s := u.State()
				return s.InFlight == 0 && s.BatchesSent >= 101 && (!forgets || s.BatchesSent >= 201)
			})
			time.Sleep(100 * time.Millisecond)
			if s := u.State(); !forgets && s.BatchesResent != 0 || forgets && s.BatchesResent != 100 {
				t.Errorf("%d batches were sent again", s.BatchesResent)
			}
		})
	}
}
