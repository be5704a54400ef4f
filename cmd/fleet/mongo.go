package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waybill-telematics/waybill/fleet/mongo"
	"github.com/waybill-telematics/waybill/fleet/stream"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// mongoFlags say where MongoDB is.
type mongoFlags struct {
	uri, passwordFile string
}

func (f *mongoFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.uri, "mongo", "", "MongoDB: mongodb://[USER@]HOST:PORT[,…]/[DATABASE][?…] or mongodb+srv://…")
	flags.StringVar(&f.passwordFile, "mongo-password-file", "", "file that holds the user's password; read at the start")
}

// open makes the store. An error of the flags is one of usage.
func (f *mongoFlags) open(log *slog.Logger) (*mongo.Store, error) {
	if f.uri == "" {
		return nil, cli.UsageError(errors.New("--mongo mongodb://HOST:PORT/DATABASE is needed"))
	}
	if err := mongo.Check(f.uri); err != nil {
		return nil, cli.UsageError(fmt.Errorf("--mongo: %w; a user's password belongs into --mongo-password-file", err))
	}
	o := mongo.Options{URI: f.uri, Log: log}
	if f.passwordFile != "" {
		o.Password = func() (string, error) {
			text, err := os.ReadFile(f.passwordFile)
			if err != nil {
				return "", fmt.Errorf("--mongo-password-file: %w", err)
			}
			return strings.TrimRight(string(text), "\r\n"), nil
		}
	}
	return mongo.Open(o)
}

// mongoRun are the flags of mongo.
type mongoRun struct {
	kafkaFlags
	mongoFlags
	rows  []string
	group string
	json  bool
	every time.Duration
}

func mongoCommand() *cobra.Command {
	var f mongoRun
	cmd := &cobra.Command{
		Use:   "mongo --brokers HOST:PORT --mongo mongodb://HOST:PORT/DATABASE",
		Short: "Keep events in MongoDB too, from Kafka's decoded topics",
		Long: `Take decoded topics (JSON; waybill-fleet kafka init --decoded makes them, a serve with them writes them) into collections of MongoDB named as they
are: events, and with --rows samples, positions and losses too. The primary store stays the one that sends receipts and that the page reads.

Each row is one document, whose _id is TENANT/DEVICE/EPOCH/LANE/SEQ/INDEX; a row that is dated anew replaces its document. The position of each
partition stands in the collection waybill_offsets and moves after the documents are written, so that a process or database that ends in between costs
nothing and leaves nothing twice. Run as many processes as the topics have partitions: they share them.

time and received are dates, to the millisecond as BSON has them; time_us is time to the microsecond (Unix). kafka says which write made the document.
Records that are no such rows go to PREFIX.dead with the reason.

Beyond this machine MongoDB is reached with TLS, unless the URI says tls=false; tlsCAFile= and tlsCertificateKeyFile= in it name PEM files.`,
		Example: `  waybill-fleet mongo --brokers 127.0.0.1:9092 --mongo mongodb://127.0.0.1:27017/fleet
  waybill-fleet mongo --brokers kafka-0.example:9093 --ca ca.pem --user fleet --password-file fleet.pw \
    --mongo 'mongodb+srv://fleet@cluster.example/fleet?authSource=admin' --mongo-password-file mongo.pw --rows events,losses`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	flags := cmd.Flags()
	f.kafkaFlags.add(flags, "")
	f.mongoFlags.add(flags)
	flags.StringSliceVar(&f.rows, "rows", []string{"events"}, "what to keep: samples, events, positions, losses; events are among the samples too")
	flags.StringVar(&f.group, "group", "waybill-mongo", "group of the consumers that share the work; -ROWS is added. Another database needs another group")
	flags.BoolVar(&f.json, "json", false, "one JSON object per interval and kind of rows instead of a line")
	flags.DurationVar(&f.every, "every", 10*time.Second, "interval of the status")
	cmd.AddCommand(mongoEraseCommand())
	return cmd
}

// check says what is wrong with the flags, and gives Kafka's.
func (f *mongoRun) check(log *slog.Logger) (stream.Options, error) {
	o, err := f.options(log)
	if err != nil {
		return o, err
	}
	if len(f.rows) == 0 {
		return o, errors.New("--rows: want one or more of " + strings.Join(mongo.Collections(), ", "))
	}
	for i, name := range f.rows {
		if !slices.Contains(mongo.Collections(), name) {
			return o, fmt.Errorf("--rows: %q is none of %s", name, strings.Join(mongo.Collections(), ", "))
		}
		if slices.Contains(f.rows[:i], name) {
			return o, fmt.Errorf("--rows: %s is there twice", name)
		}
	}
	if f.group == "" {
		return o, errors.New("--group: is empty")
	}
	if f.every < 10*time.Millisecond || f.every > time.Hour {
		return o, fmt.Errorf("--every: must be between 10ms and 1h, got %v", f.every)
	}
	return o, nil
}

// run takes the topics until ctx ends.
func (f *mongoRun) run(ctx context.Context, out io.Writer, log *slog.Logger) (err error) {
	o, err := f.check(log)
	if err != nil {
		return cli.UsageError(err)
	}
	s, err := f.open(log)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, s.Close(closing))
	}()
	consumers := make([]*stream.Consumer, len(f.rows))
	for i, name := range f.rows {
		if err := s.Prepare(ctx, name); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		consumers[i], err = stream.NewConsumer(stream.ConsumerOptions{
			Options: o, Group: f.group + "-" + name, Topic: cmp.Or(f.prefix, stream.DefaultPrefix) + "." + name, Judge: mongo.Judge,
		}, s)
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	ended := make([]error, len(consumers))
	for i, c := range consumers {
		tasks.Go(func() {
			ended[i] = c.Run(ctx)
			cancel()
		})
	}
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	var shown error
	for ctx.Err() == nil && shown == nil {
		select {
		case <-tick.C:
			for i, c := range consumers {
				shown = errors.Join(shown, f.show(out, f.rows[i], c))
			}
		case <-ctx.Done():
		}
	}
	cancel()
	tasks.Wait()
	return errors.Join(append(ended, shown)...)
}

