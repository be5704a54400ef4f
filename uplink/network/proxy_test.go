package network_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/network"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// serve accepts connections on the loopback until the test ends.
func serve(t *testing.T, each func(net.Conn) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = each(conn) // how it ended shows at the client
			}()
		}
	}()
	return l.Addr().String()
}

func tunnel(conn net.Conn, from io.Reader, to string) error {
	far, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer far.Close()
	go func() { _, _ = io.Copy(far, from); _ = far.Close() }()
	_, err = io.Copy(conn, far)
	return err
}

// httpProxy is one that knows brokers by names of its own, as a proxy with its own DNS does.
func httpProxy(t *testing.T, names map[string]string, auth string, used *atomic.Int32) string {
	return serve(t, func(conn net.Conn) error {
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil {
			return err
		}
		if request.Header.Get("Proxy-Authorization") != auth {
			_, err = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return err
		}
		to, known := names[request.Host]
		if !known || request.Method != http.MethodConnect {
			_, err = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			return err
		}
		used.Add(1)
		if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n"); err != nil {
			return err
		}
		return tunnel(conn, r, to)
	})
}

// socksProxy speaks as much of RFC 1928 and 1929 as a client can ask of it.
func socksProxy(t *testing.T, names map[string]string, user, password string, used *atomic.Int32) string {
	return serve(t, func(conn net.Conn) error {
		r := bufio.NewReader(conn)
		read := func(n int) []byte {
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				return make([]byte, n)
			}
			return b
		}
		methods := string(read(int(read(2)[1])))
		method := byte(0)
		if user != "" {
			method = 2
		}
		if !strings.Contains(methods, string(method)) {
			_, err := conn.Write([]byte{5, 0xFF})
			return err
		}
		if _, err := conn.Write([]byte{5, method}); err != nil {
			return err
		}
		if user != "" {
			gotUser := string(read(int(read(2)[1])))
			gotPassword := string(read(int(read(1)[0])))
			if gotUser != user || gotPassword != password {
				_, err := conn.Write([]byte{1, 1})
				return err
			}
			if _, err := conn.Write([]byte{1, 0}); err != nil {
				return err
			}
		}
		head := read(4)
		var host string
		switch head[3] {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(int(read(1)[0])))
		case 4:
			host = net.IP(read(16)).String()
		}
		port := read(2)
		to, known := names[net.JoinHostPort(host, fmt.Sprint(int(port[0])<<8|int(port[1])))]
		if !known {
			_, err := conn.Write([]byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0})
			return err
		}
		used.Add(1)
		if _, err := conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
		return tunnel(conn, r, to)
	})
}

// mosquitto is one that speaks MQTT over TLS and over websockets in TLS, for the name broker.example.
func mosquitto(t *testing.T) (tlsAddr, socketAddr string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, DNSNames: []string{"broker.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, text := range map[string][]byte{certFile: cert, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var conf []string
	var addrs []string
	for _, protocol := range []string{"mqtt", "websockets"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		conf = append(conf, "listener "+port+" 127.0.0.1", "protocol "+protocol, "certfile "+certFile, "keyfile "+keyFile)
	}
	deps.Mosquitto(t, deps.MosquittoOptions{Config: conf})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	return addrs[0], addrs[1], roots
}

// TestProxies: MQTT in TLS and in websockets in TLS reaches a real broker through either kind of proxy, which alone knows
// the broker's address.
func TestProxies(t *testing.T) {
	tlsAddr, socketAddr, roots := mosquitto(t)
	names := map[string]string{"broker.example:8883": tlsAddr, "broker.example:443": socketAddr}
	var used atomic.Int32
	open := httpProxy(t, names, "", &used)
	closed := httpProxy(t, names, "Basic Y2FyOmdlaGVpbQ==", &used) // car:geheim
	socks := socksProxy(t, names, "", "", &used)
	closedSocks := socksProxy(t, names, "car", "geheim", &used)
	for _, proxy := range []string{"http://" + open, "http://car:geheim@" + closed, "socks5://" + socks, "socks5h://car:geheim@" + closedSocks} {
		for _, broker := range []string{"mqtts://broker.example", "wss://broker.example/mqtt"} {
			u, err := url.Parse(proxy)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(u.Scheme+" "+broker, func(t *testing.T) {
				alarms := alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
				logger := slog.New(slog.NewTextHandler(t.Output(), nil))
				links, err := network.New(network.Options{Proxy: func(string) (*url.URL, error) { return u, nil }, Boot: func() int64 { return 1 }, Alarms: alarms, Log: logger})
				if err != nil {
					t.Fatal(err)
				}
				q, err := uplinktest.NewQueue("acme", "car-1", 7)
				if err != nil {
					t.Fatal(err)
				}
				addBatches(t, q, telemetrypb.Lane_LANE_TELEMETRY, 20)
				up, err := uplink.New(uplink.Options{URL: broker, Tenant: "acme", Device: "car-1", Ack: uplink.AckPuback,
					TLS: func() (*tls.Config, error) { return &tls.Config{RootCAs: roots}, nil }, BackoffBase: 10 * time.Millisecond, BackoffCap: 50 * time.Millisecond,
					Dial: links.Dial, OnTraffic: links.Traffic, Alarms: alarms, Log: logger}, q)
				if err != nil {
					t.Fatal(err)
				}
				before := used.Load()
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- up.Run(ctx) }()
				wait(t, "delivery", func() bool { return q.Len() == 0 })
				cancel()
				if err := <-done; err != nil || used.Load() != before+1 {
					t.Errorf("%v; through the proxy %d times", err, used.Load()-before)
				}
			})
		}
	}
}

func TestProxyRefusals(t *testing.T) {
	var used atomic.Int32
	closed := httpProxy(t, nil, "Basic Y2FyOmdlaGVpbQ==", &used)
	closedSocks := socksProxy(t, nil, "car", "geheim", &used)
	endless := serve(t, func(conn net.Conn) error {
		for {
			if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: y\r\n"); err != nil {
				return err
			}
		}
	})
	silent := serve(t, func(conn net.Conn) error { _, err := io.Copy(io.Discard, conn); return err })
	for _, c := range []struct{ proxy, want string }{
		{"http://" + closed, "check proxy_user"},
		{"http://car:falsch@" + closed, "check proxy_user"},
		{"http://car:geheim@" + closed, "has to allow that address"},
		{"socks5://" + closedSocks, "no acceptable authentication"},
		{"socks5://car:falsch@" + closedSocks, "authentication failed"},
		{"socks5://car:geheim@" + closedSocks, "not allowed"},
		{"http://" + endless, "without an end"},
		{"http://" + silent, "timeout"},
		{"https://" + closed, "scheme"},
		{"http://", "no host"},
	} {
		u, err := url.Parse(c.proxy)
		if err != nil {
			t.Fatal(err)
		}
		links, err := network.New(network.Options{Proxy: func(string) (*url.URL, error) { return u, nil }, Boot: func() int64 { return 1 }})
		if err != nil {
			t.Fatal(err)
		}
		limit := patience
		if c.want == "timeout" {
			limit = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		conn, err := links.Dial(ctx, "tcp", "broker.example:8883")
		cancel()
		if err == nil {
			conn.Close()
			t.Errorf("%s: let through", c.proxy)
		} else if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "falsch") {
			t.Errorf("%s: %v, want %q and no password", c.proxy, err, c.want)
		}
	}
}
