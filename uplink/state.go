package uplink

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Phase is what the uplink is doing.
type Phase string

// The phases.
const (
	Offline    Phase = "offline"    // waiting for the next try
	Connecting Phase = "connecting" // dial to SUBACK
	Online     Phase = "online"
	Refused    Phase = "refused" // the broker does not want us, or we do not trust it; the next try is far off
	Resting    Phase = "resting" // told to stay away
	Stopped    Phase = "stopped"
)

// State is a snapshot for pages, status and people.
type State struct {
	Phase   Phase
	Why     string // in words
	Since   time.Time
	NextTry time.Time // zero: none is planned

	Attempts        uint64 // tries to connect
	Refusals        uint64 // those that ended at credentials or trust
	Resumed         uint64 // TLS sessions resumed
	Connections     uint64 // sessions that came online
	Losses          uint64 // sessions lost
	Payloads        uint64 // batches' publishes
	Pubacks         uint64
	Receipts        uint64
	BatchesSent     uint64
	BatchesReleased uint64
	BatchesResent   uint64 // sent more than once by this process
	BatchesRejected uint64
	BatchesParked   uint64
	BatchesOverdue  uint64 // whose receipt stayed out too long
	Mismatches      uint64 // receipt ranges that did not fit
	OtherEpoch      uint64 // receipt ranges of another queue
	Recalled        uint64 // batches that a store asked for after their release, and that were kept
	NotKept         uint64 // and that were not
	Unrendered      uint64 // batches that could not go in plain or json
	Unreadable      uint64 // batches that could not be sent at all
	BytesSent       uint64 // handed to TLS, websocket or the kernel
	Requests        uint64 // for images
	Chunks          uint64 // that came of them
	ChunksDropped   uint64 // that were none, or not wanted

	InFlight      int // publishes without PUBACK
	InFlightBytes int
	InFlightMost  int           // the budget of InFlightBytes at present
	Bandwidth     float64       // bytes/s of this connection, as PUBACKs show it; 0: not known
	Delay         time.Duration // least time to a PUBACK, without transmission; 0: not known
	Unreceipted   int           // batches sent and neither released nor parked
	Alone         int           // batches under suspicion, which are sent alone, one at a time
	Barred        int           // batches that wait for their weight, or behind one of their lane that does not get through
	NextAlone     time.Time     // when the next of them is tried; zero: there are none, or now
	PayloadBytes  int           // what a payload may hold at present
	Store         string
	Generation    uint64
}

// String says it in one sentence.
func (s State) String() string {
	text := fmt.Sprintf("%s: %s", s.Phase, s.Why)
	if !s.NextTry.IsZero() {
		text += ", next try at " + s.NextTry.UTC().Format(time.RFC3339)
	}
	return text + fmt.Sprintf("; %d batches released, %d publishes in flight, %d batches without receipt", s.BatchesReleased, s.InFlight, s.Unreceipted)
}

// State is a snapshot.
func (u *Uplink) State() State {
	c := &u.count
	s := State{
		Attempts: c.attempts.Load(), Refusals: c.refusals.Load(), Resumed: c.resumed.Load(),
		Connections: c.connections.Load(), Losses: c.losses.Load(), Payloads: c.payloads.Load(), Pubacks: c.pubacks.Load(),
		Receipts: c.receipts.Load(), BatchesSent: c.batchesSent.Load(), BatchesReleased: c.released.Load(),
		BatchesResent: c.resent.Load(), BatchesRejected: c.rejected.Load(), BatchesParked: c.parked.Load(),
		BatchesOverdue: c.overdue.Load(), Mismatches: c.mismatches.Load(), OtherEpoch: c.otherEpoch.Load(),
		Requests: c.requests.Load(), Chunks: c.chunks.Load(), ChunksDropped: c.chunksDropped.Load(),
		Recalled: c.recalled.Load(), NotKept: c.notKept.Load(), Unrendered: c.unrendered.Load(), Unreadable: c.unreadable.Load(), BytesSent: c.bytesSent.Load(),
	}
	live := u.live.Load()
	u.mu.Lock()
	defer u.mu.Unlock()
	s.Phase, s.Why, s.Since, s.NextTry = u.phase, u.reason, u.since, u.nextTry
	s.Unreceipted, s.PayloadBytes, s.Store, s.Generation = len(u.win.held), u.payload, u.store, u.newest
	s.Alone, s.Barred, s.NextAlone = u.win.troubled()
	if live != nil {
		b := &live.budget
		s.PayloadBytes = min(s.PayloadBytes, b.payload())
		s.InFlight, s.InFlightBytes, s.InFlightMost = len(live.flying), live.flyingBytes, b.window(2*s.PayloadBytes)
		s.Bandwidth, s.Delay = b.rate(), b.bare(b.delay, b.delayBytes)
	}
	return s
}

