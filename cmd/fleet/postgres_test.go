//go:build system

package main

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/postgres"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestCommandsOnPostgres: the password comes from a file or PGPASSFILE, and the commands make, read and mark the same store.
func TestCommandsOnPostgres(t *testing.T) {
	p := deps.Postgres(t, "fsync = off")
	db := "postgres://waybill@" + p.Addr + "/postgres"
	dir := t.TempDir()
	file, pass := filepath.Join(dir, "password"), filepath.Join(dir, "pgpass")
	for name, text := range map[string]string{file: p.Password + "\n", pass: "*:*:*:*:" + p.Password + "\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(code int, words string, args ...string) {
		t.Helper()
		text, got := run(args...)
		if got != code || !strings.Contains(text, words) || strings.Contains(text, p.Password) {
			t.Errorf("%v: exit code %d: %s", args, got, text)
		}
	}
	expect(cli.Failed, "password", "ls", "--db", db)
	expect(cli.Failed, "the database is empty", "ls", "--db", db, "--db-password-file", file)
	expect(cli.Failed, "the database is empty", "restored", "--db", db, "--db-password-file", file)
	expect(cli.Failed, "the database is empty", "erase", "acme/car-1", "--db", db, "--db-password-file", file)
	s, err := postgres.Open(context.Background(), p.URL("postgres"), postgres.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	expect(cli.OK, "is generation", "restored", "--db", db, "--db-password-file", file)
	expect(cli.OK, "0 devices", "ls", "--db", db, "--db-password-file", file)
	expect(cli.Failed, "no such device", "erase", "acme/car-1", "--db", db, "--db-password-file", file)
	t.Setenv("PGPASSFILE", pass)
	expect(cli.OK, "0 devices", "ls", "--db", db)
	expect(cli.OK, "looked at 0 hours", "derive", "--db", db, "--device", "car-1", "--from", "2026-11-22T12:00:00Z")
	expect(cli.Usage, "want a time such as", "derive", "--db", db, "--to", "yesterday")
	for _, name := range []string{"gaps", "losses", "dead", "samples"} {
		expect(cli.OK, "", name, "--db", db)
	}
}

// TestServeWaitsForTheDatabase: a database that starts after serve is waited for; a password that is wrong is not.
func TestServeWaitsForTheDatabase(t *testing.T) {
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	p := deps.Postgres(t, "fsync = off")
	args := func(password string) []string {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"serve", "--broker", broker.URL(), "--db", "postgres://waybill@" + p.Addr + "/postgres", "--db-password-file", file, "--json", "--every", "100ms"}
	}
	if text, code := run(args("not it")...); code == cli.OK || !strings.Contains(text, "password") {
		t.Errorf("exit code %d: %s", code, text)
	}
	p.Kill()
	var out lockedBuffer
	serving := child(t, &out, args(p.Password)...)
	time.Sleep(2 * storeAgain)
	if out.String() != "" {
		t.Fatalf("without a database: %s", out.String())
	}
	p.Start()
	for end := time.Now().Add(time.Minute); !strings.Contains(out.String(), `"connected":true`); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not serve: %s", out.String())
		}
	}
	if err := serving.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serving.Wait(); err != nil {
		t.Error(err)
	}
}
