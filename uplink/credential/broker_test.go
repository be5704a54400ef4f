package credential_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/credential"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const patience = time.Minute

// fixture is a Mosquitto that wants client certificates, and the files of a vehicle.
type fixture struct {
	t           *testing.T
	dir, addr   string
	ca, foreign *certs.Authority
	mine        certs.Pair
	alarms      *alarm.Board
}

func (f *fixture) write(name string, text []byte) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func newFixture(t *testing.T, listener ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), ca: certs.NewAuthority(t, "fleet"), foreign: certs.NewAuthority(t, "others")}
	f.alarms = alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
	f.mine = f.ca.Leaf("car-1")
	broker := f.ca.Leaf("broker")
	f.write("ca.pem", f.ca.CertPEM())
	f.write("car.pem", f.mine.CertPEM())
	f.write("car.key", f.mine.KeyPEM())
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = free.Addr().String()
	free.Close()
	_, port, _ := strings.Cut(f.addr, ":")
	deps.Mosquitto(t, deps.MosquittoOptions{Config: append([]string{
		"listener " + port + " 127.0.0.1", "cafile " + filepath.Join(f.dir, "ca.pem"), "require_certificate true",
		"certfile " + f.write("broker.pem", broker.CertPEM()), "keyfile " + f.write("broker.key", broker.KeyPEM()),
	}, listener...)})
	return f
}

// options are those of a vehicle that is let in.
func (f *fixture) options() credential.Options {
	return credential.Options{
		CA: filepath.Join(f.dir, "ca.pem"), Cert: filepath.Join(f.dir, "car.pem"), Key: filepath.Join(f.dir, "car.key"),
		Now: func() (time.Time, bool) { return time.Now(), true },
	}
}

// vehicle is an uplink that would wait an hour after a refusal.
type vehicle struct {
	f      *fixture
	store  *credential.Store
	uplink *uplink.Uplink
	queue  *uplinktest.Queue
	stop   func()
}

// once starts a vehicle that delivers, and stops it: two of one name would fight.
func (f *fixture) once(o credential.Options) {
	f.t.Helper()
	v := f.start(o)
	v.delivered()
	v.stop()
}

func (f *fixture) start(o credential.Options, more ...func(*uplink.Options)) *vehicle {
	f.t.Helper()
	q, err := uplinktest.NewQueue("acme", "car-1", 7)
	if err != nil {
		f.t.Fatal(err)
	}
	v := &vehicle{f: f, queue: q}
	v.add(3)
	v.run(o, more...)
	return v
}

// run starts the uplink of a vehicle; one that ran before is stopped.
func (v *vehicle) run(o credential.Options, more ...func(*uplink.Options)) {
	f := v.f
	f.t.Helper()
	if v.stop != nil {
		v.stop()
	}
	v.store = credential.New(o)
	var err error
	options := uplink.Options{
		URL: "mqtts://" + f.addr, Tenant: "acme", Device: "car-1", Ack: uplink.AckPuback, TLS: v.store.TLS, Explain: v.store.Explain,
		BackoffBase: 10 * time.Millisecond, BackoffCap: 50 * time.Millisecond, RefusedRetry: time.Hour, WakeGap: 20 * time.Millisecond,
		Alarms: f.alarms, Log: slog.New(slog.NewTextHandler(f.t.Output(), nil)),
	}
	for _, change := range more {
		change(&options)
	}
	if v.uplink, err = uplink.New(options, v.queue); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.uplink.Run(ctx) }()
	v.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(v.stop)
}

func (v *vehicle) add(n int) {
	v.f.t.Helper()
	for i := range n {
		samples := []telemetrypb.Sample{telemetrypb.IntSample(1, int64(i), int64(i))}
		if _, err := v.queue.Add(telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Head{BootID: [16]byte{1}, Catalogue: [16]byte{9}}, samples); err != nil {
			v.f.t.Fatal(err)
		}
	}
}

func (f *fixture) wait(what string, ok func() bool) {
	f.t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			f.t.Fatalf("no end of waiting: %s; alarms %+v", what, f.alarms.Standing())
		}
	}
}

func (v *vehicle) delivered() {
	v.f.t.Helper()
	v.f.wait("delivery", func() bool { return v.queue.Len() == 0 })
	if standing := v.f.alarms.Standing(); len(standing) > 0 {
		v.f.t.Errorf("alarms stand after a delivery: %+v", standing)
	}
}

// refused waits for an alarm with all the words, and sees that nothing was lost and that the vehicle waits.
func (v *vehicle) refused(name string, words ...string) {
	v.f.t.Helper()
	v.f.wait(name+" with "+strings.Join(words, ", "), func() bool {
		for _, a := range v.f.alarms.Standing() {
			has := a.Name == name
			for _, w := range words {
				has = has && strings.Contains(a.Text, w)
			}
			if has {
				return true
			}
		}
		return false
	})
	v.f.wait("the state of its own", func() bool { return v.uplink.State().Phase == uplink.Refused })
	if s := v.uplink.State(); s.Refusals == 0 || s.Attempts > 3 || time.Until(s.NextTry) < 25*time.Minute {
		v.f.t.Errorf("no slow retry: %+v", s)
	}
	if v.queue.Len() == 0 {
		v.f.t.Error("the queue was emptied")
	}
}

