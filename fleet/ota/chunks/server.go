package chunks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/firmware/delivery"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Options of a Server.
type Options struct {
	Broker   string // tcp://HOST:PORT, ssl://HOST:PORT
	ClientID string // this process's own; the session ends with the connection
	Tenant   string // empty: all
	Share    string // group of the shared subscription; empty: this process answers every request
	// Admit, if not nil, is asked ahead of each connection: on an error there is none, and it is asked again later. One that wraps ErrStop
	// ends Run.
	Admit func(context.Context) error
	// Credentials and TLS are asked at each dial, so that renewed files are taken. nil: none.
	Credentials func() (user, password string, err error)
	TLS         func() (*tls.Config, error)

	Limits Limits
	Look   time.Duration // between two looks at the folder; 10 s
	Retry  time.Duration // first ceiling of the back-off after a lost connection; it doubles up to 15 s. Default 2 s
	Log    *slog.Logger
}

// ErrStop says that connecting is of no use, now and later.
var ErrStop = errors.New("not to be tried again")

// Counts is what was done since the start.
type Counts struct {
	Requests  uint64 // that came
	Malformed uint64 // of these: no requests
	Unknown   uint64 // for files that the repository does not have
	Outside   uint64 // for bytes that a file does not have
	Limited   uint64 // for too much, too often, by too many
	Chunks    uint64 // published
	Bytes     uint64 // of images, in them
	Failed    uint64 // that could not be read from the disk
}

// Server answers requests. Run does the work; the other methods are safe for use from any goroutine.
type Server struct {
	o         Options
	images    *Images
	connected atomic.Bool
	count     struct{ requests, malformed, unknown, outside, limited, chunks, bytes, failed atomic.Uint64 }
	said      time.Time // when a request was last warned of; of Run
}

// New checks the options.
func New(o Options, images *Images) (*Server, error) {
	var err error
	if o.Limits, err = o.Limits.withDefaults(); err != nil {
		return nil, err
	}
	orElse(&o.Look, 10*time.Second)
	orElse(&o.Retry, 2*time.Second)
	switch {
	case o.Broker == "" || o.ClientID == "" || images == nil || o.Log == nil:
		return nil, errors.New("chunks: a broker, a client id, images and a logger are needed")
	case strings.ContainsAny(o.Share, "/+#\x00"):
		return nil, fmt.Errorf("share %q: '/', '+' and '#' are not allowed in the name of a group", o.Share)
	}
	if o.Tenant != "" {
		if err := telemetrypb.CheckName("tenant", o.Tenant); err != nil {
			return nil, err
		}
	}
	return &Server{o: o, images: images}, nil
}

// Filter is the subscription.
func (s *Server) Filter() string {
	tenant := s.o.Tenant
	if tenant == "" {
		tenant = "+"
	}
	filter := telemetrypb.Topic(tenant, "+", telemetrypb.TopicRequest)
	if s.o.Share != "" {
		filter = "$share/" + s.o.Share + "/" + filter
	}
	return filter
}

// Connected says whether there is a subscribed connection now.
func (s *Server) Connected() bool { return s.connected.Load() }

// Counts is what was done since the start.
func (s *Server) Counts() Counts {
	c := &s.count
	return Counts{c.requests.Load(), c.malformed.Load(), c.unknown.Load(), c.outside.Load(),
		c.limited.Load(), c.chunks.Load(), c.bytes.Load(), c.failed.Load()}
}

// steadyAfter is how long a connection lasts that takes the back-off back, and retryCap the most that is waited.
const (
	steadyAfter = time.Minute
	retryCap    = 15 * time.Second
)

// Run answers until ctx ends, over as many connections as it takes, and returns nil then.
func (s *Server) Run(ctx context.Context) error {
	scanned := make(chan struct{})
	defer func() { <-scanned }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx, or with the file that it reads
		defer close(scanned)
		s.scan(ctx)
	}()
	q := newQueue(s.o.Limits, time.Now())
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		err := s.session(ctx, q)
		s.connected.Store(false)
		q.forget()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrStop) {
			return err
		}
		if time.Since(began) >= steadyAfter {
			failures = 0
		}
		wait := time.Duration(rand.Int64N(int64(min(s.o.Retry<<min(failures, 10), max(retryCap, s.o.Retry))) + 1))
		s.o.Log.Warn("connection ended", "broker", s.o.Broker, "err", err, "retry_in", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// scan looks at the folder now and then.
func (s *Server) scan(ctx context.Context) {
	tick := time.NewTicker(s.o.Look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := s.images.Len()
		if err := s.images.Scan(); err != nil {
			s.o.Log.Error("the folder cannot be read; what was found before is served", "err", err)
		} else if n := s.images.Len(); n != before {
			s.o.Log.Info("the repository has changed", "files", n)
		}
	}
}

// take judges a message and queues what it asks for.
func (s *Server) take(q *queue, now time.Time, m mqtt.Message) {
	s.count.requests.Add(1)
	tenant, device, rest, err := telemetrypb.ParseTopic(m.Topic())
	if err == nil && (rest != telemetrypb.TopicRequest || len(m.Payload()) > requestBytes) {
		err = fmt.Errorf("%d bytes on %s", len(m.Payload()), rest)
	}
	var r delivery.Request
	if err == nil {
		r, err = delivery.DecodeRequest(m.Payload())
	}
	if err != nil {
		s.count.malformed.Add(1)
		s.refused(now, m.Topic(), err)
		return
	}
	length, known := s.images.Length(r.File)
	err = q.ask(now, tenant+"/"+device, telemetrypb.Topic(tenant, device, telemetrypb.TopicChunk), &r, length, known)
	switch {
	case err == nil:
		return
	case errors.Is(err, errUnknown):
		s.count.unknown.Add(1)
	case errors.Is(err, errOutside):
		s.count.outside.Add(1)
	default:
		s.count.limited.Add(1)
	}
	s.refused(now, m.Topic(), err)
}

// refused says so now and then: a flood must not fill a disk.
func (s *Server) refused(now time.Time, topic string, why error) {
	if now.Sub(s.said) >= time.Second {
		s.said = now
		s.o.Log.Warn("a request is not answered", "topic", topic, "why", why)
	}
}
