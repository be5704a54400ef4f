package network

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// maxProxyHead bounds a proxy's answer to CONNECT, bytes.
const maxProxyHead = 8 << 10

// CheckProxy says what is wrong with a proxy's URL.
func CheckProxy(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "socks5" && u.Scheme != "socks5h" {
		return fmt.Errorf("want http://host:port or socks5://host:port, got scheme %q", u.Scheme)
	}
	if u.Hostname() == "" {
		return errors.New("the proxy's URL names no host")
	}
	return nil
}

// ProxyAddr is the host:port of a proxy.
func ProxyAddr(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80"}[u.Scheme]
	}
	if port == "" {
		port = "1080" // RFC 1928 §3
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dialFunc opens a connection.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (f dialFunc) Dial(network, addr string) (net.Conn, error) {
	return f(context.Background(), network, addr)
}

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// through opens a connection to addr by way of a proxy, which resolves the name: a vehicle's own network may not know it.
func through(ctx context.Context, u *url.URL, dial dialFunc, network, addr string) (net.Conn, error) {
	if err := CheckProxy(u); err != nil {
		return nil, err
	}
	if u.Scheme == "http" {
		conn, err := dial(ctx, network, ProxyAddr(u))
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", u.Redacted(), err)
		}
		if err := connect(ctx, conn, u, addr); err != nil {
			return nil, errors.Join(fmt.Errorf("proxy %s: %w", u.Redacted(), err), conn.Close())
		}
		return conn, nil
	}
	var auth *proxy.Auth
	if u.User != nil {
		auth = &proxy.Auth{User: u.User.Username()}
		auth.Password, _ = u.User.Password()
	}
	d, err := proxy.SOCKS5(network, ProxyAddr(u), auth, dial)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", u.Redacted(), err)
	}
	conn, err := d.(proxy.ContextDialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", u.Redacted(), err)
	}
	return conn, nil
}

// connect asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6). The other side must not speak first, as it never does in
// TLS, MQTT and websockets.
func connect(ctx context.Context, conn net.Conn, u *url.URL, addr string) error {
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	head := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if u.User != nil {
		password, _ := u.User.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return err
	}
	answer, err := readHead(conn)
	if err != nil {
		return fmt.Errorf("its answer to CONNECT: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("its answer to CONNECT: %w", err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired:
		return fmt.Errorf("it answers %s: check proxy_user and proxy_password_file", response.Status)
	case response.StatusCode/100 != 2:
		return fmt.Errorf("it answers %s to CONNECT %s: it has to allow that address", response.Status, addr)
	}
	if !stop() {
		return ctx.Err()
	}
	return conn.SetDeadline(time.Time{})
}

// readHead reads up to the empty line and no further: what follows is the tunnel's.
func readHead(r io.Reader) (string, error) {
	var head []byte
	var one [1]byte
	for len(head) < maxProxyHead {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return "", err
		}
		head = append(head, one[0])
		if one[0] == '\n' && (strings.HasSuffix(string(head), "\r\n\r\n") || strings.HasSuffix(string(head), "\n\n")) {
			return string(head), nil
		}
	}
	return "", fmt.Errorf("more than %d bytes without an end", maxProxyHead)
}
