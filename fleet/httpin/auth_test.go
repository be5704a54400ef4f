package httpin

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func writeTokens(t *testing.T, file string, lines map[string]string) {
	t.Helper()
	text := "# tenant: sha256\n\n"
	for secret, tenant := range lines {
		text += fmt.Sprintf("%s: %x\n", tenant, sha256.Sum256([]byte(secret)))
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	writeTokens(t, file, map[string]string{"secret-a": "acme", "secret-b": "other", "secret-broker": "*"})
	tokens, err := OpenTokens(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, v := newBed(t, Options{Tokens: tokens}), newVehicle(t, "car-1")
	p := payload(v.control())
	for token, want := range map[string]int{"": 401, "Bearer secret-a": 200, "bearer secret-a": 200, "Bearer secret-b": 403, "Bearer secret-broker": 200, "Bearer nonsense": 401, "Basic c2VjcmV0": 401, "Bearer ": 401} {
		resp, body := b.post(v.path("control"), p, "Authorization", token)
		if resp.StatusCode != want {
			t.Errorf("%q: %s, want %d", token, resp.Status, want)
		}
		if want == 401 && resp.Header.Get("WWW-Authenticate") == "" || want != 200 && resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%q: %v %s", token, resp.Header, body)
		}
	}
	// A token for one tenant does not open another's by the envelope or by a webhook's topic.
	other := newVehicle(t, "car-1")
	other.tenant = "other"
	if resp, _ := b.post("/v1/batches", protowire.AppendBytes(nil, other.control()), "Authorization", "Bearer secret-a"); resp.StatusCode != 403 {
		t.Errorf("a batch of another tenant in the list: %s", resp.Status)
	}
	text := `{"topic":"wb1/other/car-1/up/control","payload_hex":""}`
	if resp, _ := b.post("/v1/webhook", []byte(text), "Authorization", "Bearer secret-a", "Content-Type", typeJSON); resp.StatusCode != 403 {
		t.Errorf("a webhook with another tenant's topic: %s", resp.Status)
	}
	// The file is read again; a broken one leaves the last good one.
	status := func(token string) int {
		tokens.mu.Lock()
		tokens.looked = time.Time{}
		tokens.mu.Unlock()
		resp, _ := b.post(v.path("control"), p, "Authorization", "Bearer "+token)
		return resp.StatusCode
	}
	writeTokens(t, file, map[string]string{"secret-new": "acme"})
	if status("secret-a") != 401 || status("secret-new") != 200 {
		t.Error("the changed file was not read")
	}
	if err := os.WriteFile(file, []byte("acme: short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status("secret-new") != 200 || status("secret-a") != 401 {
		t.Error("a broken file changed who may come in")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(file, nil); err == nil {
		t.Error("an empty file was accepted at start")
	}
}

func TestWhoMayListen(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1:0": "", "localhost:80": "", "[::1]:80": "", "0.0.0.0:80": "certificate", ":80": "certificate", "192.0.2.1:80": "certificate", "nonsense": "address"} {
		err := (&Options{}).Check(address)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	withTLS := certificates(t).server(t)
	if err := (&Options{TLS: withTLS}).Check("0.0.0.0:443"); err != nil {
		t.Errorf("TLS and client certificates: %v", err)
	}
	withTLS.ClientCAs = nil
	if err := (&Options{TLS: withTLS}).Check("0.0.0.0:443"); err == nil || !strings.Contains(err.Error(), "who they are") {
		t.Errorf("TLS without authentication: %v", err)
	}
}

func TestCertificateIsTheDevice(t *testing.T) {
	ca := certificates(t)
	b := newBed(t, Options{TLS: ca.server(t)})
	v, other := newVehicle(t, "car-1"), newVehicle(t, "car-2")
	for _, test := range []struct {
		name         string
		organisation string
		device       string
		path         string
		body         []byte
		want         int
	}{
		{"itself", "acme", "car-1", v.path("control"), payload(v.control()), 200},
		{"another device", "acme", "car-1", other.path("control"), payload(other.control()), 403},
		{"another device in the list", "acme", "car-1", "/v1/batches", protowire.AppendBytes(nil, other.control()), 403},
		{"another tenant", "other", "car-1", v.path("control"), payload(v.control()), 403},
		{"no tenant", "", "car-1", v.path("control"), payload(v.control()), 403},
		{"no name that can be one", "acme", "car/1", v.path("control"), payload(v.control()), 403},
		{"no certificate", "", "", v.path("control"), payload(v.control()), 401},
	} {
		b.http.CloseIdleConnections()
		b.http = ca.client(t, test.organisation, test.device)
		if resp, body := b.post(test.path, test.body); resp.StatusCode != test.want {
			t.Errorf("%s: %s %s, want %d", test.name, resp.Status, body, test.want)
		}
	}
	b.http.CloseIdleConnections()
	b.http = certificates(t).client(t, "acme", "car-1") // another authority's
	if _, _, err := b.try(v.path("control"), payload(v.control())); err == nil {
		t.Error("a certificate of an unknown authority was taken")
	}
}
