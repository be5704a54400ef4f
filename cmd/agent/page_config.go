package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/waybill-telematics/waybill/internal/local"
)

// metricsConfig is where the agent answers HTTP: metrics, and the local page.
type metricsConfig struct {
	Listen    string `yaml:"listen"`
	Page      *bool  `yaml:"page"`
	TokenFile string `yaml:"token_file"`
}

// pageSettings is what is answered beside metrics, and to whom.
type pageSettings struct {
	On    bool   // the local page, and what `waybill-agent top` and `status` read
	Token string // that who asks has to show, for metrics too; empty: none
}

// The profiles: how much is there for who stands beside the vehicle.
const (
	profileBench      = "bench"
	profileProduction = "production"
)

// leastToken is how long a token has to be, in bytes: what can be guessed protects nothing.
const leastToken = 16

// page checks where the agent answers. Beyond the loopback and a unix socket it does so only for who shows a token.
func (c *checker) page(s *settings) {
	raw := &c.d.config.Metrics
	s.Profile = c.oneOf(c.d.config.Profile, []string{profileBench, profileProduction}, "profile")
	s.Page.On = s.Profile != profileProduction
	if raw.Page != nil {
		s.Page.On = *raw.Page
	}
	s.Page.Token = os.Getenv(local.EnvToken)
	if raw.TokenFile != "" {
		text, err := os.ReadFile(c.path(raw.TokenFile))
		if err != nil {
			c.fail(err.Error(), "metrics", "token_file")
		}
		line, _, _ := strings.Cut(string(text), "\n")
		s.Page.Token = strings.TrimSpace(line)
	}
	if n := len(s.Page.Token); n > 0 && n < leastToken || n == 0 && raw.TokenFile != "" {
		c.fail(fmt.Sprintf("a token of %d characters can be guessed: want %d or more, as `head -c 24 /dev/urandom | base64` makes",
			n, leastToken), "metrics", "token_file")
	}
	s.MetricsListen = raw.Listen
	switch path, isSocket := strings.CutPrefix(raw.Listen, "unix:"); {
	case raw.Listen == "":
		if raw.Page != nil && *raw.Page {
			c.fail("needs listen:, an address to answer at such as 127.0.0.1:9464", "metrics", "page")
		}
	case isSocket && path == "":
		c.fail("want the path of the socket behind unix:", "metrics", "listen")
	case isSocket:
		s.MetricsListen = "unix:" + c.path(path)
	case !isAddress(raw.Listen):
		c.fail(fmt.Sprintf("want an address with a port such as 127.0.0.1:9464, or unix:PATH, got %q", raw.Listen),
			"metrics", "listen")
	case s.Page.Token == "" && !isLoopback(raw.Listen):
		c.fail(fmt.Sprintf("want a loopback address with a port such as 127.0.0.1:9464, or unix:PATH, got %q; others than this "+
			"machine are answered only with token_file: (or %s in the environment)", raw.Listen, local.EnvToken), "metrics", "listen")
	}
}

func isAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port != ""
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
