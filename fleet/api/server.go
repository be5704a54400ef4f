package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Prefix is below what all of the API stands.
const Prefix = "/api/v1"

//go:embed openapi.yaml
var document []byte

// Options of a Server.
type Options struct {
	Reader Reader
	Eraser Eraser           // nil: nothing can be erased
	Access Access           // nil: whoever reaches the server may read all, and erase nothing
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nothing is logged
	// LiveEvery is how often a live stream looks for what changed, at most (0: 1 s); LiveMost how many streams there may be (0: 64).
	LiveEvery time.Duration
	LiveMost  int
	// Timeout bounds one answer, live streams excepted (0: 15 s).
	Timeout time.Duration
}

// Server answers the API's requests. It is safe for use from several goroutines.
type Server struct {
	o    Options
	mux  *http.ServeMux
	live chan struct{} // a place for each stream
}

// route is one operation. answer returns what is encoded as JSON.
type route struct {
	method, path string
	answer       func(*Server, *request) (any, error)
}

// routes are all operations that answer JSON. openapi.yaml describes each; beside them are the document and the stream.
var routes = []route{
	{"GET", "/access", (*Server).access},
	{"GET", "/counts", (*Server).counts},
	{"GET", "/devices", (*Server).devices},
	{"GET", "/devices/{tenant}/{device}", (*Server).device},
	{"DELETE", "/devices/{tenant}/{device}", (*Server).erase},
	{"GET", "/devices/{tenant}/{device}/signals", (*Server).signals},
	{"GET", "/devices/{tenant}/{device}/series", (*Server).series},
	{"GET", "/devices/{tenant}/{device}/track", (*Server).track},
	{"GET", "/devices/{tenant}/{device}/trips", (*Server).trips},
	{"GET", "/devices/{tenant}/{device}/events", (*Server).events},
	{"GET", "/gaps", (*Server).gaps},
	{"GET", "/losses", (*Server).losses},
	{"GET", "/parked", (*Server).parked},
	{"GET", "/dead-letters", (*Server).letters},
}

// The paths that answer something else than JSON.
const (
	pathDocument = "/openapi.yaml"
	pathLive     = "/live"
)

// New checks the options and makes a server.
func New(o Options) (*Server, error) {
	if o.Reader == nil {
		return nil, errors.New("api: a Reader is needed")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.LiveEvery == 0 {
		o.LiveEvery = time.Second
	}
	if o.LiveMost == 0 {
		o.LiveMost = 64
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	s := &Server{o: o, mux: http.NewServeMux(), live: make(chan struct{}, o.LiveMost)}
	for _, r := range routes {
		s.mux.Handle(r.method+" "+Prefix+r.path, s.guard(func(w http.ResponseWriter, q *request) { s.json(w, q, r) }))
	}
	s.mux.HandleFunc("GET "+Prefix+pathDocument, func(w http.ResponseWriter, q *http.Request) {
		write(w, q, "application/yaml", document)
	})
	s.mux.Handle("GET "+Prefix+pathLive, s.guard(s.stream))
	s.mux.HandleFunc(Prefix+"/", func(w http.ResponseWriter, q *http.Request) {
		problem(w, http.StatusNotFound, "there is nothing at this path; see "+Prefix+pathDocument)
	})
	return s, nil
}

// ServeHTTP answers what is below Prefix.
func (s *Server) ServeHTTP(w http.ResponseWriter, q *http.Request) { s.mux.ServeHTTP(w, q) }

// request is one request of someone who is known.
type request struct {
	*http.Request
	who Principal
}

// id is the device of the path, if the one who asks may know of it.
func (q *request) id() (DeviceID, error) {
	id := DeviceID{q.PathValue("tenant"), q.PathValue("device")}
	if !q.who.mayRead(id.Tenant) {
		return id, ErrNotFound // and not "forbidden": that there is such a device is not his to know
	}
	return id, nil
}

// guard asks who comes.
func (s *Server) guard(f func(http.ResponseWriter, *request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		who := Principal{Tenant: AllTenants}
		if s.o.Access != nil {
			var err error
			if who, err = s.o.Access.Who(q); err != nil {
				w.Header().Set("WWW-Authenticate", "Bearer")
				problem(w, http.StatusUnauthorized, err.Error())
				return
			}
		}
		f(w, &request{q, who})
	})
}

func (s *Server) json(w http.ResponseWriter, q *request, r route) {
	ctx, cancel := context.WithTimeout(q.Context(), s.o.Timeout)
	if r.method == http.MethodDelete { // is not left half done because somebody hung up, and takes as long as it takes
		ctx = context.WithoutCancel(q.Context())
	}
	defer cancel()
	q.Request = q.WithContext(ctx)
	answer, err := r.answer(s, q)
	var text []byte
	if err == nil {
		text, err = json.Marshal(answer)
	}
	var wrong *badRequest
	switch {
	case err == nil:
		write(w, q.Request, "application/json", text)
	case errors.As(err, &wrong):
		problem(w, wrong.status, wrong.Error())
	case errors.Is(err, ErrNotFound):
		problem(w, http.StatusNotFound, err.Error())
	case errors.Is(err, ErrCursor):
		problem(w, http.StatusBadRequest, err.Error())
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		problem(w, http.StatusServiceUnavailable, fmt.Sprintf("the answer took longer than %v; ask for a shorter time", s.o.Timeout))
	case q.Context().Err() != nil: // nobody waits
	default:
		s.o.Log.Error("a question to the store failed", "path", q.URL.Path, "error", err)
		problem(w, http.StatusInternalServerError, "the store could not answer; its log says why")
	}
}

// write answers with an ETag over the bytes: late data may change any answer, so a client asks again and gets 304.
func write(w http.ResponseWriter, q *http.Request, kind string, text []byte) {
	sum := sha256.Sum256(text)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Authorization")
	h.Set("X-Content-Type-Options", "nosniff")
	if q.Method == http.MethodGet || q.Method == http.MethodHead {
		h.Set("ETag", tag)
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(text))
}

// problem answers as RFC 9457 has it.
func problem(w http.ResponseWriter, status int, detail string) {
	text, err := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
	if err != nil { // two texts and a number always encode
		text = []byte("{}")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text) // nobody can be told that the one who asked is gone
}

// badRequest is an error of the one who asks.
type badRequest struct {
	status int
	text   string
}

func (e *badRequest) Error() string { return e.text }

func wrong(format string, args ...any) error {
	return &badRequest{http.StatusBadRequest, strings.TrimSpace(fmt.Sprintf(format, args...))}
}

// Routes lists the operations, `GET /devices`, with their paths below Prefix.
func Routes() []string {
	list := []string{"GET " + pathDocument, "GET " + pathLive}
	for _, r := range routes {
		list = append(list, r.method+" "+r.path)
	}
	return list
}
