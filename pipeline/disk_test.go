package pipeline_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

var (
	errDisk = fmt.Errorf("write: %w", io.ErrShortWrite)
	errFull = fmt.Errorf("quota: %w", io.ErrNoProgress)
)

// disk works or does not.
type disk struct {
	mu    sync.Mutex // guards what follows
	err   error
	lied  bool
	tries int
}

func (d *disk) commit([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries++
	return d.err, d.lied
}

// set breaks or heals the disk, and says how often it was tried before.
func (d *disk) set(err error, lied bool) (tries int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tries, d.tries = d.tries, 0
	d.err, d.lied = err, lied
	return tries
}

func TestFailingCommitsAreRetriedUnderTheSameSeqs(t *testing.T) {
	for _, lied := range []bool{false, true} {
		t.Run(fmt.Sprintf("lied=%v", lied), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := pipelinetest.NewQueue(1)
				d := &disk{}
				q.OnCommit = d.commit
				var failed, healed atomic.Int64
				v := start(t, q, func(o *pipeline.Options) {
					o.OnCommitError = func(error) { failed.Add(1) }
					o.OnCommitOK = func() { healed.Add(1) }
				})
				time.Sleep(500 * time.Millisecond)
				v.offer(door, 1)
				v.offer(speed, 10)
				time.Sleep(time.Second)
				synctest.Wait()
				d.set(errDisk, lied)
				for range 20 {
					v.offer(door, 1)
					v.offer(speed, 10)
					time.Sleep(time.Second)
				}
				synctest.Wait()
				// The first event tries at once; after a failure only ticks do.
				if tries := d.set(nil, false); tries < 20 || tries > 22 || int(failed.Load()) != tries || healed.Load() != 1 {
					t.Errorf("%d tries, %d told, %d healed in 20 s", tries, failed.Load(), healed.Load())
				}
				time.Sleep(1100 * time.Millisecond)
				synctest.Wait()
				if healed.Load() != 2 {
					t.Errorf("healed %d times", healed.Load())
				}
				v.mustEnd() // the queue knows when a seq came with other bytes
				if n, m := len(samples(t, q, telemetry)), len(samples(t, q, event)); n != 210 || m != 21 {
					t.Errorf("%d samples of 210, %d events of 21", n, m)
				}
				if len(v.p.Ledger().Totals()) != 0 {
					t.Errorf("losses %v", v.p.Ledger().Totals())
				}
			})
		})
	}
}

func TestMemoryBoundKeepsEventsLongest(t *testing.T) {
	for _, c := range []struct {
		err  error
		want telemetrypb.LossReason
	}{{errFull, telemetrypb.LossReason_LOSS_QUEUE_FULL}, {errDisk, telemetrypb.LossReason_LOSS_DISK_ERROR}} {
		t.Run(c.want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := pipelinetest.NewQueue(1)
				d := &disk{err: c.err}
				q.OnCommit = d.commit
				v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 512 << 10; o.ErrFull = io.ErrNoProgress })
				for range 400 {
					v.noise(speed, 200)
					v.noise(frame, 50)
					time.Sleep(100 * time.Millisecond)
				}
				telemetryOffered, rawOffered := 400*200, 400*50
				events := 0
				for range 150 {
					v.noise(door, 100) // more than the room that only events have
					events += 100
					time.Sleep(100 * time.Millisecond)
				}
				synctest.Wait()
				d.set(nil, false)
				time.Sleep(2 * time.Second)
				v.mustEnd()
				sum, list := losses(t, q)
				var bytes int
				for _, l := range []telemetrypb.Lane{event, telemetry, raw} {
					for _, b := range q.Batches(l) {
						bytes += len(b.Bytes)
					}
				}
				if bytes > 512<<10+3*(16<<10) {
					t.Errorf("%d bytes were kept in memory, the bound is 512 KiB and three open batches", bytes)
				}
				kept := samples(t, q, telemetry)
				keptRaw, keptEvents := samples(t, q, raw), samples(t, q, event)
				if len(keptEvents) != events {
					t.Errorf("%d events of %d", len(keptEvents), events)
				}
				if got := len(kept) + len(keptRaw) + int(sum[c.want]); got != telemetryOffered+rawOffered || sum[c.want] == 0 || len(sum) != 1 {
					t.Errorf("%d+%d committed, lost %v, %d offered", len(kept), len(keptRaw), sum, telemetryOffered+rawOffered)
				}
				if len(kept) == 0 || kept[len(kept)-1].Bits != telemetrypb.IntSample(0, 0, -int64(mix(400*250-50)>>1)).Bits {
					t.Error("the newest telemetry was not kept")
				}
				named := uint64(0)
				for _, l := range list {
					if len(l.Seqs) == 0 {
						continue
					}
					if l.Epoch != 1 || (l.Lane != telemetry && l.Lane != raw) {
						t.Errorf("a loss of %v", l)
					}
					for _, r := range l.Seqs {
						for seq := r.First; seq <= r.Last; seq++ {
							named++
							for _, b := range q.Batches(l.Lane) {
								if b.Seq == seq {
									t.Errorf("lane %d seq %d is stored and named as lost", l.Lane, seq)
								}
							}
						}
					}
				}
				if named == 0 {
					t.Error("no dropped batch is named by its seq")
				}
			})
		})
	}
}

func TestLossesAreToldAtTheirPaceAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		d := &disk{}
		q.OnCommit = d.commit
		v := start(t, q)
		add := func() { v.p.Ledger().Add(telemetrypb.LossReason_LOSS_KERNEL_DROP, "can:can0", "frames", 1, "") }
		for range 30 {
			add()
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if _, list := losses(t, q); len(list) < 5 || len(list) > 7 {
			t.Errorf("%d records in 30 s, want one every 5 s", len(list))
		}
		d.set(errDisk, false)
		for range 60 {
			add()
			time.Sleep(time.Second)
		}
		d.set(nil, false)
		v.p.Ledger().AddLoss(&telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EPOCH, Unit: "batches", CountUnknown: true})
		v.mustEnd()
		sum, list := losses(t, q)
		if sum[telemetrypb.LossReason_LOSS_KERNEL_DROP] != 90 || len(list) > 12 {
			t.Errorf("%d of 90 frames in %d records", sum[telemetrypb.LossReason_LOSS_KERNEL_DROP], len(list))
		}
		if end := list[len(list)-1]; !end.CountUnknown || end.BootId[0] != 7 || end.FirstNs == 0 {
			t.Errorf("the last loss is %v", end)
		}
	})
}

func TestShutdownWithABrokenDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		d := &disk{}
		q.OnCommit = d.commit
		v := start(t, q)
		v.offer(speed, 30)
		time.Sleep(1500 * time.Millisecond) // in the journal
		v.offer(speed, 12)
		d.set(errDisk, false)
		if err := v.end(); err == nil {
			t.Error("Run returned nil although its last commit failed")
		}
		total := v.p.Ledger().Totals()
		if len(total) != 1 || total[0].Count != 12 || total[0].Reason != telemetrypb.LossReason_LOSS_DISK_ERROR {
			t.Errorf("the ledger says %v", total)
		}
		d.set(nil, false)
		v = start(t, q.Crash())
		v.mustEnd()
		if n := len(samples(t, v.q, telemetry)); n != 30 {
			t.Errorf("%d samples of the 30 in the journal", n)
		}
	})
}

// TestAccount: every sample offered is committed or in the ledger, and none of them twice, whatever disk and load do.
func TestAccount(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { account(t, seed) })
		})
	}
}

