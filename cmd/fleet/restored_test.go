package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// TestRestoredCommand: it begins a new generation of the same store, and not while somebody writes to it.
func TestRestoredCommand(t *testing.T) {
	db := filepath.Join(t.TempDir(), "fleet.db")
	open := func() *store.SQLite {
		s, err := store.Open(context.Background(), db, store.Options{Rand: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	before, name := s.Generation(), s.Name()
	if text, code := run("restored", "--db", db); code != cli.Failed || !strings.Contains(text, "stop waybill-fleet serve first") {
		t.Errorf("beside a writer: exit code %d: %s", code, text)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, code := run("restored", "--db", db)
	s = open()
	defer s.Close()
	if s.Generation() == before || s.Name() != name || code != cli.OK || text != fmt.Sprintf("store %s is generation %016x now\n", name, s.Generation()) {
		t.Errorf("generation %x, was %x; exit code %d: %s", s.Generation(), before, code, text)
	}
}
