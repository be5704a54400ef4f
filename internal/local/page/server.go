// Package page is the agent's local page and the interface behind it (package local): what happens in this vehicle at this
// moment, for who stands beside it. It reads, and changes nothing.
//
// It must not know the agent: what it shows, it is given. While nobody looks it does nothing.
package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
)

// Options of a Server.
type Options struct {
	State func() local.State // how the agent is; from several goroutines
	Boot  func() int64       // CLOCK_BOOTTIME, ns
	Table *Table

	// OnLook is called when somebody begins to look, at each beat, and when nobody does any more.
	OnLook func(Look)
	// Linger is how long after the last one left it is still kept what a page shows when it is loaded again; default 30 s.
	Linger time.Duration

	Log *slog.Logger
}

// Look is what OnLook is told.
type Look uint8

// The looks.
const (
	LookBegins Look = iota
	LookGoesOn
	LookEnds
)

const (
	maxViewers  = 16
	viewerDepth = 8 // messages that wait for a slow viewer
)

// Server answers the interface. Run does what is done again and again; Handler makes the HTTP side.
//
//	idle ──viewer──▶ looking: a beat each second ──nobody for Linger──▶ idle
type Server struct {
	o    Options
	wake chan struct{} // capacity 1: a viewer came

	mu      sync.Mutex // guards what follows
	viewers map[*viewer]bool
	ended   bool
	seen    time.Time // when the last one left

	// Run's own.
	members map[string]json.RawMessage // of the State that viewers know
}

// viewer is one connection.
type viewer struct {
	out   chan []byte // closed: it is over
	fresh bool        // it knows nothing yet; guarded by Server.mu
	once  bool        // it wants the signals alone, and then nothing
}

// errFull: there are viewers enough.
var errFull = errors.New("too many look already; close a page")

// New makes a Server.
func New(o Options) *Server {
	if o.Linger == 0 {
		o.Linger = 30 * time.Second
	}
	if o.OnLook == nil {
		o.OnLook = func(Look) {}
	}
	return &Server{o: o, wake: make(chan struct{}, 1), viewers: map[*viewer]bool{}}
}

// Run serves viewers until ctx ends; then all of them are dismissed.
func (s *Server) Run(ctx context.Context) error {
	defer s.end()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			s.look(ctx)
		}
	}
}

// look goes on until nobody has looked for a while.
func (s *Server) look(ctx context.Context) {
	s.o.Table.start()
	defer s.o.Table.stop()
	s.o.OnLook(LookBegins)
	defer s.o.OnLook(LookEnds)
	s.members = nil
	s.change()
	s.greet(false)
	tick := time.NewTicker(period)
	defer tick.Stop()
	began := false // a beat has passed: there are values
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			s.greet(began)
		case <-tick.C:
			s.beat()
			began = true
			s.greet(true)
			if s.lonely() {
				return
			}
			s.o.OnLook(LookGoesOn)
		}
	}
}

// lonely says that nobody has looked for a while.
func (s *Server) lonely() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.viewers) == 0 && time.Since(s.seen) >= s.o.Linger
}

// beat tells everybody what changed.
func (s *Server) beat() {
	values := s.o.Table.beat(nil, s.o.Boot())
	message := appendEvent(nil, local.EventState, s.change())
	message = appendEvent(message, local.EventValues, values)
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.viewers {
		if !v.fresh {
			s.sendLocked(v, message)
		}
	}
}

// greet tells those who came what there is. Who wants the values alone waits until there are any.
func (s *Server) greet(values bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var state, signals, both []byte
	for v := range s.viewers {
		if !v.fresh || v.once && !values {
			continue
		}
		if signals == nil {
			signals = s.o.Table.all(nil, s.o.Boot())
		}
		if v.once {
			s.sendLocked(v, signals)
			s.dropLocked(v)
			continue
		}
		if both == nil {
			state = s.whole()
			both = appendEvent(appendEvent(nil, local.EventState, state), local.EventSignals, signals)
		}
		v.fresh = false
		s.sendLocked(v, both)
	}
}

// change looks at the state anew and gives the members that are not what they were, as a JSON object.
func (s *Server) change() []byte {
	state := s.o.State()
	text, err := json.Marshal(&state)
	members := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(text, &members)
	}
	if err != nil { // never: every number that JSON does not have is a local.Number
		s.o.Log.Error("local page: state", "error", err)
		return []byte("{}")
	}
	changed := map[string]json.RawMessage{}
	for name, value := range members {
		if !bytes.Equal(value, s.members[name]) {
			changed[name] = value
		}
	}
	s.members = members
	return object(changed)
}

// whole is the state that viewers know.
func (s *Server) whole() []byte { return object(s.members) }

func object(members map[string]json.RawMessage) []byte {
	text, err := json.Marshal(members)
	if err != nil { // never: they come from json.Marshal
		return []byte("{}")
	}
	return text
}

// appendEvent appends a server-sent event; data has no line breaks, being compact JSON.
func appendEvent(dst []byte, name string, data []byte) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, name...)
	dst = append(dst, "\ndata: "...)
	dst = append(dst, data...)
	return append(dst, "\n\n"...)
}

// sendLocked hands a message over. A viewer that does not keep up is dismissed; it may come again.
func (s *Server) sendLocked(v *viewer, message []byte) {
	select {
	case v.out <- message:
	default:
		s.dropLocked(v)
	}
}

func (s *Server) dropLocked(v *viewer) {
	if s.viewers[v] {
		delete(s.viewers, v)
		close(v.out)
		s.seen = time.Now()
	}
}

// join makes a viewer.
func (s *Server) join(once bool) (*viewer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.viewers) >= maxViewers {
		return nil, errFull
	}
	v := &viewer{out: make(chan []byte, viewerDepth), fresh: true, once: once}
	s.viewers[v] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return v, nil
}

// leave takes a viewer out.
func (s *Server) leave(v *viewer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(v)
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for v := range s.viewers {
		s.dropLocked(v)
	}
}
