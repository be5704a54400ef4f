package pipeline_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// span is where a lane's samples begin and end, and how many there are.
type laneSpan struct {
	n           int
	first, last int64
}

func spanOf(list []telemetrypb.Sample) (s laneSpan) {
	for _, x := range list {
		if s.n == 0 {
			s.first, s.last = x.Time, x.Time
		}
		s.n++
		s.first, s.last = min(s.first, x.Time), max(s.last, x.Time)
	}
	return s
}

// TestTheRingKeepsTheNewestOfWhatIsWorthMost: raw frames go before telemetry and telemetry before events, each from the
// oldest on; each loss has its lane, its numbers, its count and its times.
func TestTheRingKeepsTheNewestOfWhatIsWorthMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		d := &disk{}
		q.OnCommit = d.commit
		v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 256 << 10 })
		time.Sleep(1550 * time.Millisecond) // what comes never comes while a commit is under way: what that holds would stay, and newer go
		d.set(errDisk, false)
		offered := map[telemetrypb.Lane]int{}
		first := map[telemetrypb.Lane]int64{}
		offer := func(l telemetrypb.Lane, signal uint32, n int) {
			if first[l] == 0 {
				first[l] = v.clock.Boot()
			}
			if !v.noise(signal, n) {
				t.Fatal("a chunk was refused")
			}
			offered[l] += n
			time.Sleep(100 * time.Millisecond)
		}
		for range 100 {
			offer(raw, frame, 100)
		}
		for range 300 {
			offer(telemetry, speed, 100)
		}
		synctest.Wait()
		if left := v.p.Uncommitted(raw); left.Batches != 1 {
			t.Errorf("%d batches of raw frames are left while telemetry is dropped", left.Batches)
		}
		for range 600 {
			offer(event, door, 100)
		}
		synctest.Wait()
		if left := v.p.Uncommitted(telemetry); left.Batches != 1 {
			t.Errorf("%d batches of telemetry are left while events are dropped", left.Batches)
		}
		var inMemory int64
		for l := range telemetrypb.Lane(5) {
			inMemory += v.p.Uncommitted(l).Bytes
		}
		if inMemory > 256<<10 || inMemory < 128<<10 {
			t.Errorf("%d bytes in memory, the bound is 256 KiB", inMemory)
		}
		d.set(nil, false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for l := range telemetrypb.Lane(5) {
			if left := v.p.Uncommitted(l); left.Batches != 0 || left.Bytes != 0 {
				t.Errorf("lane %d: %v is said to be in memory when all is committed", l, left)
			}
		}
		v.mustEnd()

		_, list := losses(t, q)
		lost, records := map[telemetrypb.Lane]*telemetrypb.Loss{}, map[telemetrypb.Lane]int{}
		for _, l := range list {
			if l.Reason != telemetrypb.LossReason_LOSS_DISK_ERROR || l.Epoch != 1 {
				t.Fatalf("loss %v", l)
			}
			records[l.Lane]++
			if sum := lost[l.Lane]; sum != nil {
				sum.Count += l.Count
				sum.FirstNs, sum.LastNs = min(sum.FirstNs, l.FirstNs), max(sum.LastNs, l.LastNs)
				continue
			}
			lost[l.Lane] = proto.CloneOf(l)
		}
		for _, l := range []telemetrypb.Lane{event, telemetry, raw} {
			kept, loss := spanOf(samples(t, q, l)), lost[l]
			if loss == nil {
				t.Fatalf("lane %d: nothing was dropped: the test does not test", l)
			}
			if records[l] > 2 { // of what went before the next try, and of the rest
				t.Errorf("lane %d: %d records", l, records[l])
			}
			if kept.n+int(loss.Count) != offered[l] {
				t.Errorf("lane %d: %d kept, %d lost, %d offered", l, kept.n, loss.Count, offered[l])
			}
			if kept.n == 0 || kept.first < loss.LastNs || loss.FirstNs != first[l] {
				t.Errorf("lane %d: kept from %d on, lost from %d to %d; the first was taken at %d", l, kept.first, loss.FirstNs, loss.LastNs, first[l])
			}
			checkNumbers(t, q, l, list)
		}
	})
}

// checkNumbers wants every number of a lane either there or named as lost, and no number twice.
func checkNumbers(t *testing.T, q *pipelinetest.Queue, l telemetrypb.Lane, losses []*telemetrypb.Loss) {
	t.Helper()
	named := map[uint64]int{}
	top := uint64(0)
	for _, b := range q.Batches(l) {
		named[b.Seq]++
		top = max(top, b.Seq)
	}
	for _, loss := range losses {
		for _, r := range loss.Seqs {
			for seq := r.First; seq <= r.Last && loss.Lane == l; seq++ {
				named[seq]++
				top = max(top, seq)
			}
		}
	}
	for seq := uint64(1); seq <= top; seq++ {
		if named[seq] != 1 {
			t.Errorf("lane %d: number %d of %d is there or said to be lost %d times", l, seq, top, named[seq])
		}
	}
}

