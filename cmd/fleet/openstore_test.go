package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// TestStoreFlags: what --db takes, and that no message shows a password.
func TestStoreFlags(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for _, c := range []struct{ db, file, want string }{
		{"fleet.db", "", "file"},
		{"a b#?.db", "", "file"},
		{"postgres://fleet@127.0.0.1:5432/fleet", "", "postgres://fleet@127.0.0.1:5432/fleet"},
		{"postgresql://fleet@localhost/fleet", "pw", "postgresql://fleet@localhost/fleet"},
		{"postgres:///fleet?host=/run/postgresql", "", "postgres:///fleet?host=/run/postgresql"},
		{"postgres://fleet@db.example/fleet", "", "postgres://fleet@db.example/fleet?sslmode=verify-full"},
		{"postgres://fleet@db.example/fleet?sslmode=disable", "", "postgres://fleet@db.example/fleet?sslmode=disable"},
		{"postgres://fleet:hush@db.example/fleet", "", "error"},
		{"postgres://fleet@db.example/fleet?password=hush", "", "error"},
		{"postgres://fleet:hush@[::1/fleet", "", "error"},
		{"mysql://fleet:hush@db/fleet", "", "error"},
		{"fleet.db", "pw", "error"},
	} {
		f := storeFlags{c.db, c.file}
		got, isURL, err := f.postgres()
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the message shows the password: %v", c.db, err)
		}
		switch {
		case err != nil:
			got = "error"
		case !isURL:
			got = "file"
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.db, got, err, c.want)
		}
	}
	// Nobody listens there; the words of the driver show no password either.
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, code := run("ls", "--db", "postgres://fleet@127.0.0.1:1/fleet", "--db-password-file", file)
	if code != cli.Failed || strings.Contains(text, "hush") || !strings.Contains(text, "127.0.0.1") {
		t.Errorf("exit code %d: %s", code, text)
	}
	if text, code := run("gaps"); code != cli.Usage || !strings.Contains(text, "--db is needed") {
		t.Errorf("exit code %d: %s", code, text)
	}
}
