package store_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
)

// TestSuite runs what every store has to pass, and asks SQLite for its own opinion of the file then.
func TestSuite(t *testing.T) {
	storetest.Run(t, func(t testing.TB) store.Store {
		file := filepath.Join(t.TempDir(), "a.db")
		s, err := store.Open(context.Background(), file, store.Options{Rand: rand.Reader, LetterBytes: storetest.LetterBytes, Letters: storetest.Letters})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			check(t, file)
		})
		return s
	})
}

func check(t testing.TB, file string) {
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	store.CheckRows(t, db)
}
