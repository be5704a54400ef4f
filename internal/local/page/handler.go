package page

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/internal/local"
)

// Guard says who may ask.
type Guard struct {
	// Token that who asks has to show, as a bearer token (RFC 6750); empty: none is needed.
	Token string
	// AnyHost takes requests for any name of this host: for a unix socket, which no browser reaches. With a Token it means
	// nothing: any host is taken then, since a foreign page does not have it.
	AnyHost bool
}

// writeTimeout bounds one write to a viewer.
const writeTimeout = 10 * time.Second

// Protect holds a handler to the guard: it answers GET only, never a page of somebody else, and nobody without the token.
//
// A browser lets a foreign page send a request here, though not read the answer; and when that page's own name is made to
// point here (DNS rebinding), read it too. Then the name in Host is not this machine's.
func (g Guard) Protect(h http.Handler) http.Handler {
	token := sha256.Sum256([]byte(g.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case q.Method != http.MethodGet && q.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this only reads: GET", http.StatusMethodNotAllowed)
		case g.Token == "" && !g.AnyHost && !ownName(q.Host):
			http.Error(w, "ask for 127.0.0.1, [::1] or localhost: a name that anybody can point here is not answered",
				http.StatusForbidden)
		case foreign(q):
			http.Error(w, "pages of others are not answered", http.StatusForbidden)
		case g.Token != "" && !shows(q, token):
			w.Header().Set("WWW-Authenticate", `Bearer realm="waybill-agent"`)
			http.Error(w, "a token is needed", http.StatusUnauthorized)
		default:
			h.ServeHTTP(w, q)
		}
	})
}

// shows compares in constant time, whatever the lengths.
func shows(q *http.Request, want [sha256.Size]byte) bool {
	text, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	got := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok
}

// ownName says whether a Host header names this machine's loopback. The port may be another: that of a tunnel.
func ownName(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(name)
	return err == nil && address.IsLoopback()
}

// foreign says whether a page of another origin asks: by Origin (RFC 6454), which browsers send where it may be abused, and
// by what newer ones say of every request (Fetch Metadata).
func foreign(q *http.Request) bool {
	if site := q.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return true
	}
	origin := q.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, q.Host)
}

// Handler answers the interface and the page. The page's own files are no secret and are given to everybody, so that a
// browser can ask for the token.
func (s *Server) Handler(g Guard) http.Handler {
	api := http.NewServeMux()
	api.HandleFunc(local.PathState, s.state)
	api.HandleFunc(local.PathSignals, s.signals)
	api.HandleFunc(local.PathEvents, s.events)
	mux := http.NewServeMux()
	mux.Handle("/api/", g.Protect(api))
	mux.Handle("/", static())
	return mux
}

func (s *Server) state(w http.ResponseWriter, _ *http.Request) {
	if !s.looking() { // rates are from one look to the next
		s.o.State()
		time.Sleep(period / 2)
	}
	state := s.o.State()
	text, err := json.Marshal(&state)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, text)
}

func (s *Server) looking() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.viewers) > 0
}

func answer(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // who asked is gone
}

func (s *Server) signals(w http.ResponseWriter, q *http.Request) {
	v, err := s.join(true)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer s.leave(v)
	select {
	case <-q.Context().Done():
	case text, ok := <-v.out:
		if !ok {
			http.Error(w, "the agent is stopping", http.StatusServiceUnavailable)
			return
		}
		answer(w, text)
	}
}

func (s *Server) events(w http.ResponseWriter, q *http.Request) {
	v, err := s.join(false)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer s.leave(v)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it
	out := http.NewResponseController(w)
	for {
		select {
		case <-q.Context().Done():
			return
		case message, ok := <-v.out:
			if !ok || out.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
				return
			}
			if _, err := w.Write(message); err != nil || out.Flush() != nil {
				return
			}
		}
	}
}
