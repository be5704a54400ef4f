package uplink

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errRenew: somebody knows that the connection is worth nothing any more.
var errRenew = errors.New("the connection is made anew")

// rest is whether there may be a connection at all. Its methods are safe for use from several goroutines.
//
//	awake ── Rest ──▶ farewell, DISCONNECT ──▶ resting ── Wake ──▶ awake, dials at once
type rest struct {
	mu      sync.Mutex // guards what follows
	why     string     // "": awake
	changed chan struct{}
	cancel  context.CancelFunc // of the session, nil: there is none
	hurry   bool               // the next dial does not wait
}

// Rest says goodbye to the broker, with why as the reason of the retained status, and stays away until Wake.
func (u *Uplink) Rest(why string) {
	r := &u.rest
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
	r.tellLocked()
	if r.cancel != nil {
		r.cancel()
	}
}

// Wake ends a rest and any back-off: the next dial is now.
func (u *Uplink) Wake() {
	r := &u.rest
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why != "" || r.cancel == nil {
		r.hurry = true
	}
	r.why = ""
	r.tellLocked()
}

// Renew drops the connection without a word, if there is one, and dials at once: after a suspend, when the broker has long given
// it up and TCP would take a minute to find out.
func (u *Uplink) Renew() {
	r := &u.rest
	r.mu.Lock()
	r.hurry = true
	r.tellLocked()
	r.mu.Unlock()
	if s := u.live.Load(); s != nil {
		s.link.Load().kill(errRenew)
	}
}

func (r *rest) tellLocked() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// look is why there may be no connection now, whether the next dial is urgent, and a channel that is closed when either changes.
func (r *rest) look() (why string, hurry bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.why, r.hurry, r.changed
}

// session makes the context of a connection, which Rest ends; ok is false at rest.
func (r *rest) session(ctx context.Context) (_ context.Context, cancel context.CancelFunc, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why != "" {
		return nil, nil, false
	}
	r.hurry = false
	ctx, r.cancel = context.WithCancel(ctx)
	return ctx, r.over, true
}

// over ends the context of a connection.
func (r *rest) over() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel()
	r.cancel = nil
}

// reset forgets what went wrong.
func (p *pace) reset() { p.failed, p.short = 0, 0 }

// sleep waits while there may be no connection.
func (u *Uplink) sleep(ctx context.Context) {
	for {
		why, _, changed := u.rest.look()
		if why == "" {
			return
		}
		u.enter(Resting, why, time.Time{})
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
