// Package httpin takes over HTTP what vehicles otherwise publish over MQTT: payloads and sealed batches from vehicles and
// gateways, and what a broker's webhook or rule action delivers. It authenticates, bounds, and hands everything to an
// ingest.Applier, several requests together; an answer that confirms comes only after Apply.
//
// It knows no store and decodes no batch, reads no configuration but the file of tokens, and prints nothing.
package httpin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Limits of one connection that nobody needs to set.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = time.Minute
	maxHeaderBytes = 16 << 10
	answerMargin   = 10 * time.Second // for writing the answer, beyond AnswerWithin
)

// Options of a Server. The zero value of a field means its default where one is named.
type Options struct {
	// Stream says that Apply hands on and stores nothing yet: requests are answered 202, and receipts come another way.
	Stream bool
	// Tenant is that of client certificates that name none (subject's organisation); empty: those are refused.
	Tenant string
	// Tokens lets bearers of a token in; nil: nobody.
	Tokens *Tokens
	// TLS is what the listener speaks; nil: plain HTTP, which Check allows on loopback only. Where it asks for client
	// certificates and verifies them, a certificate's common name is the device that it may speak for.
	TLS *tls.Config
	// Send carries the receipts of what a webhook brought to the vehicles, which are on the broker and not on this
	// connection. nil: they only stand in the answer.
	Send func(context.Context, []ingest.Reply) error

	MaxBody         int64         // bytes of a body as it comes. Default 2 MiB
	MaxDecompressed int64         // bytes of a body after Content-Encoding. Default 4 MiB
	MaxBuffered     int64         // bytes of all bodies held at once. Default 64 MiB
	MaxRequests     int           // at once; more are answered 503. Default 256
	MaxConnections  int           // more wait to be accepted. Default 4096
	DeviceRate      float64       // requests a second of one device, lasting. Default 20
	DeviceBurst     int           // and at once. Default 100
	TokenRate       float64       // likewise of one token. Default 2000
	TokenBurst      int           // default 4000
	ReadTimeout     time.Duration // of a whole request. Default 30 s
	AnswerWithin    time.Duration // from the whole request to the store's answer; then 503. Default 30 s
	GroupWait       time.Duration // a request waits so long for others to share a commit. Default 3 ms
	StopTimeout     time.Duration // for requests under way when Run is cancelled. Default 20 s

	Now func() time.Time // nil: time.Now; for rates
	Log *slog.Logger     // nil: nothing is logged
}

// Counts says what was done since the start.
type Counts struct {
	ingest.Counts
	Requests     uint64 // all
	Confirmed    uint64 // answered 200, 202 or 204
	Unauthorized uint64 // 401, 403
	Refused      uint64 // 400, 404, 405, 413, 415: of no use however often they are sent
	Limited      uint64 // 429
	Busy         uint64 // 503
}

// Server takes requests. It is safe for use from several goroutines.
type Server struct {
	o       Options
	group   *grouper
	devices *buckets
	tokens  *buckets

	held      *shares       // requests under way, and the bytes of their bodies
	expanding chan struct{} // one for each decompressor at work

	mu     sync.Mutex // guards counts
	counts Counts
}

// New makes a Server.
func New(o Options, a ingest.Applier) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	orDefault(&o.MaxBody, 2<<20)
	orDefault(&o.MaxDecompressed, 4<<20)
	orDefault(&o.MaxBuffered, 64<<20)
	orDefault(&o.MaxRequests, 256)
	orDefault(&o.MaxConnections, 4096)
	orDefault(&o.DeviceRate, 20)
	orDefault(&o.DeviceBurst, 100)
	orDefault(&o.TokenRate, 2000)
	orDefault(&o.TokenBurst, 4000)
	orDefault(&o.ReadTimeout, 30*time.Second)
	orDefault(&o.AnswerWithin, 30*time.Second)
	orDefault(&o.GroupWait, 3*time.Millisecond)
	orDefault(&o.StopTimeout, 20*time.Second)
	s := &Server{
		o: o, held: newShares(o.MaxRequests, o.MaxBuffered), expanding: make(chan struct{}, expandAtOnce),
		devices: newBuckets(o.DeviceRate, o.DeviceBurst), tokens: newBuckets(o.TokenRate, o.TokenBurst),
	}
	s.group = newGrouper(a, o.GroupWait, s.count)
	return s
}

func orDefault[T int | int64 | float64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Check refuses to serve others than this machine without TLS and without asking who they are. address is what will be
// listened on.
func (o *Options) Check(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("HTTP address %q: want one such as 127.0.0.1:8080 or 0.0.0.0:8443", address)
	}
	if o.Tenant != "" {
		if err := telemetrypb.CheckName("tenant", o.Tenant); err != nil {
			return err
		}
	}
	asks := o.Tokens != nil || o.certificates()
	ip := net.ParseIP(host)
	switch {
	case host == "localhost" || ip != nil && ip.IsLoopback():
		return nil
	case o.TLS == nil:
		return fmt.Errorf("HTTP address %q: others can reach it, and tokens and data would go in clear; give a certificate and its key, or listen on 127.0.0.1", address)
	case !asks:
		return fmt.Errorf("HTTP address %q: others can reach it, and nobody would be asked who they are; give a file of tokens or the authority of client certificates, or listen on 127.0.0.1", address)
	}
	return nil
}

// certificates says whether client certificates are verified.
func (o *Options) certificates() bool { return o.TLS != nil && o.TLS.ClientCAs != nil }

// Run serves a listener until ctx ends; then requests under way are finished, within StopTimeout, and it returns nil.
// None is confirmed whose Apply has not returned.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if err := s.o.Check(l.Addr().String()); err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l = netutil.LimitListener(l, s.o.MaxConnections)
	if s.o.TLS != nil {
		c := s.o.TLS.Clone()
		c.NextProtos = []string{"http/1.1"} // one request at a time on a connection: its limits are then the request's
		l = tls.NewListener(l, c)
	}
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTimeout, ReadTimeout: s.o.ReadTimeout, IdleTimeout: idleTimeout,
		WriteTimeout: s.o.ReadTimeout + s.o.AnswerWithin + answerMargin, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { s.group.run(working) })
	tasks.Go(func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.StopTimeout)
		defer cancel()
		if server.Shutdown(end) != nil {
			_ = server.Close() // who is still sending is cut off, unconfirmed
		}
		stopWorking()
	})
	s.o.Log.Info("HTTP ingestion listens", "address", l.Addr().String(), "tls", s.o.TLS != nil)
	err := server.Serve(l)
	stopped := ctx.Err() != nil
	cancel()
	tasks.Wait()
	if stopped && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("HTTP ingestion: %w", err)
}

// Counts is what was done since the start.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// count takes what an Apply did.
func (s *Server) count(c ingest.Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Add(c)
}
