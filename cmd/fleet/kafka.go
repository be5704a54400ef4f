package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waybill-telematics/waybill/fleet/stream"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// kafkaTimeout bounds a command that administers.
const kafkaTimeout = time.Minute

func kafkaCommand() *cobra.Command {
	group := cli.Group("kafka", "Make Kafka's topics, and see how far the store is behind", kafkaInitCommand(), kafkaStatusCommand())
	group.Long = `Between the broker's receiver and the store there may be Kafka: what vehicles publish goes to the topic PREFIX.raw, keyed by vehicle,
and a group of consumers takes it into the store. What cannot be taken goes to PREFIX.dead with the reason.

  1. waybill-fleet kafka init --brokers kafka-0:9093 --tls …    makes the topics
  2. waybill-fleet kafka status --brokers kafka-0:9093 --tls …  shows partitions, offsets and lag

docs/KAFKA.md has the topics, their settings, what is guaranteed, and what EMQX's own Kafka action has to send.`
	return group
}

// kafkaFlags say where Kafka is and how to get in.
type kafkaFlags struct {
	brokers            []string
	prefix             string
	tls, insecure      bool
	ca, cert, key      string
	user, passwordFile string
	mechanism          string
	before             string // of the flags' names
}

// add adds the flags; `before` stands before their names.
func (f *kafkaFlags) add(flags *pflag.FlagSet, before string) {
	f.before = before
	flags.StringSliceVar(&f.brokers, before+"brokers", nil, "Kafka's brokers, HOST:PORT[,HOST:PORT…]; one is enough to find the others")
	flags.StringVar(&f.prefix, before+"topic-prefix", stream.DefaultPrefix, "what the names of Kafka's topics begin with")
	flags.BoolVar(&f.tls, before+"tls", false, "TLS; an authority or a certificate turns it on too")
	flags.StringVar(&f.ca, before+"ca", "", "PEM file of the authorities that may vouch for the brokers (default: the system's)")
	flags.StringVar(&f.cert, before+"cert", "", "PEM file of the client certificate")
	flags.StringVar(&f.key, before+"cert-key", "", "PEM file of its key")
	flags.StringVar(&f.user, before+"user", "", "user at Kafka, for SASL")
	flags.StringVar(&f.passwordFile, before+"password-file", "", "file that holds the user's password; read at each connection")
	flags.StringVar(&f.mechanism, before+"sasl", "", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN (default with a user: SCRAM-SHA-512)")
	flags.BoolVar(&f.insecure, before+"insecure", false, "allow Kafka's brokers without TLS that are not on this machine")
}

// options checks the flags and makes options of them.
func (f *kafkaFlags) options(log *slog.Logger) (o stream.Options, err error) {
	switch {
	case len(f.brokers) == 0:
		return o, fmt.Errorf("--%sbrokers HOST:PORT is needed", f.before)
	case (f.cert == "") != (f.key == ""):
		return o, fmt.Errorf("--%[1]scert and --%[1]scert-key belong together", f.before)
	case f.user == "" && (f.passwordFile != "" || f.mechanism != ""):
		return o, fmt.Errorf("--%[1]spassword-file and --%[1]ssasl want a --%[1]suser", f.before)
	case f.user != "" && f.passwordFile == "":
		return o, fmt.Errorf("--%[1]suser wants a --%[1]spassword-file", f.before)
	}
	o = stream.Options{Brokers: f.brokers, Prefix: f.prefix, Insecure: f.insecure, Log: log}
	files := serveFlags{ca: f.ca, cert: f.cert, key: f.key, user: f.user, passwordFile: f.passwordFile}
	if f.tls || f.ca != "" || f.cert != "" {
		o.TLS = files.tls()
	}
	if f.user != "" {
		o.Mechanism, o.Credentials = f.mechanism, files.credentials()
		if o.Mechanism == "" {
			o.Mechanism = stream.ScramSHA512
		}
	}
	return o, o.Check()
}

func kafkaInitCommand() *cobra.Command {
	var f kafkaFlags
	var t stream.TopicOptions
	var alter, asJSON bool
	cmd := &cobra.Command{
		Use:   "init --brokers HOST:PORT",
		Short: "Make the topics, or say what differs from how they are to be",
		Long: `Make the topics that are not there, and say of those that are what differs from how they are to be. With --alter it is changed, where Kafka can:
no topic and no partition is deleted, but a shorter --retention lets Kafka delete what is older. It may be run as often as one likes.

  PREFIX.raw    what vehicles published, as it came, keyed TENANT/DEVICE
  PREFIX.dead   what cannot be taken, with the reason in headers; kept for 30 days at least
  PREFIX.samples, .events, .positions, .losses   with --decoded

Partitions are how many consumers can share the work; 12 serve 2, 3, 4, 6 or 12 evenly. More of them later is possible, and moves vehicles to other
partitions: nothing is lost or taken twice, but for a while a vehicle's messages may overtake each other. Retention is how long the store may be away.

Exit code 0: all is as it is to be. 3: something differs. 1: Kafka refused, or could not be reached.`,
		Example: `  waybill-fleet kafka init --brokers 127.0.0.1:9092 --replication 1
  waybill-fleet kafka init --brokers kafka-0.example:9093,kafka-1.example:9093 --ca ca.pem --user fleet --password-file fleet.pw --retention 336h --alter`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err == nil {
				err = t.Check()
			}
			if err != nil {
				return cli.UsageError(err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), kafkaTimeout)
			defer cancel()
			changes, err := stream.Init(ctx, o, t, alter)
			return errors.Join(err, printChanges(cmd.OutOrStdout(), changes, asJSON, err == nil))
		},
	}
	f.add(cmd.Flags(), "")
	flags := cmd.Flags()
	flags.IntVar(&t.Partitions, "partitions", 12, "partitions of each topic; the dead letters have one")
	flags.IntVar(&t.Replication, "replication", 3, "copies of each partition; all but one (min.insync.replicas) must be there for writing")
	flags.DurationVar(&t.Retention, "retention", 168*time.Hour, "how long records stay")
	flags.BoolVar(&t.Decoded, "decoded", false, "the topics of decoded data too")
	flags.BoolVar(&alter, "alter", false, "change what differs, where Kafka can")
	flags.BoolVar(&asJSON, "json", false, "one JSON object for each difference")
	return cmd
}

