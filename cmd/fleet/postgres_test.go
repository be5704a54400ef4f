//go:build system

package main

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	s, err := postgres.Open(context.Background(), p.URL("postgres"), postgres.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	expect(cli.OK, "is generation", "restored", "--db", db, "--db-password-file", file)
	expect(cli.OK, "0 devices", "ls", "--db", db, "--db-password-file", file)
	t.Setenv("PGPASSFILE", pass)
	expect(cli.OK, "0 devices", "ls", "--db", db)
	for _, name := range []string{"gaps", "losses", "dead", "samples"} {
		expect(cli.OK, "", name, "--db", db)
	}
}