func account(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	faults := rand.New(rand.NewPCG(seed, 2)) // the committer's own
	q := pipelinetest.NewQueue(1)
	calm := make(chan struct{})
	failing := false
	q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
		select {
		case <-calm:
			return nil, false
		default:
		}
		time.Sleep(time.Duration(faults.IntN(400)) * time.Millisecond)
		if faults.IntN(6) == 0 {
			failing = !failing
		}
		if failing {
			return []error{errDisk, errFull}[faults.IntN(2)], faults.IntN(3) == 0
		}
		return nil, false
	}
	v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 64 << 10; o.ErrFull = io.ErrNoProgress })
	n := uint64(0)
	offered := map[telemetrypb.Lane]int{}
	lanes := map[uint32]telemetrypb.Lane{speed: telemetry, frame: raw, door: event}
	for range 3000 {
		c := v.bus.Chunk()
		signal := []uint32{speed, speed, speed, frame, door}[r.IntN(5)]
		for range 1 + r.IntN(60) {
			n++
			c.Samples = append(c.Samples, telemetrypb.IntSample(signal, v.clock.Boot(), -int64(mix(n)>>1)))
		}
		offered[lanes[signal]] += len(c.Samples)
		v.bus.Offer(c)
		if r.IntN(20) == 0 {
			time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond)
		}
	}
	close(calm)
	v.mustEnd()
	sum, _ := losses(t, q)
	total, lost := 0, 0
	for _, n := range sum {
		lost += int(n)
	}
	lost -= arrived(t, q)
	seen := map[uint64]bool{}
	for _, l := range []telemetrypb.Lane{event, telemetry, raw} {
		for _, s := range samples(t, q, l) {
			if seen[s.Bits] {
				t.Fatalf("lane %d: a sample is there twice", l)
			}
			seen[s.Bits] = true
			total++
		}
	}
	if want := offered[event] + offered[telemetry] + offered[raw]; total+lost != want || lost == 0 {
		t.Errorf("%d committed, %d lost, %d offered: %v", total, lost, want, sum)
	}
	told := 0
	for _, n := range sum {
		told += int(n)
	}
	ledger := 0
	for _, l := range v.p.Ledger().Totals() {
		ledger += int(l.Count)
	}
	if ledger != told {
		t.Errorf("the ledger counted %d, the control lane tells of %d", ledger, told)
	}
}

// arrived is the number of samples in batches that are stored although a loss names them: the disk had taken them and
// said that it had not. The store resolves that in the same way: arrival beats a loss record.
func arrived(t testing.TB, q *pipelinetest.Queue) (n int) {
	_, list := losses(t, q)
	for _, l := range list {
		for _, r := range l.Seqs {
			for _, b := range q.Batches(l.Lane) {
				if b.Seq >= r.First && b.Seq <= r.Last {
					n += int(b.Samples)
				}
			}
		}
	}
	return n
}

// TestWhatIsJournaledIsNotDropped: a batch that a crash would bring back must not be counted as lost.
func TestWhatIsJournaledIsNotDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		d := &disk{}
		q.OnCommit = d.commit
		v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 64 << 10 })
		v.noise(speed, 30)
		time.Sleep(1100 * time.Millisecond) // in the journal
		d.set(errDisk, false)
		for range 100 {
			v.noise(door, 100) // more than there is room for: all telemetry that may go has to
			time.Sleep(100 * time.Millisecond)
		}
		d.set(nil, false)
		v.mustEnd()
		if n := len(samples(t, q, telemetry)); n != 30 {
			t.Errorf("%d of the 30 samples in the journal", n)
		}
		if _, list := losses(t, q); len(list) == 0 {
			t.Error("nothing was lost: the test does not test")
		}
	})
}

// TestEventsOfAFailingDiskMakeOneBatch: and not one for each attempt, which would fill the memory with envelopes.
func TestEventsOfAFailingDiskMakeOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		d := &disk{}
		q.OnCommit = d.commit
		v := start(t, q, func(o *pipeline.Options) { o.SealEvery = time.Hour })
		synctest.Wait()
		d.set(errDisk, false)
		for range 100 {
			v.offer(door, 1)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		d.set(nil, false)
		v.mustEnd()
		if n, m := len(q.Batches(event)), len(samples(t, q, event)); n > 3 || m != 100 {
			t.Errorf("%d batches of %d events in 100 s", n, m)
		}
	})
}
