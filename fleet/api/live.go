package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// liveDevices is how many devices one message names at most; more is said by its `more`.
const liveDevices = 200

// Live is one message of the stream: what changed since the one before.
type Live struct {
	Now     time.Time `json:"now"`
	Counts  Counts    `json:"counts"`
	Devices []Device  `json:"devices"`
	More    bool      `json:"more"` // more devices changed than are named: ask for the list
}

// stream sends server-sent events: `update` whenever a device was heard of, at most once each LiveEvery, and a remark when
// nothing was, so that both sides notice a dead connection. The store is asked, not told: a look at who was heard of is cheap,
// needs no hook in a database that others write to, and costs nothing while nobody watches.
func (s *Server) stream(w http.ResponseWriter, q *request) {
	p := q.parameters()
	tenant := p.tenant()
	if err := p.done(); err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	select {
	case s.live <- struct{}{}:
		defer func() { <-s.live }()
	default:
		w.Header().Set("Retry-After", "10")
		problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d live streams are open already", cap(s.live)))
		return
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	tick := time.NewTicker(s.o.LiveEvery)
	defer tick.Stop()
	n := &news{told: map[DeviceID]time.Time{}, since: s.o.Now()}
	for {
		text, err := s.news(q, tenant, n)
		if err != nil {
			if q.Context().Err() == nil {
				s.o.Log.Error("a live stream ends: the store could not answer", "error", err)
			}
			return
		}
		// A server that has a bound for writing gives a stream a new one with every message.
		_ = control.SetWriteDeadline(time.Now().Add(30 * time.Second))
		if _, err := w.Write(text); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-q.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// liveOverlap is how much later than others a commit may show that has an earlier time: two writers do not wait for each other.
const liveOverlap = 2 * time.Second

// news is what a stream has told.
type news struct {
	since time.Time
	told  map[DeviceID]time.Time // last seen, of what lies within liveOverlap
	begun bool
}

// news makes one message.
func (s *Server) news(q *request, tenant string, n *news) ([]byte, error) {
	now := s.o.Now()
	devices, err := s.o.Reader.Devices(q.Context(), DeviceQuery{Tenant: tenant, Since: n.since.Add(-liveOverlap), Now: now, Limit: 2 * liveDevices})
	if err != nil {
		return nil, err
	}
	m := Live{Now: now.UTC(), Devices: []Device{}, More: len(devices) == 2*liveDevices}
	for _, d := range devices {
		if !n.told[d.DeviceID].Equal(d.LastSeen) {
			m.Devices = append(m.Devices, d)
			n.told[d.DeviceID] = d.LastSeen
		}
		if d.LastSeen.After(n.since) {
			n.since = d.LastSeen
		}
	}
	for id, at := range n.told {
		if at.Before(n.since.Add(-liveOverlap)) {
			delete(n.told, id)
		}
	}
	if len(m.Devices) > liveDevices {
		m.Devices, m.More = m.Devices[:liveDevices], true
	}
	if len(m.Devices) == 0 && n.begun {
		return []byte(": nothing new\n\n"), nil
	}
	n.begun = true
	if m.Counts, err = s.o.Reader.Counts(q.Context(), tenant); err != nil {
		return nil, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "event: update\ndata: %s\n\n", text), nil
}
