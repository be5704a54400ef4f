package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// serveFlags are the flags of serve, as given.
type serveFlags struct {
	broker, tenant, db, clientID string
	dbPasswordFile               string
	user, passwordFile           string
	ca, cert, key                string
	insecure                     bool
	embedded                     string
	insecureListen               bool
	metrics                      string
	insecureMetrics              bool
	json                         bool
	every                        time.Duration
	retry                        time.Duration
	http                         httpFlags
	slots                        slotFlags
	deviceSamples                float64
	deriveAfter                  time.Duration
	page                         pageFlags
	kafka                        throughKafka
	decoded                      decodedFlags
}

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use: "serve --broker URL --db STORE",
		Example: `  waybill-fleet serve --broker ssl://mqtt.example:8883 --db postgres://fleet@db.example/fleet --db-password-file db.pw
  waybill-fleet serve --http 127.0.0.1:8090 --db fleet.db            no broker: batches come by HTTP alone`,
		Short: "Receive from a broker into a store, and send receipts",
		Long: `Receive from a broker into a store, and send receipts.

Messages are acknowledged in the order of their arrival and only after the store has committed them; when the store
fails, the connection is dropped and the broker sends them again. One line says what there is; with --json one JSON
object per interval:

  payloads, duplicates, rejected, malformed   since the start
  limited, deferred                           likewise: what a device may not have more of, or not so fast; not confirmed
  offenders                                   likewise: the devices of which most was refused
  wanted                                      likewise: batches that vehicles were asked for after a restore
  batches, samples, parked, losses, devices   in the store
  gaps                                        sequence numbers that never came and that nothing accounts for`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			go func() { <-ctx.Done(); stop() }() // the second signal kills
			return serve(ctx, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.broker, "broker", "", "broker, tcp://HOST:PORT or ssl://HOST:PORT (with --http it may be left out)")
	flags.StringVar(&f.tenant, "tenant", "", "take only this tenant (default: all)")
	registerStore(cmd, &f.db, &f.dbPasswordFile, "; it is made when it is not there")
	flags.StringVar(&f.clientID, "client-id", "waybill-fleet-0", "MQTT client id; the broker keeps the session under it, so it must stay the same and be nobody else's")
	flags.StringVar(&f.user, "user", "", "MQTT user")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the MQTT password; read at each connection")
	flags.StringVar(&f.ca, "ca", "", "PEM file of the authorities that may vouch for the broker (default: the system's)")
	flags.StringVar(&f.cert, "cert", "", "PEM file of the client certificate")
	flags.StringVar(&f.key, "key", "", "PEM file of its key")
	flags.BoolVar(&f.insecure, "insecure", false, "allow a broker without TLS that is not on this machine")
	flags.StringVar(&f.embedded, "embedded-broker", "", "start a broker in this process on this address, 127.0.0.1:PORT; it keeps nothing on disk and asks nobody's name: for a bench")
	flags.BoolVar(&f.insecureListen, "insecure-listen", false, "allow the embedded broker on an address that others can reach")
	flags.StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics on this address of this machine, such as 127.0.0.1:9464 (default: none)")
	flags.BoolVar(&f.insecureMetrics, "insecure-metrics", false, "allow --metrics on an address that others can reach; nobody is asked who he is, so only where the network lets in nobody else, as a container's does")
	flags.BoolVar(&f.json, "json", false, "one JSON object per interval instead of the status line")
	flags.DurationVar(&f.every, "every", time.Second, "interval of the status")
	flags.DurationVar(&f.retry, "retry", 2*time.Second, "first ceiling of the back-off after a lost connection; it doubles up to 15s")
	flags.Float64Var(&f.deviceSamples, "device-samples", 200_000, "samples a second that one device may have stored, lasting; what is above gets no receipt and comes again (0: any number)")
	flags.DurationVar(&f.deriveAfter, "derive-after", 5*time.Minute, "PostgreSQL: find trips of an hour this long after samples of it came first; negative: leave it to others")
	f.slots.add(cmd)
	f.http.add(cmd)
	f.page.add(cmd)
	f.kafka.add(cmd)
	f.decoded.add(cmd)
	return cmd
}

