package buffer_test

import (
	"crypto/rand"
	"log/slog"
	"os"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// options for tests: small segments, so that they roll.
func options(t testing.TB) buffer.Options {
	o := buffer.Options{SegmentBytes: 256 << 10, MaxBytes: 64 << 20, Rand: rand.Reader}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return o
}

func open(t testing.TB, dir string, o buffer.Options) *buffer.Queue {
	t.Helper()
	q, err := buffer.Open(dir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func TestQueue(t *testing.T) {
	buffertest.Suite(t, buffertest.Disks{New: func(t *testing.T, maxBytes int64) buffertest.Place {
		dir := t.TempDir()
		o := options(t)
		if maxBytes > 0 {
			o.MaxBytes = maxBytes
		}
		var q *buffer.Queue
		return buffertest.Place{
			Open: func() (_ buffertest.Queue, err error) {
				q, err = buffer.Open(dir, o)
				return q, err
			},
			Crash: func() { q.Abandon() },
		}
	}})
}
