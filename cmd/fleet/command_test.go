package main

import (
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/uplink/command"
)

func TestKeygen(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ops")
	text, code := run("command", "keygen", name)
	if code != cli.OK {
		t.Fatal(text)
	}
	key, err := readKey(name + ".key")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(name + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	public, err := command.ParsePublic(pub)
	if err != nil || !public.Equal(key.Public()) || !strings.Contains(text, command.IDOf(public).String()) {
		t.Errorf("the public key is not that of the private one, or not told: %v %s", err, text)
	}
	if info, _ := os.Stat(name + ".key"); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, code := run("command", "keygen", name); code != cli.Failed {
		t.Error("a key was overwritten")
	}
	secret, _ := os.ReadFile(name + ".key")
	if _, err := command.ParsePublic(secret); err == nil || strings.Contains(err.Error(), strings.Split(string(secret), "\n")[1]) {
		t.Errorf("a private key taken for a public one, or shown: %v", err)
	}
	if err := os.Chmod(name+".key", 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := readKey(name + ".key"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
}

// TestOpenSSL: another implementation makes keys that we read, and finds our signatures good.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		deps.Missing(t, "openssl is not installed")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ssl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	ssl("genpkey", "-algorithm", "ed25519", "-out", at("a.key"))
	ssl("pkey", "-in", at("a.key"), "-pubout", "-out", at("a.pub"))
	if err := os.Chmod(at("a.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := readKey(at("a.key"))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(at("a.pub"))
	public, err := command.ParsePublic(text)
	if err != nil || !public.Equal(key.Public().(ed25519.PublicKey)) {
		t.Fatal(err)
	}
	message, err := command.Sign(key, &telemetrypb.DownBody{Tenant: "acme", Device: "car-1", Counter: 1, Id: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var down telemetrypb.Down
	if err := proto.Unmarshal(message, &down); err != nil {
		t.Fatal(err)
	}
	// What is signed, put together from the document and not from our code.
	if err := os.WriteFile(at("signed"), append([]byte("waybill down 1\x00"), down.GetSigned()...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("signature"), down.GetSignature(), 0o600); err != nil {
		t.Fatal(err)
	}
	ssl("pkeyutl", "-verify", "-pubin", "-inkey", at("a.pub"), "-rawin", "-in", at("signed"), "-sigfile", at("signature"))
}

func TestCounters(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ops")
	if _, err := makeKey(name); err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_800_000_000_000)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var all sync.WaitGroup
	for range 4 { // at the same time
		all.Go(func() {
			for range 10 {
				n, err := nextCounter(name+".key", now)
				mu.Lock()
				if err != nil || seen[n] || n < 1_800_000_000_000 {
					t.Errorf("counter %d (again: %v): %v", n, seen[n], err)
				}
				seen[n] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if n, err := nextCounter(name+".key", time.UnixMilli(0)); err != nil || n != 1_800_000_000_040 { // a clock that fell back
		t.Errorf("counter %d: %v", n, err)
	}
	if err := os.Remove(name + ".counter"); err != nil {
		t.Fatal(err)
	}
	if n, err := nextCounter(name+".key", now.Add(time.Hour)); err != nil || seen[n] || n <= 1_800_000_000_040 {
		t.Errorf("after the file was lost: %d, %v", n, err)
	}
	if err := os.WriteFile(name+".counter", []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nextCounter(name+".key", now); err == nil {
		t.Error("a broken counter was taken")
	}
}

func TestCommandUsage(t *testing.T) {
	good := []string{"command", "send", "--broker", "tcp://127.0.0.1:1", "--key", "x.key", "--device", "car-1"}
	for _, args := range [][]string{
		{"command", "keygen"}, {"command", "send"}, {"command", "send", "ping"}, {"command", "results"}, {"command", "nonsense"}, good,
		append(append([]string{}, good...), "ping", "level"), append(append([]string{}, good...), "ping", "a=1", "a=2"),
		append(append([]string{}, good...), "--expires", "0s", "ping"), append(append([]string{}, good...), "--expires", "1000h", "ping"),
		append(append([]string{}, good...), "--wait", "-1s", "ping"), append(append([]string{}, good...), "--tenant", "a/b", "ping"),
		{"command", "send", "--broker", "tcp://broker.example:1", "--key", "x", "--device", "car-1", "ping"},
		{"command", "send", "--broker", "tcp://127.0.0.1:1", "--key", "x", "--device", "+", "ping"},
	} {
		if text, code := run(args...); code != cli.Usage {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, cli.Usage, text)
		}
	}
	if text, code := run(append(append([]string{}, good...), "ping")...); code != cli.Failed || !strings.Contains(text, "x.key") {
		t.Errorf("a key that is not there: exit code %d: %s", code, text)
	}
	if text, code := run("command"); code != cli.OK || !strings.Contains(text, "keygen") {
		t.Errorf("help: %s", text)
	}
}
