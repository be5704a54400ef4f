package doctor

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// handshake notes how far TLS came. It is safe for use from several goroutines: paho dials on one of its own.
type handshake struct {
	mu       sync.Mutex // guards what follows
	asked    bool       // the dial came to TLS
	verified bool       // the broker's certificate was found good, pins included
	state    tls.ConnectionState
}

func (h *handshake) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked, h.verified, h.state = false, false, tls.ConnectionState{}
}

func (h *handshake) seen() (asked, verified bool, state tls.ConnectionState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked, h.verified, h.state
}

// watch notes what happens to a configuration's connections, and changes nothing of it.
func (h *handshake) watch(config func() (*tls.Config, error)) func() (*tls.Config, error) {
	return func() (*tls.Config, error) {
		c := &tls.Config{}
		if config != nil {
			given, err := config()
			if err != nil {
				return nil, err
			}
			c = given.Clone()
		}
		h.mu.Lock()
		h.asked = true
		h.mu.Unlock()
		check := c.VerifyConnection
		c.VerifyConnection = func(state tls.ConnectionState) error { // after crypto/tls found the chain good
			h.mu.Lock()
			h.state = state
			h.mu.Unlock()
			if check != nil {
				if err := check(state); err != nil {
					return err
				}
			}
			h.mu.Lock()
			h.verified = true
			h.mu.Unlock()
			return nil
		}
		return c, nil
	}
}

// soon is how long before its end a broker's certificate is worth a word.
const soon = 21 * 24 * time.Hour

// secured says what TLS came to, in words.
func (x *examination) secured(state tls.ConnectionState) string {
	text := tls.VersionName(state.Version)
	if len(state.PeerCertificates) == 0 {
		return text
	}
	leaf := state.PeerCertificates[0]
	left := leaf.NotAfter.Sub(x.o.Clock().Known)
	text += fmt.Sprintf(", the broker's certificate is %s, issued by %s, valid until %s (%s left)",
		named(leaf.Subject.String(), "without a subject"), named(leaf.Issuer.String(), "nobody"), day(leaf.NotAfter), days(left))
	if left < soon {
		text += "; SOON: renew it"
	}
	return text
}

func named(name, none string) string {
	if name == "" {
		return none
	}
	return name
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(math.Floor(d.Hours()/24)))
}

// tlsFailed is TLS that came to no trust in the broker.
func (x *examination) tlsFailed(err error) {
	if text := x.trial.Distrust(err); text != "" {
		wrong, remedy := cut(text)
		if remedy == "" {
			remedy = "check ca:, server_name: and ca_pins:"
		}
		if x.failed[StepClock] {
			remedy = "set the clock first (see above): certificates cannot be judged without it. Then: " + remedy
		}
		x.fail(StepTLS, wrong, remedy)
		return
	}
	if text := x.trial.Refusal(0, err); text != "" {
		wrong, remedy := cut("the broker " + text)
		x.fail(StepTLS, wrong, remedy)
		return
	}
	switch {
	case timedOut(err):
		x.fail(StepTLS, fmt.Sprintf("%s accepts the connection and says nothing more", x.trial.Addr()),
			"the port is not that of a broker with TLS (8883 is usual), the broker is overloaded, or something on the way swallows large packets (MTU)")
	case ended(err):
		x.fail(StepTLS, fmt.Sprintf("%s ends the connection during the handshake without a word, as a listener without TLS does (%v)", x.trial.Addr(), err),
			"take the port of the listener with TLS (8883 is usual); where that listener is plain by intent, for a bench: mqtt: and insecure: true")
	default:
		x.fail(StepTLS, err.Error(), "look at the broker's log for this moment")
	}
}

func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(err.Error(), "deadline exceeded") || strings.Contains(err.Error(), "i/o timeout")
}

// ended says whether the other side closed the connection.
func ended(err error) bool {
	return err != nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.HasSuffix(err.Error(), "EOF") || strings.Contains(err.Error(), "connection reset") || strings.Contains(err.Error(), "broken pipe"))
}
