package network

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Aside opens a connection beside the session's: over the best link that is up, and over the next one where that fails.
// It changes nothing of what the session knows of the links.
func (l *Links) Aside(ctx context.Context, network, addr string) (net.Conn, error) {
	ways, err := l.ways()
	failed := []error{err}
	for _, way := range ways {
		conn, err := l.over(ctx, way.Interface, network, addr)
		if err == nil {
			return conn, nil
		}
		failed = append(failed, fmt.Errorf("link %s: %w", orElse(way.Name, "default"), err))
	}
	return nil, errors.Join(failed...)
}

// Way is the interface over which Aside would lead to addr now. Where the routes decide, they are asked; nothing is sent but
// perhaps a question for the name.
func (l *Links) Way(ctx context.Context, addr string) (string, error) {
	ways, err := l.ways()
	if len(ways) == 0 {
		return "", err
	}
	if ways[0].Interface != "" {
		return ways[0].Interface, nil
	}
	if l.o.Proxy != nil {
		u, err := l.o.Proxy(addr)
		if err != nil {
			return "", fmt.Errorf("proxy: %w", err)
		}
		if u != nil {
			addr = ProxyAddr(u)
		}
	}
	// UDP's connect asks the routing table and stays silent.
	conn, err := (&net.Dialer{Resolver: l.o.Resolver}).DialContext(ctx, "udp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return InterfaceOf(conn.LocalAddr())
}

// ways are the links that are up, the best first, and why the others are not; without links one that the routes choose.
func (l *Links) ways() (ways []Link, down error) {
	if len(l.links) == 0 {
		return []Link{{}}, nil
	}
	var failed []error
	for _, s := range l.links { // neither their order nor Link changes
		if s.Interface != "" {
			if _, err := globalAddresses(s.Interface); err != nil {
				failed = append(failed, fmt.Errorf("link %s: %w", s.Name, err))
				continue
			}
		}
		ways = append(ways, s.Link)
	}
	return ways, errors.Join(failed...)
}

// InterfaceOf is the interface that has the address of a connection's own end.
func InterfaceOf(local net.Addr) (string, error) {
	host, _, err := net.SplitHostPort(local.String())
	if err != nil {
		return "", err
	}
	ip := net.ParseIP(host)
	list, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, i := range list {
		addresses, err := i.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no interface has the address %s", host)
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
