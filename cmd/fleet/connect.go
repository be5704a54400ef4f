package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// checkBroker refuses an address that would carry data in clear through a network, unless that is asked for.
func (f *serveFlags) checkBroker() error {
	if !f.hasBroker() {
		if f.user != "" || f.passwordFile != "" || f.ca != "" || f.cert != "" || f.key != "" {
			return errors.New("--user, --password-file, --ca, --cert and --key are for --broker; give its URL")
		}
		return nil
	}
	u, err := url.Parse(f.broker)
	if err != nil || u.Host == "" {
		return fmt.Errorf("--broker %q: want tcp://HOST:PORT or ssl://HOST:PORT", f.broker)
	}
	if u.User != nil {
		return errors.New("--broker: no user or password in the URL, others can read a command line; use --user and --password-file")
	}
	if (f.cert == "") != (f.key == "") {
		return errors.New("--cert and --key belong together")
	}
	switch u.Scheme {
	case "ssl", "tls", "mqtts":
		return nil
	case "tcp", "mqtt":
	default:
		return fmt.Errorf("--broker %q: scheme %q is none of tcp, mqtt, ssl, tls, mqtts", f.broker, u.Scheme)
	}
	if f.ca != "" || f.cert != "" {
		return fmt.Errorf("--broker %q: certificates are given but the scheme is without TLS; use ssl://", f.broker)
	}
	if !isLoopback(u.Hostname()) && !f.insecure {
		return fmt.Errorf("--broker %q: without TLS only on this machine; use ssl://, or --insecure on a network that you trust", f.broker)
	}
	return nil
}

// credentials reads the password anew at each connection.
func (f *serveFlags) credentials() func() (string, string, error) {
	if f.user == "" && f.passwordFile == "" {
		return nil
	}
	user, file := f.user, f.passwordFile
	return func() (string, string, error) {
		if file == "" {
			return user, "", nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return "", "", fmt.Errorf("--password-file: %w", err)
		}
		return user, strings.TrimRight(string(text), "\r\n"), nil
	}
}

// tls reads the certificates anew at each connection.
func (f *serveFlags) tls() func() (*tls.Config, error) {
	ca, cert, key := f.ca, f.cert, f.key
	return func() (*tls.Config, error) {
		c := &tls.Config{MinVersion: tls.VersionTLS12}
		if ca != "" {
			pem, err := os.ReadFile(ca)
			if err != nil {
				return nil, fmt.Errorf("--ca: %w", err)
			}
			c.RootCAs = x509.NewCertPool()
			if !c.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("--ca %s: no certificate in it (PEM is expected)", ca)
			}
		}
		if cert != "" {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("--cert %s, --key %s: %w", cert, key, err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
		return c, nil
	}
}

// isLoopback says whether a host is this machine, by its address or as localhost.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
