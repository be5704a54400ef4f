package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	"github.com/waybill-telematics/waybill/test/deps"
)

var databases atomic.Int64

// quick has a server spend no time on what only a kill would show.
func quick(t testing.TB) *deps.PostgreSQL {
	return deps.Postgres(t, "fsync = off", "full_page_writes = off", "deadlock_timeout = 100ms")
}

// fresh makes an empty database.
func fresh(t testing.TB, p *deps.PostgreSQL) (url string) {
	return p.Database(t, fmt.Sprintf("fleet%d", databases.Add(1)))
}

func options() Options {
	return Options{Rand: rand.Reader, LetterBytes: storetest.LetterBytes, Letters: storetest.Letters}
}

func open(t testing.TB, url string, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
