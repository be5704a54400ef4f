package page

import (
	"embed"
	"io/fs"
	"net/http"
	"strings"
)

//go:embed static
var files embed.FS

// policy lets the page load from this agent only.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// static serves the page's files. Charts are others' work (assets.txt): where they were not built in, the page says so and
// shows the rest.
func static() http.Handler {
	folder, err := fs.Sub(files, "static")
	if err != nil { // the name above is wrong
		panic(err)
	}
	serve := http.FileServerFS(folder)
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		if q.URL.Path != "/" && strings.HasSuffix(q.URL.Path, "/") {
			http.NotFound(w, q)
			return
		}
		serve.ServeHTTP(w, q)
	})
}
