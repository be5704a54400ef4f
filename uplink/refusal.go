package uplink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// CredentialError is what TLS, User and Password return when they know what is wrong with the vehicle's own credentials.
// Its text names cause and remedy and no secret.
type CredentialError struct {
	Text      string
	Transient bool  // may be over by itself: the usual back-off
	Err       error // nil: none
}

func (e *CredentialError) Error() string {
	if e.Err != nil {
		return e.Text + ": " + e.Err.Error()
	}
	return e.Text
}

func (e *CredentialError) Unwrap() error { return e.Err }

// TrustError is what a tls.Config's own checks return, such as pins: the broker is not the one that was meant.
type TrustError struct{ Text string }

func (e *TrustError) Error() string { return e.Text }

// Return codes of CONNACK (MQTT 3.1.1 §3.2.2.3).
const (
	connackProtocol   = 1
	connackIdentifier = 2
	connackUser       = 4
	connackAuthorised = 5
)

// refused is a try that ended at credentials or trust.
type refused struct {
	alarm, text string // empty: it did not
	transient   bool
}

// refused says what a person has to do before the next try can fare better.
func (u *Uplink) refused(out outcome) refused {
	if out.online || out.err == nil {
		return refused{}
	}
	var own *CredentialError
	if errors.As(out.err, &own) {
		return refused{alarm: alarmCredentials, text: "nothing to show to broker " + u.end.String() + ": " + own.Error(), transient: own.Transient}
	}
	if text := u.distrust(out.err); text != "" {
		return refused{alarm: alarmTLS, text: text}
	}
	if text := refusal(out); text != "" {
		text = fmt.Sprintf("broker %s %s", u.end, text)
		if u.o.Explain != nil {
			if known := u.o.Explain(); known != "" {
				text += ". Known here: " + known
			}
		}
		return refused{alarm: alarmCredentials, text: text}
	}
	return refused{}
}

// untrusted: we turned the broker away, as a network with a login page of its own makes us do.
func (out outcome) untrusted() bool {
	var verification *tls.CertificateVerificationError
	var trust *TrustError
	return errors.As(out.err, &verification) || errors.As(out.err, &trust)
}

// distrust says why we do not talk to the broker; empty: we do.
func (u *Uplink) distrust(err error) string {
	var trust *TrustError
	if errors.As(err, &trust) {
		return fmt.Sprintf("broker %s is not trusted: %s", u.end, trust.Text)
	}
	var failed *tls.CertificateVerificationError
	if errors.As(err, &failed) {
		return fmt.Sprintf("the certificate of broker %s is not trusted: %s", u.end, verification(failed))
	}
	// crypto/tls has no types for these.
	if text := err.Error(); strings.Contains(text, "protocol version not supported") || strings.Contains(text, "unsupported protocol version") {
		return fmt.Sprintf("broker %s speaks no version of TLS that is allowed here (%v). Update the broker, or lower the least version if it is above 1.2", u.end, err)
	}
	if text := err.Error(); strings.Contains(text, "first record does not look like a TLS handshake") {
		return fmt.Sprintf("%s answers without TLS: the port is that of a listener without encryption, or a network's login page is in between. Check port and network", u.end)
	}
	return ""
}

// verification puts the reason for a refused certificate into words, with the remedy.
func verification(failed *tls.CertificateVerificationError) string {
	var leaf x509.Certificate
	if len(failed.UnverifiedCertificates) > 0 {
		leaf = *failed.UnverifiedCertificates[0]
	}
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(failed.Err, &host):
		return fmt.Sprintf("%v. Check the host in the broker's URL, or say which name the certificate has", host)
	case errors.As(failed.Err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("%v; it is valid from %s to %s. If that is not so, this vehicle's clock is wrong: it needs GPS or NTP; else the broker needs a new certificate", invalid, day(leaf.NotBefore), day(leaf.NotAfter))
	case errors.As(failed.Err, &authority):
		return fmt.Sprintf("it was signed by %q, whom no certificate here vouches for. Check the CA file, or whether a network's login page is in between", leaf.Issuer)
	}
	return fmt.Sprintf("%v. Check the CA file and the vehicle's clock", failed.Err)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// refusal says how the broker turned us away for who we are; empty: it did not.
func refusal(out outcome) string {
	switch out.code {
	case connackProtocol:
		return "refuses MQTT 3.1.1 (CONNACK 1). Allow that version in the broker"
	case connackIdentifier:
		return "refuses the client id (CONNACK 2). Check client_id against the broker's rules"
	case connackUser:
		return "refuses the user or password (CONNACK 4). Check both, and whether a token has expired"
	case connackAuthorised:
		return "does not authorise this vehicle (CONNACK 5). Check user, password or certificate, that the broker knows this vehicle, and that its limit of connections is not reached, which HiveMQ answers so"
	}
	if !isRemoteAlert(out.err) {
		return ""
	}
	text := out.err.Error()
	has := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case has("expired certificate"):
		return "says that the client certificate has expired. Renew it; if it is valid, the broker's clock is wrong"
	case has("unknown certificate authority"):
		return "does not know who signed the client certificate. Give the broker that authority, or this vehicle the right certificate with its intermediates"
	case has("revoked certificate"):
		return "says that the client certificate was revoked. This vehicle needs a new one"
	case has("certificate required"), has("handshake failure"):
		return "ends the handshake (" + text + "), as one does that wants a client certificate and gets none that it accepts. Check cert and key"
	case has("certificate"), has("access denied"):
		return "refuses the client certificate (" + text + "). Check it and its authority"
	case has("unrecognized name"):
		return "does not know the name that it was called by (" + text + "). Check the host, or the server name"
	}
	return ""
}

// isRemoteAlert says whether an error is the other side's alert. crypto/tls keeps the alert's type to itself. TLS 1.3
// sends those about the client's certificate only after the handshake (RFC 8446 §6.2), so that they come in the place of
// the CONNACK.
func isRemoteAlert(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error"
}
