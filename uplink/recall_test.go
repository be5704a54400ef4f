package uplink_test

import (
	crand "crypto/rand"
	"math"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// keeper is a bench whose queue keeps what is released, and an uplink that has delivered everything to generation 1.
type keeper struct {
	*bench
	queue *buffer.Queue
	u     *uplink.Uplink
	stop  func()

	mu    sync.Mutex // guards what follows
	asked int        // calls of Recall
	lost  []*telemetrypb.Loss
}

func newKeeper(t *testing.T, batches int, change func(*uplink.Options)) *keeper {
	k := &keeper{bench: newBench(t, false)}
	var err error
	if k.queue, err = buffer.Open(t.TempDir(), buffer.Options{Rand: crand.Reader, KeepReleased: time.Hour, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.queue.Close() })
	k.bench.queue = uplinktest.Name(k.queue, tenant, device)
	k.add(telemetry, batches)
	o := k.options()
	o.StatusEvery, o.ReceiptTimeout = 100*time.Millisecond, 300*time.Millisecond
	o.Recall = func(epoch uint64, l buffer.Lane, r ...buffer.Range) (buffer.Recalled, error) {
		k.mu.Lock()
		k.asked++
		k.mu.Unlock()
		return k.queue.Recall(epoch, l, r...)
	}
	o.OnNotKept = func(l *telemetrypb.Loss) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.lost = append(k.lost, l)
	}
	if change != nil {
		change(&o)
	}
	k.u, k.stop = k.start(o)
	k.arrived(batches)
	return k
}

// status waits for one that fits.
func (k *keeper) status(what string, fits func(*telemetrypb.Status) bool) (last *telemetrypb.Status) {
	k.t.Helper()
	k.wait(what, func() bool {
		list := k.store.Statuses()
		if len(list) == 0 {
			return false
		}
		last = list[len(list)-1]
		return last.GetOnline() && fits(last)
	})
	return last
}

// nonce is that of a status made after the call.
func (k *keeper) nonce() uint64 {
	k.t.Helper()
	before := len(k.store.Statuses())
	return k.status("a status that may be answered", func(s *telemetrypb.Status) bool {
		return s.GetNonce() != 0 && len(k.store.Statuses()) > before+1 // the first may have been on its way
	}).GetNonce()
}

// want answers a status.
func (k *keeper) want(generation, nonce uint64, ranges ...*telemetrypb.WantedRange) {
	k.t.Helper()
	payload, err := proto.Marshal(&telemetrypb.Receipt{Store: "store", Generation: generation, Wanted: &telemetrypb.Wanted{Nonce: nonce, Ranges: ranges}})
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.broker.Publish(telemetrypb.Topic(tenant, device, telemetrypb.TopicReceipt), payload); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) wanted(first, last uint64) *telemetrypb.WantedRange {
	return &telemetrypb.WantedRange{Epoch: k.queue.Epoch(), Lane: telemetry, Seqs: []*telemetrypb.SeqRange{{First: first, Last: last}}}
}

// heard waits until a receipt that is sent now has been taken.
func (k *keeper) heard() {
	k.t.Helper()
	before := k.u.State().Receipts
	k.store.Send(tenant, device)
	k.wait("a receipt", func() bool { return k.u.State().Receipts > before })
	time.Sleep(10 * time.Millisecond)
}

// TestRecall: what a store of a new generation lacks is sent again, until it lacks nothing; then it is told so.
func TestRecall(t *testing.T) {
	k := newKeeper(t, 20, nil)
	k.store.SetGeneration(2)
	k.want(2, k.nonce(), k.wanted(5, 12), k.wanted(30, 1<<60))
	k.wait("8 batches again", func() bool { return k.store.Duplicates() == 8 && k.bench.queue.Len() == 0 })
	if s := k.u.State(); s.Recalled != 8 || s.NotKept != 0 {
		t.Errorf("%d recalled, %d not kept", s.Recalled, s.NotKept)
	}
	// The answer may still name what is on its way; it is not settled before one that recalls nothing.
	if s := k.store.Statuses(); s[len(s)-1].GetStoreGeneration() != 0 {
		t.Error("a generation is called settled before it said so")
	}
	k.want(2, k.nonce())
	s := k.status("settled", func(s *telemetrypb.Status) bool { return s.GetStoreGeneration() == 2 })
	k.want(2, s.GetNonce(), k.wanted(1, 20)) // it has said that it lacks nothing
	k.heard()
	if got := k.u.State().Recalled; got != 8 {
		t.Errorf("%d recalled for a settled generation", got)
	}
}

// TestReceiptOfBefore: a receipt of the generation before confirms what the restored store may lack, and releases nothing.
func TestReceiptOfBefore(t *testing.T) {
	k := newKeeper(t, 20, nil)
	k.want(2, k.nonce(), k.wanted(1, 20))
	k.wait("all of them again, receipted by the old generation", func() bool { return k.store.Duplicates() >= 40 })
	if n := k.bench.queue.Len(); n != 20 {
		t.Errorf("%d of 20 batches are held", n)
	}
	k.store.SetGeneration(2)
	k.wait("their release", func() bool { return k.bench.queue.Len() == 0 })
}

