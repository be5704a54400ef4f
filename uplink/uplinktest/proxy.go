package uplinktest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Proxy is a TCP link that can be made bad. All methods are safe for use from several goroutines and act on the
// connections that are open and on those to come.
type Proxy struct {
	listen net.Listener
	target string
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	conns    map[*net.TCPConn]struct{}
	accepted int
	passed   int64         // bytes read, both ways
	delay    time.Duration // each way
	rate     int           // bytes a second each way; 0: as fast as it goes
	dropUp   bool
	dropDown bool
	frozen   chan struct{} // non-nil: closed at the thaw
	budget   func() int    // bytes until a connection is cut; nil: never
}

// NewProxy listens on a free loopback port and passes on to target.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("test proxy: %w", err)
	}
	p := &Proxy{listen: l, target: target, conns: map[*net.TCPConn]struct{}{}}
	p.tasks.Go(p.accept)
	return p, nil
}

// Addr is host:port.
func (p *Proxy) Addr() string { return p.listen.Addr().String() }

// SetDelay delays every byte, each way.
func (p *Proxy) SetDelay(d time.Duration) { p.set(func() { p.delay = d }) }

// SetRate limits each connection and way, in bytes a second; 0 lifts it.
func (p *Proxy) SetRate(bytes int) { p.set(func() { p.rate = bytes }) }

// Drop throws bytes away, one way or both; the connections stay.
func (p *Proxy) Drop(up, down bool) { p.set(func() { p.dropUp, p.dropDown = up, down }) }

// CutAfter cuts each new connection after a number of bytes, both ways together, drawn anew from 1…most.
func (p *Proxy) CutAfter(r *rand.Rand, most int) {
	p.set(func() {
		if most == 0 {
			p.budget = nil
			return
		}
		p.budget = func() int { return 1 + r.IntN(most) }
	})
}

// Freeze lets nothing through, either way, until Thaw. Nothing is lost.
func (p *Proxy) Freeze() {
	p.set(func() {
		if p.frozen == nil {
			p.frozen = make(chan struct{})
		}
	})
}

// Thaw ends a freeze.
func (p *Proxy) Thaw() {
	p.set(func() {
		if p.frozen != nil {
			close(p.frozen)
			p.frozen = nil
		}
	})
}

// Cut closes all connections; with reset by RST.
func (p *Proxy) Cut(reset bool) {
	p.set(func() {
		for c := range p.conns {
			if reset {
				_ = c.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}

// Accepted is how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Open counts the connections that are open, two for each that is passed on.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Passed counts the bytes that came from either side.
func (p *Proxy) Passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// Close ends the proxy.
func (p *Proxy) Close() {
	p.set(func() { p.closed = true })
	_ = p.listen.Close()
	p.Thaw()
	p.Cut(false)
	p.tasks.Wait()
}

func (p *Proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *Proxy) accept() {
	for {
		near, err := p.listen.Accept()
		if err != nil {
			return
		}
		p.tasks.Go(func() { p.serve(near.(*net.TCPConn)) })
	}
}

// serve passes one connection on until either side ends.
func (p *Proxy) serve(near *net.TCPConn) {
	defer near.Close()
	conn, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[near], p.conns[far] = struct{}{}, struct{}{}
	p.accepted++
	left := &budget{bytes: -1}
	if p.budget != nil {
		left.bytes = p.budget()
	}
	p.mu.Unlock()
	var ways sync.WaitGroup
	ways.Go(func() { p.pass(far, near, true, left) })
	ways.Go(func() { p.pass(near, far, false, left) })
	ways.Wait()
	p.mu.Lock()
	delete(p.conns, near)
	delete(p.conns, far)
	p.mu.Unlock()
}

// chunk is what was read, and when it may go on.
type chunk struct {
	bytes []byte
	due   time.Time
}

// pass carries one way. Reading goes on while what was read waits out its delay.
func (p *Proxy) pass(to, from *net.TCPConn, up bool, left *budget) {
	road := make(chan chunk, 256)
	p.tasks.Go(func() {
		defer close(road)
		for {
			b := make([]byte, 4<<10)
			n, err := from.Read(b)
			p.wait()
			p.mu.Lock()
			p.passed += int64(n)
			delay, drop := p.delay, up && p.dropUp || !up && p.dropDown
			p.mu.Unlock()
			if n > 0 && !drop {
				road <- chunk{b[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	})
	var free time.Time // when the link has carried what it was given
	for c := range road {
		time.Sleep(time.Until(c.due))
		p.wait()
		p.mu.Lock()
		rate := p.rate
		p.mu.Unlock()
		allowed := left.take(len(c.bytes))
		_, err := to.Write(c.bytes[:allowed])
		if err != nil || allowed < len(c.bytes) {
			break
		}
		if rate > 0 {
			// Counted on from when the last piece was through: a late wake-up costs no capacity while there is more.
			if now := time.Now(); free.Before(now.Add(-50 * time.Millisecond)) {
				free = now
			}
			free = free.Add(time.Duration(len(c.bytes)) * time.Second / time.Duration(rate))
			time.Sleep(time.Until(free))
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range road { // let the reader end
	}
}

// wait waits out a freeze.
func (p *Proxy) wait() {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

// budget is the bytes that a connection may carry; negative: any number.
type budget struct {
	mu    sync.Mutex
	bytes int
}

func (b *budget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes < 0 {
		return n
	}
	n = min(n, b.bytes)
	b.bytes -= n
	return n
}
