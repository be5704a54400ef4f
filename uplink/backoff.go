package uplink

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// pace is the back-off between connections: full jitter, uniform in [0, min(cap, base·2ⁿ)).
type pace struct {
	base, cap time.Duration
	rand      *rand.Rand
	failed    int // tries in a row that were of no use
	short     int // accepted sessions in a row that lived less than shortSession
}

func (p *pace) wait() time.Duration {
	top := p.base
	for range p.failed {
		if top >= p.cap {
			break
		}
		top *= 2
	}
	return time.Duration(p.rand.Int64N(int64(max(min(top, p.cap), 1))))
}

// Return codes of CONNACK (MQTT 3.1.1 §3.2.2.3).
const (
	connackProtocol   = 1
	connackIdentifier = 2
	connackUser       = 4
	connackAuthorised = 5
)

// judge decides how long to wait after a session and raises what a person should know.
func (u *Uplink) judge(out outcome, p *pace) (time.Duration, Phase) {
	if why := refusal(out); why != "" {
		u.o.Alarms.Raise(alarmCredentials, fmt.Sprintf("broker %s %s; the next try is in %s. Check user, password or certificate, and the vehicle's clock", u.end, why, u.o.RefusedRetry))
		return u.o.RefusedRetry, Refused
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(out.err, &untrusted) {
		u.o.Alarms.Raise(alarmTLS, fmt.Sprintf("the certificate of broker %s is not trusted: %v. Check the CA file and the vehicle's clock", u.end, untrusted.Err))
	}
	u.judgeLife(out, p)
	if out.acks > 0 || out.lived >= u.o.ResetAfter {
		p.failed = 0
	}
	wait := p.wait()
	p.failed++
	return wait, Offline
}

// judgeLife looks for another client with our id: brokers close the older connection of the two.
func (u *Uplink) judgeLife(out outcome, p *pace) {
	switch {
	case out.online && out.lived < shortSession:
		p.short++
	case out.lived >= u.o.ResetAfter:
		p.short = 0
		u.o.Alarms.Clear(alarmDuel)
	case out.online:
		p.short = 0
	}
	if p.short >= duelSessions {
		u.o.Alarms.Raise(alarmDuel, fmt.Sprintf("%d connections in a row were accepted and lost within %s: another client with the id %q, or a very poor link, is the likely cause", p.short, shortSession, u.o.ClientID))
	}
}

// refusal says how the broker turned us away for who we are; empty: it did not.
func refusal(out outcome) string {
	switch out.code {
	case connackProtocol:
		return "refuses MQTT 3.1.1 (CONNACK 1)"
	case connackIdentifier:
		return "refuses the client id (CONNACK 2)"
	case connackUser:
		return "refuses the user or password (CONNACK 4)"
	case connackAuthorised:
		return "does not authorise this vehicle (CONNACK 5)"
	}
	// crypto/tls keeps the alert's type to itself. TLS 1.3 sends this one only after the handshake (RFC 8446 §6.2), so
	// that it comes in the place of the CONNACK.
	var remote *net.OpError
	if errors.As(out.err, &remote) && remote.Op == "remote error" {
		if text := remote.Err.Error(); strings.Contains(text, "certificate") || strings.Contains(text, "access denied") {
			return "refuses the client certificate (" + text + ")"
		}
	}
	return ""
}

// describe says in words why a session ended.
func describe(out outcome) string {
	switch {
	case out.err == nil:
		return "the connection ended"
	case !out.online:
		return "not connected: " + out.err.Error()
	}
	return "connection lost: " + out.err.Error()
}
