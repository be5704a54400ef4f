package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/firmware/conditions"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/test/certs"
)

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Frames of the bus reach the readings with their time, in the units of conditions; nothing is allocated, and what is old is
// not met.
func TestUpdateReadings(t *testing.T) {
	file := updating(t, "power: {ignition: {file: ignition}}\nupdate:\n  ecu: agent\n  signals: {speed: can0.Motion.VehicleSpeed, battery: can0.Body.Supply, ambient: can0.Climate.Outside}\n"+updateRoots)
	ignition := filepath.Join(filepath.Dir(file), "ignition")
	s, v, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{settings: s, vehicle: v, clock: clock.System{}}
	a.alarms = alarm.NewBoard(a.clock.Boot, s.logger(os.Stderr))
	if a.times, err = clock.OpenTimekeeper(clock.TimekeeperOptions{}); err != nil {
		t.Fatal(err)
	}
	u := &updater{agent: a, set: s.Update}
	pass := func(id uint32, at int64, data ...byte) {
		f := can.Frame{ID: id, Len: uint8(len(data)), Time: at}
		copy(f.Data[:], data)
		for _, feature := range v.features[0] {
			if w, ok := feature.(*watch); ok {
				w.take(&f, nil)
			}
		}
	}
	now := a.clock.Boot()
	if r, _ := u.readings(); r.Speed.Seen || r.Ignition.Seen || r.Volts.Seen || r.Time.Trusted {
		t.Errorf("nothing was said yet: %+v", r)
	}
	pass(256, now, 0x10, 0x27) // 100 km/h
	pass(257, now, 1, 126)
	pass(258, now, 0x14, 0x05) // 1300: 90 °F
	if err := os.WriteFile(ignition, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, at := u.readings()
	if r.Speed != (conditions.Reading{Value: 100, At: now, Seen: true}) || math.Abs(r.Volts.Value-12.6) > 1e-9 || math.Abs(r.Ambient.Value-32.222) > 1e-3 {
		t.Errorf("%+v", r)
	}
	if !r.Ignition.Seen || r.Ignition.Value != 0 || r.Ignition.At != at {
		t.Errorf("the file says off, now: %+v", r.Ignition)
	}
	pass(256, now, 0, 0)
	checker, err := conditions.New(u.conditionOptions())
	if err != nil {
		t.Fatal(err)
	}
	low := 12.0
	set := conditions.Set{Ignition: conditions.IgnitionOff, MinVolts: &low}
	if unmet := checker.Check(set, r, at); len(unmet) != 0 {
		t.Errorf("%v", unmet)
	}
	if unmet := checker.Check(set, r, at+int64(2*time.Minute)); len(unmet) != 2 {
		t.Errorf("two minutes later it is all as before: %v", unmet)
	}
	if err := os.Remove(ignition); err != nil {
		t.Fatal(err)
	}
	if r, _ := u.readings(); r.Ignition.Seen {
		t.Errorf("the file is gone: %+v", r.Ignition)
	}
	f := can.Frame{ID: 256, Len: 2, Time: now}
	tap, _ := v.features[0][len(v.features[0])-3].attach(nil)
	if n := testing.AllocsPerRun(1000, func() { tap.take(&f, nil) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// The kernel's lists as Documentation/networking/can.rst has them, with a stranger's socket and another interface in them.
func TestKernelCountsOfFilters(t *testing.T) {
	text := `
receive list 'rx_sff':
  device   can_id   can_mask  function  userdata   matches  ident
   vcan0     456    c00007ff  00000000  00000000         0  raw
   vcan0     123    c00007ff  00000000  00000000        42  raw
   vcan1     123    c00007ff  00000000  00000000      1000  raw
   vcan0  12345678  dfffffff  0000000000000000  0000000000000000        8  raw
  (can9: no entry)
`
	if n := matches([]byte(text), "vcan0"); n != 50 {
		t.Errorf("%d frames, 50 were let through", n)
	}
}

func TestHealthOfSources(t *testing.T) {
	a := &agent{clock: clock.System{}}
	bus := &canSource{agent: a, canSettings: canSettings{Bus: "can0", Interface: "none9"}}
	b := &busHealth{bus: bus}
	raised := map[string]string{"can.can0": "no such device"}
	if s := b.look(raised); s.Reads || s.Err != "" || s.Name != "can:can0" {
		t.Errorf("an interface that others bring up is down: %+v", s)
	}
	bus.Interface = "lo"
	if s := b.look(raised); s.Err != "no such device" {
		t.Errorf("it is up and cannot be read: %+v", s)
	}
	bus.Interface, bus.Bitrate = "none9", 500_000
	if s := b.look(raised); s.Err == "" {
		t.Errorf("the agent is to bring it up: %+v", s)
	}
	bus.counts.replayed.Add(3)
	if s := b.look(nil); !s.Reads {
		t.Error("three frames came")
	}
	if s := b.look(nil); s.Reads {
		t.Error("none came since")
	}
	g := &receiverHealth{receiver: &gpsSource{agent: a, gpsSettings: gpsSettings{Name: "gps0", Serial: "/dev/none9"}}}
	if s := g.look(map[string]string{"gps.gps0": "gone"}); s.Err != "" || s.Name != "gps:gps0" {
		t.Errorf("it is unplugged: %+v", s)
	}
	g.receiver.Serial = "/dev/null"
	if s := g.look(map[string]string{"gps.gps0": "no terminal"}); s.Err != "no terminal" {
		t.Errorf("it is there and cannot be read: %+v", s)
	}
	g.receiver.epochs.Add(1)
	if s := g.look(nil); !s.Reads {
		t.Error("an epoch came")
	}
	dir := writeFiles(t, map[string]string{"status": "Name:\tx\nRssAnon:\t   13376 kB\nRssFile:\t1 kB\n"})
	if n := anonBytes(filepath.Join(dir, "status")); n != 13376<<10 {
		t.Errorf("%d bytes", n)
	}
	if n := anonBytes("/proc/self/status"); n < 1<<20 {
		t.Errorf("this process has %d bytes", n)
	}
	if n := interfaceCount(dir, "none", "rx_packets"); n != 0 {
		t.Error(n)
	}
	if err := os.MkdirAll(filepath.Join(dir, "can0", "statistics"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "can0", "statistics", "rx_packets"), []byte("77\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := interfaceCount(dir, "can0", "rx_packets"); n != 77 {
		t.Error(n)
	}
}

// A broker is there by its name, whoever signed for it; a login page that answers in its place is a dead network.
func TestReachOfABroker(t *testing.T) {
	serve := func(config *tls.Config) string {
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
				if config != nil {
					_ = tls.Server(conn, config).HandshakeContext(t.Context())
				}
				conn.Close()
			}
		}()
		return l.Addr().String()
	}
	authority := certs.NewAuthority(t, "nobody's")
	strict := &tls.Config{Certificates: []tls.Certificate{authority.Leaf("b").TLS()}, ClientAuth: tls.RequireAnyClientCert}
	for name, c := range map[string]struct {
		scheme, addr, certified string
		want                    probation.Reach
	}{
		"plain":                     {"mqtt", serve(nil), "", probation.ReachBroker},
		"TLS, wants a certificate":  {"mqtts", serve(strict), "", probation.ReachBroker},
		"TLS, by another name":      {"mqtts", serve(strict), "elsewhere.test", probation.ReachNone},
		"TLS is wanted, no TLS":     {"mqtts", serve(nil), "", probation.ReachNone},
		"nobody listens":            {"mqtt", "127.0.0.1:1", "", probation.ReachNone},
		"TLS, by a name of its own": {"wss", serve(strict), "broker.test", probation.ReachBroker},
	} {
		r := newReach(&url.URL{Scheme: c.scheme, Host: c.addr}, c.certified, (&net.Dialer{}).DialContext)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if got := r.try(ctx); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		cancel()
	}
	r := newReach(&url.URL{Scheme: "mqtt", Host: "h"}, "", func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrClosed })
	r.ctx = t.Context()
	if r.addr != "h:1883" {
		t.Error(r.addr)
	}
	r.ask(1)
	r.tries.Wait()
	if got := r.ask(2); got != probation.ReachNone {
		t.Error(got)
	}
}

// Mirrors are asked with the vehicle's certificate, believed by the CA of the configuration, and an order for Wi-Fi waits
// for it.
func TestUpdateClient(t *testing.T) {
	authority := certs.NewAuthority(t, "the OEM's")
	var resumed []bool
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { resumed = append(resumed, r.TLS.DidResume) }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{authority.Leaf("mirror").TLS()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool()}
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	cert, key := authority.Leaf("car-1").Write(dir, "car")
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, authority.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	client := func(ca string, wifi ...string) *updateClient {
		s := &settings{Update: &updateSettings{CA: ca, WiFi: wifi, Targets: []string{server.URL + "/"}}}
		s.Uplink.Credentials.Cert, s.Uplink.Credentials.Key, s.Uplink.Credentials.CA = cert, key, "/nowhere"
		a := &agent{settings: s, clock: clock.System{}, log: s.logger(os.Stderr), metrics: prometheus.NewRegistry()}
		var err error
		if a.times, err = clock.OpenTimekeeper(clock.TimekeeperOptions{}); err != nil {
			t.Fatal(err)
		}
		c, err := a.newUpdateClient()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := client(ca)
	for range 2 {
		response, err := c.metadata.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		c.metadata.CloseIdleConnections()
	}
	if fmt.Sprint(resumed) != "[false true]" {
		t.Errorf("resumed: %v", resumed)
	}
	if _, err := client("").images.Get(server.URL); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a mirror of nobody's: %v", err)
	}
	if ok, why := c.flow(false); !ok {
		t.Error(why)
	}
	if ok, why := c.flow(true); ok || !strings.Contains(why, "over lo") {
		t.Errorf("%v %q: the way is no Wi-Fi", ok, why)
	}
	if _, err := c.images.Get(server.URL); err == nil || !strings.Contains(err.Error(), errNoWiFi.Error()) {
		t.Errorf("fetched over %v", err)
	}
	c = client(ca, "lo")
	if ok, why := c.flow(true); !ok {
		t.Error(why)
	}
	response, err := c.images.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}
