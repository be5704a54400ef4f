package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// signed is an image as metadata would vouch for it.
type signed struct{ data []byte }

func (s signed) Name() string   { return "agent.elf" }
func (s signed) Remote() string { return "agent.elf" }
func (s signed) Length() int64  { return int64(len(s.data)) }
func (s signed) Hash(algorithm string) []byte {
	if algorithm != "sha256" {
		return nil
	}
	sum := sha256.Sum256(s.data)
	return sum[:]
}

func (s signed) Open(path string) (*os.File, error) {
	return openVerified(path, identity{sum: sha256.Sum256(s.data)})
}

// noise is an image that no compression makes smaller.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // never fails
	return b
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// options are quick ones.
func options(dir string, image []byte, mirrors ...string) Options {
	o := Options{
		Dir: dir, Image: signed{image}, Campaign: "c1", Backoff: time.Millisecond, BackoffMax: 4 * time.Millisecond,
		GateEvery: time.Millisecond, Reserve: 1, Log: quiet(),
	}
	for _, m := range mirrors {
		o.Mirrors = append(o.Mirrors, Mirror{Base: m})
	}
	return o
}

// deliver runs a download that has to succeed, and holds it against the image.
func deliver(t testing.TB, o Options) *Delivery {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d)
	return d
}

func run(t testing.TB, d *Delivery) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f, err := d.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	isImage(t, d, f)
}

func isImage(t testing.TB, d *Delivery, f *os.File) {
	t.Helper()
	defer f.Close()
	if err := holds(f, d.o.Image.(signed).data); err != nil {
		t.Fatal(err)
	}
}

func holds(f *os.File, want []byte) error {
	got, err := io.ReadAll(f)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes that are not the image", len(got))
	}
	return err
}

// refused runs a download that has to end with an error, and nothing to use.
func refused(t testing.TB, o Options, want error) *Delivery {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f, err := d.Run(ctx)
	if !errors.Is(err, want) {
		t.Fatalf("ends with %v, want %v", err, want)
	}
	if f != nil {
		t.Fatal("a file beside an error")
	}
	if _, err := d.Finished(); err == nil {
		t.Fatal("it is finished all the same")
	}
	return d
}

// site is a mirror that can be made bad, and counts what it sends.
type site struct {
	*httptest.Server
	requests, sent atomic.Int64 // sent: bytes of bodies
	mu             sync.Mutex
	ranges         []string
}

func (s *site) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ranges...)
}

type countedWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w countedWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.sent.Add(int64(n))
	return n, err
}

func newSite(t testing.TB, handle http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		s.mu.Lock()
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		s.mu.Unlock()
		handle(countedWriter{w, &s.sent}, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // broken answers are what is tested
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// serve answers as Go's own file server does.
func serve(data []byte, tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}
