package main

import (
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
)

type queueConfig struct {
	CommitEvery      string            `yaml:"commit_every"`
	SealEvery        string            `yaml:"seal_every"`
	MaxBytes         string            `yaml:"max_bytes"`
	Lanes            map[string]string `yaml:"lanes" keys:"event telemetry raw"`
	MinFree          string            `yaml:"min_free"`
	ThinEvery        *int              `yaml:"thin_every"`
	KeepAfterReceipt string            `yaml:"keep_after_receipt"`
	SegmentBytes     string            `yaml:"segment_bytes"`
	Memory           string            `yaml:"memory"`
}

// queueSettings bound the queue. Sizes are bytes of disk blocks.
type queueSettings struct {
	MaxBytes     int64
	LaneBytes    map[buffer.Lane]int64 // only what is set
	MinFree      int64
	ThinEvery    int // 1: old telemetry is dropped, not thinned
	Keep         time.Duration
	SegmentBytes int64
	Memory       int64 // sealed batches while the disk takes none, bytes of memory
}

const (
	leastLane   = 4 << 20
	mostThinned = 1000
)

func (c *checker) queue(s *settings) {
	raw := &c.d.config.Queue
	q := &s.Queue
	*q = queueSettings{
		MaxBytes:     c.size(raw.MaxBytes, 1<<30, 16<<20, 1<<40, "queue", "max_bytes"),
		LaneBytes:    map[buffer.Lane]int64{},
		MinFree:      c.size(raw.MinFree, 4<<20, 1<<20, 1<<40, "queue", "min_free"),
		ThinEvery:    10,
		Keep:         c.duration(raw.KeepAfterReceipt, 0, 0, 30*24*time.Hour, "queue", "keep_after_receipt"),
		SegmentBytes: c.size(raw.SegmentBytes, 16<<20, 8<<20, 32<<20, "queue", "segment_bytes"),
		Memory:       c.size(raw.Memory, 4<<20, 256<<10, 256<<20, "queue", "memory"),
	}
	for name, size := range raw.Lanes {
		lane, ok := laneNames[name]
		if !ok || buffer.Lane(lane) == buffer.Control {
			c.fail("want event, telemetry or raw; the control lane takes what it needs", "queue", "lanes", name)
			continue
		}
		q.LaneBytes[buffer.Lane(lane)] = c.size(size, 0, leastLane, q.MaxBytes, "queue", "lanes", name)
	}
	if raw.ThinEvery != nil {
		q.ThinEvery = *raw.ThinEvery
	}
	if q.ThinEvery < 1 || q.ThinEvery > mostThinned {
		c.fail(fmt.Sprintf("must be between 1 (old telemetry is dropped at once) and %d, got %d", mostThinned, q.ThinEvery), "queue", "thin_every")
	}
}
