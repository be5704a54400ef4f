package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/credential"
	"github.com/waybill-telematics/waybill/uplink/network"
)

const (
	// wayEvery is how long the answer to which way leads to the mirrors is good.
	wayEvery = 5 * time.Second
	// wayTimeout bounds the question, in which a name may have to be resolved.
	wayTimeout = 2 * time.Second
)

// updateClient fetches metadata and images by the links, the proxy and the client certificate of the uplink. It is safe for
// use from several goroutines.
type updateClient struct {
	links    *network.Links
	creds    *credential.Store
	ca       string // file; "": the system's roots alone
	wifi     []string
	mirror   string // host:port of the first that has images
	sessions tls.ClientSessionCache

	metadata, images *http.Client
	pool             *http.Transport // of images
	wifiOnly         atomic.Bool     // images are fetched over Wi-Fi only

	mu    sync.Mutex // guards what follows
	asked time.Time
	way   string
	why   error
}

func (a *agent) newUpdateClient() (*updateClient, error) {
	s := a.settings.Update
	c := &updateClient{links: a.links, ca: s.CA, wifi: s.WiFi, sessions: tls.NewLRUClientSessionCache(8)}
	if c.links == nil { // record only: there is no session, and the links are nobody else's
		var err error
		if c.links, err = network.New(a.linkOptions(&uplink.Options{})); err != nil {
			return nil, err
		}
	}
	shown := a.settings.Uplink.Credentials
	// The broker's own: its roots, pins and name say nothing of a mirror.
	shown.CA, shown.Pins, shown.ServerName, shown.Now = "", nil, "", a.vouchedTime
	c.creds = credential.New(shown)
	if len(s.Targets) > 0 {
		base, err := url.Parse(s.Targets[0])
		if err != nil {
			return nil, err
		}
		port := base.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
		}
		c.mirror = net.JoinHostPort(base.Hostname(), port)
	}
	c.open()
	return c, nil
}

func (c *updateClient) open() {
	c.metadata = &http.Client{Transport: c.transport(c.links.Aside)}
	c.pool = c.transport(c.dialImages)
	c.images = &http.Client{Transport: c.pool}
}

// another is a client whose images may flow over other links than c's: those of another order.
func (c *updateClient) another() *updateClient {
	d := &updateClient{links: c.links, creds: c.creds, ca: c.ca, wifi: c.wifi, mirror: c.mirror, sessions: c.sessions}
	d.open()
	return d
}

// transport speaks HTTP/1.1: one request at a time needs no more, and a body that is closed ends.
func (c *updateClient) transport(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	t := &http.Transport{
		DialContext: dial, IdleConnTimeout: time.Minute, Protocols: new(http.Protocols),
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			config, err := c.config(addr)
			if err != nil {
				return nil, err
			}
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return tls.Client(conn, config), nil // the transport begins the handshake, and counts it
		},
	}
	t.Protocols.SetHTTP1(true)
	return t
}

// config is TLS's for one connection; the files are read anew each time.
func (c *updateClient) config(addr string) (*tls.Config, error) {
	config, err := c.creds.TLS()
	if err != nil {
		return nil, err
	}
	if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
		return nil, err
	}
	config.ClientSessionCache = c.sessions
	if c.ca == "" {
		return config, nil
	}
	text, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fmt.Errorf("update.ca: %w", err)
	}
	if config.RootCAs, err = x509.SystemCertPool(); err != nil {
		config.RootCAs = x509.NewCertPool()
	}
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("update.ca: %s holds no PEM certificate", c.ca)
	}
	return config, nil
}

// errNoWiFi: an order's bytes may not flow over this connection.
var errNoWiFi = errors.New("the order is for Wi-Fi only")

// dialImages refuses connections that an order for Wi-Fi only must not use, where the links have fallen back to another one.
func (c *updateClient) dialImages(ctx context.Context, netw, addr string) (net.Conn, error) {
	conn, err := c.links.Aside(ctx, netw, addr)
	if err != nil || !c.wifiOnly.Load() {
		return conn, err
	}
	name, err := network.InterfaceOf(conn.LocalAddr())
	if err == nil && !slices.Contains(c.wifi, name) {
		err = fmt.Errorf("%w, and the connection leads over %s", errNoWiFi, name)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// flow is the gate of a download.
func (c *updateClient) flow(wifiOnly bool) (ok bool, why string) {
	if before := c.wifiOnly.Swap(wifiOnly); wifiOnly && !before {
		c.pool.CloseIdleConnections() // they may be over anything
	}
	if !wifiOnly {
		return true, ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.asked) >= wayEvery {
		ctx, cancel := context.WithTimeout(context.Background(), wayTimeout)
		c.way, c.why = c.links.Way(ctx, c.mirror)
		cancel()
		c.asked = time.Now()
	}
	switch {
	case c.why != nil:
		return false, fmt.Sprintf("%v, and no way is known: %v", errNoWiFi, c.why)
	case !slices.Contains(c.wifi, c.way):
		return false, fmt.Sprintf("%v, and the way leads over %s", errNoWiFi, c.way)
	}
	return true, ""
}
