package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/uplink/command"
)

// commandsConfig says whose commands are taken, and which.
type commandsConfig struct {
	Keys    []string `yaml:"keys"`
	Allow   []string `yaml:"allow"`
	MaxLife string   `yaml:"max_life"`
}

// commandSettings are checked; the zero value refuses everything.
type commandSettings struct {
	Keys    command.Keys
	Allow   []string
	MaxLife time.Duration
}

// inlineKey begins a key that stands in the configuration itself.
const inlineKey = "ed25519:"

// mostKeys bounds the keys: each is one more that can be stolen.
const mostKeys = 16

func (c *checker) commands(s *settings) {
	raw := &c.d.config.Commands
	s.Commands = commandSettings{
		Keys:    command.Keys{},
		MaxLife: c.duration(raw.MaxLife, 24*time.Hour, time.Minute, 30*24*time.Hour, "commands", "max_life"),
	}
	if len(raw.Keys) > mostKeys {
		c.fail(fmt.Sprintf("at most %d keys, got %d", mostKeys, len(raw.Keys)), "commands", "keys")
		return
	}
	for i, text := range raw.Keys {
		data := []byte(strings.TrimPrefix(text, inlineKey))
		if !strings.HasPrefix(text, inlineKey) {
			var err error
			if data, err = os.ReadFile(c.path(text)); err != nil {
				c.fail(fmt.Sprintf("%v; want the file of a public key, which `waybill-fleet command keygen` makes, or %sBASE64", err, inlineKey), "commands", "keys", i)
				continue
			}
		}
		key, err := command.ParsePublic(data)
		if err != nil {
			c.fail(fmt.Sprintf("%v; `waybill-fleet command keygen` makes one, and its .pub file goes here", err), "commands", "keys", i)
			continue
		}
		if s.Commands.Keys[command.IDOf(key)] != nil {
			c.fail(fmt.Sprintf("key %s is named twice", command.IDOf(key)), "commands", "keys", i)
		}
		s.Commands.Keys.Add(key)
	}
	for i, name := range raw.Allow {
		if !slices.Contains(commandNames, name) {
			text := fmt.Sprintf("there is no command %q", name)
			if near := nearest(name, commandNames); near != "" {
				text += fmt.Sprintf("; did you mean %q?", near)
			} else {
				text += "; there are " + strings.Join(commandNames, ", ")
			}
			c.fail(text, "commands", "allow", i)
		}
	}
	s.Commands.Allow = raw.Allow
	switch {
	case len(raw.Keys) == 0 && len(raw.Allow) > 0:
		c.fail("allows commands of nobody: name the public keys under keys:", "commands", "allow")
	case len(raw.Keys) > 0 && len(raw.Allow) == 0:
		c.fail("keys without a command that they may give: name commands under allow:", "commands", "keys")
	}
}