func TestMutualTLSAndResumption(t *testing.T) {
	f := newFixture(t)
	v := f.start(f.options())
	v.delivered()
	if v.uplink.State().Resumed != 0 {
		t.Error("the first connection resumed something")
	}
	v.uplink.Reconnect("the test wants to")
	f.wait("a second connection", func() bool { return v.uplink.State().Connections == 2 })
	v.add(3)
	v.delivered()
	if s := v.uplink.State(); s.Resumed != 1 || s.Losses != 0 {
		t.Errorf("resumed %d of 1, %d losses", s.Resumed, s.Losses)
	}
	// Another certificate is another client: a resumed session would still be the old one.
	renewed := f.ca.Leaf("car-1")
	f.write("car.pem", renewed.CertPEM())
	f.write("car.key", renewed.KeyPEM())
	v.uplink.Reconnect("there is a new certificate")
	f.wait("a third connection", func() bool { return v.uplink.State().Connections == 3 })
	if n := v.uplink.State().Resumed; n != 1 {
		t.Errorf("resumed %d times, want 1: not with a new certificate", n)
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	past := f.ca.Sign("car-1", time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour))
	f.write("past.pem", past.CertPEM())
	f.write("past.key", past.KeyPEM())
	stranger := f.foreign.Leaf("car-1")
	f.write("stranger.pem", stranger.CertPEM())
	f.write("stranger.key", stranger.KeyPEM())
	f.write("foreign.pem", f.foreign.CertPEM())
	in := func(name string) string { return filepath.Join(f.dir, name) }
	for _, c := range []struct {
		name   string
		change func(*credential.Options)
		alarm  string
		words  []string
	}{
		{"expired", func(o *credential.Options) { o.Cert, o.Key = in("past.pem"), in("past.key") },
			"uplink.credentials", []string{"past.pem", "CN=car-1", "expired at", "Renew"}},
		{"expired by a clock that nobody vouches for", func(o *credential.Options) {
			o.Cert, o.Key, o.Now = in("past.pem"), in("past.key"), func() (time.Time, bool) { return time.Now(), false }
		}, "uplink.credentials", []string{"says that the client certificate has expired", "nobody vouches"}},
		{"of an authority that the broker does not know", func(o *credential.Options) { o.Cert, o.Key = in("stranger.pem"), in("stranger.key") },
			"uplink.credentials", []string{"does not know who signed", "valid until"}},
		{"none", func(o *credential.Options) { o.Cert, o.Key = "", "" }, "uplink.credentials", []string{"wants a client certificate"}},
		{"unknown authority", func(o *credential.Options) { o.CA = in("foreign.pem") }, "uplink.tls", []string{"CN=fleet", "CA file"}},
		{"wrong name", func(o *credential.Options) { o.ServerName = "broker.example" }, "uplink.tls", []string{"broker.example", "which name"}},
		{"clock in 1970", func(o *credential.Options) { o.Now = func() (time.Time, bool) { return time.Unix(1000, 0), false } },
			"uplink.tls", []string{"not yet valid", "1970-01-01", "GPS or NTP"}},
		{"pins", func(o *credential.Options) { o.Pins = [][32]byte{{1}} }, "uplink.tls", []string{"ca_pins", "sha256/", "CN=fleet"}},
		{"key of another certificate", func(o *credential.Options) { o.Key = in("stranger.key") }, "uplink.credentials", []string{"does not match", "renewed"}},
		{"no file", func(o *credential.Options) { o.Cert = in("nowhere.pem") }, "uplink.credentials", []string{"nowhere.pem"}},
		{"CA without certificates", func(o *credential.Options) { o.CA = in("car.key") }, "uplink.credentials", []string{"car.key", "no PEM certificate"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fixture{t: t, dir: f.dir, addr: f.addr, ca: f.ca, foreign: f.foreign, alarms: alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))}
			o := f.options()
			c.change(&o)
			v := f.start(o)
			v.refused(c.alarm, c.words...)
			v.run(f.options()) // the cause is mended
			v.delivered()
		})
	}
}

// TestClockIsSet: a vehicle whose clock stood in 1970 connects as soon as it is set, an hour ahead of the next try.
func TestClockIsSet(t *testing.T) {
	f := newFixture(t)
	var set atomic.Bool
	o := f.options()
	o.Now = func() (time.Time, bool) {
		if set.Load() {
			return time.Now(), true
		}
		return time.Unix(1000, 0), false
	}
	v := f.start(o)
	v.refused("uplink.tls", "1970")
	v.uplink.Retry(uplink.CauseNetwork, "a network with a login page may have been in between")
	f.wait("a second try", func() bool { return v.uplink.State().Refusals == 2 })
	set.Store(true)
	v.uplink.Retry(uplink.CauseCredentials, "the clock was set")
	v.delivered()
}

