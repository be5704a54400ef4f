package sim

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// wire is one direction of a connection in memory: what is written arrives a while later. Nothing in it waits in the
// kernel, so that synctest's time goes on. It never makes a writer wait, as the buffers of a socket do not for a while.
type wire struct {
	latency time.Duration
	poke    chan struct{} // capacity 1: something changed for the one reader

	mu       sync.Mutex // guards what follows
	flying   []packet   // written and not read
	left     int        // bytes that still pass before the connection breaks; negative: no such bound
	deaf     bool       // what is written vanishes
	ended    time.Time  // when the reader sees the end; zero: not yet
	broken   error      // the reader sees it at once
	deadline time.Time
}

type packet struct {
	at   time.Time // of arrival
	data []byte
}

func newWire(latency time.Duration) *wire {
	return &wire{latency: latency, poke: make(chan struct{}, 1), left: -1}
}

func (w *wire) changed() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// write takes data; over says that the bound was reached, with which the connection is to break.
func (w *wire) write(p []byte) (over bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.broken != nil:
		return false, w.broken
	case !w.ended.IsZero():
		return false, syscall.EPIPE
	case w.deaf:
		return false, nil
	}
	n := len(p)
	if w.left >= 0 && n >= w.left {
		n, over = w.left, true
	}
	if w.left >= 0 {
		w.left -= n
	}
	if n > 0 {
		w.flying = append(w.flying, packet{time.Now().Add(w.latency), append([]byte(nil), p[:n]...)})
		w.changed()
	}
	return over, nil
}

func (w *wire) read(p []byte) (int, error) {
	for {
		n, wait, err := w.look(p)
		if n > 0 || err != nil {
			return n, err
		}
		if wait <= 0 {
			<-w.poke
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-w.poke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look reads what has arrived; wait is how long until something happens by itself, 0: nothing will.
func (w *wire) look(p []byte) (n int, wait time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	soonest := func(at time.Time) {
		if d := at.Sub(now); wait == 0 || d < wait {
			wait = d
		}
	}
	switch {
	case w.broken != nil:
		return 0, 0, w.broken
	case !w.deadline.IsZero() && !now.Before(w.deadline):
		return 0, 0, os.ErrDeadlineExceeded
	case len(w.flying) > 0 && !now.Before(w.flying[0].at):
		head := &w.flying[0]
		n = copy(p, head.data)
		if head.data = head.data[n:]; len(head.data) == 0 {
			w.flying = w.flying[1:]
		}
		return n, 0, nil
	case len(w.flying) > 0:
		soonest(w.flying[0].at)
	case !w.ended.IsZero() && !now.Before(w.ended):
		return 0, 0, io.EOF
	case !w.ended.IsZero():
		soonest(w.ended)
	}
	if !w.deadline.IsZero() {
		soonest(w.deadline)
	}
	return 0, wait, nil
}

func (w *wire) set(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	w.changed()
}

// end is one end of a connection.
type end struct{ in, out *wire }

// newConnection makes the two ends of a connection.
func newConnection(latency time.Duration) (a, b *end) {
	there, back := newWire(latency), newWire(latency)
	return &end{in: back, out: there}, &end{in: there, out: back}
}

func (e *end) Read(p []byte) (int, error) { return e.in.read(p) }

func (e *end) Write(p []byte) (int, error) {
	over, err := e.out.write(p)
	if err != nil {
		return 0, err
	}
	if over {
		e.reset()
		return 0, syscall.ECONNRESET
	}
	return len(p), nil
}

// Close ends the connection in order: what is under way arrives.
func (e *end) Close() error {
	e.out.set(func() {
		if e.out.ended.IsZero() && !e.out.deaf {
			e.out.ended = time.Now().Add(e.out.latency)
		}
	})
	e.in.set(func() {
		if e.in.broken == nil {
			e.in.broken = net.ErrClosed
		}
	})
	return nil
}

// reset breaks the connection at both ends: what is under way is gone, but for what the bound has let pass.
func (e *end) reset() {
	for _, w := range []*wire{e.in, e.out} {
		w.set(func() {
			if len(w.flying) > 0 && w.left == 0 {
				w.ended = w.flying[len(w.flying)-1].at
				return
			}
			if w.broken == nil {
				w.broken = syscall.ECONNRESET
			}
		})
	}
}

// deafen makes the connection half-open: nobody hears the other any more, and nobody is told.
func (e *end) deafen() {
	for _, w := range []*wire{e.in, e.out} {
		w.set(func() { w.deaf, w.flying = true, nil })
	}
}

// breakAfter lets so many more bytes out.
func (e *end) breakAfter(bytes int) { e.out.set(func() { e.out.left = bytes }) }

func (e *end) LocalAddr() net.Addr              { return address("vehicle") }
func (e *end) RemoteAddr() net.Addr             { return address("broker") }
func (e *end) SetWriteDeadline(time.Time) error { return nil }

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.set(func() { e.in.deadline = t })
	return nil
}

func (e *end) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

type address string

func (a address) Network() string { return "sim" }
func (a address) String() string  { return string(a) }
