package delivery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Mirror is a place that serves files by HTTPS. It need not be trusted.
type Mirror struct {
	Base string // https; http is taken on loopback only
	// Client is for certificates and proxies of one's own; nil is a plain one. Its redirects are held to https in either case. It should
	// have a ClientSessionCache: on a link that breaks, each handshake with certificates costs kilobytes.
	Client *http.Client
}

// mirror fetches ranges (RFC 9110, §14). It belongs to the goroutine of Delivery.Run.
type mirror struct {
	base   string
	client http.Client
	own    bool // the client, which nobody else uses
	least  int64
	window time.Duration

	validators map[string]string // by remote path: what If-Range may hold, of the last answer
	whole      bool              // it answers 200 to ranges: only the file from its beginning can be had
	plain      bool              // it refuses even to be asked for ranges
}

// What a mirror did, where more than an error is needed.
var (
	errWhole = errors.New("the mirror serves whole files only; what is there already would come again")
	errStale = errors.New("the file at the mirror is another than before")
)

// errVerdict is a mirror that was reached, and does not have the file or not as it should be.
type errVerdict struct{ err error }

func (e *errVerdict) Error() string { return e.err.Error() }
func (e *errVerdict) Unwrap() error { return e.err }

// errLater is a mirror that says when to come back.
type errLater struct {
	status string
	after  time.Duration
}

func (e *errLater) Error() string { return "the mirror answers " + e.status }

func newMirror(o Mirror, least int64, window time.Duration) (*mirror, error) {
	base, err := url.Parse(o.Base)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	local, err := permitted(base)
	if err != nil {
		return nil, err
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("mirror %s: a base has no query and no fragment", base.Redacted())
	}
	m := &mirror{base: strings.TrimSuffix(o.Base, "/") + "/", least: least, window: window, validators: map[string]string{}}
	if o.Client != nil {
		m.client = *o.Client
	} else {
		m.client.Transport, m.own = thrifty(), true
	}
	m.client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("more than three redirects")
		}
		if there, err := permitted(r.URL); err != nil {
			return err
		} else if there && !local {
			// What listens on the vehicle's own loopback is nobody's business outside.
			return fmt.Errorf("redirect to %s: loopback is not for mirrors outside", r.URL.Redacted())
		}
		return nil
	}
	return m, nil
}

// thrifty resumes TLS sessions, and speaks HTTP/1.1: one request at a time needs no more, and a body that is closed ends.
func thrifty() *http.Transport {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: time.Minute,
		IdleConnTimeout:     time.Minute,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4)},
		Protocols:           new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t
}

// permitted holds that a URL is https, or http on loopback.
func permitted(u *url.URL) (loopback bool, err error) {
	ip := net.ParseIP(u.Hostname())
	loopback = u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme == "https" && u.Host != "" || u.Scheme == "http" && loopback {
		return loopback, nil
	}
	return false, fmt.Errorf("mirror %s: must be https://…; http is for loopback", u.Redacted())
}

func (m *mirror) String() string { return m.base }

// fetch asks for what is missing, range by range over one connection, until nothing is or something goes wrong. patient says that there
// is no better source: then whole files are read for what is missing of them.
func (m *mirror) fetch(ctx context.Context, d *Delivery, p *part, remote string, patient bool) error {
	again := 0 // requests in a row that only taught us how to ask
	for !p.complete() {
		if err := d.proceed(); err != nil {
			return err
		}
		left, err := d.budget.left()
		if err != nil {
			return err
		}
		off, n := p.missing(0, math.MaxInt64)
		n = min(n, left)
		if m.plain || m.whole {
			if off > wholeWaste && !patient {
				return errWhole
			}
		}
		had := p.bytes
		err = m.request(ctx, d, p, remote, off, n, patient)
		switch {
		case errors.Is(err, errStale) && again < 3:
			again++
			continue
		case err != nil:
			return err
		case p.bytes == had:
			return errors.New("the mirror's answer had nothing that is missing")
		}
		again = 0
	}
	return nil
}

// wholeWaste is how many bytes that are there already may come again, in bytes, before another source is tried.
const wholeWaste = 256 << 10

func (m *mirror) request(ctx context.Context, d *Delivery, p *part, remote string, off, n int64, patient bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fresh := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: func(string, string) { d.overhead.Add(connectionBytes) },
		TLSHandshakeDone: func(s tls.ConnectionState, _ error) {
			if d.overhead.Add(resumptionBytes); !s.DidResume {
				d.overhead.Add(handshakeBytes - resumptionBytes)
			}
		},
	})
	request, err := http.NewRequestWithContext(fresh, http.MethodGet, m.base+remote, nil)
	if err != nil {
		return err
	}
	// Compressed bytes would have other places than the file's, and a length that nobody vouches for.
	request.Header.Set("Accept-Encoding", "identity")
	validator := m.validators[remote]
	if !m.plain {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
		if validator != "" {
			request.Header.Set("If-Range", validator)
		}
	}
	d.overhead.Add(requestBytes)
	count := &atomic.Int64{}
	defer watchRate(count, m.least, m.window, func() {
		cancel(fmt.Errorf("less than %d bytes a second over %v", m.least, m.window))
	})()
	response, err := m.client.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	// Closing a body that has more to come ends the connection, so that nothing more of it is paid for.
	defer response.Body.Close()
	first, size, err := m.understand(p, remote, response, off, n, validator, patient)
	var later *errLater
	switch {
	case errors.Is(err, errStale), errors.Is(err, errWhole), errors.As(err, &later):
		return err
	case err != nil:
		return &errVerdict{err}
	}
	return because(ctx, d.copy(p, io.TeeReader(response.Body, counter{count}), first, size))
}