// TestRenewedWhileRefused: a new network does not help a vehicle that the broker refuses; new files do, the first of the
// two at the latest when the second is there.
func TestRenewedWhileRefused(t *testing.T) {
	f := newFixture(t)
	stranger := f.foreign.Leaf("car-1")
	f.write("car.pem", stranger.CertPEM())
	f.write("car.key", stranger.KeyPEM())
	v := f.start(f.options())
	v.refused("uplink.credentials", "does not know who signed")
	if v.store.Changed() {
		t.Error("changed, before anything did")
	}
	v.uplink.Retry(uplink.CauseNetwork, "a new route")
	time.Sleep(300 * time.Millisecond) // many times WakeGap
	if n := v.uplink.State().Attempts; n != 1 {
		t.Errorf("%d tries, want 1: a new route does not help here", n)
	}
	f.write("car.pem", f.mine.CertPEM())
	if !v.store.Changed() {
		t.Error("a new certificate was not noticed")
	}
	v.uplink.Retry(uplink.CauseCredentials, "a new certificate")
	v.refused("uplink.credentials", "does not match")
	if n := v.uplink.State().Refusals; n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
	f.write("car.key", f.mine.KeyPEM())
	v.uplink.Retry(uplink.CauseCredentials, "and its key")
	v.delivered()
}

func TestVersions(t *testing.T) {
	// Mosquitto's tls_version is a least version; OpenSSL's own configuration has a greatest one.
	conf := filepath.Join(t.TempDir(), "openssl.cnf")
	text := "openssl_conf = main\n[main]\nssl_conf = ssl\n[ssl]\nsystem_default = limits\n[limits]\nMaxProtocol = TLSv1.2\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OPENSSL_CONF", conf)
	f := newFixture(t)
	o := f.options()
	o.MinVersion = tls.VersionTLS13
	v := f.start(o)
	v.refused("uplink.tls", "no version of TLS")
	v.stop()
	f.alarms = alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))
	f.once(f.options())
	stranger := f.foreign.Leaf("car-1")
	f.write("car.pem", stranger.CertPEM())
	f.write("car.key", stranger.KeyPEM())
	f.start(f.options()).refused("uplink.credentials", "does not know who signed")
}

func TestPins(t *testing.T) {
	f := newFixture(t)
	pin := credential.Pin(f.ca.Cert)
	read, err := credential.ParsePin(fmt.Sprintf("%x", pin))
	if err != nil || read != pin {
		t.Fatal(err)
	}
	o := f.options()
	o.Pins = [][32]byte{{1}, pin}
	v := f.start(o)
	v.delivered()
	v.uplink.Reconnect("resumed sessions are held to the pins too")
	f.wait("a second connection", func() bool { return v.uplink.State().Connections == 2 })
}

func TestPKCS12(t *testing.T) {
	f := newFixture(t)
	for name, encoder := range map[string]*pkcs12.Encoder{"modern": pkcs12.Modern, "legacy": pkcs12.LegacyDES} {
		data, err := encoder.Encode(f.mine.Key, f.mine.Cert, []*x509.Certificate{f.ca.Cert}, "geheim")
		if err != nil {
			t.Fatal(err)
		}
		o := f.options()
		o.Cert, o.Key, o.PKCS12 = "", "", f.write(name+".p12", data)
		o.PKCS12Password = f.write("p12.pw", []byte("geheim\n"))
		f.once(o)
		for _, damaged := range [][]byte{data[:len(data)/2], nil, []byte("PK")} {
			o.PKCS12 = f.write("broken.p12", damaged)
			if _, err := credential.New(o).TLS(); err == nil || !strings.Contains(err.Error(), "broken.p12") {
				t.Errorf("%s, %d bytes: %v", name, len(damaged), err)
			}
		}
	}
	o := f.options()
	o.Cert, o.Key, o.PKCS12 = "", "", filepath.Join(f.dir, "modern.p12")
	o.PKCS12Password = f.write("p12.pw", []byte("falsch\n"))
	v := f.start(o)
	v.refused("uplink.credentials", "does not open with the password")
	for _, a := range f.alarms.Standing() {
		if strings.Contains(a.Text, "falsch") {
			t.Error("the password is in the alarm")
		}
	}
	f.write("p12.pw", []byte("geheim\n"))
	v.uplink.Retry(uplink.CauseCredentials, "the right password")
	v.delivered()
}

// TestSigner: a key that is elsewhere signs, and one that is another's is refused before the broker sees it.
func TestSigner(t *testing.T) {
	f := newFixture(t)
	o := f.options()
	o.Key = ""
	asked := 0
	o.Signer = func(c *x509.Certificate) (crypto.Signer, error) {
		asked++
		return f.mine.Key, nil
	}
	f.once(o)
	if asked != 1 {
		t.Errorf("asked for the key %d times", asked)
	}
	o.Signer = func(*x509.Certificate) (crypto.Signer, error) { return f.foreign.Key, nil }
	f.start(o).refused("uplink.credentials", "not the certificate's")
}