// TestAFailingDiskIsProbedAndHealsInSteps: commits to it carry little; one that goes well is followed by larger ones at
// once; the disk is called well when nothing waits any more, and not before.
func TestAFailingDiskIsProbedAndHealsInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		var failing, largest, healed, allow atomic.Int64
		q.OnCommit = func(batches []pipeline.Sealed, _ []pipeline.Journal) (error, bool) {
			size := int64(0)
			for _, b := range batches {
				size += int64(len(b.Bytes))
			}
			if failing.Load() == 0 {
				return nil, false
			}
			largest.Store(max(largest.Load(), size))
			if allow.Add(-1) >= 0 {
				return nil, false
			}
			return errDisk, false
		}
		v := start(t, q, func(o *pipeline.Options) {
			o.CommitBytes = 32 << 10
			o.OnCommitOK = func() { healed.Add(1) }
		})
		time.Sleep(1500 * time.Millisecond)
		failing.Store(1)
		for range 300 {
			v.noise(speed, 100)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		waiting := v.p.Uncommitted(telemetry)
		if largest.Load() > 32<<10+16<<10 || waiting.Bytes < 200<<10 {
			t.Errorf("a commit to a failing disk carried %d bytes of %d", largest.Load(), waiting.Bytes)
		}
		allow.Store(2) // the disk takes two and fails again
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if left := v.p.Uncommitted(telemetry); healed.Load() != 1 || left.Bytes > waiting.Bytes-64<<10 {
			t.Errorf("told %d times that the disk is well; %d bytes of %d are left", healed.Load(), left.Bytes, waiting.Bytes)
		}
		allow.Store(1 << 40)
		time.Sleep(1100 * time.Millisecond) // one tick is enough for all
		synctest.Wait()
		if left := v.p.Uncommitted(telemetry); healed.Load() != 2 || left.Batches != 0 {
			t.Errorf("told %d times that the disk is well; %v left", healed.Load(), left)
		}
		v.mustEnd()
		if n := len(samples(t, q, telemetry)); n != 300*100 {
			t.Errorf("%d samples of %d", n, 300*100)
		}
		for i, b := range q.Batches(telemetry) {
			if b.Seq != uint64(i+1) {
				t.Fatalf("batch %d is the %d. on the disk", b.Seq, i+1)
			}
		}
	})
}

// TestPowerCutWhileTheRingEmpties: whichever commit the power goes at, each number up to a lane's highest is on the disk or in
// a loss record that is, and none is in both: what a record names is never given again.
func TestPowerCutWhileTheRingEmpties(t *testing.T) {
	for cut := range int64(8) {
		synctest.Test(t, func(t *testing.T) {
			q := pipelinetest.NewQueue(1)
			var failing atomic.Bool
			var left atomic.Int64
			q.OnCommit = func([]pipeline.Sealed, []pipeline.Journal) (error, bool) {
				if failing.Load() || left.Add(-1) < 0 {
					return errDisk, false
				}
				return nil, false
			}
			left.Store(1 << 40)
			v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes, o.CommitBytes = 256<<10, 16<<10 })
			v.noise(speed, 30)
			time.Sleep(1500 * time.Millisecond) // in the journal
			failing.Store(true)
			for range 500 {
				v.noise(speed, 100)
				v.noise(frame, 20)
				time.Sleep(100 * time.Millisecond)
			}
			left.Store(cut)
			failing.Store(false)
			time.Sleep(1200 * time.Millisecond)
			synctest.Wait()
			again := q.Crash()
			_ = v.end()
			v = start(t, again)
			v.offer(frame, 1)
			time.Sleep(1500 * time.Millisecond)
			v.mustEnd()
			seen := map[uint64]bool{}
			for _, l := range []telemetrypb.Lane{telemetry, raw} {
				for _, s := range samples(t, again, l) {
					if seen[s.Bits] {
						t.Fatalf("cut at commit %d: a sample is there twice", cut)
					}
					seen[s.Bits] = true
				}
			}
			if !seen[telemetrypb.IntSample(0, 0, -int64(mix(1)>>1)).Bits] {
				t.Errorf("cut at commit %d: what was in the journal is gone", cut)
			}
			_, list := losses(t, again)
			for _, l := range []telemetrypb.Lane{telemetry, raw} {
				checkNumbers(t, again, l, list)
			}
			if t.Failed() {
				t.Fatalf("cut at commit %d", cut)
			}
		})
	}
}

// TestWhatAFailedCommitHasStoredIsNotLost: a queue writes lane by lane, and the disk may fail behind the first. What is
// stored by then is neither kept in memory nor counted as lost.
func TestWhatAFailedCommitHasStoredIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pipelinetest.NewQueue(1)
		q.UpTo = telemetry
		d := &disk{}
		q.OnCommit = d.commit
		v := start(t, q, func(o *pipeline.Options) { o.MemoryBytes = 128 << 10 })
		time.Sleep(1500 * time.Millisecond)
		d.set(errDisk, false)
		for range 200 {
			if !v.noise(frame, 100) || !v.noise(speed, 100) {
				t.Fatal("a chunk was refused")
			}
			time.Sleep(100 * time.Millisecond)
		}
		d.set(nil, false)
		time.Sleep(2 * time.Second)
		v.mustEnd()
		stored, lost := map[telemetrypb.Lane]int{}, map[telemetrypb.Lane]int{}
		_, list := losses(t, q)
		for _, l := range list {
			lost[l.GetLane()] += int(l.GetCount())
		}
		for _, l := range []telemetrypb.Lane{telemetry, raw} {
			stored[l] = len(samples(t, q, l))
			checkNumbers(t, q, l, list)
		}
		for _, l := range []telemetrypb.Lane{telemetry, raw} {
			if stored[l]+lost[l] != 200*100 {
				t.Errorf("lane %s: of %d samples %d are stored and %d in the ledger", telemetrypb.LaneName(l), 200*100, stored[l], lost[l])
			}
		}
		if lost[raw] == 0 || stored[telemetry] != 200*100 {
			t.Errorf("%d raw samples lost, %d of telemetry stored: this test does not test what it says", lost[raw], stored[telemetry])
		}
	})
}
