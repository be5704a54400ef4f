package pipeline

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	unitSamples = "samples"
	unitRecords = "records"

	sourceQueue = "queue" // losses between sealing and the disk
	sourceAgent = "agent" // what Raise and Emit brought
	sourceOther = "other"

	maxLedgerKeys = 512 // different counts; what comes after is counted under the source "other"
	maxLedgerOwn  = 256 // losses with ranges of their own; what comes after is only counted
	maxSeqRanges  = 64  // ranges in one loss; what comes after is another loss
)

type ledgerKey struct {
	reason telemetrypb.LossReason
	source string
	unit   string
}

type ledgerCount struct {
	total       uint64 // since the start
	count       uint64 // not told yet
	first, last int64  // CLOCK_BOOTTIME of those
	detail      string // the latest of those
	metric      prometheus.Counter
}

// Ledger counts what was lost, by (reason, source, unit). All methods are safe for use from several goroutines, and
// counting under a key that was used before allocates nothing.
//
// A loss is counted here until it is told, that is until a control batch holds it. From then on that batch is the
// memory of it: a commit that fails is tried again with the same batch under the same seq.
type Ledger struct {
	now    func() int64 // CLOCK_BOOTTIME
	boot   [16]byte
	metric *prometheus.CounterVec // nil: none

	mu     sync.Mutex // guards what follows
	counts map[ledgerKey]*ledgerCount
	own    []*telemetrypb.Loss // losses with ranges of their own, not told yet
	news   bool                // something is not told yet
}

func newLedger(now func() int64, boot [16]byte, m *metrics) *Ledger {
	l := &Ledger{now: now, boot: boot, counts: map[ledgerKey]*ledgerCount{}}
	if m != nil {
		l.metric = m.losses
	}
	return l
}

// Add counts a loss that happened now. unit says what is counted: frames, samples, sentences, batches. detail is
// a word for people; the latest one is kept.
func (l *Ledger) Add(reason telemetrypb.LossReason, source, unit string, count uint64, detail string) {
	now := l.now()
	l.add(reason, source, unit, count, now, now, detail)
}

// add counts a loss of known times.
func (l *Ledger) add(reason telemetrypb.LossReason, source, unit string, count uint64, first, last int64, detail string) {
	if count == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.entryLocked(ledgerKey{reason, source, unit})
	c.countUp(count)
	l.untoldLocked(c, count, first, last, detail)
}

func (l *Ledger) entryLocked(key ledgerKey) *ledgerCount {
	if c := l.counts[key]; c != nil {
		return c
	}
	if len(l.counts) >= maxLedgerKeys {
		key.source, key.unit = sourceOther, sourceOther
		if c := l.counts[key]; c != nil {
			return c
		}
	}
	c := &ledgerCount{}
	if l.metric != nil {
		c.metric = l.metric.WithLabelValues(reasonName(key.reason))
	}
	l.counts[key] = c
	return c
}

// countUp adds to what is never reset.
func (c *ledgerCount) countUp(n uint64) {
	c.total += n
	if c.metric != nil {
		c.metric.Add(float64(n))
	}
}

func (l *Ledger) untoldLocked(c *ledgerCount, count uint64, first, last int64, detail string) {
	if c.count == 0 {
		c.first, c.last, c.detail = first, last, ""
	}
	c.count += count
	c.first, c.last = min(c.first, first), max(c.last, last)
	if detail != "" {
		c.detail = detail
	}
	l.news = true
}

// AddLoss enters a loss with what else is known of it, seq ranges say. It is copied; boot id and times are filled in
// where they are missing.
func (l *Ledger) AddLoss(loss *telemetrypb.Loss) {
	entry := proto.CloneOf(loss)
	entry.Source, entry.Unit, entry.Detail = validText(entry.Source), validText(entry.Unit), validText(entry.Detail)
	if len(entry.BootId) == 0 {
		entry.BootId = append([]byte(nil), l.boot[:]...)
	}
	if entry.FirstNs == 0 && entry.LastNs == 0 {
		now := l.now()
		entry.FirstNs, entry.LastNs = now, now
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.news = true
	c := l.entryLocked(ledgerKey{entry.Reason, entry.Source, entry.Unit})
	c.countUp(entry.Count)
	for i := len(l.own) - 1; i >= 0; i-- { // lanes may take turns
		if joinLoss(l.own[i], entry) {
			return
		}
	}
	if len(l.own) < maxLedgerOwn {
		l.own = append(l.own, entry)
		return
	}
	l.untoldLocked(c, entry.Count, entry.FirstNs, entry.LastNs, "seq ranges left out: too many losses at once")
}

// told counts a loss of which the queue holds a record already.
func (l *Ledger) told(loss *telemetrypb.Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entryLocked(ledgerKey{loss.GetReason(), loss.GetSource(), loss.GetUnit()}).countUp(loss.GetCount())
}

// joinLoss adds b to a when they differ in nothing but counts, times and seqs.
func joinLoss(a, b *telemetrypb.Loss) bool {
	same := a.Reason == b.Reason && a.Source == b.Source && a.Unit == b.Unit && a.Epoch == b.Epoch && a.Lane == b.Lane &&
		a.Detail == b.Detail && a.CountIsBound == b.CountIsBound && a.CountUnknown == b.CountUnknown &&
		string(a.BootId) == string(b.BootId)
	if !same || len(a.Seqs) == 0 || len(b.Seqs) == 0 || len(a.Seqs)+len(b.Seqs) > maxSeqRanges {
		return false
	}
	a.Count += b.Count
	a.FirstNs, a.LastNs = min(a.FirstNs, b.FirstNs), max(a.LastNs, b.LastNs)
	for _, r := range b.Seqs {
		end := a.Seqs[len(a.Seqs)-1]
		switch {
		case r.First == end.Last+1:
			end.Last = r.Last
		case r.Last+1 == end.First: // the newest go first
			end.First = r.First
		default:
			a.Seqs = append(a.Seqs, r)
		}
	}
	return true
}

// Totals is everything counted since the start, told or not: one Loss per (reason, source, unit), with its count.
func (l *Ledger) Totals() []*telemetrypb.Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	totals := make([]*telemetrypb.Loss, 0, len(l.counts))
	for key, c := range l.counts {
		totals = append(totals, &telemetrypb.Loss{Reason: key.reason, Source: key.source, Unit: key.unit, Count: c.total})
	}
	return totals
}

// take tells what was not told yet: one record per key, and one for each loss with ranges of its own.
func (l *Ledger) take() []*telemetrypb.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.news {
		return nil
	}
	l.news = false
	var records []*telemetrypb.Record
	for key, c := range l.counts {
		if c.count == 0 {
			continue
		}
		records = append(records, lossRecord(&telemetrypb.Loss{
			Reason: key.reason, Source: validText(key.source), Unit: validText(key.unit), Count: c.count,
			BootId: append([]byte(nil), l.boot[:]...), FirstNs: c.first, LastNs: c.last, Detail: validText(c.detail),
		}))
		c.count = 0
	}
	for _, loss := range l.own {
		records = append(records, lossRecord(loss))
	}
	l.own = nil
	return records
}

// reasonName is a loss reason as metrics write it: overload, disk_error.
func reasonName(r telemetrypb.LossReason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "LOSS_"))
}

// validText keeps a foreign byte from making a record that protobuf refuses.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func lossRecord(loss *telemetrypb.Loss) *telemetrypb.Record {
	return &telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: loss}}
}
