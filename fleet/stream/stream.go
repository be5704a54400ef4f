// Package stream puts Kafka between what receives from vehicles and the store. Producer is an ingest.Applier: what a
// broker delivers becomes records of the raw topic, acknowledged by all in-sync replicas before it returns. Consumer
// takes the raw topic in a group into a Sink, whose transaction holds the position too, and hands out the receipts.
// Init and Status administer the topics.
//
// docs/KAFKA.md tells what is on the topics and what is guaranteed. The package knows no SQL and no MQTT connection,
// reads no configuration and prints nothing.
package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// DefaultPrefix is what the topics' names begin with.
const DefaultPrefix = "wb1"

// MaxRecord is the most bytes of a record that the topics take: the largest MQTT payload of the usual brokers (1 MiB)
// with its key and headers.
const MaxRecord = 1<<20 + 64<<10

// The ways to say who one is.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

const (
	dialTimeout    = 10 * time.Second
	requestTimeout = 10 * time.Second // beyond what a request may take at the broker
)

// Options tell where Kafka is and how to get in.
type Options struct {
	Brokers []string // HOST:PORT, one or more to begin with
	Prefix  string   // of the topics' names; "": DefaultPrefix

	// TLS is asked at each dial, so that renewed files are taken. nil: no TLS, which Check lets pass on loopback only.
	TLS func() (*tls.Config, error)
	// Mechanism is Plain, ScramSHA256, ScramSHA512, or "" for none. Credentials is asked at each connection.
	Mechanism   string
	Credentials func() (user, password string, err error)
	Insecure    bool // allow brokers beyond loopback without TLS

	ClientID string       // in Kafka's logs and quotas; "": waybill-fleet
	Log      *slog.Logger // nil: nothing is logged

	dialContext func(ctx context.Context, network, address string) (net.Conn, error) // tests cut it; nil: net.Dialer's
}

// RawTopic is the topic of what vehicles published, as it came.
func (o *Options) RawTopic() string { return o.topic("raw") }

// DeadTopic is the topic of what cannot be taken.
func (o *Options) DeadTopic() string { return o.topic("dead") }

func (o *Options) topic(name string) string {
	if o.Prefix == "" {
		return DefaultPrefix + "." + name
	}
	return o.Prefix + "." + name
}

// Check says what is wrong with the options.
func (o *Options) Check() error {
	if len(o.Brokers) == 0 {
		return errors.New("no Kafka broker is given: want HOST:PORT")
	}
	for _, b := range o.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, portErr := strconv.Atoi(port); err != nil || host == "" || portErr != nil || n < 1 || n > 65535 {
			return fmt.Errorf("Kafka broker %q: want HOST:PORT, such as kafka-0.example:9093", b)
		}
		if o.TLS == nil && !o.Insecure && !isLoopback(host) {
			return fmt.Errorf("Kafka broker %q: without TLS only on this machine; turn TLS on, or allow it on a network that you trust", b)
		}
	}
	switch o.Mechanism {
	case "":
		if o.Credentials != nil {
			return fmt.Errorf("a Kafka user is given but no SASL mechanism: want %s, %s or %s", ScramSHA512, ScramSHA256, Plain)
		}
	case Plain, ScramSHA256, ScramSHA512:
		if o.Credentials == nil {
			return fmt.Errorf("SASL %s needs a user and a password", o.Mechanism)
		}
	default:
		return fmt.Errorf("SASL mechanism %q: want %s, %s or %s", o.Mechanism, ScramSHA512, ScramSHA256, Plain)
	}
	return CheckTopicPrefix(o.Prefix)
}

// CheckTopicPrefix refuses what Kafka would not take in a topic's name.
func CheckTopicPrefix(prefix string) error {
	if len(prefix) > 100 {
		return fmt.Errorf("topic prefix of %d bytes, at most 100 are allowed", len(prefix))
	}
	for _, r := range prefix {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-') {
			return fmt.Errorf("topic prefix %q holds %q; letters, digits, '.', '_' and '-' are allowed", prefix, r)
		}
	}
	return nil
}

// client connects nothing yet: kgo dials when it is first used.
func (o *Options) client(more ...kgo.Opt) (*kgo.Client, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	id := o.ClientID
	if id == "" {
		id = "waybill-fleet"
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...), kgo.ClientID(id), kgo.SoftwareNameAndVersion("waybill-fleet", "1"),
		kgo.Dialer(o.dial), kgo.RequestTimeoutOverhead(requestTimeout), kgo.DisableClientMetrics(), kgo.WithLogger(newClientLog(o.logger(), time.Now)),
		// A topic that is made later, and partitions that are added, are found within half a minute.
		kgo.MetadataMinAge(250 * time.Millisecond), kgo.MetadataMaxAge(30 * time.Second),
		// Half a second is enough to spare a broker that starts, and little against how long one is away.
		kgo.RetryBackoffFn(func(n int) time.Duration { return min(500*time.Millisecond, 20*time.Millisecond<<min(n, 8)) }),
	}
	if o.Mechanism != "" {
		opts = append(opts, kgo.SASL(o.mechanism()))
	}
	return kgo.NewClient(append(opts, more...)...)
}

func (o *Options) mechanism() sasl.Mechanism {
	ask := o.Credentials
	switch o.Mechanism {
	case Plain:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			user, password, err := ask()
			return plain.Auth{User: user, Pass: password}, err
		})
	case ScramSHA256:
		return scram.Sha256(func(context.Context) (scram.Auth, error) {
			user, password, err := ask()
			return scram.Auth{User: user, Pass: password}, err
		})
	}
	return scram.Sha512(func(context.Context) (scram.Auth, error) {
		user, password, err := ask()
		return scram.Auth{User: user, Pass: password}, err
	})
}

// dial connects, with the certificates as they are now.
func (o *Options) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if o.dialContext != nil {
		return o.dialContext(ctx, network, address)
	}
	dialer := &net.Dialer{KeepAlive: 15 * time.Second}
	if o.TLS == nil {
		return dialer.DialContext(ctx, network, address)
	}
	c, err := o.TLS()
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return (&tls.Dialer{NetDialer: dialer, Config: c}).DialContext(ctx, network, address)
}

// logger is never nil.
func (o *Options) logger() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
