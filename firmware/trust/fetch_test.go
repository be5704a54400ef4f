package trust_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
)

// Slow retrieval: a mirror that sends a byte now and then, or nothing after the first, and so would hold the vehicle for ever.
func TestSlowRetrieval(t *testing.T) {
	for name, serve := range map[string]func(http.ResponseWriter, *http.Request){
		"drips": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			for range 1000 {
				fmt.Fprint(w, "x")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		},
		"stops": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"never begins": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(serve))
			defer server.Close()
			h, err := trust.NewHTTP(trust.HTTPOptions{Base: server.URL, Least: 1000, Window: 100 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			b := newBed(t, 1)
			b.mirrors = []trust.Fetcher{h}
			b.unmoved(func() { is(t, b.refresh(), trust.Slow) }, "root.json", "root.copy")
		})
	}
}

func TestHTTP(t *testing.T) {
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		switch r.URL.Path {
		case "/m/ten":
			fmt.Fprint(w, "0123456789")
		case "/m/chunked":
			fmt.Fprint(w, "01234")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "56789")
		case "/m/denied":
			http.Error(w, "", http.StatusForbidden)
		case "/m/busy":
			http.Error(w, "", http.StatusServiceUnavailable)
		case "/m/away":
			http.Redirect(w, r, "http://192.0.2.1/x", http.StatusFound)
		case "/m/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "0123")
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	h, err := trust.NewHTTP(trust.HTTPOptions{Base: server.URL + "/m", Client: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	b := newBed(t, 1)
	target := func(name string, limit int64) (string, error) {
		var got bytes.Buffer
		err := h.Fetch(context.Background(), name, limit, &got)
		return got.String(), err
	}
	for _, c := range []struct {
		name  string
		limit int64
		want  trust.Reason
	}{{"ten", 10, ""}, {"chunked", 10, ""}, {"ten", 9, trust.TooLong}, {"chunked", 9, trust.TooLong}, {"none", 9, trust.NotFound},
		{"denied", 9, trust.NotFound}, {"busy", 9, trust.Unreachable}, {"away", 9, trust.Unreachable}, {"cut", 100, trust.Unreachable}} {
		got, err := target(c.name, c.limit)
		if c.want == "" {
			if err != nil || got != "0123456789" {
				t.Errorf("%s: %q %v", c.name, got, err)
			}
			continue
		}
		// A client names the reason; its refresh with such a mirror ends with it.
		if err == nil || int64(len(got)) > c.limit {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
		if c.want != trust.NotFound {
			b.mirrors = []trust.Fetcher{renamed{h, c.name, c.limit}}
			is(t, b.refresh(), c.want)
		}
	}
	if _, err := target("1.%2Fa%3F.json", 9); err == nil || asked != "/m/1.%2Fa%3F.json" {
		t.Errorf("asked for %s", asked)
	}
	for _, base := range []string{"http://example.com/", "ftp://127.0.0.1/", "https://", "127.0.0.1", "https://a/?x=1", "https://a/#x", "http://127.0.0.1.example.com/", ":"} {
		if _, err := trust.NewHTTP(trust.HTTPOptions{Base: base}); err == nil {
			t.Errorf("%s is taken", base)
		}
	}
	for _, base := range []string{"https://example.com", "http://localhost:8080", "http://[::1]/a", "http://127.1.2.3/a/"} {
		if _, err := trust.NewHTTP(trust.HTTPOptions{Base: base}); err != nil {
			t.Error(err)
		}
	}
	if _, err := trust.NewHTTP(trust.HTTPOptions{Base: "http://user:secret@example.com/"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// renamed asks its mirror for one file, whatever it is asked for.
type renamed struct {
	trust.Fetcher
	name  string
	limit int64
}

func (r renamed) Fetch(ctx context.Context, _ string, _ int64, w io.Writer) error {
	return r.Fetcher.Fetch(ctx, r.name, r.limit, w)
}
