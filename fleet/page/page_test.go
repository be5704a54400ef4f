package page

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

// The policy names no host but that of the tiles, and an address that could smuggle another directive in is refused.
func TestPolicy(t *testing.T) {
	for tiles, want := range map[string]string{
		"":                                      "img-src 'self' data:;",
		"https://tiles.example/{z}/{x}/{y}.png": "img-src 'self' data: https://tiles.example;",
		"http://127.0.0.1:8081/{z}/{x}/{y}.png?a=b":     "img-src 'self' data: http://127.0.0.1:8081;",
		"https://tiles.example/{z}/{x}.png":             "",
		"//tiles.example/{z}/{x}/{y}":                   "",
		"javascript:{z}{x}{y}":                          "",
		"https://user:secret@tiles.example/{z}/{x}/{y}": "",
		"https://a;script-src *;/{z}/{x}/{y}":           "",
	} {
		got, err := Options{Tiles: tiles}.policy()
		if (err == nil) != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, %v; want %q", tiles, got, err, want)
		}
	}
}

func TestIndexCarriesSettingsAsText(t *testing.T) {
	parts := fstest.MapFS{"vendor/uplot/uPlot.iife.min.js": {}, "vendor/leaflet/leaflet.js": {}, "index.html": {Data: []byte(`<meta content="{{settings}}">`)}}
	text, err := Options{TilesCredit: `"><script>alert(1)</script>`}.index(parts)
	if err != nil || strings.Contains(string(text), "<script>") || !strings.Contains(string(text), "&#34;credit&#34;") {
		t.Errorf("%s %v", text, err)
	}
	delete(parts, "vendor/leaflet/leaflet.js")
	if text, err := (Options{}).index(parts); text != nil || err != nil {
		t.Errorf("a page without its map: %s %v", text, err)
	}
}

func TestHandler(t *testing.T) {
	h, err := Handler(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for path, method := range map[string]string{"/js/": "GET", "/../page.go": "GET", "/": "POST"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code < 400 || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s %s: %d", method, path, w.Code)
		}
	}
}
