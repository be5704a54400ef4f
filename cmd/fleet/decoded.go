package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/decoded"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// decodedFlags are the flags of serve for the decoded topics.
type decodedFlags struct {
	on                           bool
	format                       string
	registry, user, passwordFile string
	registryCA                   string
}

func (f *decodedFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.on, "decoded", false, "write what the store commits to Kafka's decoded topics too, each row once: PREFIX.samples, .events, .positions, .losses")
	flags.StringVar(&f.format, "decoded-format", string(decoded.JSON), "how their values are written: json or proto")
	flags.StringVar(&f.registry, "schema-registry", "", "URL of a schema registry with Confluent's interface; values are framed for it then")
	flags.StringVar(&f.user, "schema-registry-user", "", "user at the registry")
	flags.StringVar(&f.passwordFile, "schema-registry-password-file", "", "file that holds the user's password; read at each call")
	flags.StringVar(&f.registryCA, "schema-registry-ca", "", "PEM file of the authorities that may vouch for the registry (default: the system's)")
}

// options checks the flags; nil where no decoded topics are wanted.
func (f *decodedFlags) options(kafka *throughKafka, log *slog.Logger) (*decoded.Options, error) {
	if !f.on {
		if f.registry != "" || f.user != "" || f.passwordFile != "" || f.registryCA != "" {
			return nil, errors.New("--schema-registry belongs to --decoded")
		}
		return nil, nil
	}
	if !kafka.on() {
		return nil, errors.New("--decoded: --kafka-brokers HOST:PORT is needed, whose topics are to be written")
	}
	format, err := decoded.ParseFormat(f.format)
	if err != nil {
		return nil, fmt.Errorf("--decoded-format: %w", err)
	}
	o := decoded.Options{Format: format}
	if o.Options, err = kafka.options(log); err != nil {
		return nil, err
	}
	if f.registry == "" {
		if f.user != "" || f.passwordFile != "" || f.registryCA != "" {
			return nil, errors.New("--schema-registry URL is needed where other --schema-registry flags are given")
		}
		return &o, o.Check()
	}
	if (f.user == "") != (f.passwordFile == "") {
		return nil, errors.New("--schema-registry-user and --schema-registry-password-file belong together")
	}
	files := serveFlags{ca: f.registryCA, user: f.user, passwordFile: f.passwordFile}
	o.Registry = &decoded.Registry{URL: f.registry, Insecure: kafka.insecure}
	if f.registryCA != "" {
		o.Registry.TLS = files.tls()
	}
	if f.user != "" {
		o.Registry.Credentials = files.credentials()
	}
	return &o, o.Check()
}

// newRelay makes the relay of a store that has an outbox; nil where no decoded topics are wanted.
func newRelay(o *decoded.Options, s store.Store) (*decoded.Relay, error) {
	if o == nil {
		return nil, nil
	}
	outbox, ok := s.(store.Outbox)
	if !ok {
		return nil, errors.New("--decoded: the store has no outbox; it takes --db postgres://USER@HOST:PORT/NAME")
	}
	return decoded.New(*o, outbox)
}

// relayMetrics are figures of the outbox and of what carries it.
type relayMetrics struct {
	relay  *decoded.Relay
	outbox store.Outbox
	now    func() time.Time
	log    *slog.Logger
}

// backlogTimeout bounds counting the outbox within a scrape's patience.
const backlogTimeout = 10 * time.Second

// Describe describes nothing: what cannot be read is left out.
func (m *relayMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything.
func (m *relayMetrics) Collect(out chan<- prometheus.Metric) {
	put := func(name, help string, kind prometheus.ValueType, value float64, labels ...string) {
		var names []string
		if len(labels) > 0 {
			names = []string{"topic"}
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("waybill_fleet_"+name, help, names, nil), kind, value, labels...)
	}
	c := m.relay.Counts()
	for i, n := range []uint64{c.Samples, c.Events, c.Positions, c.Losses} {
		put("decoded_rows_total", "Rows committed to the decoded topics, since the start.", prometheus.CounterValue, float64(n), decoded.Kinds()[i])
	}
	put("decoded_transactions_total", "Kafka transactions committed for them, since the start.", prometheus.CounterValue, float64(c.Transactions))
	put("decoded_failures_total", "Times a shard of the outbox had to be begun anew, since the start.", prometheus.CounterValue, float64(c.Failures))
	put("decoded_cut_total", "Rows whose texts were cut to what the topics take, since the start.", prometheus.CounterValue, float64(c.Cut))
	put("decoded_shards", "Of 16 shards of the outbox, those that this process carries.", prometheus.GaugeValue, float64(c.Shards))
	ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
	defer cancel()
	notes, oldest, err := m.outbox.Backlog(ctx)
	if err != nil {
		m.log.Warn("the outbox could not be counted for the metrics", "err", err)
		return
	}
	age := 0.0
	if !oldest.IsZero() {
		age = max(0, m.now().Sub(oldest).Seconds())
	}
	put("outbox_notes", "Commits that are not on the decoded topics yet; counted up to a million.", prometheus.GaugeValue, float64(notes))
	put("outbox_age_seconds", "Age of the oldest of them; 0: there is none.", prometheus.GaugeValue, age)
}

func decodedCommand() *cobra.Command {
	group := cli.Group("decoded", "The decoded topics of Kafka, beside `serve --decoded`", decodedBackfillCommand())
	group.Long = `What the store commits can stand on Kafka decoded: PREFIX.samples, .events, .positions and .losses, each row once.

  1. waybill-fleet kafka init --decoded --brokers kafka-0:9093 …    makes the topics
  2. waybill-fleet serve --decoded --kafka-brokers kafka-0:9093 …   begins, with what is committed from then on
  3. waybill-fleet decoded backfill --from 2026-11-01 --db …        adds what was stored before

docs/KAFKA.md has the fields, the formats and what is guaranteed.`
	return group
}

func decodedBackfillCommand() *cobra.Command {
	var f storeFlags
	var from string
	cmd := &cobra.Command{
		Use:   "backfill --from DAY --db STORE",
		Short: "Have what was stored before carried to the decoded topics",
		Long: `Have what was received on or after a day (UTC), and before the decoded topics began, carried to them. It is noted in the store's outbox in one
transaction; the processes that run serve --decoded carry it. What an earlier call has noted is left out, so that it may be run again,
with an earlier day too. Samples whose partition was dropped are gone and do not come.`,
		Example: "  waybill-fleet decoded backfill --from 2026-11-01 --db postgres://fleet@db.example/fleet --db-password-file fleet.pw",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			day, err := time.Parse(time.DateOnly, from)
			if err != nil {
				return cli.UsageError(fmt.Errorf("--from %q: want a day such as 2026-11-01", from))
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			s, err := openStore(cmd.Context(), f, false, false, log)
			if err != nil {
				return err
			}
			defer s.Close()
			outbox, ok := s.(store.Outbox)
			if !ok {
				return cli.UsageError(errors.New("the store has no outbox; it takes --db postgres://USER@HOST:PORT/NAME"))
			}
			n, err := outbox.Backfill(cmd.Context(), day)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "noted %d batches and losses\n", n)
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&from, "from", "", "the first day, UTC, such as 2026-11-01")
	return cmd
}
