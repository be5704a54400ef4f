package pipeline

import (
	"context"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Chunk is what a reader hands over at once: the samples of some frames, in the order in which they were taken. A sample's
// parts (Collect.Part) follow it at once, in the same chunk. Its strings must not alias memory that the reader writes to again.
type Chunk struct {
	Samples []telemetrypb.Sample
}

// Source is one reader's way into the pipeline. It belongs to the one goroutine that reads; its methods are not safe
// for others.
//
// Closing rule: nobody closes a Source. Its reader is stopped first, by its owner, and has returned from its last
// Offer or Send before the context of Run is cancelled; Run then takes what is left in the channel. A chunk that is
// offered after Run has returned is dropped and counted in the Ledger.
type Source struct {
	name  string
	p     *Pipeline
	full  chan *Chunk // the reader sends, Run receives
	empty chan *Chunk // Run gives back; a chunk that does not fit is left to the collector
}

// Source makes the way in for one reader, before Run. name is what the loss ledger calls it (can:can0); depth is the
// number of chunks that may wait.
func (p *Pipeline) Source(name string, depth int) *Source {
	depth = max(depth, 1)
	s := &Source{
		name:  name,
		p:     p,
		full:  make(chan *Chunk, depth),
		empty: make(chan *Chunk, depth+2), // the channel's, the reader's, Run's
	}
	p.sources = append(p.sources, s)
	return s
}

// Chunk is an empty chunk to fill and hand over, a used one if there is any.
func (s *Source) Chunk() *Chunk {
	select {
	case c := <-s.empty:
		return c
	default:
		return &Chunk{Samples: make([]telemetrypb.Sample, 0, chunkSamples)}
	}
}

// Offer hands a chunk over and never blocks. When the channel is full the chunk is dropped, counted as OVERLOAD, and
// the answer is false. The chunk is not the caller's any more either way.
func (s *Source) Offer(c *Chunk) bool {
	if len(c.Samples) == 0 {
		s.recycle(c)
		return true
	}
	if !s.p.stopped.Load() {
		select {
		case s.full <- c:
			s.p.wakeUp()
			return true
		default:
		}
	}
	first, last := span(c.Samples)
	s.p.ledger.add(telemetrypb.LossReason_LOSS_OVERLOAD, s.name, unitSamples, uint64(len(c.Samples)), first, last, "")
	s.recycle(c)
	return false
}

// Send hands a chunk over and waits for room: for replays, which can wait where a bus cannot. On an error, which is
// the context's, the chunk was not taken and is still the caller's.
func (s *Source) Send(ctx context.Context, c *Chunk) error {
	if len(c.Samples) == 0 {
		s.recycle(c)
		return nil
	}
	select {
	case s.full <- c:
		s.p.wakeUp()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recycle empties a chunk and keeps it for Chunk.
func (s *Source) recycle(c *Chunk) {
	c.Samples = c.Samples[:0]
	select {
	case s.empty <- c:
	default:
	}
}

// span is the earliest and the latest time of samples, of which there is at least one.
func span(samples []telemetrypb.Sample) (first, last int64) {
	first, last = samples[0].Time, samples[0].Time
	for i := range samples {
		first, last = min(first, samples[i].Time), max(last, samples[i].Time)
	}
	return first, last
}
