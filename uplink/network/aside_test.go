package network

import (
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"
)

// Beside the session the first link that is up is taken, by way of the proxy, and nothing of it shows in the session's.
func TestAside(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	open := func(proxy string, links ...Link) *Links {
		t.Helper()
		o := Options{Links: links, Boot: func() int64 { return 0 }, Log: slog.New(slog.DiscardHandler)}
		if proxy != "" {
			o.Proxy = func(string) (*url.URL, error) { return url.Parse(proxy) }
		}
		opened, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		return opened
	}
	absent, routes := Link{Name: "wifi", Interface: "none9"}, Link{Name: "lte", Metered: true}
	for name, links := range map[string]*Links{"no links": open(""), "the second": open("", absent, routes)} {
		conn, err := links.Aside(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if over, err := InterfaceOf(conn.LocalAddr()); over != "lo" || err != nil {
			t.Errorf("%s: the connection leads over %q: %v", name, over, err)
		}
		conn.Close()
		if way, err := links.Way(t.Context(), addr); way != "lo" || err != nil {
			t.Errorf("%s: the way leads over %q: %v", name, way, err)
		}
		if links.Current() != "" {
			t.Errorf("%s: the session has link %s", name, links.Current())
		}
	}
	none := open("", absent)
	if _, err := none.Aside(t.Context(), "tcp", addr); err == nil || !strings.Contains(err.Error(), "link wifi: interface none9 is not there") {
		t.Errorf("the only link is down: %v", err)
	}
	if way, err := none.Way(t.Context(), addr); way != "" || err == nil {
		t.Errorf("the only link is down: %q %v", way, err)
	}
	// The way is that to the proxy, which may be where the mirror is not.
	behind := open("http://" + addr)
	if way, err := behind.Way(t.Context(), "mirror.invalid:443"); way != "lo" || err != nil {
		t.Errorf("the way to the proxy leads over %q: %v", way, err)
	}
}
