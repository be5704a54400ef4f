package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/drive"
)

type fleetFlags struct {
	broker, tenant, prefix, scenario, ca, user, passwordFile string
	vehicles                                                 int
	duration, seal, drain, ramp                              time.Duration
	seed                                                     uint64
}

func fleetCommand() *cobra.Command {
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "fleet --broker URL --vehicles N",
		Short: "Thousands of vehicles at one broker",
		Long: `Thousands of vehicles at one broker: each drives on its own, and sends what it samples once a second by the agent's own uplink and
codec, from a queue in memory. At the end the vehicles wait, for at most --drain, until the store has confirmed all; one line of
JSON says what was made and what was confirmed, and the exit code is 1 where something was not. A second of a thousand vehicles'
driving takes about one second of a processor.

It is for trying brokers and stores of one's own: a broker without TLS is taken on this machine only.`,
		Example: `  waybill-fleet serve --embedded-broker 127.0.0.1:1883 --db fleet.db &
  waybill-simulate fleet --broker mqtt://127.0.0.1:1883 --vehicles 200 --duration 2m`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // the second signal kills
			return runFleet(ctx, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.broker, "broker", "", "mqtt://HOST:PORT on this machine, or mqtts://HOST:PORT")
	flags.IntVar(&f.vehicles, "vehicles", 100, "how many, 1 to 20000")
	flags.StringVar(&f.tenant, "tenant", "bench", "their tenant")
	flags.StringVar(&f.prefix, "device", "sim-", "what their names begin with; a number follows")
	flags.StringVar(&f.scenario, "scenario", "", "one of "+strings.Join(drive.Scenarios(), ", ")+" (default: each another)")
	flags.DurationVar(&f.duration, "duration", time.Minute, "how long they drive, 1s to 24h")
	flags.DurationVar(&f.seal, "seal-every", 10*time.Second, "what is sampled in this time is one batch")
	flags.DurationVar(&f.ramp, "ramp", 10*time.Second, "over how long they start, one after the other")
	flags.DurationVar(&f.drain, "drain", time.Minute, "how long they wait for receipts at the end")
	flags.Uint64Var(&f.seed, "seed", 1, "fleets with different seeds drive differently")
	flags.StringVar(&f.ca, "ca", "", "PEM file of the authorities that may vouch for the broker (default: the system's)")
	flags.StringVar(&f.user, "user", "", "MQTT user")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the MQTT password")
	return cmd
}

// check says what is wrong with the flags.
func (f *fleetFlags) check() error {
	u, err := url.Parse(f.broker)
	switch {
	case f.broker == "" || err != nil || u.Hostname() == "":
		return fmt.Errorf("--broker %q: want mqtt://127.0.0.1:1883 or mqtts://HOST:PORT", f.broker)
	case f.plain() && u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost" && u.Hostname() != "::1":
		return errors.New("--broker: without TLS only on this machine; want mqtts://")
	case f.vehicles < 1 || f.vehicles > 20000:
		return fmt.Errorf("--vehicles: must be between 1 and 20000, got %d", f.vehicles)
	case f.duration < time.Second || f.duration > 24*time.Hour:
		return fmt.Errorf("--duration: must be between 1s and 24h, got %v", f.duration)
	case f.seal < time.Second || f.seal > time.Hour:
		return fmt.Errorf("--seal-every: must be between 1s and 1h, got %v", f.seal)
	case f.ramp < 0 || f.drain < 0:
		return errors.New("--ramp, --drain: must not be negative")
	case f.tenant == "" || f.prefix == "" || strings.ContainsAny(f.tenant+f.prefix, "/+#"):
		return errors.New("--tenant, --device: must be a part of a topic: not empty, without /, + and #")
	}
	return nil
}

func (f *fleetFlags) plain() bool {
	scheme, _, _ := strings.Cut(f.broker, "://")
	return scheme == "mqtt" || scheme == "tcp" || scheme == "ws"
}

// tls is the configuration of mqtts; nil for a broker without TLS.
func (f *fleetFlags) tls() (*tls.Config, error) {
	if f.plain() {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: %s: no certificate in it", f.ca)
		}
	}
	return c, nil
}

// password is nil without a file.
func (f *fleetFlags) password() (func() (string, error), error) {
	if f.passwordFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(f.passwordFile)
	if err != nil {
		return nil, fmt.Errorf("--password-file: %w", err)
	}
	word := strings.TrimRight(string(text), "\r\n")
	return func() (string, error) { return word, nil }, nil
}

// fleetSummary is the last line of a fleet.
type fleetSummary struct {
	Summary   bool    `json:"summary"`
	Vehicles  int     `json:"vehicles"`
	Batches   uint64  `json:"batches"` // of samples
	Samples   uint64  `json:"samples"`
	Confirmed uint64  `json:"confirmed"` // batches, of all lanes, that the store has
	Left      uint64  `json:"left"`      // batches that it has not, or had not said that it has
	Held      uint64  `json:"held_back"` // samples that were not made, since a vehicle's queue was full
	Duration  float64 `json:"duration_s"`
}

// runFleet drives all vehicles until their time is over or ctx ends.
func runFleet(ctx context.Context, f fleetFlags, out, errs io.Writer) error {
	if err := f.check(); err != nil {
		return cli.UsageError(err)
	}
	config, err := f.tls()
	if err != nil {
		return err
	}
	password, err := f.password()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelError}))
	run := rand.Uint64() // another epoch each time: their numbers begin anew
	scenarios := drive.Scenarios()
	car := newCar()
	var list []*simVehicle
	for i := range f.vehicles {
		scenario := f.scenario
		if scenario == "" {
			scenario = scenarios[i%len(scenarios)]
		}
		v, err := newSimVehicle(car, vehicleOptions{
			broker: f.broker, plain: f.plain(), tls: config, user: f.user, password: password, tenant: f.tenant, device: fmt.Sprintf("%s%05d", f.prefix, i+1),
			epoch: run + uint64(i), seed: f.seed + uint64(i), scenario: scenario, duration: f.duration, seal: f.seal, log: log,
		})
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	began := time.Now()
	var driving, sending sync.WaitGroup
	sendCtx, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	failed := make(chan error, 2*len(list))
	for i, v := range list {
		delay := f.ramp * time.Duration(i) / time.Duration(len(list))
		sending.Go(func() {
			if pause(sendCtx, delay) {
				failed <- v.up.Run(sendCtx)
			}
		})
		driving.Go(func() {
			if pause(ctx, delay) {
				failed <- v.drive(ctx)
			}
		})
	}
	driving.Wait()
	for end := time.Now().Add(f.drain); time.Now().Before(end) && left(list) > 0; {
		if !pause(sendCtx, 100*time.Millisecond) {
			break
		}
	}
	sum := fleetSummary{Summary: true, Vehicles: len(list), Left: left(list), Duration: time.Since(began).Seconds()}
	stopSending()
	sending.Wait()
	for _, v := range list {
		sum.Batches, sum.Samples, sum.Held = sum.Batches+v.batches, sum.Samples+v.samples, sum.Held+v.held
		sum.Confirmed += v.released()
	}
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	err = errors.Join(err, json.NewEncoder(out).Encode(sum))
	if err == nil && sum.Left > 0 {
		err = fmt.Errorf("%d batches have no receipt: is a store attached to the broker?", sum.Left)
	}
	return err
}

func left(list []*simVehicle) (n uint64) {
	for _, v := range list {
		n += uint64(v.queue.Len())
	}
	return n
}

// pause waits; it says false where ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