// TestNotKept: what is gone is recorded once, and not while the control lane holds what may tell of it.
func TestNotKept(t *testing.T) {
	k := newKeeper(t, 3, nil)
	k.store.SetGeneration(2)
	k.store.Judge(func(e *telemetrypb.Envelope) uplinktest.Answer { // nothing of the control lane is released
		if e.GetLane() == control {
			return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_PARKED}
		}
		return uplinktest.Answer{Verdict: telemetrypb.Verdict_VERDICT_STORED}
	})
	k.add(control, 1)
	k.wait("the record at the store", func() bool { return k.u.State().BatchesParked == 1 })
	gone := &telemetrypb.WantedRange{Epoch: 99, Lane: telemetry, Seqs: []*telemetrypb.SeqRange{{First: 4, Last: 6}, {First: 9, Last: 9}}}
	nonce := k.nonce()
	k.want(2, nonce, gone)
	k.status("another nonce", func(s *telemetrypb.Status) bool { return s.GetNonce() != nonce })
	k.mu.Lock()
	if len(k.lost) > 0 {
		t.Errorf("recorded before the store has the control lane: %v", k.lost)
	}
	k.mu.Unlock()
	k.store.Unpark()
	k.wait("the control lane empty", func() bool { return k.bench.queue.Len() == 0 })
	nonce = k.nonce()
	k.want(2, nonce, gone)
	k.status("settled", func(s *telemetrypb.Status) bool { return s.GetStoreGeneration() == 2 })
	k.want(2, k.nonce(), gone)
	k.heard()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.lost) != 1 || k.lost[0].GetCount() != 4 || k.lost[0].GetReason() != telemetrypb.LossReason_LOSS_NOT_KEPT ||
		k.lost[0].GetEpoch() != 99 || k.lost[0].GetLane() != telemetry || len(k.lost[0].GetSeqs()) != 2 || k.lost[0].GetUnit() != "batches" {
		t.Errorf("%v", k.lost)
	}
	if k.u.State().NotKept != 4 || !k.raised("uplink.not_kept") {
		t.Errorf("%+v", k.u.State())
	}
}

// TestHostileWants: only the answer to a status counts, once, and generations do not follow each other without end.
func TestHostileWants(t *testing.T) {
	k := newKeeper(t, 20, nil)
	nonce := k.nonce()
	k.want(0, nonce, k.wanted(1, 20))
	k.want(2, nonce+2, k.wanted(1, 20))
	k.want(2, 0, k.wanted(1, 20))
	k.heard()
	if k.asked != 0 {
		t.Fatalf("asked %d times by what is no answer", k.asked)
	}
	var many []*telemetrypb.WantedRange
	for i := range 3000 {
		many = append(many, &telemetrypb.WantedRange{Epoch: uint64(i), Lane: telemetrypb.Lane(i%9 - 3), Seqs: []*telemetrypb.SeqRange{
			{First: 0, Last: math.MaxUint64}, {First: 9, Last: 2}, {First: uint64(i) * 7, Last: math.MaxUint64}}})
	}
	k.want(2, nonce, many...)
	k.wait("the answer taken", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.asked > 100
	})
	k.want(2, nonce, k.wanted(1, 20)) // the same again
	k.heard()
	k.mu.Lock()
	if k.asked == 0 || k.asked > 1024 || k.u.State().Recalled != 0 {
		t.Errorf("asked %d times, %d recalled", k.asked, k.u.State().Recalled)
	}
	k.mu.Unlock()
	for g := uint64(3); g < 12; g++ {
		k.store.SetGeneration(g)
		k.want(g, k.nonce(), k.wanted(1, 20))
		k.heard()
		k.wait("everything released", func() bool { return k.bench.queue.Len() == 0 })
	}
	if got := k.u.State().Recalled; got != 2*20 {
		t.Errorf("%d batches recalled by 10 generations in a moment, want those of the first 3 at most", got)
	}
}

// TestNoRecall: without the option nobody is told to ask, and who asks is not heard.
func TestNoRecall(t *testing.T) {
	for name, change := range map[string]func(*uplink.Options){
		"no queue that keeps": func(o *uplink.Options) { o.Recall = nil },
		"puback":              func(o *uplink.Options) { o.Ack = uplink.AckPuback },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeeper(t, 5, change)
			if s := k.status("a status", func(*telemetrypb.Status) bool { return true }); s.GetNonce() != 0 || s.GetStoreGeneration() != 0 {
				t.Errorf("%v", s)
			}
			k.want(2, 0, k.wanted(1, 5))
			k.store.Send(tenant, device)
			k.wait("both", func() bool { return name == "puback" || k.u.State().Receipts >= 2 })
			time.Sleep(20 * time.Millisecond)
			if k.asked != 0 || k.u.State().Recalled != 0 {
				t.Error("it was obeyed")
			}
		})
	}
}