// printChanges says what was done and what is left to do.
func printChanges(out io.Writer, changes []stream.Change, asJSON, whole bool) error {
	left := 0
	for _, c := range changes {
		if !c.Done {
			left++
		}
	}
	if asJSON {
		if err := printLines(out, changes); err != nil {
			return err
		}
	} else {
		for _, c := range changes {
			var err error
			switch {
			case c.What == "topic":
				_, err = fmt.Fprintf(out, "made     %s: %s\n", c.Topic, c.Want)
			case c.Done:
				_, err = fmt.Fprintf(out, "changed  %s: %s from %s to %s\n", c.Topic, c.What, c.Have, c.Want)
			case c.Because != "":
				_, err = fmt.Fprintf(out, "differs  %s: %s is %s, want %s: %s\n", c.Topic, c.What, c.Have, c.Want, c.Because)
			default:
				_, err = fmt.Fprintf(out, "differs  %s: %s is %s, want %s; --alter changes it\n", c.Topic, c.What, c.Have, c.Want)
			}
			if err != nil {
				return err
			}
		}
		if left == 0 && whole {
			fmt.Fprintln(out, "all topics are as they are to be")
		}
	}
	if left > 0 {
		return &cli.Error{Code: cli.Findings}
	}
	return nil
}

func kafkaStatusCommand() *cobra.Command {
	var f kafkaFlags
	var group string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status --brokers HOST:PORT",
		Short: "Show partitions, offsets and lag",
		Long: `Show the partitions of the raw topic and of the dead letters: leader, replicas in sync, first and next offset, the offset that the consumers have told
Kafka, and the lag. What they have told is a second or so behind the store's own position, which is the one that counts.`,
		Example: "  waybill-fleet kafka status --brokers 127.0.0.1:9092",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return cli.UsageError(err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), kafkaTimeout)
			defer cancel()
			list, err := stream.Status(ctx, o, group)
			if err != nil {
				return err
			}
			if asJSON {
				return printLines(cmd.OutOrStdout(), list)
			}
			return printStatus(cmd.OutOrStdout(), list)
		},
	}
	f.add(cmd.Flags(), "")
	cmd.Flags().StringVar(&group, "group", "waybill-store", "the consumers' group")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object for each partition")
	return cmd
}

func printStatus(out io.Writer, list []stream.PartitionStatus) error {
	t := newTable(out, "TOPIC", "PARTITION", "LEADER", "IN SYNC", "FIRST", "NEXT", "TOLD", "LAG")
	var lag int64
	for _, p := range list {
		leader, told, behind := fmt.Sprint(p.Leader), fmt.Sprint(p.Told), fmt.Sprint(p.Lag)
		if p.Leader < 0 {
			leader = "NONE"
		}
		if p.Told < 0 {
			told = "-"
		}
		if strings.HasSuffix(p.Topic, ".dead") {
			behind = "-"
		}
		t.row(p.Topic, p.Partition, leader, fmt.Sprintf("%d/%d", p.InSync, p.Replicas), p.Start, p.End, told, behind)
		lag += p.Lag
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "lag %d\n", lag)
	return err
}
