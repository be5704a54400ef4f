package doctor_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/net/dns/dnsmessage"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/doctor"
	"github.com/waybill-telematics/waybill/uplink/network"
	"github.com/waybill-telematics/waybill/uplink/profile"
)

// examine runs the doctor and returns its steps by name. Whatever is broken, each step is reported once and in order, a
// failure says what to do, and no secret and no stack trace is shown.
func examine(t testing.TB, p patient) map[string]doctor.Step {
	t.Helper()
	o := p.options(t)
	var reported []doctor.Step
	o.Report = func(s doctor.Step) { reported = append(reported, s) }
	steps, err := doctor.Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != len(reported) {
		t.Errorf("%d steps, %d reported", len(steps), len(reported))
	}
	order := []string{"clock", "credentials", "links", "dns", "tcp", "proxy", "tls", "certificate", "connect", "subscribe", "publish", "receipt", "size", "limits"}
	found := map[string]doctor.Step{}
	for i, s := range steps {
		if i >= len(order) || s.Name != order[i] {
			t.Errorf("step %d is %s, of %v", i, s.Name, order)
		}
		found[s.Name] = s
		t.Logf("%-8s %-12s %s%s → %s %s", s.Result, s.Name, s.Found, s.Wrong, s.Remedy, s.Hint)
		if s.Result == doctor.Failed && (s.Wrong == "" || s.Remedy == "") || s.Result != doctor.Failed && s.Found == "" {
			t.Errorf("step %s says too little: %+v", s.Name, s)
		}
		text := fmt.Sprint(s)
		for _, never := range []string{secret, "goroutine ", "panic", ".go:", "0xc0"} {
			if strings.Contains(text, never) {
				t.Errorf("step %s shows %q: %s", s.Name, never, text)
			}
		}
	}
	if len(steps) != len(order) {
		t.Errorf("%d steps of %d", len(steps), len(order))
	}
	return found
}

// wantFailed holds the doctor to one failed step with these words, to those before it, and to those after it that
// cannot be tried.
func wantFailed(t testing.TB, steps map[string]doctor.Step, step string, words ...string) {
	t.Helper()
	s := steps[step]
	if s.Result != doctor.Failed {
		t.Errorf("step %s: %s, want FAIL", step, s.Result)
	}
	for _, w := range words {
		if !strings.Contains(s.Wrong+" "+s.Remedy+" "+s.Hint, w) {
			t.Errorf("step %s does not say %q: %s → %s %s", step, w, s.Wrong, s.Remedy, s.Hint)
		}
	}
	var first *doctor.Step
	for _, name := range []string{"clock", "credentials", "links", "dns", "tcp", "proxy", "tls", "certificate", "connect", "subscribe", "publish", "receipt", "size", "limits"} {
		if one := steps[name]; one.Result == doctor.Failed {
			first = &one
			break
		}
	}
	if first == nil || first.Name != step {
		t.Errorf("the first failed step is %+v, want %s", first, step)
	}
}

// wantResults is "ok dns tcp; skipped tls".
func wantResults(t testing.TB, steps map[string]doctor.Step, text string) {
	t.Helper()
	for part := range strings.SplitSeq(text, ";") {
		words := strings.Fields(part)
		for _, name := range words[1:] {
			if got := string(steps[name].Result); got != words[0] {
				t.Errorf("step %s: %s, want %s: %+v", name, got, words[0], steps[name])
			}
		}
	}
}

// TestHealthy: nothing fails where everything is there, with TLS and without, and the store keeps nothing of it.
func TestHealthy(t *testing.T) {
	b := newBench(t)
	startStore(t, b.broker.URL(), nil)
	steps := examine(t, b.secured())
	wantResults(t, steps, "ok clock credentials tcp tls certificate connect subscribe publish receipt size limits; skipped links dns proxy")
	for step, words := range map[string][]string{"tls": {"TLS 1.3", "CN=broker", "CN=fleet", "23 hours"}, "connect": {"car-1-doctor"},
		"credentials": {"car.pem", "valid until"}, "receipt": {"answers"}, "size": {"66048 bytes"}, "publish": {"allowed by the ACL on all lanes"}} {
		for _, w := range words {
			if !strings.Contains(steps[step].Found, w) {
				t.Errorf("step %s does not say %q: %s", step, w, steps[step].Found)
			}
		}
	}
	steps = examine(t, b.plain())
	wantResults(t, steps, "ok tcp connect subscribe publish receipt size; skipped tls certificate")
	p := b.plain()
	p.change = func(o *doctor.Options) { o.Uplink.Ack = uplink.AckPuback }
	wantResults(t, examine(t, p), "ok tcp connect subscribe publish size; skipped receipt")
}

