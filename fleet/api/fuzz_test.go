package api_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// No question, however strange, is answered by a failure of the server.
func FuzzQuestions(f *testing.F) {
	s, err := store.Open(context.Background(), filepath.Join(f.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	if err := s.Update(context.Background(), func(tx store.Tx) error { _, err := tx.Device("acme", "car-1", time.Now()); return err }); err != nil {
		f.Fatal(err)
	}
	server, err := api.New(api.Options{Reader: s.Reads()})
	if err != nil {
		f.Fatal(err)
	}
	var paths []string
	for _, r := range api.Routes() {
		if path, ok := strings.CutPrefix(r, "GET "); ok && path != "/live" {
			paths = append(paths, strings.NewReplacer("{tenant}", "acme", "{device}", "car-1").Replace(path))
		}
	}
	for i := range paths {
		f.Add(uint8(i), "limit=2&cursor=YWNtZS9jYXItMQ")
		f.Add(uint8(i), "from=1&to=1795348800000&points=5000&signal=a")
		f.Add(uint8(i), "q=%25_%27%3B--&tenant=%00&device='")
		f.Add(uint8(i), "cursor=MS8yLzM&source=gps0")
	}
	f.Fuzz(func(t *testing.T, path uint8, query string) {
		q := httptest.NewRequest(http.MethodGet, api.Prefix+paths[int(path)%len(paths)], nil)
		q.URL.RawQuery = query
		w := httptest.NewRecorder()
		server.ServeHTTP(w, q)
		if w.Code >= 500 {
			t.Errorf("%s?%s: %d %s", q.URL.Path, query, w.Code, w.Body)
		}
	})
}

// What is no token file lets nobody in, and no error shows what stands in it.
func FuzzTokens(f *testing.F) {
	f.Add("acme: " + strings.Repeat("ab", 32) + " erase\n# remark\n*:" + strings.Repeat("00", 32))
	f.Add("acme: mysecret")
	f.Add(":\n::\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "tokens")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tokens, err := api.OpenTokens(file)
		if err != nil && strings.Contains(text, "mysecret") && strings.Contains(err.Error(), "mysecret") {
			t.Errorf("the error shows a secret: %v", err)
		}
		q := &http.Request{Header: http.Header{"Authorization": {"Bearer " + url.QueryEscape(text)}}}
		if who, err := tokens.Who(q); err == nil {
			t.Errorf("let in as %+v", who)
		}
	})
}
