package main

import (
	"fmt"
	"log/slog"
	"net"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// checkListen refuses an address that others can reach: the embedded broker asks nobody's name.
func checkListen(address string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--embedded-broker %q: want an address such as 127.0.0.1:1883", address)
	}
	if !isLoopback(host) && !insecure {
		return fmt.Errorf("--embedded-broker %q: others could reach it, and it lets everyone in; listen on 127.0.0.1, or add --insecure-listen", address)
	}
	return nil
}

// startBroker starts a broker in this process, for a bench or a demonstration. Its sessions are in memory: when the
// process ends they are gone, and vehicles send again what has no receipt.
func startBroker(address string, insecure bool, log *slog.Logger) (stop func(), err error) {
	if err := checkListen(address, insecure); err != nil {
		return nil, cli.UsageError(err)
	}
	level := slog.NewTextHandler(logWriter{log}, &slog.HandlerOptions{Level: slog.LevelError})
	server := mqtt.New(&mqtt.Options{Logger: slog.New(level)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "bench", Address: address})); err != nil {
		return nil, fmt.Errorf("embedded broker on %s: %w", address, err)
	}
	if err := server.Serve(); err != nil {
		return nil, fmt.Errorf("embedded broker on %s: %w", address, err)
	}
	log.Info("embedded broker listens", "address", address)
	return func() { server.Close() }, nil
}

// logWriter carries the broker's own log into ours.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("embedded broker", "text", string(p))
	return len(p), nil
}
