package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/uplink/command"
)

func TestCommandsConfiguration(t *testing.T) {
	const base = "device: {id: a}\ncan: [{bus: can0, replay: x.log, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n"
	const pub = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" // RFC 8032 §7.1, test 1
	parse := func(text string) (*settings, error) {
		dir := writeFiles(t, map[string]string{"agent.yaml": base + text, "a.dbc": smallDBC, "x.log": "", "bad.pub": "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n"})
		s, _, err := load(filepath.Join(dir, "agent.yaml"))
		return s, err
	}
	s, err := parse("commands: {keys: ['" + pub + "'], allow: [ping], max_life: 1h}\n")
	if err != nil || len(s.Commands.Keys) != 1 || s.Commands.Allow[0] != "ping" || s.Commands.MaxLife != time.Hour {
		t.Errorf("%+v: %v", s, err)
	}
	for id := range s.Commands.Keys {
		if id.String() != "21fe31dfa154a261" { // sha256sum of the 32 bytes
			t.Errorf("key id %s", id)
		}
	}
	if s, err := parse(""); err != nil || len(s.Commands.Keys) != 0 || s.Commands.MaxLife != 24*time.Hour {
		t.Errorf("without the section: %+v: %v", s, err)
	}
	for text, want := range map[string]string{
		"commands: {keys: [nothere.pub], allow: [ping]}\n":                "keygen",
		"commands: {keys: [bad.pub], allow: [ping]}\n":                    "want PUBLIC KEY",
		"commands: {keys: ['ed25519:AAAA'], allow: [ping]}\n":             "32 bytes",
		"commands: {keys: ['" + pub + "']}\n":                             "under allow:",
		"commands: {allow: [ping]}\n":                                     "under keys:",
		"commands: {keys: ['" + pub + "'], allow: [pin]}\n":               `did you mean "ping"?`,
		"commands: {keys: ['" + pub + "', '" + pub + "'], allow: [ping]}": "twice",
		"commands: {max_life: 1s}\n":                                      "between 1m",
		"commands: {kays: []}\n":                                          `did you mean "keys"?`,
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "MC4CAQ") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestLogLevelReverts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		level := &slog.LevelVar{}
		l := &logLevel{level: level, usual: slog.LevelInfo, log: slog.New(slog.DiscardHandler)}
		set := func(arguments map[string]string) {
			t.Helper()
			if err := checkLogLevel(arguments); err != nil {
				t.Fatal(err)
			}
			if _, err := l.set(context.Background(), &command.Call{Arguments: arguments}); err != nil {
				t.Fatal(err)
			}
		}
		at := func(want slog.Level) {
			t.Helper()
			synctest.Wait()
			if level.Level() != want {
				t.Errorf("level %v, want %v", level.Level(), want)
			}
		}
		set(map[string]string{"level": "debug"})
		at(slog.LevelDebug)
		time.Sleep(9 * time.Minute)
		set(map[string]string{"level": "warn", "for": "1h"}) // the first one's end is not this one's
		time.Sleep(2 * time.Minute)
		at(slog.LevelWarn)
		time.Sleep(time.Hour)
		at(slog.LevelInfo)
		set(map[string]string{"level": "debug", "for": "1s"})
		l.stop()
	})
	for _, bad := range []map[string]string{nil, {"level": "loud"}, {"level": "debug", "for": "0s"}, {"level": "debug", "for": "25h"}, {"level": "debug", "for": "x"}, {"level": "debug", "x": "y"}} {
		if err := checkLogLevel(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