// mongoStatus is a line of --json.
type mongoStatus struct {
	Time        time.Time `json:"time"`
	Rows        string    `json:"rows"`
	Partitions  int       `json:"partitions"`
	Lag         int64     `json:"lag"`     // records that the topic has beyond the position, as far as is known
	Written     uint64    `json:"written"` // new documents
	Again       uint64    `json:"again"`   // rows whose document was there
	DeadLetters uint64    `json:"dead_letters"`
	DeadLost    uint64    `json:"dead_lost"`
	Lost        uint64    `json:"lost"` // offsets that the topic no longer had
	Errors      uint64    `json:"errors"`
}

func (f *mongoRun) show(out io.Writer, rows string, c *stream.Consumer) error {
	n := c.Counts()
	s := mongoStatus{Time: time.Now().UTC(), Rows: rows, Written: n.Samples, Again: n.Duplicates, DeadLetters: n.DeadLetters, DeadLost: n.DeadLost, Lost: n.Lost, Errors: n.StoreErrors}
	for _, p := range c.Partitions() {
		s.Partitions++
		s.Lag += max(0, p.End-p.Position)
	}
	if f.json {
		return json.NewEncoder(out).Encode(s)
	}
	_, err := fmt.Fprintf(out, "%s  %s: %d partitions, %d records behind, %d written, %d again, %d dead letters, %d lost, %d errors\n",
		s.Time.Format(time.TimeOnly), rows, s.Partitions, s.Lag, s.Written, s.Again, s.DeadLetters+s.DeadLost, s.Lost, s.Errors)
	return err
}

func mongoEraseCommand() *cobra.Command {
	var f mongoFlags
	var tenant, device string
	cmd := &cobra.Command{
		Use:   "erase --mongo mongodb://HOST:PORT/DATABASE --device ID",
		Short: "Delete a vehicle's documents",
		Long: `Delete all documents of a vehicle. What is on the decoded topics and was not taken yet comes after it: erase in the primary store first
(waybill-fleet erase), and here when the lag that waybill-fleet mongo shows has been 0 since.`,
		Example: "  waybill-fleet mongo erase --mongo mongodb://127.0.0.1:27017/fleet --device car-0001",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(telemetrypb.CheckName("--tenant", tenant), telemetrypb.CheckName("--device", device)); err != nil {
				return cli.UsageError(err)
			}
			s, err := f.open(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			n, err := s.Erase(cmd.Context(), tenant, device)
			if err = errors.Join(err, s.Close(context.WithoutCancel(cmd.Context()))); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d documents of %s/%s deleted\n", n, tenant, device)
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&tenant, "tenant", "default", "the vehicle's tenant")
	cmd.Flags().StringVar(&device, "device", "", "the vehicle's device id")
	return cmd
}
