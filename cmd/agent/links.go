package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/network"
)

type linkConfig struct {
	Name      string            `yaml:"name"`
	Interface string            `yaml:"interface"`
	Metered   bool              `yaml:"metered"`
	Priority  int               `yaml:"priority"`
	Without   []string          `yaml:"without" enum:"control event telemetry raw"`
	Budget    map[string]string `yaml:"budget" keys:"control event telemetry raw"`
}

// proxySettings is the way out of a network that lets nobody out directly.
type proxySettings struct {
	URL          *url.URL // nil: see Environment
	Environment  bool     // HTTPS_PROXY and NO_PROXY decide
	PasswordFile string
	PasswordEnv  string // in its place: the environment variable that holds it
}

// userTimeout is how long sent data may stay unacknowledged before the kernel gives the connection up.
const userTimeout = 30 * time.Second

// budgetFile keeps the bytes of the day in the data folder.
const budgetFile = "uplink-budget"

// links checks the keys of links, budgets and the proxy.
func (c *checker) links(u *uplinkSettings) {
	raw := &c.d.config.Uplink
	u.BudgetLocal = c.oneOf(raw.BudgetDay, []string{"utc", "local"}, "uplink", "budget_day") == "local"
	c.proxy(u)
	names := map[string]bool{}
	for i, r := range raw.Links {
		at := func(key string) []any { return []any{"uplink", "links", i, key} }
		l := network.Link{Name: r.Name, Interface: r.Interface, Metered: r.Metered, Priority: r.Priority}
		if err := telemetrypb.CheckName("link name", r.Name); err != nil {
			c.fail(err.Error(), at("name")...)
		} else if names[r.Name] {
			c.fail(fmt.Sprintf("%q is named twice", r.Name), at("name")...)
		}
		names[r.Name] = true
		if len(r.Interface) > 15 {
			c.fail(fmt.Sprintf("%q is longer than the 15 characters of a Linux interface name", r.Interface), at("interface")...)
		}
		if r.Priority < 0 || r.Priority > 1000 {
			c.fail(fmt.Sprintf("must be between 0 (first) and 1000, got %d", r.Priority), at("priority")...)
		}
		for j, name := range r.Without {
			lane, ok := laneNames[name]
			if !ok {
				c.fail("want lanes: control, event, telemetry or raw", "uplink", "links", i, "without", j)
			}
			l.Without = append(l.Without, lane)
		}
		if len(r.Budget) > 0 && !r.Metered {
			c.fail("is for metered: true only: a link that costs nothing needs none", at("budget")...)
		}
		for name, size := range r.Budget {
			lane, ok := laneNames[name]
			if !ok {
				c.fail("want a lane: control, event, telemetry or raw", "uplink", "links", i, "budget", name)
				continue
			}
			if l.Budget == nil {
				l.Budget = map[telemetrypb.Lane]int64{}
			}
			l.Budget[lane] = c.size(size, 0, 0, 1<<40, "uplink", "links", i, "budget", name)
		}
		u.Links = append(u.Links, l)
	}
	for name, lane := range laneNames {
		barred := func(l network.Link) bool { return slices.Contains(l.Without, lane) }
		if len(u.Links) > 0 && !slices.ContainsFunc(u.Links, func(l network.Link) bool { return !barred(l) }) {
			c.fail(fmt.Sprintf("lane %s may travel on none of them and would never be delivered; take it out of one without:", name), "uplink", "links")
		}
	}
}

func (c *checker) proxy(u *uplinkSettings) {
	raw := &c.d.config.Uplink
	at := func(key string) []any { return []any{"uplink", key} }
	u.Proxy.PasswordFile, u.Proxy.PasswordEnv = c.path(raw.ProxyPasswordFile), c.variable(raw.ProxyPasswordEnv, at("proxy_password_env")...)
	switch raw.Proxy {
	case "", "environment":
		u.Proxy.Environment = true
	case "none":
	default:
		proxy, err := url.Parse(raw.Proxy)
		if err == nil {
			err = network.CheckProxy(proxy)
		} else {
			err = errors.New("want http://host:port, socks5://host:port, environment or none") // url's error repeats what may hold a password
		}
		if err != nil {
			c.fail(err.Error(), at("proxy")...)
			return
		}
		if proxy.User != nil {
			c.fail("no user or password in the URL, where logs would show it; use proxy_user: and proxy_password_file:", at("proxy")...)
		}
		u.Proxy.URL = proxy
	}
	if raw.ProxyUser != "" && u.Proxy.URL == nil {
		c.fail("is for proxy: with a URL only", at("proxy_user")...)
	}
	if (raw.ProxyUser == "") != (raw.ProxyPasswordFile == "" && raw.ProxyPasswordEnv == "") {
		c.fail("proxy_user: and proxy_password_file: or proxy_password_env: go together", at("proxy_user")...)
	}
	if raw.ProxyPasswordFile != "" && raw.ProxyPasswordEnv != "" {
		c.fail("want either proxy_password_file: or proxy_password_env:", at("proxy_password_env")...)
	}
	if u.Proxy.URL != nil && raw.ProxyUser != "" {
		u.Proxy.URL.User = url.User(raw.ProxyUser)
	}
}

// of names the proxy for a broker's host:port; nil: none. The password's file is read anew each time.
func (p *proxySettings) of(addr string) (*url.URL, error) {
	switch {
	case p.Environment:
		return http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: addr}})
	case p.URL == nil || p.URL.User == nil:
		return p.URL, nil
	}
	password := os.Getenv(p.PasswordEnv)
	if p.PasswordEnv == "" {
		text, err := os.ReadFile(p.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("proxy_password_file: %w", err)
		}
		password, _, _ = strings.Cut(string(text), "\n")
	}
	u := *p.URL
	u.User = url.UserPassword(p.URL.User.Username(), strings.TrimRight(password, "\r"))
	return &u, nil
}

// useLinks gives the uplink its way out.
func (a *agent) useLinks(o *uplink.Options) error {
	options := a.linkOptions(o)
	path := filepath.Join(a.settings.DataDir, budgetFile)
	kept, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("the day's bytes", "error", err)
	}
	options.Kept, options.Keep = kept, func(b []byte) error { return writeDurably(path, b) }
	if a.links, err = network.New(options); err != nil {
		return err
	}
	o.Dial, o.OnConnect, o.Allowed, o.OnTraffic = a.links.Dial, a.links.Connected, a.links.Allowed, a.links.Traffic
	return nil
}

// linkOptions are those of the links, without the bytes of the day.
func (a *agent) linkOptions(o *uplink.Options) network.Options {
	s := &a.settings.Uplink
	o.TCPUserTimeout = userTimeout
	return network.Options{
		Links: s.Links, Proxy: s.Proxy.of, Control: uplink.Control(o.TCPUserTimeout),
		Now: func() (time.Time, bool) {
			now, known := a.vouchedTime()
			if s.BudgetLocal {
				return now.Local(), known
			}
			return now.UTC(), known
		},
		Boot: a.clock.Boot, Alarms: a.alarms, Log: a.log, Metrics: a.metrics,
	}
}
