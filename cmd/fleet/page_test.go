package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func TestPageRefusesStrangers(t *testing.T) {
	for _, c := range []struct {
		f    pageFlags
		says string
	}{
		{pageFlags{}, ""},
		{pageFlags{listen: "127.0.0.1:0"}, ""},
		{pageFlags{listen: "[::1]:0"}, ""},
		{pageFlags{listen: "8080"}, "want an address"},
		{pageFlags{listen: ":8080"}, "others could reach it"},
		{pageFlags{listen: "0.0.0.0:8080", tokens: "t"}, "others could reach it"},
		{pageFlags{listen: "0.0.0.0:8080", cert: "c", key: "k"}, "others could reach it"},
		{pageFlags{listen: "0.0.0.0:8080", tokens: "t", cert: "c"}, "belong together"},
		{pageFlags{listen: "0.0.0.0:8080", tokens: "t", cert: "c", key: "k"}, ""},
		{pageFlags{tokens: "t"}, "are for --page"},
	} {
		err := c.f.check()
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.f, err, c.says)
		}
	}
}

// pageOn serves a page over an empty store and returns its address.
func pageOn(t *testing.T, f pageFlags) string {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	f.listen = "127.0.0.1:0"
	stop, err := f.start(context.Background(), s, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); s.Close() })
	_, rest, ok := strings.Cut(log.String(), "url=")
	if !ok {
		t.Fatalf("no address in %s", &log)
	}
	return strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0])
}

func ask(t *testing.T, url string, change func(*http.Request)) (int, http.Header, string) {
	t.Helper()
	q, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(q)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(text)
}

func TestPageIsForThisMachineOnly(t *testing.T) {
	url := pageOn(t, pageFlags{})
	status, head, text := ask(t, url, nil)
	// Without `make assets` the page says what to run.
	if status != 200 && (status != 501 || !strings.Contains(text, "make assets")) || !strings.Contains(head.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v\n%.300s", status, head, text)
	}
	if status, _, text := ask(t, url+"api/v1/counts", nil); status != 200 {
		t.Errorf("%d %s", status, text)
	}
	for name, change := range map[string]func(*http.Request){
		"a name that leads here": func(q *http.Request) { q.Host = "evil.example" },
		"a foreign site": func(q *http.Request) {
			q.Header.Set("Sec-Fetch-Site", "cross-site")
			q.Header.Set("Sec-Fetch-Mode", "no-cors")
		},
	} {
		if status, _, _ := ask(t, url+"api/v1/counts", change); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status, _, _ := ask(t, url+"api/v1/devices/a/b", func(q *http.Request) { q.Method = "DELETE" }); status == 200 {
		t.Error("erased without a token")
	}
}

func TestPageAsksForTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, fmt.Appendf(nil, "*: %x\n", sha256.Sum256([]byte("secret"))), 0o600); err != nil {
		t.Fatal(err)
	}
	url := pageOn(t, pageFlags{tokens: file})
	if status, _, _ := ask(t, url+"api/v1/counts", nil); status != 401 {
		t.Errorf("without a token: %d", status)
	}
	if status, _, _ := ask(t, url+"api/v1/counts", func(q *http.Request) { q.Header.Set("Authorization", "Bearer secret") }); status != 200 {
		t.Errorf("with it: %d", status)
	}
	if status, _, text := ask(t, url, nil); status == 401 || strings.Contains(text, "secret") {
		t.Errorf("the page itself: %d", status)
	}
}

func TestEraseCommand(t *testing.T) {
	db := filepath.Join(t.TempDir(), "fleet.db")
	run := func(args ...string) (int, string) {
		var out, stderr bytes.Buffer
		root := rootCommand()
		root.SetOut(&out)
		code := cli.Execute(root, args, &stderr)
		return code, out.String() + stderr.String()
	}
	if code, text := run("erase", "acme/car-1", "--db", db); code != cli.Failed || !strings.Contains(text, "no such file") {
		t.Errorf("%d %s", code, text)
	}
	s, err := store.Open(context.Background(), db, store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(context.Background(), func(tx store.Tx) error { _, err := tx.Device("acme", "car-1", time.Now()); return err }); err != nil {
		t.Fatal(err)
	}
	if code, text := run("erase", "acme/car-1", "--db", db); code != cli.Failed || !strings.Contains(text, "DELETE") {
		t.Errorf("in use: %d %s", code, text)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{"acme/car-1": "batch keys", "acme/car-2": "no such device", "acme": "TENANT/DEVICE"} {
		if _, text := run("erase", args, "--db", db); !strings.Contains(text, want) {
			t.Errorf("%s: %s", args, text)
		}
	}
}
