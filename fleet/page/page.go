// Package page is the fleet page: what a person looks at. It serves files that are built into the program and asks for nothing
// elsewhere; all that it shows comes from package api, in the browser.
package page

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"
)

//go:embed static
var files embed.FS

// Options of the page.
type Options struct {
	// Tiles is the address of map tiles, with {z}, {x} and {y}, such as an operator's own server has; empty: the map is a
	// grid, and nothing is asked of any other host. TilesCredit names their makers.
	Tiles, TilesCredit string
}

// missing is shown in place of the page while others' parts were not built in.
const missing = "This program was built without the parts of its page that are others' work.\n\n" +
	"Run `make assets` in the repository and build again; `make build` does both.\n"

// Handler serves the page at / and its files.
func Handler(o Options) (http.Handler, error) {
	static, err := fs.Sub(files, "static")
	if err != nil {
		return nil, err
	}
	policy, err := o.policy()
	if err != nil {
		return nil, err
	}
	index, err := o.index(static)
	if err != nil {
		return nil, err
	}
	serve := http.FileServerFS(static)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		switch {
		case q.Method != http.MethodGet && q.Method != http.MethodHead:
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
		case index == nil:
			http.Error(w, missing, http.StatusNotImplemented)
		case q.URL.Path == "/":
			h.Set("Content-Type", "text/html; charset=utf-8")
			http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(index))
		case strings.HasSuffix(q.URL.Path, "/"):
			http.NotFound(w, q)
		default:
			serve.ServeHTTP(w, q)
		}
	}), nil
}

// policy lets the page load from its own host only; pictures from that of the tiles as well.
func (o Options) policy() (string, error) {
	tiles := ""
	if o.Tiles != "" {
		u, err := url.Parse(o.Tiles)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return "", fmt.Errorf("map tiles %q: want an address such as https://tiles.example/{z}/{x}/{y}.png", o.Tiles)
		}
		for _, part := range []string{"{z}", "{x}", "{y}"} {
			if !strings.Contains(o.Tiles, part) {
				return "", fmt.Errorf("map tiles %q: there is no %s in it", o.Tiles, part)
			}
		}
		if strings.ContainsAny(u.Host, "{};, ") {
			return "", fmt.Errorf("map tiles %q: the host must be one", o.Tiles)
		}
		tiles = " " + u.Scheme + "://" + u.Host
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:" + tiles +
		"; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nil
}

// index is the page's document with its settings; nil while others' parts are missing.
func (o Options) index(static fs.FS) ([]byte, error) {
	for _, part := range []string{"vendor/uplot/uPlot.iife.min.js", "vendor/leaflet/leaflet.js"} {
		if _, err := fs.Stat(static, part); err != nil {
			return nil, nil
		}
	}
	text, err := fs.ReadFile(static, "index.html")
	if err != nil {
		return nil, err
	}
	settings, err := json.Marshal(map[string]string{"tiles": o.Tiles, "credit": o.TilesCredit})
	if err != nil {
		return nil, err
	}
	return bytes.Replace(text, []byte("{{settings}}"), []byte(html.EscapeString(string(settings))), 1), nil
}
