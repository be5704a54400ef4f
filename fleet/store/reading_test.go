package store_test

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/test/readtest"
)

// TestReading: the latest position is the one that every store has to name. The rest is asked beside PostgreSQL (fleet/postgres).
func TestReading(t *testing.T) {
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "a.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	readtest.LatestPosition(t, s)
}