func (u *Uplink) enter(p Phase, why string, next time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.phase != p {
		u.since = time.Now()
	}
	u.phase, u.reason, u.nextTry = p, why, next
}

// counts is what has happened since the start.
type counts struct {
	connections, losses, payloads, pubacks, receipts  atomic.Uint64
	batchesSent, released, resent, rejected, parked   atomic.Uint64
	overdue, mismatches, otherEpoch, stale, malformed atomic.Uint64
	unrendered, unreadable, denied, foreign           atomic.Uint64
	recalled, notKept                                 atomic.Uint64
	bytesSent, bytesReceived                          atomic.Uint64
	requests, chunks, chunksDropped                   atomic.Uint64
	attempts, refusals, resumed                       atomic.Uint64
}

// register makes the counters visible to Prometheus.
func (u *Uplink) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	c := &u.count
	var failed error
	counter := func(name, help string, v *atomic.Uint64) {
		failed = errors.Join(failed, r.Register(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Namespace: "waybill", Subsystem: "uplink", Name: name, Help: help},
			func() float64 { return float64(v.Load()) })))
	}
	gauge := func(name, help string, v func(State) float64) {
		failed = errors.Join(failed, r.Register(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "waybill", Subsystem: "uplink", Name: name, Help: help},
			func() float64 { return v(u.State()) })))
	}
	counter("connect_attempts_total", "Tries to connect.", &c.attempts)
	counter("connect_refusals_total", "Tries that ended at credentials or trust.", &c.refusals)
	counter("tls_resumed_total", "TLS sessions that were resumed.", &c.resumed)
	counter("connections_total", "Sessions that came online.", &c.connections)
	counter("connection_losses_total", "Sessions that were lost.", &c.losses)
	counter("payloads_total", "Publishes of batches.", &c.payloads)
	counter("pubacks_total", "Publishes of batches that the broker acknowledged.", &c.pubacks)
	counter("receipts_total", "Receipts from the store.", &c.receipts)
	counter("batches_sent_total", "Batches published, resent ones included.", &c.batchesSent)
	counter("batches_released_total", "Batches released.", &c.released)
	counter("batches_resent_total", "Batches published again by this process.", &c.resent)
	counter("batches_rejected_total", "Batches that the store rejected.", &c.rejected)
	counter("batches_parked_total", "Batches that the store parked.", &c.parked)
	counter("batches_overdue_total", "Batches whose receipt stayed out too long.", &c.overdue)
	counter("batches_recalled_total", "Batches sent again because a store that was restored asked for them.", &c.recalled)
	counter("batches_not_kept_total", "Batches that such a store asked for and that were not kept.", &c.notKept)
	counter("batches_unrendered_total", "Batches that could not be rendered and went in columns.", &c.unrendered)
	counter("batches_unreadable_total", "Batches that could not be sent.", &c.unreadable)
	counter("receipt_mismatches_total", "Receipt ranges that did not fit what is held.", &c.mismatches)
	counter("receipt_other_epoch_total", "Receipt ranges of another epoch.", &c.otherEpoch)
	counter("receipt_stale_total", "Receipt ranges about batches released before.", &c.stale)
	counter("receipt_malformed_total", "Receipts that could not be read.", &c.malformed)
	counter("subscriptions_denied_total", "Refused subscriptions to receipts.", &c.denied)
	counter("requests_total", "Requests for images.", &c.requests)
	counter("chunks_total", "Messages with parts of images.", &c.chunks)
	counter("chunks_dropped_total", "Of these, those that were none, or that nobody waits for.", &c.chunksDropped)
	counter("messages_foreign_total", "Messages on other topics.", &c.foreign)
	counter("bytes_sent_total", "Bytes handed to TLS, websocket or the kernel.", &c.bytesSent)
	counter("bytes_received_total", "Bytes received.", &c.bytesReceived)
	gauge("online", "1 while a session is online.", func(s State) float64 {
		if s.Phase == Online {
			return 1
		}
		return 0
	})
	gauge("payloads_in_flight", "Publishes without PUBACK.", func(s State) float64 { return float64(s.InFlight) })
	gauge("bytes_in_flight", "Bytes of publishes without PUBACK.", func(s State) float64 { return float64(s.InFlightBytes) })
	gauge("in_flight_budget_bytes", "Bytes that may be in flight at present.", func(s State) float64 { return float64(s.InFlightMost) })
	gauge("bandwidth_bytes_per_second", "Rate at which the broker acknowledges, while the link was full.", func(s State) float64 { return s.Bandwidth })
	gauge("puback_delay_seconds", "Least time from a publish to its PUBACK.", func(s State) float64 { return s.Delay.Seconds() })
	gauge("batches_unreceipted", "Batches sent and not released.", func(s State) float64 { return float64(s.Unreceipted) })
	gauge("payload_limit_bytes", "Bytes that a payload may hold at present.", func(s State) float64 { return float64(s.PayloadBytes) })
	return failed
}