func TestBrokenWays(t *testing.T) {
	b := newBench(t)
	leaf(b.ca, b.dir, "past", "car-1", -time.Hour)
	leaf(b.foreign, b.dir, "stranger", "car-1", 24*time.Hour)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer web.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	names := nameServer(t)
	for _, c := range []struct {
		name   string
		from   patient
		change func(*patient)
		step   string
		words  []string
		others string
	}{
		{"name that does not exist", b.secured(), func(p *patient) { p.url, p.resolver = "mqtts://nowhere.test:8883", names }, "dns",
			[]string{"nowhere.test", "does not exist", "broker:"}, "skipped tcp proxy tls connect receipt"},
		{"name server that is not there", b.secured(), func(p *patient) {
			p.url, p.resolver = "mqtts://nowhere.test:8883", &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", mute.Addr().String())
			}}
			p.change = short
		}, "dns", []string{"no name server answered", "/etc/resolv.conf"}, "skipped tcp tls"},
		{"closed port", b.secured(), func(p *patient) { p.url = "mqtts://127.0.0.1:" + freePort(t) }, "tcp",
			[]string{"refused", "nobody listens", "8883"}, "ok clock credentials; skipped dns tls connect receipt"},
		{"mute port", b.secured(), func(p *patient) { p.url, p.change = "mqtts://"+mute.Addr().String(), short }, "tls",
			[]string{"says nothing more", "8883"}, "ok tcp; skipped certificate connect"},
		{"mute port, plain", b.plain(), func(p *patient) { p.url, p.change = "tcp://"+mute.Addr().String(), short }, "connect",
			[]string{"does not answer CONNECT", "not that of an MQTT broker"}, "ok tcp; skipped tls subscribe"},
		{"TLS on a plain port", b.secured(), func(p *patient) { p.url = "mqtts://" + b.broker.Addr }, "tls",
			[]string{"a listener without TLS", "8883"}, "ok tcp; skipped connect"},
		{"TLS on a web server's port", b.secured(), func(p *patient) { p.url = "mqtts://" + web.Listener.Addr().String() }, "tls",
			[]string{"answers without TLS", "login page"}, "ok tcp; skipped connect"},
		{"no TLS on a port that wants it", b.plain(), func(p *patient) { p.url = "tcp://" + b.secure }, "connect",
			[]string{"ends the connection instead of answering CONNECT", "mqtts:"}, "ok tcp; skipped tls subscribe"},
		{"unknown authority", b.secured(), func(p *patient) { p.creds.CA = b.in("foreign.pem") }, "tls",
			[]string{"CN=fleet", "no certificate here vouches for", "CA file"}, "ok tcp; skipped certificate connect"},
		{"wrong name", b.secured(), func(p *patient) { p.creds.ServerName = "broker.example" }, "tls",
			[]string{"broker.example", "which name the certificate has"}, "ok tcp; skipped connect"},
		{"pins", b.secured(), func(p *patient) { p.creds.Pins = [][32]byte{{1}} }, "tls",
			[]string{"ca_pins", "sha256/", "add the new pin"}, "ok tcp; skipped connect"},
		{"own certificate has expired", b.secured(), func(p *patient) { p.creds.Cert, p.creds.Key = b.in("past.pem"), b.in("past.key") }, "credentials",
			[]string{"past.pem", "CN=car-1", "expired at", "Renew"}, "ok clock tcp; skipped tls connect"},
		{"own certificate has expired, says the broker", b.secured(), func(p *patient) {
			p.creds.Cert, p.creds.Key, p.now = b.in("past.pem"), b.in("past.key"), func() (time.Time, bool) { return time.Now(), false }
		}, "certificate", []string{"client certificate has expired", "Renew"}, "ok tcp credentials tls; skipped connect"},
		{"own certificate is a stranger's", b.secured(), func(p *patient) { p.creds.Cert, p.creds.Key = b.in("stranger.pem"), b.in("stranger.key") }, "certificate",
			[]string{"does not know who signed the client certificate", "Give the broker that authority"}, "ok tcp tls; skipped connect"},
		{"no certificate", b.secured(), func(p *patient) { p.creds.Cert, p.creds.Key = "", "" }, "certificate",
			[]string{"wants a client certificate", "Check cert and key"}, "ok tcp tls; skipped connect"},
		{"no file", b.secured(), func(p *patient) { p.creds.Cert = b.in("gone.pem") }, "credentials",
			[]string{"gone.pem", "no such file", "readable"}, "ok tcp; skipped tls"},
		{"key of another certificate", b.secured(), func(p *patient) { p.creds.Key = b.in("stranger.key") }, "credentials",
			[]string{"does not match", "stranger.key"}, "ok tcp; skipped tls"},
		{"clock in 1970", b.secured(), func(p *patient) {
			p.system = func() time.Time { return time.Unix(1000, 0) }
			p.now = func() (time.Time, bool) { return time.Unix(1000, 0), false }
		}, "clock", []string{"1970-01-01", "NTP", "GPS", "battery"}, "FAIL tls; ok tcp; skipped connect"},
		{"no link is up", b.secured(), func(p *patient) { p.links = []network.Link{{Name: "lte", Interface: "nosuch0"}} }, "links",
			[]string{"lte: interface nosuch0 is not there", "uplink.links"}, "ok clock credentials; skipped dns tcp proxy tls connect"},
		{"no websocket", b.plain(), func(p *patient) { p.url = "ws://" + web.Listener.Addr().String() + "/wrong" }, "connect",
			[]string{"opens no websocket", "403", "/mqtt"}, "ok tcp; skipped subscribe"},
		{"proxy that refuses", b.secured(), func(p *patient) { p.proxy = proxyTo(web.URL) }, "proxy",
			[]string{"403", "CONNECT", b.secure, "allow"}, "ok tcp; skipped tls connect"},
		{"proxy that is not there", b.secured(), func(p *patient) { p.proxy = proxyTo("http://car:" + secret + "@127.0.0.1:" + freePort(t)) }, "tcp",
			[]string{"the proxy cannot be reached", "refused"}, "skipped proxy tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.from
			c.change(&p)
			steps := examine(t, p)
			wantFailed(t, steps, c.step, c.words...)
			wantResults(t, steps, c.others)
		})
	}
}

