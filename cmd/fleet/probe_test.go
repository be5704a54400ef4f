package main

import (
	"context"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// TestProbe: what a container's health check asks is answered by a real serve, with a broker, without it, and not at all.
func TestProbe(t *testing.T) {
	start := func(broker string) (address string, stop func()) {
		t.Helper()
		var out, errs lockedBuffer
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- serve(ctx, serveFlags{db: filepath.Join(t.TempDir(), "fleet.db"), broker: "tcp://" + broker, clientID: "x", metrics: "127.0.0.1:0", insecureMetrics: true,
				json: true, every: 20 * time.Millisecond, retry: 20 * time.Millisecond}, &out, &errs)
		}()
		for end := time.Now().Add(30 * time.Second); address == ""; time.Sleep(10 * time.Millisecond) {
			if match := regexp.MustCompile(`http://\S+:(\d+)/metrics`).FindStringSubmatch(errs.String()); match != nil {
				address = "127.0.0.1:" + match[1]
			}
			if time.Now().After(end) {
				t.Fatalf("no metrics within 30 s:\n%s", errs.String())
			}
		}
		return address, func() { cancel(); <-done }
	}
	with, stop := start(testBroker(t))
	text, code := "", -1
	for end := time.Now().Add(30 * time.Second); code != cli.OK && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text, code = run("probe", with)
	}
	if code != cli.OK {
		t.Errorf("with a broker: exit code %d: %s", code, text)
	}
	stop()
	if text, code := run("probe", with); code == cli.OK || code == cli.Usage {
		t.Errorf("nobody there: exit code %d: %s", code, text)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	without, stop := start(closed.Addr().String())
	defer stop()
	if text, code := run("probe", without); code == cli.OK || !strings.Contains(text, "not subscribed") {
		t.Errorf("without a broker: exit code %d: %s", code, text)
	}
	for _, args := range [][]string{{"probe"}, {"probe", "9464"}, {"probe", "127.0.0.1:1", "127.0.0.1:2"}} {
		if text, code := run(args...); code != cli.Usage {
			t.Errorf("%v: exit code %d: %s", args, code, text)
		}
	}
}
