package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// pipes is a listener whose connections stay in the process, so that virtual time rules them.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// thin is the vehicle's end of a link that carries so many bytes a second down, and counts them.
type thin struct {
	net.Conn
	rate int
	down *atomic.Int64
}

func (c thin) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 1448)])
	c.down.Add(int64(n))
	time.Sleep(time.Duration(n) * time.Second / time.Duration(c.rate))
	return n, err
}

// 10 MB over 20 kB/s, cut every 4 s: all that comes down the link, headers of answers included, is at most 1.05 times the image. Go's own
// client and server, in virtual time.
//
// A record of TLS that is cut off cannot be read, whatever of it came. With servers' usual 16 KiB that is 8 KiB for each cut, a tenth of what
// this link carries between two; with records of 4 KiB (nginx: ssl_buffer_size 4k) it is a quarter of that;
// the rest of what is beyond 1 are handshakes. The bar is for what is not TLS'.
func TestLinkOf20kBCutEvery4s(t *testing.T) {
	t.Parallel()
	template := httptest.NewTLSServer(nil) // for its certificate; its connections have real time
	certificate, roots := template.TLS.Certificates[0], x509.NewCertPool()
	roots.AddCert(template.Certificate())
	template.Close()
	for _, c := range []struct {
		name   string
		size   int
		record int // bytes of TLS' records; 0: no TLS
		most   float64
	}{
		{"plain", 10_000_000, 0, 1.05},
		{"TLS with records of 4 KiB", 2_000_000, 4 << 10, 1.08},
		{"TLS with Go's records", 1_000_000, 1 << 20, 1.2},
	} {
		if testing.Short() { // under emulation
			c.size = min(c.size, 1_000_000)
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				image := noise(1, c.size)
				listener := &pipes{make(chan net.Conn), make(chan struct{})}
				server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
				server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(image, `"a"`)(inPieces{w, c.record}, r) })
				link := &flapping{to: listener.conns, rate: 20_000, every: 4 * time.Second}
				transport := thrifty() // as shipped, but for the network and the authority
				transport.DialContext, transport.TLSClientConfig.RootCAs = link.dial, roots
				o := options(t.TempDir(), image, "https://127.0.0.1/")
				if c.record == 0 {
					o.Mirrors[0].Base = "http://127.0.0.1/"
					go func() { _ = server.Serve(listener) }()
				} else {
					server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
					go func() { _ = server.ServeTLS(listener, "", "") }()
				}
				o.Mirrors[0].Client = &http.Client{Transport: transport}
				o.Backoff, o.BackoffMax, o.GateEvery = 0, 0, 0 // as shipped
				d, err := New(o)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				f, err := d.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				isImage(t, d, f)
				took := time.Since(began)
				_ = server.Close()
				transport.CloseIdleConnections()
				time.Sleep(10 * time.Second) // all connections are cut
				ratio := float64(link.down.Load()) / float64(len(image))
				t.Logf("%d connections, %v, %.4f bytes down the link for each of the image's; %.4f by our own count", link.dials, took.Round(time.Second),
					ratio, float64(d.Progress().Received)/float64(len(image)))
				if ratio > c.most {
					t.Errorf("%.3f bytes came down for each of the image's, at most %.2f may", ratio, c.most)
				}
				if link.dials < c.size/100_000 {
					t.Errorf("only %d connections: the link was not cut", link.dials)
				}
			})
		})
	}
}

// flapping is a link that breaks when it does, whoever is connected: at each multiple of a time.
type flapping struct {
	to    chan net.Conn
	rate  int // bytes a second
	every time.Duration
	down  atomic.Int64
	dials int
}

func (l *flapping) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.to <- far:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	time.AfterFunc(l.every-time.Duration(time.Now().UnixNano())%l.every, func() { near.Close(); far.Close() })
	l.dials++
	return thin{near, l.rate, &l.down}, nil
}

// inPieces writes in pieces, each of which is a record of TLS; 0 is as it comes.
type inPieces struct {
	http.ResponseWriter
	size int
}

func (s inPieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		piece := b
		if s.size > 0 {
			piece = b[:min(len(b), s.size)]
		}
		var m int
		m, err = s.ResponseWriter.Write(piece)
		n, b = n+m, b[m:]
	}
	return n, err
}

// The same for a smaller image through a TCP proxy that throttles and resets, 250 times as fast. What a reset throws away in the
// vehicle's kernel was received too: the proxy's count has it.
func TestFlappingTCP(t *testing.T) {
	if testing.Short() {
		t.Skip("what it tests is not the processor's")
	}
	t.Parallel()
	image := noise(2, 2_000_000)
	s := newSite(t, serve(image, `"a"`))
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := uplinktest.NewProxy(target.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	proxy.SetRate(250 * 20_000)
	ctx, stop := context.WithCancel(t.Context())
	cutter := make(chan struct{})
	go func() {
		defer close(cutter)
		for sleep(ctx, 16*time.Millisecond) == nil {
			proxy.Cut(true)
		}
	}()
	var down atomic.Int64
	o := options(t.TempDir(), image, "http://"+proxy.Addr())
	var dialer net.Dialer
	o.Mirrors[0].Client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return counted{c, &down}, nil
	}}}
	deliver(t, o)
	stop()
	<-cutter
	ratio := float64(down.Load()) / float64(len(image))
	t.Logf("%d connections, %.4f bytes read for each of the image's, %.4f taken by the link, both ways", proxy.Accepted(), ratio, float64(proxy.Passed())/float64(len(image)))
	if ratio > 1.05 {
		t.Errorf("%.3f bytes read for each of the image's, at most 1.05 may be", ratio)
	}
	if proxy.Accepted() < 10 {
		t.Errorf("only %d connections: the link was not cut", proxy.Accepted())
	}
}

type counted struct {
	net.Conn
	down *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.down.Add(int64(n))
	return n, err
}