// TestOneLinkOfTwo: the one that is up is taken, the other one named.
func TestOneLinkOfTwo(t *testing.T) {
	b := newBench(t)
	p := b.plain()
	p.links = []network.Link{{Name: "wifi", Interface: "nosuch0"}, {Name: "any", Priority: 1}}
	p.change = func(o *doctor.Options) { o.Uplink.Ack = uplink.AckPuback }
	steps := examine(t, p)
	wantResults(t, steps, "ok links tcp connect publish")
	if found := steps["links"].Found; !strings.Contains(found, "up: any") || !strings.Contains(found, "down: wifi") {
		t.Errorf("links: %s", found)
	}
}

// TestAsVehicleLeavesWhatWaits: a command that waits for the vehicle at the broker is there after the doctor took its
// place, and the session has no other life than before.
func TestAsVehicleLeavesWhatWaits(t *testing.T) {
	b := newBench(t)
	got := make(chan string, 4)
	connect := func(id string) mqtt.Client {
		o := mqtt.NewClientOptions().AddBroker(b.broker.URL()).SetClientID(id).SetCleanSession(false).SetAutoReconnect(false).SetProtocolVersion(4)
		o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- string(m.Payload()) })
		c := mqtt.NewClient(o)
		await(t, c.Connect())
		return c
	}
	car := connect("car-1")
	await(t, car.Subscribe("wb1/acme/car-1/down/command", 1, nil))
	car.Disconnect(100)
	ops := connect("ops")
	await(t, ops.Publish("wb1/acme/car-1/down/command", 1, false, "open the doors"))
	ops.Disconnect(100)
	p := b.plain()
	p.change = func(o *doctor.Options) { o.Uplink.Ack, o.AsVehicle = uplink.AckPuback, true }
	wantResults(t, examine(t, p), "ok connect subscribe publish size limits")
	car = connect("car-1")
	defer car.Disconnect(100)
	select {
	case text := <-got:
		if text != "open the doors" {
			t.Errorf("got %q", text)
		}
	case <-time.After(patience):
		t.Error("the command is gone")
	}
}

