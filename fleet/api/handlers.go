package api

import (
	"math"
	"strings"
	"time"
)

// accessAnswer tells a client what it may do.
type accessAnswer struct {
	Tenant string    `json:"tenant"` // * for all
	Erase  bool      `json:"erase"`
	Now    time.Time `json:"now"` // the server's clock
}

func (s *Server) access(q *request) (any, error) {
	return accessAnswer{q.who.Tenant, q.who.Erase && s.o.Eraser != nil, s.o.Now().UTC()}, q.parameters().done()
}

func (s *Server) counts(q *request) (any, error) {
	p := q.parameters()
	tenant := p.tenant()
	if err := p.done(); err != nil {
		return nil, err
	}
	return s.o.Reader.Counts(q.Context(), tenant)
}

func (s *Server) devices(q *request) (any, error) {
	p := q.parameters()
	ask := DeviceQuery{Tenant: p.tenant(), Search: p.text("q"), Now: s.o.Now()}
	switch state := p.text("state"); state {
	case "":
	case StateOnline, StateOffline:
		online := state == StateOnline
		ask.Online = &online
	default:
		p.fail("state: want %s or %s, got %q", StateOnline, StateOffline, state)
	}
	page := p.page()
	if page.After != "" {
		var ok bool
		if ask.After.Tenant, ask.After.Device, ok = strings.Cut(page.After, "/"); !ok {
			return nil, ErrCursor
		}
	}
	if err := p.done(); err != nil {
		return nil, err
	}
	ask.Limit = page.Limit + 1
	devices, err := s.o.Reader.Devices(q.Context(), ask)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(devices) > page.Limit {
		devices = devices[:page.Limit]
		last := devices[len(devices)-1]
		next = last.Tenant + "/" + last.DeviceID.Device
	}
	return pageOf(devices, next), nil
}

func (s *Server) device(q *request) (any, error) {
	id, err := q.id()
	if err == nil {
		err = q.parameters().done()
	}
	if err != nil {
		return nil, err
	}
	return s.o.Reader.Device(q.Context(), id, s.o.Now())
}

func (s *Server) signals(q *request) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	p := q.parameters()
	ask := SignalQuery{Search: p.text("q"), Now: s.o.Now(), Last: true}
	page := p.page()
	if err := p.done(); err != nil {
		return nil, err
	}
	ask.After, ask.Limit = page.After, page.Limit+1
	signals, err := s.o.Reader.Signals(q.Context(), id, ask)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(signals) > page.Limit {
		signals = signals[:page.Limit]
		next = signals[len(signals)-1].Name
	}
	return pageOf(signals, next), nil
}

// Series is a signal over time in columns, one entry a stretch that has values. Times are Unix milliseconds.
type Series struct {
	Signal string    `json:"signal"`
	From   int64     `json:"from"`
	To     int64     `json:"to"`
	Width  int64     `json:"width_ms"`
	T      []int64   `json:"t"` // the middle of what is in the stretch
	Min    []float64 `json:"min"`
	Max    []float64 `json:"max"`
	Mean   []float64 `json:"mean"`
	Count  []int64   `json:"count"`
}

func (s *Server) series(q *request) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	p := q.parameters()
	name := p.text("signal")
	if name == "" {
		p.fail("signal: which one? its name is needed")
	}
	points := p.number("points", defaultPoints, maxPoints)
	w := p.window(s.o.Now(), time.Hour, maxSeries)
	if err := p.done(); err != nil {
		return nil, err
	}
	width := widthFor(w, points)
	buckets, err := s.o.Reader.Buckets(q.Context(), id, name, w, width)
	if err != nil {
		return nil, err
	}
	n := len(buckets)
	a := Series{Signal: name, From: w.From.UnixMilli(), To: w.To.UnixMilli(), Width: width.Milliseconds(),
		T: make([]int64, n), Min: make([]float64, n), Max: make([]float64, n), Mean: make([]float64, n), Count: make([]int64, n)}
	for i, b := range buckets {
		a.T[i] = (b.FirstNS + (b.LastNS-b.FirstNS)/2) / int64(time.Millisecond)
		a.Min[i], a.Max[i], a.Mean[i], a.Count[i] = b.Min, b.Max, b.Mean, b.Count
	}
	return a, nil
}

// widthFor divides a window into at most `points` stretches of whole milliseconds.
func widthFor(w Window, points int) time.Duration {
	width := time.Duration(math.Ceil(float64(w.To.Sub(w.From)) / float64(points)))
	return max(width.Truncate(time.Millisecond)+time.Millisecond, time.Millisecond)
}

func (s *Server) events(q *request) (any, error) {
	id, err := q.id()
	if err != nil {
		return nil, err
	}
	p := q.parameters()
	var w Window
	if p.text("from") != "" || p.text("to") != "" { // else all there are, those of unknown time too
		w = p.window(s.o.Now(), 24*time.Hour, maxEvents)
	}
	page := p.page()
	if err := p.done(); err != nil {
		return nil, err
	}
	events, next, err := s.o.Reader.Events(q.Context(), id, w, page)
	if err != nil {
		return nil, err
	}
	return pageOf(events, next), nil
}

// ledger reads what the listings of the ledger have in common.
func (q *request) ledger() (LedgerQuery, error) {
	p := q.parameters()
	ask := LedgerQuery{Tenant: p.tenant(), Device: p.text("device"), Page: p.page()}
	return ask, p.done()
}

func (s *Server) gaps(q *request) (any, error) {
	ask, err := q.ledger()
	if err != nil {
		return nil, err
	}
	items, next, err := s.o.Reader.Gaps(q.Context(), ask)
	return pageOf(items, next), err
}

func (s *Server) losses(q *request) (any, error) {
	ask, err := q.ledger()
	if err != nil {
		return nil, err
	}
	items, next, err := s.o.Reader.Losses(q.Context(), ask)
	return pageOf(items, next), err
}

func (s *Server) parked(q *request) (any, error) {
	ask, err := q.ledger()
	if err != nil {
		return nil, err
	}
	items, next, err := s.o.Reader.ParkedBatches(q.Context(), ask)
	return pageOf(items, next), err
}

func (s *Server) letters(q *request) (any, error) {
	ask, err := q.ledger()
	if err != nil {
		return nil, err
	}
	items, next, err := s.o.Reader.Letters(q.Context(), ask)
	return pageOf(items, next), err
}
