package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/url"
)

// ErrPlainText: the broker's URL has no TLS and the configuration does not allow that.
var ErrPlainText = errors.New("a connection without TLS is refused")

// endpoint is a broker's URL, taken apart. It prints without user and password.
type endpoint struct {
	scheme   string
	host     string // with port
	name     string // without port: what a certificate must be for
	path     string // websocket
	secure   bool
	socket   bool // websocket
	user     string
	password string
}

// ports are what a scheme means when the URL names none.
var ports = map[string]string{
	"tcp": "1883", "mqtt": "1883", "ssl": "8883", "tls": "8883", "mqtts": "8883", "ws": "80", "wss": "443",
}

func parseEndpoint(raw string) (*endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the URL with its password.
		var wrong *url.Error
		if errors.As(err, &wrong) {
			err = wrong.Err
		}
		return nil, fmt.Errorf("broker URL: %w", err)
	}
	port, known := ports[u.Scheme]
	if !known {
		return nil, fmt.Errorf("broker %s: scheme %q: want tcp, mqtt, ssl, tls, mqtts, ws or wss", u.Redacted(), u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("broker %s: no host", u.Redacted())
	}
	if u.Port() != "" {
		port = u.Port()
	}
	e := &endpoint{
		scheme: u.Scheme, host: net.JoinHostPort(u.Hostname(), port), name: u.Hostname(), path: u.RequestURI(),
		secure: u.Scheme == "ssl" || u.Scheme == "tls" || u.Scheme == "mqtts" || u.Scheme == "wss",
		socket: u.Scheme == "ws" || u.Scheme == "wss",
	}
	if u.User != nil {
		e.user = u.User.Username()
		e.password, _ = u.User.Password()
	}
	return e, nil
}

// String is the URL without user and password.
func (e *endpoint) String() string {
	if e.socket {
		return e.scheme + "://" + e.host + e.path
	}
	return e.scheme + "://" + e.host
}
