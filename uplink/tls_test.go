package uplink_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/uplink"
)

// front terminates TLS before the broker, and websockets where the URL asks for them.
func front(t testing.TB, b *bench, config *tls.Config, socket bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	through := func(near io.ReadWriteCloser) {
		defer near.Close()
		far, err := net.Dial("tcp", b.broker.Addr())
		if err != nil {
			return
		}
		defer far.Close()
		wg.Go(func() {
			_, _ = io.Copy(far, near)
			_ = far.Close()
		})
		_, _ = io.Copy(near, far)
	}
	if socket {
		up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/mqtt" || !strings.Contains(r.Header.Get("Sec-WebSocket-Protocol"), "mqtt") {
				http.Error(w, "not MQTT", http.StatusNotFound)
				return
			}
			conn, err := up.Upgrade(w, r, nil)
			if err == nil {
				through(&stream{Conn: conn})
			}
		})}
		wg.Go(func() { _ = server.Serve(l) })
		t.Cleanup(func() { _ = server.Close() })
		return addr
	}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { through(conn) })
		}
	})
	return addr
}

// stream is the server's end of a websocket; it cuts what it sends anywhere, as MQTT 3.1.1 §6 allows.
type stream struct {
	*websocket.Conn
	rest []byte
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		_, b, err := s.ReadMessage()
		if err != nil {
			return 0, err
		}
		s.rest = b
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stream) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += 3 {
		if err := s.WriteMessage(websocket.BinaryMessage, p[at:min(at+3, len(p))]); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

// TestTransports: every scheme delivers, TLS with client certificates.
func TestTransports(t *testing.T) {
	for _, scheme := range []string{"mqtts", "ssl", "tls", "wss", "ws", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			b := newBench(t, false)
			a := certs.NewAuthority(t, "authority")
			socket, secure := strings.HasPrefix(scheme, "ws"), scheme != "ws" && scheme != "tcp"
			var config *tls.Config
			if secure {
				config = &tls.Config{Certificates: []tls.Certificate{a.Leaf("broker").TLS()}, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
			}
			o := b.options()
			o.URL, o.Insecure = scheme+"://"+front(t, b, config, socket)+"/mqtt", !secure
			mine := a.Leaf(device).TLS()
			o.TLS = func() (*tls.Config, error) {
				return &tls.Config{RootCAs: a.Pool(), Certificates: []tls.Certificate{mine}}, nil
			}
			b.add(telemetry, 300)
			u, stop := b.start(o)
			b.arrived(300)
			b.broker.Kick(device)
			b.add(telemetry, 30)
			b.arrived(330)
			if s := u.State(); s.Losses == 0 {
				t.Error("the broker closed a connection and nobody noticed")
			}
			stop()
		})
	}
}

// TestTLSRefusals: who is not trusted is told so, and a renewed certificate is taken at the next dial.
func TestTLSRefusals(t *testing.T) {
	b := newBench(t, false)
	a, other := certs.NewAuthority(t, "authority"), certs.NewAuthority(t, "authority")
	config := &tls.Config{Certificates: []tls.Certificate{a.Leaf("broker").TLS()}, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	o := b.options()
	o.URL, o.Insecure = "mqtts://"+front(t, b, config, false), false
	var stage atomic.Int32
	none, foreign, mine := tls.Certificate{}, other.Leaf(device).TLS(), a.Leaf(device).TLS()
	o.TLS = func() (*tls.Config, error) {
		switch stage.Load() {
		case 0:
			return &tls.Config{RootCAs: other.Pool(), Certificates: []tls.Certificate{mine}}, nil
		case 1:
			return &tls.Config{RootCAs: a.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &none, nil }}, nil
		case 2:
			return &tls.Config{RootCAs: a.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }}, nil
		case 3:
			return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{mine}}, nil
		}
		return &tls.Config{RootCAs: a.Pool(), Certificates: []tls.Certificate{mine}}, nil
	}
	b.add(telemetry, 3)
	u, _ := b.start(o)
	b.wait("the broker is not trusted", func() bool { return b.raised("uplink.tls") })
	for want := int32(1); want <= 2; want++ {
		b.alarms.Clear("uplink.credentials")
		stage.Store(want)
		b.wait("the vehicle is refused", func() bool { return u.State().Phase == uplink.Refused && b.raised("uplink.credentials") })
	}
	stage.Store(3)
	b.wait("no verification, no connection", func() bool { return strings.Contains(u.State().Why, "does not verify") })
	if b.store.Len() != 0 {
		t.Error("something was delivered")
	}
	stage.Store(4)
	b.arrived(3)
	if b.raised("uplink.tls") || b.raised("uplink.credentials") {
		t.Error("an alarm stands after a good connection")
	}
}
