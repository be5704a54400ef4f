package api

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// How much one request may ask for.
const (
	defaultLimit  = 100
	maxLimit      = 500
	maxText       = 200 // bytes of a search, a name, a cursor's text
	defaultPoints = 600
	maxPoints     = 5000
	maxTrack      = 31 * 24 * time.Hour
	maxTrips      = 7 * 24 * time.Hour
	maxEvents     = 366 * 24 * time.Hour
	maxSeries     = 366 * 24 * time.Hour
)

// parameters reads a request's query; the first thing wrong is kept. done says it, and what was asked and is not known.
type parameters struct {
	q    *request
	seen map[string]bool
	err  error
}

func (q *request) parameters() *parameters { return &parameters{q: q, seen: map[string]bool{}} }

func (p *parameters) fail(format string, args ...any) {
	if p.err == nil {
		p.err = wrong(format, args...)
	}
}

func (p *parameters) text(name string) string {
	p.seen[name] = true
	values := p.q.URL.Query()[name]
	if len(values) > 1 {
		p.fail("%s: give it once", name)
	}
	if len(values) == 0 {
		return ""
	}
	if len(values[0]) > maxText {
		p.fail("%s: at most %d bytes", name, maxText)
	}
	return values[0]
}

func (p *parameters) number(name string, usual, most int) int {
	text := p.text(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		p.fail("%s: must be between 1 and %d, got %q", name, most, text)
	}
	return n
}

// instant reads RFC 3339, or Unix milliseconds.
func (p *parameters) instant(name string, usual time.Time) time.Time {
	text := p.text(name)
	if text == "" {
		return usual
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms >= 0 && ms < 1<<43 {
		return time.UnixMilli(ms).UTC()
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		p.fail("%s: want a time such as 2026-11-22T12:00:00Z, or Unix milliseconds, got %q", name, text)
	}
	return t.UTC()
}

// window is [from, to), by default the `usual` before to, which is now at the latest: nothing is shown of the future.
func (p *parameters) window(now time.Time, usual, most time.Duration) Window {
	to := p.instant("to", now)
	if to.After(now) {
		to = now
	}
	w := Window{p.instant("from", to.Add(-usual)), to}
	if p.err == nil && w.To.Sub(w.From) > most {
		p.fail("from, to: at most %v at once", most)
	}
	return w
}

// page reads limit and cursor.
func (p *parameters) page() Page {
	page := Page{Limit: p.number("limit", defaultLimit, maxLimit)}
	text, err := base64.RawURLEncoding.DecodeString(p.textOf("cursor", 4*maxText))
	if err != nil {
		p.fail("cursor: give `next` of the page before, as it was")
	}
	page.After = string(text)
	return page
}

func (p *parameters) textOf(name string, most int) string {
	p.seen[name] = true
	text := p.q.URL.Query().Get(name)
	if len(text) > most {
		p.fail("%s: at most %d bytes", name, most)
	}
	return text
}

// tenant is the one that is asked for: his own, for one who has one.
func (p *parameters) tenant() string {
	text := p.text("tenant")
	if p.q.who.Tenant == AllTenants {
		return text
	}
	if text != "" && text != p.q.who.Tenant {
		p.fail("tenant: this token is for %q", p.q.who.Tenant)
	}
	return p.q.who.Tenant
}

func (p *parameters) done() error {
	for name := range p.q.URL.Query() {
		if !p.seen[name] {
			p.fail("%s: there is no such parameter here; see %s%s", strings.ToValidUTF8(name[:min(len(name), 40)], "?"), Prefix, pathDocument)
		}
	}
	return p.err
}

// list is one page of anything. Next is the cursor of the page after it, empty at the end.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

func pageOf[T any](items []T, next string) list[T] {
	if items == nil {
		items = []T{}
	}
	return list[T]{items, base64.RawURLEncoding.EncodeToString([]byte(next))}
}
