package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
)

const (
	// settle is how long a link has to be up before a connection moves to it, and to be down before one is given up:
	// Wi-Fi goes down and up again when it roams.
	settle = 2 * time.Second
	// A link over which no connection came about is not thought better than another one for punishBase, doubled each
	// time, up to punishCap.
	punishBase = time.Minute
	punishCap  = 15 * time.Minute
	// probeTimeout bounds the try of a better link.
	probeTimeout = 10 * time.Second
)

// Link is one way out of the vehicle.
type Link struct {
	Name      string
	Interface string // of the kernel; empty: whatever the routes say
	Metered   bool   // costs by the byte: only such a link may have budgets, and at the same priority another is preferred
	Priority  int    // the least first
	Without   []telemetrypb.Lane
	Budget    map[telemetrypb.Lane]int64 // bytes a day on the wire, by lane
}

// Options are what Links need.
type Options struct {
	Links []Link // empty: whatever the routes say, without limits

	// Proxy names the proxy for a host and port; a nil URL: none. nil: never.
	Proxy func(addr string) (*url.URL, error)
	// Control sets options of a socket before it connects; nil: none.
	Control  func(network, addr string, c syscall.RawConn) error
	Resolver *net.Resolver // nil: the system's

	Now  func() (now time.Time, known bool) // in the time zone whose midnight counts
	Boot func() int64                       // CLOCK_BOOTTIME, ns
	// Kept is what Keep was given last, in this process or one before it. Keep replaces it durably; nil: nowhere.
	Kept []byte
	Keep func([]byte) error

	Alarms  *alarm.Board
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
}

// Session is what Links tell of changes: *uplink.Uplink.
type Session interface {
	Retry(c uplink.Cause, why string)
	Reconnect(why string)
	Drop(why string)
}

// Links choose the link of each connection and count what it carries. It is safe for use from several goroutines.
type Links struct {
	o       Options
	budgets bool
	bytes   *prometheus.CounterVec

	mu      sync.Mutex // guards what follows; nothing is called from under it
	links   []*state   // the best first
	current *state     // that of the last connection; nil: none yet, or no links
	given   bool       // it was given up
	network string     // of the last Dial
	addr    string
	ledger  *ledger
	changed bool  // the ledger, since it was kept
	kept    int64 // boottime
	rolled  int64 // boottime
}

// state is a link and what is known of it.
type state struct {
	Link
	why      string    // it is not up; empty: it is
	since    time.Time // of that
	seen     bool      // it was looked at before
	failures int       // tries in a row
	until    time.Time // when it may be thought better again
}

// New makes Links. What was kept and cannot be read is left behind, with a warning in the log.
func New(o Options) (*Links, error) {
	l := &Links{o: o}
	for _, link := range o.Links {
		l.links = append(l.links, &state{Link: link})
		l.budgets = l.budgets || len(link.Budget) > 0
	}
	slices.SortStableFunc(l.links, func(a, b *state) int {
		if a.Priority != b.Priority {
			return a.Priority - b.Priority
		}
		return price(a.Metered) - price(b.Metered)
	})
	var err error
	if l.ledger, err = parseLedger(o.Kept); err != nil {
		o.Log.Warn("budgets begin anew", "error", err)
	}
	l.kept, l.rolled = o.Boot(), o.Boot()
	return l, l.register()
}

func price(metered bool) int {
	if metered {
		return 1
	}
	return 0
}

// Dial opens a connection over the best link that is up, and over the next one where that fails: each has its part of
// the time that ctx leaves.
func (l *Links) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	l.network, l.addr = network, addr
	l.mu.Unlock()
	if len(l.links) == 0 {
		return l.over(ctx, "", network, addr)
	}
	l.look()
	order, reasons := l.order()
	for i, s := range order {
		part, cancel := ctx, context.CancelFunc(func() {})
		if until, ok := ctx.Deadline(); ok && i < len(order)-1 {
			part, cancel = context.WithTimeout(ctx, time.Until(until)/time.Duration(len(order)-i))
		}
		conn, err := l.over(part, s.Interface, network, addr)
		cancel()
		if err == nil {
			l.mu.Lock()
			if l.current != s {
				l.o.Log.Info("uplink link", "link", s.Name, "interface", s.Interface, "metered", s.Metered)
			}
			l.current, l.given = s, false
			l.mu.Unlock()
			return conn, nil
		}
		if ctx.Err() == nil {
			l.punish(s)
		}
		reasons = append(reasons, fmt.Errorf("link %s: %w", s.Name, err))
	}
	return nil, errors.Join(reasons...)
}

// over opens a connection over one interface.
func (l *Links) over(ctx context.Context, name, network, addr string) (net.Conn, error) {
	dial := dialFunc(l.dialer(name).DialContext)
	if l.o.Proxy != nil {
		u, err := l.o.Proxy(addr)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		if u != nil {
			return through(ctx, u, dial, network, addr)
		}
	}
	return dial(ctx, network, addr)
}