func await(t testing.TB, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
}

// short is for what ends by a step's time.
func short(o *doctor.Options) { o.Timeout = 6 * time.Second }

func proxyTo(text string) func(string) (*url.URL, error) {
	return func(string) (*url.URL, error) { return url.Parse(text) }
}

// nameServer knows that nowhere.test does not exist.
func nameServer(t testing.TB) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			size, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:size]) != nil {
				continue
			}
			m.Response, m.Authoritative, m.Additionals, m.RCode = true, true, nil, dnsmessage.RCodeNameError
			if answer, err := m.Pack(); err == nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

func TestBrokerCertificateHasExpired(t *testing.T) {
	b := newBench(t)
	cert, key := leaf(b.ca, b.dir, "old", "broker", -time.Hour)
	port := freePort(t)
	deps.Mosquitto(t, deps.MosquittoOptions{Config: []string{"listener " + port + " 127.0.0.1", "certfile " + cert, "keyfile " + key}})
	p := b.secured()
	p.url = "mqtts://127.0.0.1:" + port
	wantFailed(t, examine(t, p), "tls", "has expired", "the broker needs a new certificate", "clock")
}

func TestWrongPassword(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	if out, err := deps.Program(t, "mosquitto", "mosquitto_passwd", "-c", "-b", file, "car-1", "richtig").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	b := newBench(t, "allow_anonymous false", "password_file "+file)
	p := b.plain()
	p.user, p.creds.Password = "car-1", write(t, dir, "password", []byte(secret+"\n"))
	steps := examine(t, p)
	wantFailed(t, steps, "connect", "CONNACK 5", "does not authorise", "Check user, password", "--as-vehicle")
	wantResults(t, steps, "ok credentials tcp; skipped subscribe publish receipt")
	p.creds.Password = write(t, dir, "password", []byte("richtig\n"))
	p.change = func(o *doctor.Options) { o.Uplink.Ack = uplink.AckPuback }
	wantResults(t, examine(t, p), "ok connect subscribe publish")
}

