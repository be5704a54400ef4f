// Package ingest takes what vehicles publish into a store: it verifies, decides stored, parked or rejected, dates the
// samples, and says in receipts what became of each batch. Ingester does this for messages from anywhere; Receiver
// brings them from an MQTT broker.
//
// It knows no SQL, reads no configuration and prints nothing.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// maxAnchors is the most anchors of a clock record that are believed: one every ten minutes for two years.
const maxAnchors = 1 << 17

// Options of an Ingester.
type Options struct {
	Now func() time.Time // the receiver's clock; nil: time.Now
	Log *slog.Logger     // nil: nothing is logged
	// RetimeSamples is about how many samples one transaction dates again for one clock record; 0: 50,000. Run does what
	// is left.
	RetimeSamples int
	// DeviceSamples is how many samples a second one device may have stored, lasting; it may send what is due of a minute at
	// once. A batch above that gets no receipt, and comes again. 0: any number.
	DeviceSamples float64
}

// Message is one publish.
type Message struct {
	Topic   string
	Payload []byte
}

// Reply is a receipt on its way to a vehicle.
type Reply struct {
	Topic   string
	Receipt *telemetrypb.Receipt
}

// Counts says what Apply did. Batches of all states but conflicts and foreign ones are also in the store's totals.
type Counts struct {
	Payloads   uint64
	Batches    uint64 // new ones
	Samples    uint64
	Duplicates uint64 // batches
	Parked     uint64 // batches
	Unparked   uint64 // batches that had waited
	Rejected   uint64 // batches: malformed inside, in conflict, or foreign
	Malformed  uint64 // payloads, or batches in them, that nothing can be said about
	Limited    uint64 // devices, batches, records that the store has no room for (store.Limits): not stored, not confirmed
	Deferred   uint64 // batches above Options.DeviceSamples: likewise
	Retimed    uint64 // samples
	Wanted     uint64 // batches that vehicles were asked for, those that are on their way included
}

// Add sums.
func (c *Counts) Add(d Counts) {
	c.Payloads += d.Payloads
	c.Batches += d.Batches
	c.Samples += d.Samples
	c.Duplicates += d.Duplicates
	c.Parked += d.Parked
	c.Unparked += d.Unparked
	c.Rejected += d.Rejected
	c.Malformed += d.Malformed
	c.Limited += d.Limited
	c.Deferred += d.Deferred
	c.Retimed += d.Retimed
	c.Wanted += d.Wanted
}

// Ingester applies messages to a store. It is safe for use from several goroutines, as the store is.
type Ingester struct {
	store store.Store
	now   func() time.Time
	log   *slog.Logger

	watch         *watch
	retimeSamples int
	left          chan struct{} // capacity 1: there may be samples to date again
}

// New makes an Ingester.
func New(o Options, s store.Store) *Ingester {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.RetimeSamples <= 0 {
		o.RetimeSamples = 50_000
	}
	g := &Ingester{watch: newWatch(o.DeviceSamples), store: s, now: o.Now, log: o.Log, retimeSamples: o.RetimeSamples, left: make(chan struct{}, 1)}
	g.left <- struct{}{} // by the process before this one, perhaps
	return g
}

// Apply takes messages in their order, in one transaction. When it returns without error everything is durable, the
// messages may be acknowledged and the replies sent; with an error nothing of it remains, and the messages must come
// again. Bad messages are no error: they are kept as dead letters.
func (g *Ingester) Apply(ctx context.Context, messages []Message) ([]Reply, Counts, error) {
	return g.apply(ctx, messages, func(store.Tx) error { return nil })
}

// apply applies messages behind what `first` does in the same transaction.
func (g *Ingester) apply(ctx context.Context, messages []Message, first func(store.Tx) error) ([]Reply, Counts, error) {
	opened := make([]opened, len(messages))
	ahead := decodeAhead
	for i, m := range messages {
		opened[i] = open(m, &ahead)
	}
	var replies []Reply
	var counts Counts
	var asked questions
	var offenders map[[2]string]*Offender
	err := g.store.Update(ctx, func(tx store.Tx) error {
		replies, counts, asked = nil, Counts{}, questions{} // Update may run this again
		offenders = map[[2]string]*Offender{}
		retime := g.retimeSamples
		if err := first(tx); err != nil {
			return err
		}
		for i := range opened {
			a := &application{Ingester: g, tx: tx, now: g.now(), message: messages[i], counts: &counts, asked: &asked, offenders: offenders, retimeLeft: &retime}
			if err := a.run(&opened[i]); err != nil {
				return fmt.Errorf("message on %s: %w", messages[i].Topic, err)
			}
			replies = append(replies, a.replies...)
		}
		return nil
	})
	if err != nil {
		return nil, Counts{}, err
	}
	g.watch.saw(offenders)
	return append(replies, g.answers(&asked, &counts)...), counts, nil
}

// application is one message being applied.
type application struct {
	*Ingester
	tx      store.Tx
	now     time.Time
	message Message
	counts  *Counts
	asked   *questions

	offenders  map[[2]string]*Offender
	retimeLeft *int // samples that this Apply may still look at for clock records
	letters    int  // dead letters of this message

	tenant, name string // as the topic says
	device       int64
	clocks       map[[16]byte]*telemetrypb.ClockRecord // of this device, as the store has them
	named        map[[2]string]int64                   // rows of signals that came by name
	ranges       receiptRanges
	replies      []Reply
}

