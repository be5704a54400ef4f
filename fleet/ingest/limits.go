package ingest

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Bounds of what one message can cost. What a vehicle in good order sends is below them by far; the store's own bounds
// are store.Limits.
const (
	// maxPayload is the most bytes of a message; the largest that a broker of the usual makers takes by default is 1 MB.
	maxPayload = 4 << 20
	// maxBatches is the most batches of a message.
	maxBatches = 1 << 14
	// decodeAhead is how many samples of one Apply are decoded before the store is asked for its time, and so held at
	// once; batches that claim more are decoded one by one. A batch of 200 bytes can hold a million samples.
	decodeAhead = 1 << 20
	// maxTexts is how many bytes the texts of one batch come to at most, each as often as samples have it: a batch of 20 KB can
	// have a million samples of one text.
	maxTexts = 16 << 20
	// textPerSample is how many bytes of text count as one sample more against a device's rate.
	textPerSample = 32
	// rowsAtOnce is how many rows are made at once.
	rowsAtOnce = 1 << 14
	// maxSuperseded is the most batches that one thinned copy stands for.
	maxSuperseded = 1 << 14
	// maxReceiptRanges is the most ranges of one receipt, about 64 KiB with their reasons: a receipt that no broker takes
	// would end the session, and its message come again, for ever.
	maxReceiptRanges = 256
	// lettersPerMessage is how many dead letters one message can make; further ones are counted only.
	lettersPerMessage = 16
	// retimeCall is what one clock record costs of Options.RetimeSamples at least.
	retimeCall = 1000
)

// Offender is a device of which something was refused.
type Offender struct {
	Tenant    string `json:"tenant"`
	Device    string `json:"device"`
	Malformed uint64 `json:"malformed,omitempty"` // payloads and batches that nothing can be said about
	Rejected  uint64 `json:"rejected,omitempty"`  // batches
	Limited   uint64 `json:"limited,omitempty"`   // what a limit of the store refused
	Deferred  uint64 `json:"deferred,omitempty"`  // batches above the device's rate
}

func (o *Offender) sum() uint64 { return o.Malformed + o.Rejected + o.Limited + o.Deferred }

// maxOffenders bounds the list; who has least makes room.
const maxOffenders = 1024

// watch keeps an eye on devices: who offends, and who sends more samples than one may. It is safe for use from several
// goroutines, and bounded whatever names come.
type watch struct {
	rate float64 // samples a second; 0: any

	mu        sync.Mutex // guards what follows
	offenders map[[2]string]*Offender
	budgets   map[int64]*budget
	words     budget // of the log
	unsaid    uint64 // warnings that were not logged
}

// budget fills at a rate and may go below zero once: who has some left gets a whole batch.
type budget struct {
	left float64
	at   time.Time
}

func (b *budget) fill(now time.Time, rate, most float64) float64 {
	if b.at.IsZero() {
		b.left = most
	} else {
		b.left = min(most, b.left+max(0, now.Sub(b.at).Seconds())*rate)
	}
	b.at = now
	return b.left
}

// maxBudgets bounds the devices whose rate is known. About 6 MB.
const maxBudgets = 1 << 16

// budgetSeconds is how long a device may have sent nothing, for what it then sends at once.
const budgetSeconds = 60

func newWatch(rate float64) *watch {
	return &watch{rate: max(rate, 0), offenders: map[[2]string]*Offender{}, budgets: map[int64]*budget{}}
}

// admits says whether a device may have more samples now.
func (w *watch) admits(device int64, now time.Time) bool {
	if w.rate == 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.budgetLocked(device, now) > 0
}

// charge takes samples that were stored off a device's budget.
func (w *watch) charge(device int64, samples int, now time.Time) {
	if w.rate == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.budgetLocked(device, now)
	w.budgets[device].left -= float64(samples)
}

func (w *watch) budgetLocked(device int64, now time.Time) float64 {
	b := w.budgets[device]
	if b == nil {
		if len(w.budgets) >= maxBudgets {
			for id, old := range w.budgets { // those that are full again say nothing
				if old.fill(now, w.rate, w.rate*budgetSeconds) == w.rate*budgetSeconds || len(w.budgets) >= maxBudgets {
					delete(w.budgets, id)
				}
			}
		}
		b = &budget{}
		w.budgets[device] = b
	}
	return b.fill(now, w.rate, w.rate*budgetSeconds)
}

// saw adds what an Apply refused.
func (w *watch) saw(list map[[2]string]*Offender) {
	if len(list) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, o := range list {
		if o.sum() == 0 {
			continue
		}
		have := w.offenders[name]
		if have == nil {
			if len(w.offenders) >= maxOffenders {
				w.forgetLeastLocked()
			}
			have = &Offender{Tenant: name[0], Device: name[1]}
			w.offenders[name] = have
		}
		have.Malformed += o.Malformed
		have.Rejected += o.Rejected
		have.Limited += o.Limited
		have.Deferred += o.Deferred
	}
}

// forgetLeastLocked drops the quarter that has least, so that not every new name costs a search.
func (w *watch) forgetLeastLocked() {
	for _, o := range w.topLocked()[maxOffenders*3/4:] {
		delete(w.offenders, [2]string{o.Tenant, o.Device})
	}
}

func (w *watch) topLocked() []Offender {
	list := make([]Offender, 0, len(w.offenders))
	for _, o := range w.offenders {
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b Offender) int {
		return cmp.Or(cmp.Compare(b.sum(), a.sum()), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Device, b.Device))
	})
	return list
}

// mayWarn says whether one more warning is logged, and how many were not since the last one that was: one a second, and
// sixty at once. What is set aside stands in the store; a flood of it does not need a flood of lines.
func (w *watch) mayWarn(now time.Time) (unsaid uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.words.fill(now, 1, 60) < 1 {
		w.unsaid++
		return 0, false
	}
	w.words.left--
	unsaid, w.unsaid = w.unsaid, 0
	return unsaid, true
}

// Offenders lists the devices of which most was refused since the start, those first, at most so many.
func (g *Ingester) Offenders(most int) []Offender {
	g.watch.mu.Lock()
	defer g.watch.mu.Unlock()
	list := g.watch.topLocked()
	return list[:min(most, len(list))]
}

// offender is where this message's device is counted.
func (a *application) offender() *Offender {
	if a.tenant == "" { // the topic names nobody
		return new(Offender)
	}
	name := [2]string{a.tenant, a.name}
	if a.offenders[name] == nil {
		a.offenders[name] = new(Offender)
	}
	return a.offenders[name]
}

func (a *application) malformed() { a.counts.Malformed++; a.offender().Malformed++ }
func (a *application) reject()    { a.counts.Rejected++; a.offender().Rejected++ }

// limited sets aside what the store has no room for.
func (a *application) limited(cause error, bytes []byte) error {
	a.counts.Limited++
	a.offender().Limited++
	return a.deadLetter("limit", cause, bytes)
}

// checkSuperseded refuses a copy that stands for more than any does: each number of it is looked up.
func checkSuperseded(ranges []*telemetrypb.SeqRange) error {
	var n uint64
	for _, r := range ranges {
		if r.GetFirst() <= r.GetLast() {
			n += min(r.GetLast()-r.GetFirst(), maxSuperseded) + 1
		}
		if n > maxSuperseded {
			return fmt.Errorf("it stands for more than %d batches", maxSuperseded)
		}
	}
	return nil
}
