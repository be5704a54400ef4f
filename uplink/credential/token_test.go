package credential_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/credential"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// jwt makes a token whose signature nobody here looks at.
func jwt(claims string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"ES256"}`)) + "." + part([]byte(claims)) + "." + part([]byte("signature"))
}

func lasting(from, to time.Time) string {
	return jwt(fmt.Sprintf(`{"sub":"car-1","iat":%d,"exp":%d}`, from.Unix(), to.Unix()))
}

// login is a broker that takes one token at a time.
func login(t *testing.T) (f *fixture, accept func(token string)) {
	t.Helper()
	broker, err := uplinktest.NewBroker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	var mu sync.Mutex
	var good string
	broker.SetRules(uplinktest.Rules{Login: func(_, user, password string) bool {
		mu.Lock()
		defer mu.Unlock()
		return user == "car-1" && password == good
	}})
	f = &fixture{t: t, dir: t.TempDir(), addr: broker.Addr(), alarms: alarm.NewBoard(func() int64 { return 1 }, slog.New(slog.DiscardHandler))}
	f.write("user", []byte("car-1\n"))
	return f, func(token string) {
		mu.Lock()
		defer mu.Unlock()
		good = token
	}
}

func (f *fixture) withToken(token credential.Token) *vehicle {
	o := credential.Options{User: filepath.Join(f.dir, "user"), Token: token, Now: func() (time.Time, bool) { return time.Now(), true }}
	store := credential.New(o)
	v := f.start(o, func(u *uplink.Options) {
		u.URL, u.Insecure, u.TLS = "mqtt://"+f.addr, true, nil
		u.User, u.Password, u.Explain = store.UserName, store.PasswordOrToken, store.Explain
	})
	v.store = store
	return v
}

func TestTokenFile(t *testing.T) {
	f, accept := login(t)
	now := time.Now()
	old, soon, fresh := lasting(now.Add(-2*time.Hour), now.Add(-time.Hour)), lasting(now.Add(-59*time.Minute), now.Add(time.Minute)), lasting(now, now.Add(time.Hour))
	file := f.write("token", []byte(old+"\n"))
	accept(soon)
	v := f.withToken(credential.Token{File: file})
	v.refused("uplink.credentials", "the token of "+file, "expired at", "Renew it")
	for _, a := range f.alarms.Standing() {
		if strings.Contains(a.Text, old) {
			t.Error("the token is in the alarm")
		}
	}
	f.write("token", []byte(soon))
	if !v.store.Changed() {
		t.Error("a new token was not noticed")
	}
	v.uplink.Retry(uplink.CauseCredentials, "a new token")
	v.delivered()

	// It is due, but there is nothing newer yet; then there is.
	if due := v.store.Renewal(); !due.Before(time.Now()) || !strings.Contains(v.store.Expiring(), file) {
		t.Errorf("due at %s, %q", due, v.store.Expiring())
	}
	if newer, err := v.store.Refresh(); newer || err != nil {
		t.Errorf("newer %v, %v, of the same file", newer, err)
	}
	f.write("token", []byte(fresh))
	if newer, err := v.store.Refresh(); !newer || err != nil {
		t.Errorf("newer %v, %v, of a new file", newer, err)
	}
	accept(fresh)
	v.uplink.Reconnect("the token expires")
	f.wait("a connection with the new token", func() bool { return v.uplink.State().Connections == 2 })
	v.add(2)
	v.delivered()
	if s := v.uplink.State(); s.Losses != 0 || s.Refusals != 1 || v.store.Expiring() != "" || v.store.Renewal().Before(time.Now()) {
		t.Errorf("%+v, %q, due %s", s, v.store.Expiring(), v.store.Renewal())
	}
}

// TestRefusedToken: the broker does not want a token that looks good: the alarm says what is known of it.
func TestRefusedToken(t *testing.T) {
	f, accept := login(t)
	accept("another")
	f.withToken(credential.Token{File: f.write("token", []byte(lasting(time.Now(), time.Now().Add(time.Hour))))}).
		refused("uplink.credentials", "CONNACK", "is valid until")
}

func TestTokenCommand(t *testing.T) {
	f, accept := login(t)
	first, second := lasting(time.Now(), time.Now().Add(time.Hour)), lasting(time.Now(), time.Now().Add(2*time.Hour))
	file := f.write("answer", []byte(first))
	count := filepath.Join(f.dir, "count")
	program := f.write("token.sh", []byte("#!/bin/sh\necho asked >>"+count+"\ncat "+file+"\n"))
	asked := func() int {
		text, _ := os.ReadFile(count)
		return strings.Count(string(text), "asked")
	}
	accept(first)
	v := f.withToken(credential.Token{Command: []string{"/bin/sh", program}})
	v.delivered()
	v.uplink.Reconnect("a token that is good for long is shown again")
	f.wait("a second connection", func() bool { return v.uplink.State().Connections == 2 })
	if n := asked(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	if newer, err := v.store.Refresh(); newer || err != nil {
		t.Errorf("newer %v, %v, of the same answer", newer, err)
	}
	f.write("answer", []byte(second))
	if newer, err := v.store.Refresh(); !newer || err != nil {
		t.Errorf("newer %v, %v", newer, err)
	}
	accept(second)
	v.uplink.Reconnect("the new one")
	f.wait("a third connection", func() bool { return v.uplink.State().Connections == 3 })
}

func TestTokenCommandFails(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		command []string
		words   []string
	}{
		"not there": {[]string{filepath.Join(dir, "nowhere")}, []string{"nowhere"}},
		"exit code": {[]string{"/bin/sh", "-c", "echo geheim >&2; exit 3"}, []string{"exit status 3"}},
		"silent":    {[]string{"/bin/true"}, []string{"no token"}},
		"chatty":    {[]string{"/bin/echo", "the token is geheim"}, []string{"one word"}},
		"endless":   {[]string{"/bin/sh", "-c", "while :; do echo geheimgeheimgeheimgeheim; done"}, []string{"did not end within"}},
		"hanging":   {[]string{"/bin/sh", "-c", "sleep 100 & sleep 100"}, []string{"did not end within"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := credential.New(credential.Options{Token: credential.Token{Command: c.command, Timeout: 300 * time.Millisecond},
				Now: func() (time.Time, bool) { return time.Now(), true }})
			_, err := s.PasswordOrToken()
			if err == nil {
				t.Fatal("taken")
			}
			for _, w := range append(c.words, "token_command", c.command[0]) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: no %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
}

// FuzzToken: any text is a token with or without times, or an error that does not show it.
func FuzzToken(f *testing.F) {
	f.Add([]byte(lasting(time.Unix(1, 0), time.Unix(2, 0))))
	f.Add([]byte(jwt(`{"exp":1e300,"nbf":-1,"iat":"x"}`)))
	f.Add([]byte("a.b.c"))
	f.Add([]byte(".."))
	f.Add([]byte("opaque\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s := credential.New(credential.Options{Token: credential.Token{File: file}, Now: func() (time.Time, bool) { return time.Unix(1e9, 0), false }})
		got, err := s.PasswordOrToken()
		if err == nil && (got == "" || len(got) > 1<<16 || !strings.Contains(string(text), got)) {
			t.Errorf("took %q of %q", got, text)
		}
		s.Renewal()
		_ = s.Expiring()
		_ = s.Explain()
	})
}