// understand says which bytes of the file an answer brings: size of them from first on, and no more are read.
func (m *mirror) understand(p *part, remote string, r *http.Response, off, n int64, validator string, patient bool) (first, size int64, err error) {
	if r.StatusCode == http.StatusOK || r.StatusCode == http.StatusPartialContent {
		if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") || r.Uncompressed {
			return 0, 0, fmt.Errorf("the mirror sends the file as %.20q, though asked not to", coding)
		}
	}
	now := validatorOf(r.Header)
	switch r.StatusCode {
	case http.StatusPartialContent:
		m.validators[remote] = now // of another file, perhaps: the hash of all of it decides
		span, err := parseContentRange(r.Header.Get("Content-Range"))
		switch {
		case m.plain || strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/byteranges"):
			return 0, 0, errors.New("the mirror answers with ranges that it was not asked for")
		case err != nil:
			return 0, 0, err
		case span.length >= 0 && span.length != p.id.length:
			return 0, 0, fmt.Errorf("the mirror's file has %d bytes, the right one %d", span.length, p.id.length)
		case span.first != off:
			return 0, 0, fmt.Errorf("asked for bytes from %d on, the mirror brings some from %d on", off, span.first)
		}
		size = span.last - span.first + 1
		switch {
		case r.ContentLength >= 0 && r.ContentLength != size:
			return 0, 0, fmt.Errorf("%d bytes announced for a range of %d", r.ContentLength, size)
		case size < min(n, int64(p.id.block)):
			return 0, 0, fmt.Errorf("asked for %d bytes, the mirror brings %d", n, size)
		}
		return off, min(size, n), nil
	case http.StatusOK:
		if r.ContentLength >= 0 && r.ContentLength != p.id.length {
			return 0, 0, fmt.Errorf("the mirror's file has %d bytes, the right one %d", r.ContentLength, p.id.length)
		}
		changed := !m.plain && validator != "" && validator != now
		m.validators[remote] = now
		if off == 0 && n == p.id.length {
			return 0, n, nil
		}
		if changed {
			return 0, 0, errStale // its ranges can be had by its new name
		}
		m.whole = true
		if off > wholeWaste && !patient {
			return 0, 0, errWhole
		}
		return 0, p.id.length, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if span, err := parseContentRange(r.Header.Get("Content-Range")); err == nil && span.length >= 0 && span.length != p.id.length {
			return 0, 0, fmt.Errorf("the mirror's file has %d bytes, the right one %d", span.length, p.id.length)
		}
		if !m.plain {
			m.plain = true
			return 0, 0, errStale
		}
	case http.StatusPreconditionFailed:
		if validator != "" {
			delete(m.validators, remote)
			return 0, 0, errStale
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds, _ := decimal(r.Header.Get("Retry-After")) // a date would need a clock that is right
		return 0, 0, &errLater{r.Status, time.Duration(min(seconds, 3600)) * time.Second}
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone:
		return 0, 0, fmt.Errorf("the mirror has no such file (%s)", r.Status)
	}
	return 0, 0, fmt.Errorf("the mirror answers %s", r.Status)
}

// validatorOf is what If-Range may hold (RFC 9110, §13.1.5): a strong entity tag, or else a date of modification that is a second
// or more before the answer (§8.8.2.2).
func validatorOf(h http.Header) string {
	if tag := h.Get("ETag"); tag != "" {
		if len(tag) <= 256 && len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
			return tag
		}
		return ""
	}
	modified := h.Get("Last-Modified")
	changed, err := http.ParseTime(modified)
	date, dateErr := http.ParseTime(h.Get("Date"))
	if err != nil || dateErr != nil || date.Sub(changed) < time.Second {
		return ""
	}
	return modified
}

// copy writes size bytes of a body to their place. It looks at the gate and at the budget before each block.
func (d *Delivery) copy(p *part, body io.Reader, off, size int64) error {
	for size > 0 && !p.complete() {
		if err := d.proceed(); err != nil {
			return err
		}
		start, length := p.id.span(int(off / int64(p.id.block)))
		want, err := d.budget.allow(min(size, start+int64(length)-off))
		if err != nil {
			return err
		}
		n, readErr := io.ReadFull(body, d.block(int(want)))
		if err := d.take(p, d.buffer[:n], off, n); err != nil {
			return err
		}
		off, size = off+int64(n), size-int64(n)
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			return fmt.Errorf("the answer ended %d bytes early", size)
		case readErr != nil:
			return readErr
		}
	}
	return nil
}

// because prefers the reason for which a request was given up to the error of its being given up.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// watchRate cries when a window brings less than least bytes a second, as firmware/trust does for metadata. The function that it
// returns ends it; after that cry is not called again.
func watchRate(count *atomic.Int64, least int64, window time.Duration, cry func()) (stop func()) {
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
			now := count.Load()
			if float64(now-last) < float64(least)*window.Seconds() {
				cry()
				return
			}
			last = now
		}
	}()
	return func() { close(done); <-ended }
}

// escapePath makes a path below a mirror of a file's name, as a URL has it.
func escapePath(name string) (string, error) {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("%.80q is not a path below a mirror", name)
		}
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/"), nil
}

// seconds for logs, without a fraction that nobody reads.
func seconds(d time.Duration) string { return strconv.Itoa(int(d.Round(time.Second).Seconds())) + " s" }