// serve runs until ctx ends.
func serve(ctx context.Context, f serveFlags, stdout, stderr io.Writer) error {
	o, err := f.receiver()
	if err != nil {
		return cli.UsageError(err)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	o.Log = log
	httpOptions, err := f.http.options(f.tenant, log)
	if err != nil {
		return cli.UsageError(err)
	}
	decodedOptions, err := f.decoded.options(&f.kafka, log)
	if err != nil {
		return cli.UsageError(err)
	}
	s, err := awaitStore(ctx, storeFlags{f.db, f.dbPasswordFile}, log)
	if err != nil {
		if errors.Is(err, store.ErrLocked) {
			err = fmt.Errorf("%w: stop the other waybill-fleet, or give another --db", err)
		}
		return err
	}
	relay, err := newRelay(decodedOptions, s)
	if err != nil {
		s.Close()
		return cli.UsageError(err)
	}
	ingester := ingest.New(ingest.Options{Log: log, DeviceSamples: f.deviceSamples}, s)
	var applier ingest.Applier = ingester
	var kafka *between
	var receiver source // set before anything runs
	if f.kafka.on() {
		kafka, err = f.kafka.start(ingester, s, func(ctx context.Context, replies []ingest.Reply) error { return receiver.Send(ctx, replies) }, log)
		if err != nil {
			s.Close()
			return cli.UsageError(err)
		}
		defer kafka.Close()
		applier = kafka
	}
	var leave func() error
	if !f.hasBroker() {
		receiver, leave = noBroker{}, func() error { return nil }
	} else if receiver, leave, err = f.slots.source(o, applier, s); err != nil {
		s.Close()
		return cli.UsageError(err)
	}
	if f.embedded != "" {
		stop, err := startBroker(f.embedded, f.insecureListen, log)
		if err != nil {
			s.Close()
			return err
		}
		defer stop()
	}
	stopPage, err := f.page.start(ctx, s, log)
	if err != nil {
		s.Close()
		return err
	}
	if httpOptions != nil {
		httpOptions.Stream = kafka != nil
		if f.hasBroker() {
			httpOptions.Send = receiver.Send
		}
	}
	over, listener, err := f.http.server(ctx, httpOptions, applier)
	if err != nil {
		stopPage()
		s.Close()
		return err
	}
	counts := func() ingest.Counts {
		c := receiver.Counts()
		if over != nil {
			c.Add(over.Counts().Counts)
		}
		if kafka != nil {
			c.Add(kafka.consumer.Counts().Counts)
		}
		return c
	}
	status := &statusLine{out: stdout, json: f.json, live: isTerminal(stdout)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	var httpErr error // once tasks are done
	tasks.Go(func() {
		status.run(ctx, f.every, func() serveStatus { return statusOf(s, receiver.Connected(), counts(), ingester.Offenders(maxShown)) })
	})
	tasks.Go(func() { _ = ingester.Run(ctx) }) // it ends with ctx, and always well
	tasks.Go(deriving(ctx, s, f.deriveAfter))
	var metricsErr error
	if f.metrics != "" {
		m := &fleetMetrics{store: s, counts: counts, connected: receiver.Connected, now: time.Now, log: log}
		slots, _ := receiver.(*ingest.Slots)
		m.share = func() []figure { return shareFigures(slots, kafka.consumed()) }
		all := []prometheus.Collector{m}
		if relay != nil {
			all = append(all, &relayMetrics{relay: relay, outbox: s.(store.Outbox), now: time.Now, log: log})
		}
		tasks.Go(func() {
			if metricsErr = serveMetrics(ctx, f.metrics, receiver.Connected, all, log); metricsErr != nil {
				cancel()
			}
		})
	}
	if over != nil {
		tasks.Go(func() { httpErr = over.Run(ctx, listener); cancel() })
	}
	var kafkaErr error
	if kafka != nil {
		tasks.Go(func() { kafkaErr = kafka.consumer.Run(ctx); cancel() })
	}
	if relay != nil {
		tasks.Go(func() { _ = relay.Run(ctx) }) // it ends with ctx, and always well
	}
	err = receiver.Run(ctx)
	cancel()
	tasks.Wait()
	stopPage()
	err = errors.Join(err, metricsErr, kafkaErr)
	status.print(statusOf(s, receiver.Connected(), counts(), ingester.Offenders(maxShown)))
	status.end()
	return errors.Join(err, httpErr, leave(), s.Close())
}

// hasBroker says whether anything comes over MQTT.
func (f *serveFlags) hasBroker() bool { return f.broker != "" || f.embedded != "" }

// receiver checks the flags and makes options of them; without a broker those are zero.
func (f *serveFlags) receiver() (o ingest.ReceiverOptions, err error) {
	switch {
	case f.db == "":
		return o, errors.New("--db is needed: the file that holds the store, or postgres://USER@HOST:PORT/NAME")
	case f.broker == "" && f.embedded == "" && f.http.address == "":
		return o, errors.New("--broker URL is needed, or --http ADDRESS to take batches by HTTP alone, or --embedded-broker 127.0.0.1:PORT for a bench")
	case !f.hasBroker() && f.kafka.on():
		return o, errors.New("--kafka-brokers needs --broker URL too: what goes through Kafka has its receipts over MQTT")
	case !f.hasBroker() && f.slots.share != "":
		return o, errors.New("--share needs --broker URL: without a broker there is nothing to share")
	case f.every < 10*time.Millisecond || f.every > time.Hour:
		return o, fmt.Errorf("--every: must be between 10ms and 1h, got %v", f.every)
	case f.retry < time.Millisecond || f.retry > 5*time.Minute:
		return o, fmt.Errorf("--retry: must be between 1ms and 5m, got %v", f.retry)
	}
	if f.embedded != "" {
		if err := checkListen(f.embedded, f.insecureListen); err != nil {
			return o, err
		}
		if f.broker == "" {
			f.broker = "tcp://" + f.embedded
		}
	}
	if f.metrics != "" {
		if err := checkMetrics(f.metrics, f.insecureMetrics); err != nil {
			return o, err
		}
	}
	if err := errors.Join(f.checkBroker(), f.page.check()); err != nil {
		return o, err
	}
	if err := errors.Join(f.slots.check(storeFlags{f.db, f.dbPasswordFile}), f.kafka.check(), checkDeriveAfter(f.deriveAfter)); err != nil {
		return o, err
	}
	if !f.hasBroker() {
		return o, nil
	}
	o = ingest.ReceiverOptions{
		Broker: f.broker, ClientID: f.clientID, Tenant: f.tenant, BackoffBase: f.retry, Share: f.slots.share,
		Credentials: f.credentials(), TLS: f.tls(),
	}
	return o, o.Check()
}

// serveStatus is one line of --json.
type serveStatus struct {
	Time       time.Time `json:"time"`
	Connected  bool      `json:"connected"`
	Payloads   uint64    `json:"payloads"`
	Batches    int64     `json:"batches"`
	Samples    int64     `json:"samples"`
	Duplicates uint64    `json:"duplicates"`
	Parked     int64     `json:"parked"`
	Rejected   uint64    `json:"rejected"`
	Malformed  uint64    `json:"malformed"`
	Limited    uint64    `json:"limited"`
	Deferred   uint64    `json:"deferred"`
	Wanted     uint64    `json:"wanted"`
	Gaps       uint64    `json:"gaps"`
	Losses     int64     `json:"losses"`
	Devices    int64     `json:"devices"`

	Offenders []ingest.Offender `json:"offenders,omitempty"`
}

// maxShown is how many offenders a status line names.
const maxShown = 5

func statusOf(s store.Store, connected bool, c ingest.Counts, offenders []ingest.Offender) serveStatus {
	t := s.Totals()
	return serveStatus{
		Time: time.Now().UTC(), Connected: connected, Payloads: c.Payloads, Batches: t.Batches, Samples: t.Samples,
		Duplicates: c.Duplicates, Parked: t.Parked, Rejected: c.Rejected, Malformed: c.Malformed, Limited: c.Limited, Deferred: c.Deferred, Offenders: offenders, Wanted: c.Wanted, Gaps: t.Gaps, Losses: t.Losses, Devices: t.Devices,
	}
}

// statusLine prints the status: rewritten in place on a terminal, a line each elsewhere.
type statusLine struct {
	out   io.Writer
	json  bool
	live  bool
	width int // of the line that stands
}

func (l *statusLine) run(ctx context.Context, every time.Duration, now func() serveStatus) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.print(now())
		}
	}
}

func (l *statusLine) print(s serveStatus) {
	if l.json {
		line, err := json.Marshal(s)
		if err == nil { // numbers, a time and a bool always encode
			fmt.Fprintf(l.out, "%s\n", line)
		}
		return
	}
	link := "connected"
	if !s.Connected {
		link = "NOT CONNECTED"
	}
	line := fmt.Sprintf("%s  %s  devices %d  batches %d  samples %d  missing %d  losses %d  parked %d  duplicates %d  rejected %d  malformed %d",
		s.Time.Format("15:04:05"), link, s.Devices, s.Batches, s.Samples, s.Gaps, s.Losses, s.Parked, s.Duplicates, s.Rejected, s.Malformed)
	if !l.live {
		fmt.Fprintln(l.out, line)
		return
	}
	fmt.Fprintf(l.out, "\r%s%s", line, strings.Repeat(" ", max(0, l.width-len(line))))
	l.width = len(line)
}

// end leaves the line that stands.
func (l *statusLine) end() {
	if l.live && !l.json {
		fmt.Fprintln(l.out)
	}
}

// isTerminal says whether output goes to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
