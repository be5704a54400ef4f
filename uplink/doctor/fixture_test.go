package doctor_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/credential"
	"github.com/waybill-telematics/waybill/uplink/doctor"
	"github.com/waybill-telematics/waybill/uplink/network"
)

// patience is for what a busy machine may make slow; nothing here is measured.
const patience = 30 * time.Second

// leaf writes NAME.pem and NAME.key, of a certificate that ends after left.
func leaf(a *certs.Authority, dir, name, cn string, left time.Duration) (cert, key string) {
	return a.Sign(cn, time.Now().Add(-72*time.Hour), time.Now().Add(left)).Write(dir, name)
}

func write(t testing.TB, dir, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// bench is a Mosquitto with a plain listener and one that wants client certificates, and the files of a vehicle.
type bench struct {
	t           testing.TB
	dir         string
	broker      *deps.Broker
	secure      string // host:port
	ca, foreign *certs.Authority
}

// secret stands where passwords do: it must be in no output.
const secret = "geheimes-kennwort"

// newBench starts the broker with further lines of configuration for all listeners.
func newBench(t testing.TB, lines ...string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), ca: certs.NewAuthority(t, "fleet"), foreign: certs.NewAuthority(t, "others")}
	port := freePort(t)
	b.secure = "127.0.0.1:" + port
	ca := write(b.t, b.dir, "ca.pem", b.ca.CertPEM())
	write(b.t, b.dir, "foreign.pem", b.foreign.CertPEM())
	cert, key := leaf(b.ca, b.dir, "broker", "broker", 24*time.Hour)
	leaf(b.ca, b.dir, "car", "car-1", 24*time.Hour)
	b.broker = deps.Mosquitto(t, deps.MosquittoOptions{Dir: b.dir, Config: append([]string{
		"listener " + port + " 127.0.0.1", "cafile " + ca, "certfile " + cert, "keyfile " + key, "require_certificate true",
	}, lines...)})
	return b
}

func (b *bench) in(name string) string { return filepath.Join(b.dir, name) }

// patient is the configuration of a vehicle.
type patient struct {
	url      string
	creds    credential.Options
	user     string
	now      func() (time.Time, bool)
	system   func() time.Time
	proxy    func(string) (*url.URL, error)
	resolver *net.Resolver
	links    []network.Link
	change   func(*doctor.Options)
}

// plain is a vehicle that gets through without TLS, secured one with a certificate.
func (b *bench) plain() patient { return patient{url: b.broker.URL()} }

func (b *bench) secured() patient {
	return patient{url: "mqtts://" + b.secure, creds: credential.Options{CA: b.in("ca.pem"), Cert: b.in("car.pem"), Key: b.in("car.key")}}
}

// options wires the packages as the agent does.
func (p patient) options(t testing.TB) doctor.Options {
	t.Helper()
	if p.now == nil {
		p.now = func() (time.Time, bool) { return time.Now(), true }
	}
	if p.system == nil {
		p.system = time.Now
	}
	p.creds.Now = p.now
	creds := credential.New(p.creds)
	alarms := alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
	links := func(proxy func(string) (*url.URL, error)) *network.Links {
		l, err := network.New(network.Options{Links: p.links, Proxy: proxy, Resolver: p.resolver, Boot: func() int64 { return 1 }, Now: p.now, Alarms: alarms, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	with := links(p.proxy)
	o := doctor.Options{
		Uplink: uplink.Options{URL: p.url, Tenant: "acme", Device: "car-1", Insecure: strings.HasPrefix(p.url, "tcp:") || strings.HasPrefix(p.url, "ws:"), Topics: []string{"down/command"},
			TLS: creds.TLS, Explain: creds.Explain, Dial: with.Dial},
		Certificate: p.creds.Cert != "", Expiring: creds.Expiring, Links: with.States,
		Clock: func() doctor.Clock {
			now, vouched := p.now()
			return doctor.Clock{System: p.system(), Known: now, Vouched: vouched}
		},
		Proxy: p.proxy, Direct: links(nil).Dial, Resolver: p.resolver, Timeout: time.Minute,
	}
	if p.user != "" {
		o.Uplink.User = func() (string, error) { return p.user, nil }
	}
	if p.creds.Password != "" {
		o.Uplink.Password = creds.PasswordOrToken
	}
	if p.change != nil {
		p.change(&o)
	}
	return o
}

// startStore runs a store at a broker until the test ends or stop is called.
func startStore(t testing.TB, url string, credentials func() (string, string, error)) (stop func()) {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ingest.NewReceiver(ingest.ReceiverOptions{Broker: url, ClientID: "fleet", Credentials: credentials, BackoffBase: 20 * time.Millisecond}, ingest.New(ingest.Options{}, s))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	for until := time.Now().Add(patience); !r.Connected(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the store does not connect")
		}
	}
	return stop
}