// TestAccessRules: what Mosquitto's ACL denies, aloud and silently.
func TestAccessRules(t *testing.T) {
	fleet := func() (string, string, error) { return "fleet", "", nil }
	dir := t.TempDir()
	acl := func(name, rules string) string {
		return "acl_file " + write(t, dir, name, []byte(rules+"\nuser fleet\ntopic readwrite wb1/#\n"))
	}
	t.Run("publish", func(t *testing.T) {
		b := newBench(t, acl("publish", "topic read wb1/+/+/down/#"))
		startStore(t, b.broker.URL(), fleet)
		p := b.plain()
		p.change = func(o *doctor.Options) { short(o); o.Profile = profile.Find("mosquitto") }
		steps := examine(t, p)
		wantFailed(t, steps, "publish", "acknowledges publishes on all lanes, such as wb1/acme/car-1/up/control, and drops them", "0x87", "allow this vehicle to publish on wb1/acme/car-1/up/#", "--as-vehicle", "Mosquitto: the ACL")
		wantResults(t, steps, "ok connect subscribe; skipped receipt size")
	})
	t.Run("one lane", func(t *testing.T) {
		b := newBench(t, acl("lane", "topic read wb1/+/+/down/#\ntopic write wb1/+/+/up/control\ntopic write wb1/+/+/up/event"))
		startStore(t, b.broker.URL(), fleet)
		p := b.plain()
		p.change = func(o *doctor.Options) {
			o.Uplink.Format = func(telemetrypb.Lane) uplink.Format { return uplink.FormatJSON }
		}
		steps := examine(t, p)
		wantFailed(t, steps, "publish", "acknowledges publishes on wb1/acme/car-1/up/telemetry, wb1/acme/car-1/up/raw and drops them")
		wantResults(t, steps, "ok subscribe receipt size")
	})
	t.Run("client id", func(t *testing.T) {
		b := newBench(t, acl("id", "pattern readwrite wb1/acme/%c/#"))
		startStore(t, b.broker.URL(), fleet)
		p := b.plain()
		p.change = short
		wantFailed(t, examine(t, p), "publish", "--as-vehicle", "car-1-doctor")
		p.change = func(o *doctor.Options) { o.AsVehicle = true }
		steps := examine(t, p)
		wantResults(t, steps, "ok connect subscribe publish receipt size limits")
		if !strings.Contains(steps["connect"].Found, `"car-1"`) {
			t.Errorf("connected otherwise: %s", steps["connect"].Found)
		}
	})
	t.Run("receipt", func(t *testing.T) {
		b := newBench(t, acl("receipt", "topic write wb1/+/+/up/#"))
		startStore(t, b.broker.URL(), fleet)
		p := b.plain()
		p.change = short
		steps := examine(t, p)
		wantFailed(t, steps, "receipt", "no store answers", "somebody has subscribed", "may not be allowed to read there", "down/receipt")
		wantResults(t, steps, "ok publish size")
	})
	t.Run("subscribe", func(t *testing.T) {
		plugins, err := filepath.Glob(filepath.Join(deps.Folder(t, "mosquitto"), "usr/lib/*/mosquitto_dynamic_security.so"))
		if err != nil || len(plugins) != 1 {
			deps.Missing(t, "Mosquitto's dynamic security plugin: %v %v", plugins, err)
		}
		rules := write(t, dir, "dynamic.json", []byte(`{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
			"clients": [], "groups": [{"groupname": "all", "roles": [], "clients": []}], "roles": [], "anonymousGroup": "all"}`))
		b := newBench(t, "plugin "+plugins[0], "plugin_opt_config_file "+rules)
		steps := examine(t, b.plain())
		wantFailed(t, steps, "subscribe", "refuses the subscription to wb1/acme/car-1/down/receipt", "0x80", "ACL")
		wantResults(t, steps, "ok connect; skipped publish receipt size")
	})
}

// TestNoStore: a store that never was, and one whose session the broker keeps.
func TestNoStore(t *testing.T) {
	b := newBench(t)
	p := b.plain()
	p.change = short
	steps := examine(t, p)
	wantFailed(t, steps, "receipt", "nobody is subscribed to wb1/acme/car-1/up/control", "waybill-fleet serve", "not the vehicle's ACL")
	wantResults(t, steps, "ok publish size limits")
	startStore(t, b.broker.URL(), nil)()
	steps = examine(t, p)
	wantFailed(t, steps, "receipt", "the session that it keeps for a store which is not running", "waybill-fleet serve")
	wantResults(t, steps, "ok publish size")
}

// TestPayloadIsTooLarge: by the rule that acknowledges and drops, and by the one that closes.
func TestPayloadIsTooLarge(t *testing.T) {
	for rule, words := range map[string][]string{
		"message_size_limit 20000": {"acknowledged and does not arrive", "payload_bytes", "32KiB"},
		"max_packet_size 20000":    {"ends the connection at a publish of 66048 bytes", "payload_bytes", "32KiB"},
	} {
		t.Run(strings.Fields(rule)[0], func(t *testing.T) {
			b := newBench(t, rule)
			startStore(t, b.broker.URL(), nil)
			p := b.plain()
			p.change = func(o *doctor.Options) { o.Timeout = 12 * time.Second }
			steps := examine(t, p)
			wantFailed(t, steps, "size", words...)
			wantResults(t, steps, "ok publish receipt")
			if strings.HasPrefix(rule, "max") {
				if s := steps["limits"]; s.Result != doctor.Failed || !strings.Contains(s.Wrong, "20000") || !strings.Contains(s.Remedy, "18976") {
					t.Errorf("limits: %+v", s)
				}
			}
			p.change = func(o *doctor.Options) { o.Uplink.PayloadBytes = 16 << 10 }
			wantResults(t, examine(t, p), "ok publish receipt size")
		})
	}
}
