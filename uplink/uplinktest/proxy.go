package uplinktest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Proxy is a TCP link that can be made bad. All methods are safe for use from several goroutines and act on the
// connections that are open and on those to come.
//
// With a rate, each way of a connection is a queue before a line: what comes waits in the queue, which holds as much as
// the line carries in a round trip, then takes its time on the line by its bytes, then its delay. A full queue takes no
// more, so that the sender waits; it drops nothing. The kernel's buffers before it are as small, and packets as long as
// on Ethernet, for connections that begin after the rate and delay were set.
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
func NewProxy(target string) (*Proxy, error) { return NewProxyAt("127.0.0.1:0", target) }

// NewProxyAt listens on an address of one's own.
func NewProxyAt(listen, target string) (*Proxy, error) {
	l, err := net.Listen("tcp", listen)
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
func (p *Proxy) SetDelay(d time.Duration) { p.set(func() { p.delay = d }); p.tune() }

// SetRate limits each connection and way, in bytes a second; 0 lifts it.
func (p *Proxy) SetRate(bytes int) { p.set(func() { p.rate = bytes }); p.tune() }

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
	dialer := net.Dialer{Control: p.shrink}
	conn, err := dialer.Dial("tcp", p.target)
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

// Packets of a link with a rate, and the least that its queue holds.
const (
	segment    = 1448 // bytes of Ethernet's packets that are TCP's
	leastQueue = 4 * segment
)

// queue is how much waits before a line, in bytes.
func queue(rate int, delay time.Duration) int {
	return max(int(float64(rate)*(2*delay).Seconds()), leastQueue)
}

// tune makes the kernel's buffers of connections to come as small as the link's queue. They get theirs from the
// listener, since the window is agreed on with the first packet.
func (p *Proxy) tune() {
	if raw, err := p.listen.(*net.TCPListener).SyscallConn(); err == nil { // a closed proxy needs none
		_ = p.shrink("", "", raw)
	}
}

// shrink gives a socket the buffers of the link.
func (p *Proxy) shrink(_, _ string, c syscall.RawConn) error {
	p.mu.Lock()
	rate, size := p.rate, queue(p.rate, p.delay)
	p.mu.Unlock()
	if rate == 0 {
		return nil
	}
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment))
	})
	return errors.Join(err, failed)
}

// chunk is what was read, and when: after the line, when it has arrived.
type chunk struct {
	bytes []byte
	at    time.Time
}

// pass carries one way: read, line, delay, write.
func (p *Proxy) pass(to, from *net.TCPConn, up bool, left *budget) {
	const most = 256
	waiting, travelling := make(chan chunk, most), make(chan chunk, 1<<12)
	held := newRoom()
	p.tasks.Go(func() {
		defer close(waiting)
		for {
			p.mu.Lock()
			rate, delay := p.rate, p.delay
			p.mu.Unlock()
			size := 4 << 10
			if rate > 0 {
				size = segment
				held.take(size, queue(rate, delay))
			}
			b := make([]byte, size)
			n, err := from.Read(b)
			if rate > 0 {
				held.give(size - n)
			} else {
				held.take(n, 1<<30)
			}
			p.wait()
			p.mu.Lock()
			p.passed += int64(n)
			drop := up && p.dropUp || !up && p.dropDown
			p.mu.Unlock()
			switch {
			case n > 0 && !drop:
				waiting <- chunk{b[:n], time.Now()}
			case n > 0:
				held.give(n)
			}
			if err != nil {
				return
			}
		}
	})
	p.tasks.Go(func() {
		defer close(travelling)
		var free time.Time // when the line has carried what it was given
		for c := range waiting {
			p.mu.Lock()
			rate, delay := p.rate, p.delay
			p.mu.Unlock()
			if rate > 0 {
				if free.Before(c.at) {
					free = c.at
				}
				// Counted on from when the last piece was through: a late wake-up costs no capacity while there is more.
				free = free.Add(time.Duration(len(c.bytes)) * time.Second / time.Duration(rate))
				time.Sleep(time.Until(free))
				c.at = free
			}
			held.give(len(c.bytes))
			travelling <- chunk{c.bytes, c.at.Add(delay)}
		}
	})
	for c := range travelling {
		time.Sleep(time.Until(c.at))
		p.wait()
		allowed := left.take(len(c.bytes))
		_, err := to.Write(c.bytes[:allowed])
		if err != nil || allowed < len(c.bytes) {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range travelling { // let the others end
	}
}

// room is what a queue holds, in bytes.
type room struct {
	mu   sync.Mutex // guards held
	less sync.Cond
	held int
}

func newRoom() *room {
	r := &room{}
	r.less.L = &r.mu
	return r
}

// take waits until n more fit.
func (r *room) take(n, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.held > 0 && r.held+n > most {
		r.less.Wait()
	}
	r.held += n
}

func (r *room) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held -= n
	r.less.Signal()
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
