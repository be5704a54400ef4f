package uplink

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// wire counts the bytes of all connections below TLS and websocket. TCP's and IP's own heads are not in them.
type wire struct {
	sent, got atomic.Uint64
	socket    atomic.Value // syscall.RawConn of the newest connection, where it has one

	mu           sync.Mutex // guards what follows
	lanes        uint64     // of sent: told of already, as a lane's
	chunks       uint64     // of got, likewise
	toldS, toldG uint64     // told of already, as nobody's
}

// wiredConn is a connection to the network that is counted.
type wiredConn struct {
	net.Conn
	wire *wire
}

func (c *wiredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.got.Add(uint64(n))
	return n, err
}

func (c *wiredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wire.sent.Add(uint64(n))
	return n, err
}

// use makes a connection the one that ask is about.
func (w *wire) use(conn net.Conn) {
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			w.socket.Store(socketOf{raw})
			return
		}
	}
	w.socket.Store(socketOf{})
}

// socketOf makes values of one type of what atomic.Value holds.
type socketOf struct{ syscall.RawConn }

// ask is what the kernel knows of the newest connection's way (tcp(7), TCP_INFO): the shortest round trip of a segment
// lately and the usual one, and the segments with data that it has sent; 0 where it does not say.
func (w *wire) ask() (trip, usual time.Duration, all segments) {
	socket, _ := w.socket.Load().(socketOf)
	if socket.RawConn == nil {
		return 0, 0, segments{}
	}
	_ = socket.Control(func(fd uintptr) { // a closed connection has none
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			trip, usual = time.Duration(info.Min_rtt)*time.Microsecond, time.Duration(info.Rtt)*time.Microsecond
			all = segments{sent: info.Data_segs_out, again: info.Total_retrans}
		}
	})
	return trip, usual, all
}

// cork lets the newest connection send full segments only, or what has waited for 200 ms; or as it comes (tcp(7), TCP_CORK).
func (w *wire) cork(on bool) {
	value := 0
	if on {
		value = 1
	}
	if socket, _ := w.socket.Load().(socketOf); socket.RawConn != nil {
		_ = socket.Control(func(fd uintptr) { // where it fails, segments are as they come
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, value)
		})
	}
}

// carried notes what a PUBLISH took on the wire. A ping or an acknowledgement written at the same moment counts in.
func (u *Uplink) carried(lane telemetrypb.Lane, bytes uint64) {
	if lane == 0 || bytes == 0 || u.o.OnTraffic == nil {
		return
	}
	u.wire.mu.Lock()
	u.wire.lanes += bytes
	u.wire.mu.Unlock()
	u.o.OnTraffic(lane, int(bytes), 0)
}

// account tells of what travelled for no lane: handshakes, status, acknowledgements, receipts.
func (u *Uplink) account() {
	if u.o.OnTraffic == nil {
		return
	}
	w := &u.wire
	w.mu.Lock()
	// A PUBLISH under way is in sent and not yet in lanes: it is told of as nobody's and taken off the next sum.
	sent, got := w.sent.Load()-min(w.sent.Load(), w.lanes), w.got.Load()-min(w.got.Load(), w.chunks)
	s, g := sent-min(sent, w.toldS), got-min(got, w.toldG)
	w.toldS, w.toldG = max(w.toldS, sent), max(w.toldG, got)
	w.mu.Unlock()
	if s > 0 || g > 0 {
		u.o.OnTraffic(0, int(s), int(g))
	}
}

func (u *Uplink) allowed(lane telemetrypb.Lane) bool { return u.o.Allowed == nil || u.o.Allowed(lane) }

// sessionCache keeps what the broker gave to resume a TLS session with (RFC 8446 §2.2), from connection to connection.
// A session stands for the certificate that was shown when it began, so another certificate or other roots begin anew; so
// does a handshake that failed, for a broker that gives tickets and then does not take them.
type sessionCache struct {
	mu    sync.Mutex // guards what follows
	cache tls.ClientSessionCache
	leaf  []byte
	roots *x509.CertPool
}

func (c *sessionCache) of(config *tls.Config) tls.ClientSessionCache {
	var leaf []byte
	if len(config.Certificates) > 0 && len(config.Certificates[0].Certificate) > 0 {
		leaf = config.Certificates[0].Certificate[0]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache == nil || !bytes.Equal(c.leaf, leaf) || !samePool(c.roots, config.RootCAs) {
		c.cache, c.leaf, c.roots = tls.NewLRUClientSessionCache(4), leaf, config.RootCAs
	}
	return c.cache
}

func (c *sessionCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cache = nil
}

func samePool(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}
