package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const smallVehicle = "device: {id: car-1}\ndata_dir: data\ncan: [{bus: can0, replay: a.log, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n"

// TestUplinkKeys: each key reaches the settings, as what it means.
func TestUplinkKeys(t *testing.T) {
	pin := "sha256/" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": "", "car.p12": "", "car.pw": "x", "ca.pem": "", "proxy.pw": "geheim\n", "agent.yaml": smallVehicle + `
uplink:
  broker: mqtts://broker.example
  ca: ca.pem
  ca_pins: ["` + pin + `"]
  server_name: other.example
  tls_min: "1.3"
  pkcs12: car.p12
  pkcs12_password_file: car.pw
  user_file: user
  token_command: [/usr/bin/token, --print]
  token_timeout: 20s
  refused_retry: 1h
  proxy: http://proxy.example:3128
  proxy_user: car
  proxy_password_file: proxy.pw
  links:
    - {name: wifi, interface: wlan0, priority: 1}
    - {name: lte, interface: wwan0, priority: 2, metered: true, without: [raw], budget: {telemetry: 50MB}}
  budget_day: local
`})
	s, _, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	u := &s.Uplink
	o := &u.Credentials
	if o.CA != filepath.Join(dir, "ca.pem") || len(o.Pins) != 1 || o.Pins[0][31] != 7 || o.ServerName != "other.example" || o.MinVersion != tls.VersionTLS13 ||
		o.PKCS12 != filepath.Join(dir, "car.p12") || o.PKCS12Password != filepath.Join(dir, "car.pw") || o.User != filepath.Join(dir, "user") ||
		len(o.Token.Command) != 2 || o.Token.Timeout != 20*time.Second || u.RefusedRetry != time.Hour || !u.BudgetLocal {
		t.Errorf("%+v", u)
	}
	if len(u.Links) != 2 || u.Links[0].Interface != "wlan0" || u.Links[0].Metered || u.Links[1].Priority != 2 || !u.Links[1].Metered ||
		len(u.Links[1].Without) != 1 || u.Links[1].Budget[telemetrypb.Lane_LANE_TELEMETRY] != 50_000_000 {
		t.Errorf("%+v", u.Links)
	}
	if proxy, err := u.Proxy.of("broker.example:8883"); err != nil || proxy.String() != "http://car:geheim@proxy.example:3128" {
		t.Errorf("proxy %v, %v", proxy, err)
	}
}

func TestUplinkKeysThatAreWrong(t *testing.T) {
	for _, c := range []struct {
		uplink string
		line   int
		words  []string
	}{
		{"tls_min: 1.1", 6, []string{"uplink.tls_min", "1.2 or 1.3", "1.1"}},
		{"ca_pins: [abc]", 6, []string{"uplink.ca_pins[0]", "sha256/", "docs/UPLINK.md"}},
		{"cert: a.log", 6, []string{"goes together"}},
		{"cert: a.log\n  key: a.log\n  pkcs12: a.log", 8, []string{"uplink.pkcs12", "either"}},
		{"cert: a.log\n  key: a.log\n  tpm: {handle: 0x81000001}", 8, []string{"uplink.tpm", "either key: or tpm:"}},
		{"cert: a.log\n  tpm:\n    handle: 0x80000001", 8, []string{"uplink.tpm.handle", "0x81000000", "0x80000001"}},
		{"tpm: {handle: 0x81000001}", 5, []string{"uplink.cert", "goes together"}},
		{"pkcs12_password_file: a.log", 6, []string{"pkcs12: only"}},
		{"user: a\n  user_file: a.log", 7, []string{"uplink.user_file", "either user: or user_file:"}},
		{"user: a\n  password_file: a.log\n  token_file: a.log", 7, []string{"one of password_file:"}},
		{"token_file: a.log", 5, []string{"uplink.user", "needs user:"}},
		{"token_timeout: 5s", 6, []string{"token_command: only"}},
		{"refused_retry: 1s", 6, []string{"between 10s and 24h"}},
		{"proxy: https://proxy", 6, []string{"uplink.proxy", "http://host:port or socks5://"}},
		{"proxy: 'http://car:secret@proxy'", 6, []string{"proxy_password_file:"}},
		{"proxy: 'http://car:secret@proxy:port'", 6, []string{"uplink.proxy", "environment or none"}},
		{"proxy_user: car\n  proxy_password_file: a.log", 6, []string{"with a URL only"}},
		{"proxy: http://proxy\n  proxy_user: car", 7, []string{"go together"}},
		{"budget_day: moon", 6, []string{"utc or local"}},
		{"links: [{interface: wlan0}]", 6, []string{"uplink.links[0].name"}},
		{"links: [{name: a}, {name: a}]", 6, []string{"named twice"}},
		{"links: [{name: a, interface: a-very-long-interface}]", 6, []string{"15 characters"}},
		{"links: [{name: a, priority: -1}]", 6, []string{"between 0 (first) and 1000"}},
		{"links: [{name: a, without: [bulk]}]", 6, []string{"uplink.links[0].without[0]", "telemetry or raw"}},
		{"links:\n    - name: a\n      budget: {raw: 1MB}", 8, []string{"uplink.links[0].budget", "metered: true"}},
		{"links:\n    - name: a\n      metered: true\n      budget: {raw: lots}", 9, []string{"uplink.links[0].budget.raw", "lots"}},
		{"links: [{name: a, without: [raw]}, {name: b, without: [raw, event]}]", 6, []string{"lane raw", "never be delivered"}},
		{"links: [{name: a, metred: true}]", 6, []string{`did you mean "metered"?`}},
	} {
		dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": "", "agent.yaml": smallVehicle + "uplink:\n  " + c.uplink + "\n"})
		_, _, err := load(filepath.Join(dir, "agent.yaml"))
		var p *problems
		if !errors.As(err, &p) {
			t.Errorf("%s: got %v", c.uplink, err)
			continue
		}
		for _, w := range append(c.words, fmt.Sprintf("agent.yaml:%d: ", c.line)) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: does not say %q", c.uplink, err, w)
			}
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v shows a password", c.uplink, err)
		}
	}
}

// TestTokenIsRotated: a vehicle whose token has expired says so, waits, and delivers as soon as the file is renewed; the
// alarm goes. No token is ever logged.
func TestTokenIsRotated(t *testing.T) {
	broker, err := uplinktest.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	token := func(from, to time.Duration) string {
		part := base64.RawURLEncoding.EncodeToString
		return part([]byte(`{"alg":"none"}`)) + "." + part(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, time.Now().Add(from).Unix(), time.Now().Add(to).Unix())) + ".c2lnbmF0dXJl"
	}
	old, fresh := token(-2*time.Hour, -time.Hour), token(-time.Minute, time.Hour)
	var logins atomic.Int32
	broker.SetRules(uplinktest.Rules{Login: func(client, user, password string) bool {
		if client == "store" {
			return true
		}
		logins.Add(1)
		return user == "car-1" && password == fresh
	}})
	store := uplinktest.NewStore(broker.Addr(), "store")
	defer store.Close()
	dir := writeFiles(t, map[string]string{"token": old, "agent.yaml": fmt.Sprintf("device: {id: car-1}\ndata_dir: data\n"+
		"gps: [{name: gps0, tcp: '127.0.0.1:9'}]\ncollect: {signals: [{match: '*'}]}\n"+
		"uplink: {broker: 'mqtt://%s', insecure: true, user: car-1, token_file: token, refused_retry: 24h}\n", broker.Addr())})
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		text.Write(line)
		switch {
		case bytes.Contains(line, []byte("alarm=uplink.credentials")) && bytes.Contains(line, []byte("raised")):
			if err := os.WriteFile(filepath.Join(dir, "token.new"), []byte(fresh+"\n"), 0o600); err != nil {
				t.Error(err)
			}
			if err := os.Rename(filepath.Join(dir, "token.new"), filepath.Join(dir, "token")); err != nil {
				t.Error(err)
			}
		case bytes.Contains(line, []byte("alarm=uplink.credentials")): // cleared
			cancel()
		}
		return len(line), nil
	}), nil))
	if err := runAgent(ctx, s, v, log, newRenewal()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"alarm raised\" alarm=uplink.credentials", "expired at", "alarm cleared\" alarm=uplink.credentials", "uplink is online", "alarm=uplink.insecure"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, text.String())
		}
	}
	for _, secret := range []string{old, fresh, "c2lnbmF0dXJl"} {
		if strings.Contains(text.String(), secret) {
			t.Error("the log shows a token")
		}
	}
	if n := logins.Load(); n < 1 || n > 2 {
		t.Errorf("the vehicle showed itself %d times, want at most once with either token", n)
	}
	if store.Len() == 0 {
		t.Error("nothing was delivered")
	}
}
