package main

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/local"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// oldestBatch is when the oldest batch of a lane was taken.
type oldestBatch struct {
	seq   uint64
	boot  [16]byte
	first int64 // CLOCK_BOOTTIME of that boot, ns
}

// queued tells of the queue.
func (t *teller) queued(now time.Time) local.Queue {
	st := t.queue.Stats()
	q := local.Queue{
		Lanes: []local.Lane{}, OldestS: local.Missing(), DiskBytes: st.DiskBytes, MaxBytes: t.settings.Queue.MaxBytes,
		FreeBytes: freeBytes(t.settings.DataDir), CommitMS: t.bootMS(st.LastCommit), Damaged: st.Damaged,
		Flash: t.flash.read(now, now.Sub(t.started)),
	}
	for _, l := range buffer.Lanes() {
		lane := st.Lanes[l]
		q.Lanes = append(q.Lanes, local.Lane{Name: l.String(), Batches: lane.Batches, Bytes: lane.Bytes,
			Samples: t.pipe.Taken(telemetrypb.Lane(l)), Evicted: lane.Evicted, Thinned: lane.Thinned})
		q.Batches += lane.Batches
		q.Bytes += lane.Bytes
		if lane.Batches == 0 || l == buffer.Lane(telemetrypb.Lane_LANE_CONTROL) {
			continue
		}
		if age := t.age(l, lane.Oldest); age.Known() && !(q.OldestS >= age) {
			q.OldestS = age
		}
	}
	return q
}

// age is that of a lane's oldest batch in seconds. It is read from the disk once.
func (t *teller) age(l buffer.Lane, seq uint64) local.Number {
	o := t.oldest[l]
	if o.seq != seq {
		record, err := t.queue.Next(l, seq)
		if err != nil {
			return local.Missing() // the uplink was faster, or tells of the damage
		}
		batch, err := telemetrypb.OpenBatch(record.Bytes)
		if err != nil {
			return local.Missing()
		}
		o = oldestBatch{seq: record.Seq, first: record.First, boot: [16]byte(batch.Envelope.GetBootId())}
		t.oldest[l] = o
	}
	if o.boot == t.boot.ID {
		return local.Number(float64(t.clock.Boot()-o.first) / 1e9)
	}
	clock := t.times.Clock(o.boot)
	if clock == nil {
		return local.Missing()
	}
	then, doubt, _ := clock.WallTime(o.first)
	wall, doubtNow, _ := t.times.Now(t.clock.Boot())
	if doubt >= telemetrypb.Unbounded || doubtNow >= telemetrypb.Unbounded {
		return local.Missing()
	}
	return local.Number(float64(wall-then) / 1e9)
}

func freeBytes(dir string) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return -1
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}
