package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// link is the connection that paho reads and writes. It adds what paho leaves out: a deadline for every write (paho's
// pings and acknowledgements have none), a cause when we close it ourselves (paho takes a plain close for its own and
// stays silent), and word of each PUBLISH that the kernel has taken, so that nobody waits inside Publish.
type link struct {
	net.Conn
	writeTimeout time.Duration
	published    func(bytes uint64) // called after each PUBLISH packet, with what it took on the wire
	wire         *wire
	sent, got    *atomic.Uint64

	// Taken through a Write: the deadline is the connection's, and a ping's would put off that of a publish that stands.
	// A mutex would stop virtual time.
	writing chan struct{}
	mu      sync.Mutex // guards cause
	cause   error
}

// Read reports the cause instead of net.ErrClosed once the link was killed.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.got.Add(uint64(n))
	if err != nil {
		err = l.because(err)
	}
	return n, err
}

// Write sends one packet: paho writes each in one piece, pings beside what else it writes.
func (l *link) Write(p []byte) (int, error) {
	l.writing <- struct{}{}
	defer func() { <-l.writing }()
	if err := l.Conn.SetWriteDeadline(time.Now().Add(l.writeTimeout)); err != nil {
		return 0, l.because(err)
	}
	before := l.wire.sent.Load()
	n, err := l.Conn.Write(p)
	l.sent.Add(uint64(n))
	if err != nil {
		if len(p) > 0 && p[0]>>4 == packetConnect {
			return n, l.because(l.verdict(err))
		}
		l.kill(fmt.Errorf("write: %w", err)) // paho goes on where a ping could not be written
		return n, l.because(err)
	}
	if len(p) > 0 && p[0]>>4 == packetPublish {
		l.published(l.wire.sent.Load() - before)
	}
	return n, nil
}

// Packet types in the first four bits of a packet's head (MQTT 3.1.1 §2.2.1).
const (
	packetConnect = 1
	packetPublish = 3
)

// verdict is what a broker said before it closed a connection on which CONNECT could no longer be written: with TLS 1.3
// its alert about our certificate. Nobody else reads yet.
func (l *link) verdict(written error) error {
	if l.Conn.SetReadDeadline(time.Now().Add(time.Second)) != nil {
		return written
	}
	var one [1]byte
	if _, err := l.Conn.Read(one[:]); err != nil && isRemoteAlert(err) {
		return err
	}
	return written
}

// SetWriteDeadline does nothing: every Write sets its own.
func (l *link) SetWriteDeadline(time.Time) error { return nil }

// kill closes the link for a reason. The first reason stands.
func (l *link) kill(cause error) {
	l.mu.Lock()
	if l.cause == nil {
		l.cause = cause
	}
	l.mu.Unlock()
	_ = l.Conn.Close() // what it was closed for matters more than how
}

func (l *link) because(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return l.cause
	}
	return err
}

// dial opens the connection to the broker up to where MQTT begins.
func (u *Uplink) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, u.o.ConnectTimeout)
	defer cancel()
	e := u.end
	if e.socket {
		return u.dialSocket(ctx)
	}
	conn, err := u.dialTCP(ctx, "tcp", e.host)
	if err != nil || !e.secure {
		return conn, err
	}
	return u.dialTLS(ctx, conn)
}

func (u *Uplink) dialTCP(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if u.o.Dial != nil {
		conn, err = u.o.Dial(ctx, network, addr)
	} else {
		d := net.Dialer{Control: Control(u.o.TCPUserTimeout)}
		conn, err = d.DialContext(ctx, network, addr)
	}
	if err != nil {
		return nil, err
	}
	u.wire.use(conn)
	return &wiredConn{Conn: conn, wire: &u.wire}, nil
}

// unsentBytes is what the kernel may hold of a connection beyond what TCP has sent (TCP_NOTSENT_LOWAT): a write waits
// for the rest. What it holds stands before an event; without the bound that can be megabytes.
const unsentBytes = 16 << 10

// Control is for net.Dialer.Control. It makes the kernel give up a connection whose data stays unacknowledged for so
// long (TCP_USER_TIMEOUT), and take no more than it can soon send.
func Control(limit time.Duration) func(network, addr string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) {
			for _, option := range []struct {
				name  string
				what  int
				value int
			}{
				{"TCP_USER_TIMEOUT", unix.TCP_USER_TIMEOUT, int(limit.Milliseconds())},
				{"TCP_NOTSENT_LOWAT", unix.TCP_NOTSENT_LOWAT, unsentBytes},
			} {
				if failed = os.NewSyscallError("setsockopt "+option.name, unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option.what, option.value)); failed != nil {
					return
				}
			}
		})
		return errors.Join(err, failed)
	}
}

// tlsConfig asks for the configuration anew: certificates are replaced while we run.
func (u *Uplink) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{}
	if u.o.TLS != nil {
		given, err := u.o.TLS()
		if err != nil {
			return nil, fmt.Errorf("TLS of %s: %w", u.end, err)
		}
		config = given.Clone()
	}
	if config.InsecureSkipVerify {
		return nil, fmt.Errorf("TLS of %s: a configuration that does not verify the broker is refused", u.end)
	}
	if config.ServerName == "" {
		config.ServerName = u.end.name
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ClientSessionCache == nil {
		config.ClientSessionCache = u.sessions.of(config)
	}
	return config, nil
}

func (u *Uplink) dialTLS(ctx context.Context, conn net.Conn) (net.Conn, error) {
	config, err := u.tlsConfig()
	if err == nil {
		secured := tls.Client(conn, config)
		if err = secured.HandshakeContext(ctx); err == nil {
			if secured.ConnectionState().DidResume {
				u.count.resumed.Add(1)
			}
			return secured, nil
		}
		u.sessions.forget()
	}
	_ = conn.Close() // it never carried anything
	return nil, err
}

func (u *Uplink) dialSocket(ctx context.Context) (net.Conn, error) {
	d := websocket.Dialer{
		NetDialContext:   u.dialTCP,
		HandshakeTimeout: u.o.ConnectTimeout,
		Subprotocols:     []string{"mqtt"}, // MQTT 3.1.1 §6
	}
	if u.end.secure {
		config, err := u.tlsConfig()
		if err != nil {
			return nil, err
		}
		d.TLSClientConfig = config
	}
	conn, response, err := d.DialContext(ctx, u.end.String(), nil)
	if err != nil {
		u.sessions.forget()
		if response != nil {
			err = fmt.Errorf("%w (the server answered %s)", err, response.Status)
		}
		return nil, err
	}
	if secured, ok := conn.NetConn().(*tls.Conn); ok && secured.ConnectionState().DidResume {
		u.count.resumed.Add(1)
	}
	return &socket{Conn: conn}, nil
}

// socket is a websocket as a stream: binary messages in, one message a write out.
type socket struct {
	*websocket.Conn
	message io.Reader
	writing sync.Mutex // gorilla allows one writer at a time
}

func (s *socket) Read(p []byte) (int, error) {
	for {
		if s.message == nil {
			kind, r, err := s.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("websocket: MQTT travels in binary messages (MQTT 3.1.1 §6)")
			}
			s.message = r
		}
		n, err := s.message.Read(p)
		if err == io.EOF {
			s.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (s *socket) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline waits for a write under way, which has a deadline of its own: gorilla's field has no lock.
func (s *socket) SetWriteDeadline(t time.Time) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Conn.SetWriteDeadline(t)
}

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}
