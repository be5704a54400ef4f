package main

import (
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// What is wrong with the flags is said, with the remedy and without a password.
func TestMongoFlags(t *testing.T) {
	const brokers, uri = "--brokers=127.0.0.1:1", "--mongo=mongodb://127.0.0.1:1/x"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{uri}, "--brokers"},
		{[]string{brokers}, "--mongo mongodb://"},
		{[]string{brokers, "--mongo=mongodb://me:hunter2@a.example/x"}, "--mongo-password-file"},
		{[]string{brokers, "--mongo=postgres://me:hunter2@a.example/x"}, "want mongodb://"},
		{[]string{brokers, uri, "--rows=event"}, "samples, events, positions, losses"},
		{[]string{brokers, uri, "--rows=events,events"}, "twice"},
		{[]string{brokers, uri, "--rows="}, "--rows"},
		{[]string{brokers, uri, "--group="}, "--group"},
		{[]string{brokers, uri, "--every=0s"}, "--every"},
		{[]string{"--brokers=a.example:9093", uri}, "TLS"},
		{[]string{"erase", uri}, "--device is empty"},
		{[]string{"erase", "--device=car-1"}, "--mongo mongodb://"},
	} {
		text, code := run(append([]string{"mongo"}, c.args...)...)
		if code != cli.Usage || !strings.Contains(text, c.want) || strings.Contains(text, "hunter2") {
			t.Errorf("%q: exit code %d, %q; want %d and %q", c.args, code, text, cli.Usage, c.want)
		}
	}
	text, code := run("mongo", brokers, "--mongo=mongodb://me@127.0.0.1:1/x", "--mongo-password-file=/nowhere/at/all")
	if code == cli.OK || !strings.Contains(text, "--mongo-password-file") {
		t.Errorf("no password file: exit code %d, %q", code, text)
	}
}
