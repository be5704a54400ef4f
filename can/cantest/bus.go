// Package cantest holds a CAN bus in memory, for tests of what reads frames, and the suite that every can.FrameReader
// has to pass. It knows nothing of decoding.
package cantest

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// Bus carries frames from Send to every reader that was attached before. It is safe for use from several goroutines and
// works under testing/synctest.
type Bus struct {
	mu      sync.Mutex // guards readers and their queues
	readers []*Reader
}

// NewBus makes a bus that is up.
func NewBus() *Bus { return &Bus{} }

// ReaderOptions are the choices of a Reader.
type ReaderOptions struct {
	Bus     uint8        // what Frame.Bus will say
	Depth   int          // frames that wait to be read before drops begin; 0 takes 1024
	Filters []can.Filter // nil lets everything pass
}

// Reader is one listener on a Bus.
type Reader struct {
	bus     *Bus
	options ReaderOptions
	wake    chan struct{} // capacity 1: something below changed

	queue []can.Frame
	drops uint64
	err   error // what Read answers once the queue is empty
}

var _ can.FrameReader = (*Reader)(nil)

// Open attaches a reader.
func (b *Bus) Open(o ReaderOptions) *Reader {
	if o.Depth == 0 {
		o.Depth = 1024
	}
	r := &Reader{bus: b, options: o, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers = append(b.readers, r)
	return r
}

// Send gives a frame to every reader, as it stands, Time included. A reader whose queue is full drops it and counts.
func (b *Bus) Send(f can.Frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.readers {
		if r.err != nil || !r.passes(&f) {
			continue
		}
		if len(r.queue) >= r.options.Depth {
			r.drops++
			continue
		}
		f.Bus = r.options.Bus
		r.queue = append(r.queue, f)
		r.signal()
	}
}

func (r *Reader) passes(f *can.Frame) bool {
	return r.options.Filters == nil || f.Flags&can.FlagError != 0 ||
		slices.ContainsFunc(r.options.Filters, func(filter can.Filter) bool { return filter.Pass(f) })
}

// Step is a piece of a script.
type Step struct {
	After time.Duration // since the step before
	Frame can.Frame
}

// Play sends a script, waiting before each step. Steps with nothing to wait for follow each other at once.
func (b *Bus) Play(script []Step) {
	for _, step := range script {
		if step.After > 0 {
			time.Sleep(step.After)
		}
		b.Send(step.Frame)
	}
}

// Down takes the interface away from every reader: what is queued is still read, then can.ErrDown. Readers that are
// opened later are on a bus that is up again.
func (b *Bus) Down() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.readers {
		r.endLocked(fmt.Errorf("bus in memory: %w", can.ErrDown))
	}
	b.readers = nil
}

func (r *Reader) endLocked(err error) {
	if r.err == nil {
		r.err = err
	}
	r.signal()
}

func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Read implements can.FrameReader.
func (r *Reader) Read(dst []can.Frame) (n int, drops uint64, err error) {
	if len(dst) == 0 {
		return 0, 0, nil
	}
	for {
		n, drops, err = r.take(dst)
		if n > 0 || err != nil {
			return n, drops, err
		}
		<-r.wake
	}
}

func (r *Reader) take(dst []can.Frame) (n int, drops uint64, err error) {
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	n = copy(dst, r.queue)
	r.queue = slices.Delete(r.queue, 0, n)
	if n == 0 && r.err == nil {
		return 0, 0, nil
	}
	drops, r.drops = r.drops, 0
	if n > 0 {
		return n, drops, nil
	}
	r.signal() // the next call is not to wait either
	return 0, drops, r.err
}

// Close implements can.FrameReader.
func (r *Reader) Close() error {
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	r.queue = nil
	r.err = fmt.Errorf("bus in memory: %w", os.ErrClosed)
	r.signal()
	r.bus.readers = slices.DeleteFunc(r.bus.readers, func(other *Reader) bool { return other == r })
	return nil
}