// look asks the kernel which links are up, and says whether one has come up.
func (l *Links) look() (up []string) {
	now := time.Now()
	for _, s := range l.links {
		why := ""
		if s.Interface != "" {
			if _, err := globalAddresses(s.Interface); err != nil {
				why = err.Error()
			}
		}
		l.mu.Lock()
		if !s.seen || s.why != why {
			if s.seen && s.why != "" && why == "" {
				up = append(up, s.Name)
				s.failures, s.until = 0, time.Time{}
			}
			if s.since = now; !s.seen {
				s.since = time.Time{}
			}
			s.why, s.seen = why, true
			l.o.Log.Debug("uplink link", "link", s.Name, "up", why == "", "why", why)
		}
		l.mu.Unlock()
	}
	return up
}

// order is the links that are up, in the order in which to try them, and why the others are not.
func (l *Links) order() (order []*state, down []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var later []*state
	for _, s := range l.links {
		switch {
		case s.why != "":
			down = append(down, fmt.Errorf("link %s: %s", s.Name, s.why))
		case now.Before(s.until):
			later = append(later, s)
		default:
			order = append(order, s)
		}
	}
	return append(order, later...), down
}

func (l *Links) punish(s *state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.until = time.Now().Add(min(punishBase<<min(s.failures, 8), punishCap))
	s.failures++
}

// Connected takes the result of a connection's beginning, for uplink.Options.OnConnect: a link that connects and does not
// lead to the broker, such as a network with a login page, must not be preferred for ever.
func (l *Links) Connected(err error) {
	l.mu.Lock()
	s := l.current
	if s != nil && err == nil {
		s.failures, s.until = 0, time.Time{}
	}
	l.mu.Unlock()
	var own *uplink.CredentialError
	if s != nil && err != nil && !errors.As(err, &own) {
		l.punish(s)
	}
}

// Run watches the network and the day until ctx ends, and tells the session what changes.
func (l *Links) Run(ctx context.Context, s Session) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	told := make(chan Change, 64)
	tasks.Go(func() {
		err := Watch(ctx, func(list []Change) {
			for _, c := range list {
				select {
				case told <- c:
				default: // there are 64 already, and one is as good as many
				}
			}
		})
		if err != nil {
			l.o.Log.Warn("a change of the network is noticed late", "error", err)
		}
	})
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	probed := make(chan struct{}, 1)
	probed <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			l.keep(true)
			return nil
		case c := <-told:
			l.heed(s, c)
			continue
		case <-tick.C:
		}
		if up := l.look(); len(up) > 0 {
			s.Retry(uplink.CauseNetwork, "link "+strings.Join(up, ", ")+" is up")
		}
		l.roll()
		l.keep(false)
		if gone := l.gone(); gone != "" {
			s.Drop(gone)
			s.Retry(uplink.CauseNetwork, gone) // over another one
		}
		better := l.better()
		if better == nil {
			continue
		}
		select {
		case <-probed: // one probe at a time
			tasks.Go(func() {
				l.probe(ctx, s, better)
				probed <- struct{}{}
			})
		default:
		}
	}
}

// heed takes one change. Of a link that is not ours nothing is hoped for.
func (l *Links) heed(s Session, c Change) {
	if c.Kind == Unknown {
		s.Retry(uplink.CauseNetwork, "the network has changed")
	}
	if !c.Better() {
		return
	}
	name := ""
	if i, err := net.InterfaceByIndex(c.Index); err == nil {
		name = i.Name
	}
	ours := len(l.links) == 0
	l.mu.Lock()
	for _, link := range l.links {
		if link.Interface == "" || link.Interface == name {
			ours = true
			link.failures, link.until = 0, time.Time{}
		}
	}
	l.mu.Unlock()
	if ours {
		s.Retry(uplink.CauseNetwork, "a new route or address on "+name)
	}
}

// gone says, once, that the link of the connection has been down for a while; empty: it is up.
func (l *Links) gone() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.current; c != nil && !l.given && c.why != "" && time.Since(c.since) >= settle {
		l.given = true
		return fmt.Sprintf("link %s: %s", c.Name, c.why)
	}
	return ""
}

// better is a link that is preferred to that of the connection and has been up for a while; nil: there is none.
func (l *Links) better() *state {
	order, _ := l.order()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || len(order) == 0 || order[0] == l.current || time.Since(order[0].since) < settle || time.Now().Before(order[0].until) {
		return nil
	}
	if slices.Index(l.links, order[0]) > slices.Index(l.links, l.current) {
		return nil
	}
	return order[0]
}

// probe tries a better link beside the connection, and moves the connection there when it leads to the broker.
func (l *Links) probe(ctx context.Context, s Session, to *state) {
	l.mu.Lock()
	network, addr, from := l.network, l.addr, l.current
	l.mu.Unlock()
	if from == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := l.over(ctx, to.Interface, network, addr)
	if err != nil {
		l.o.Log.Info("a better link does not lead to the broker", "link", to.Name, "error", err)
		l.punish(to)
		return
	}
	_ = conn.Close() // it has shown what it was for
	s.Reconnect(fmt.Sprintf("link %s is preferred to %s", to.Name, from.Name))
}

// Current is the name of the connection's link; empty: none, or no links are named.
func (l *Links) Current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		return ""
	}
	return l.current.Name
}