func (a *application) run(o *opened) error {
	a.counts.Payloads++
	a.tenant, a.name = o.tenant, o.device
	if o.err != nil {
		a.malformed()
		reason := "malformed"
		if errors.Is(o.err, telemetrypb.ErrNewerFormat) {
			reason = "newer"
		}
		return a.deadLetter(reason, o.err, a.message.Payload)
	}
	if o.others {
		return nil
	}
	if o.probe != nil && len(o.clocks)+len(o.batches) == 0 { // nothing of it stays, not even that there is such a device
		return a.reply(o.probe)
	}
	a.clocks, a.named = map[[16]byte]*telemetrypb.ClockRecord{}, map[[2]string]int64{}
	var err error
	if a.device, err = a.tx.Device(o.tenant, o.device, a.now); errors.Is(err, store.ErrLimit) {
		return a.limited(err, a.message.Payload)
	} else if err != nil {
		return err
	}
	switch {
	case o.status != nil:
		if err := a.asks(o.status); err != nil {
			return err
		}
		return a.tx.PutStatus(a.device, o.status, a.now)
	case o.result != nil:
		err := a.tx.PutResult(a.device, o.result, a.now)
		if errors.Is(err, store.ErrLimit) {
			return a.limited(err, a.message.Payload)
		}
		return err
	}
	// Clocks first, so that what comes with them is dated once.
	for _, c := range o.clocks {
		if err := a.clock(c); err != nil {
			return err
		}
	}
	for i := range o.batches {
		if err := a.batch(&o.batches[i]); err != nil {
			return err
		}
	}
	return a.reply(o.probe)
}

// deadLetter sets bytes aside.
func (a *application) deadLetter(reason string, cause error, bytes []byte) error {
	if a.letters++; a.letters > lettersPerMessage {
		return nil // the counts say how many there were
	}
	if unsaid, ok := a.watch.mayWarn(a.now); ok {
		a.log.Warn("set aside as a dead letter", "reason", reason, "topic", a.message.Topic, "bytes", len(bytes), "err", cause, "warnings left out before", unsaid)
	}
	return a.tx.PutDeadLetter(&store.DeadLetter{Topic: a.message.Topic, Reason: reason, Detail: cause.Error(), Bytes: bytes, At: a.now})
}

// clock takes a clock record if it is the newest of its boot, and dates again what it speaks of.
func (a *application) clock(c *telemetrypb.ClockRecord) error {
	if err := checkClock(c); err != nil {
		bytes, _ := proto.Marshal(c) // it came from bytes
		return a.deadLetter("clock", err, bytes)
	}
	boot := [16]byte(c.GetBootId())
	old, err := a.clockOf(boot)
	if err != nil {
		return err
	}
	if old != nil && old.GetRevision() >= c.GetRevision() {
		return nil
	}
	if err := a.tx.PutClock(a.device, c, a.now); errors.Is(err, store.ErrLimit) {
		bytes, _ := proto.Marshal(c) // it came from bytes
		return a.limited(err, bytes)
	} else if err != nil {
		return err
	}
	a.clocks[boot] = c
	if err := a.tx.PutRetiming(a.device, boot, changedFrom(old, c)); err != nil {
		return err
	}
	return a.retimeNow(store.Retiming{Device: a.device, Boot: boot}, c)
}

// retimeNow dates again what this Apply has room for; Run does the rest. Else a message full of clock records would keep
// all others waiting.
func (a *application) retimeNow(r store.Retiming, c *telemetrypb.ClockRecord) error {
	most := *a.retimeLeft
	if most <= 0 {
		a.remind()
		return nil
	}
	before := a.counts.Retimed
	done, err := a.retime(a.tx, r, most, c, a.counts)
	if !done {
		*a.retimeLeft = 0
	}
	*a.retimeLeft -= max(retimeCall, int(a.counts.Retimed-before))
	return err
}

// clockOf looks a clock record up, once a message.
func (a *application) clockOf(boot [16]byte) (*telemetrypb.ClockRecord, error) {
	if c, known := a.clocks[boot]; known {
		return c, nil
	}
	c, err := a.tx.Clock(a.device, boot)
	if err != nil {
		return nil, err
	}
	a.clocks[boot] = c
	return c, nil
}

// reply makes the receipt of this message, if there is anything to receipt or a question to answer.
func (a *application) reply(probe []byte) error {
	if len(a.ranges.list) == 0 && probe == nil {
		return nil
	}
	topic := telemetrypb.Topic(a.tenant, a.name, telemetrypb.TopicReceipt)
	for left := a.ranges.list; ; {
		n := min(len(left), maxReceiptRanges)
		r := &telemetrypb.Receipt{
			Store: a.store.Name(), Generation: a.store.Generation(),
			Ranges: left[:n], MaxFormat: telemetrypb.Format, Probe: probe,
		}
		if n > 0 {
			var err error
			if r.Number, err = a.tx.NextReceipt(a.device); err != nil {
				return err
			}
		}
		a.replies = append(a.replies, Reply{Topic: topic, Receipt: r})
		if left, probe = left[n:], nil; len(left) == 0 {
			return nil
		}
	}
}
