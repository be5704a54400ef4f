package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Fetcher brings files of one mirror. It need not be trusted.
type Fetcher interface {
	// Fetch writes the file to w, at most limit bytes of it, and fails when it has more. The name is a path below the
	// mirror, already escaped as a URL has it. A file that is not there is ErrNotFound.
	Fetch(ctx context.Context, name string, limit int64, w io.Writer) error
}

// ErrNotFound says that a mirror answered, and has no such file.
var ErrNotFound = &refusal{NotFound, errors.New("the mirror has no such file")}

// HTTPOptions say how files are fetched by HTTPS.
type HTTPOptions struct {
	Base   string        // of the mirror, https; http is taken on loopback only
	Client *http.Client  // nil is Go's own; its redirects are held to https in either case
	Least  int64         // bytes a second that an answer must bring, averaged over Window; 0 is 100
	Window time.Duration // 0 is a minute, which also is how long a mirror may be silent
}

// HTTP fetches by HTTPS. It is safe for use by several goroutines.
type HTTP struct {
	o      HTTPOptions
	client http.Client
}

// NewHTTP checks the options.
func NewHTTP(o HTTPOptions) (*HTTP, error) {
	base, err := url.Parse(o.Base)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	if err := permitted(base); err != nil {
		return nil, err
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("mirror %s: a base has no query and no fragment", base.Redacted())
	}
	if !strings.HasSuffix(o.Base, "/") {
		o.Base += "/"
	}
	if o.Least == 0 {
		o.Least = 100
	}
	if o.Window == 0 {
		o.Window = time.Minute
	}
	h := &HTTP{o: o}
	if o.Client != nil {
		h.client = *o.Client
	}
	h.client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("more than three redirects")
		}
		return permitted(r.URL)
	}
	return h, nil
}

// permitted holds that a URL is https, or http on loopback: metadata protects itself, but whoever reads along learns
// what a vehicle runs.
func permitted(u *url.URL) error {
	if u.Scheme == "https" && u.Host != "" {
		return nil
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("mirror %s: must be https://…; http is for loopback", u.Redacted())
}

// Fetch implements Fetcher.
func (h *HTTP) Fetch(ctx context.Context, name string, limit int64, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.o.Base+name, nil)
	if err != nil {
		return &refusal{Malformed, err}
	}
	request.Header.Set("Accept-Encoding", "identity") // so that the limit holds for what the network brings
	watch := &rateWatch{least: int64(float64(h.o.Least) * h.o.Window.Seconds()), w: w}
	defer watch.start(h.o.Window, func() {
		cancel(refuse(Slow, "less than %d bytes a second over %v", h.o.Least, h.o.Window))
	})()
	response, err := h.client.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound, response.StatusCode == http.StatusForbidden:
		// Stores of objects answer 403 for what is not there to those who may not list it.
		return ErrNotFound
	case response.StatusCode != http.StatusOK:
		return refuse(Unreachable, "the mirror answers %s", response.Status)
	case response.ContentLength > limit:
		return refuse(TooLong, "%d bytes where %d may be", response.ContentLength, limit)
	}
	n, err := io.Copy(watch, io.LimitReader(response.Body, limit))
	if err != nil {
		return because(ctx, err)
	}
	if n == limit {
		var one [1]byte
		if m, _ := io.ReadFull(response.Body, one[:]); m > 0 {
			return refuse(TooLong, "more than the %d bytes that may be", limit)
		}
	}
	return nil
}

// because prefers the reason for which a request was given up to the error of its being given up. What the writer
// refused stays the writer's.
func because(ctx context.Context, err error) error {
	var ours *refusal
	if errors.As(err, &ours) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.As(cause, &ours) {
			return cause
		}
		return &refusal{Unreachable, cause}
	}
	return &refusal{Unreachable, err}
}

// rateWatch counts what comes in, and cries when a window brings too little.
type rateWatch struct {
	least int64
	w     io.Writer
	count atomic.Int64
}

func (r *rateWatch) Write(p []byte) (int, error) {
	r.count.Add(int64(len(p)))
	return r.w.Write(p)
}

// start begins to watch and returns what ends it; after that cry is not called again.
func (r *rateWatch) start(window time.Duration, cry func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(window)
		defer ticker.Stop()
		for last := int64(0); ; {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			now := r.count.Load()
			if now-last < r.least {
				cry()
				return
			}
			last = now
		}
	}()
	return func() { close(done); <-ended }
}
