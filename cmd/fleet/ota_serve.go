package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/ota/chunks"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// otaServeFlags are the flags of ota serve, as given; of serveFlags those of the broker.
type otaServeFlags struct {
	serveFlags
	public, share string
	limits        chunks.Limits
}

func otaServeCommand() *cobra.Command {
	var f otaServeFlags
	cmd := &cobra.Command{
		Use:   "serve --broker URL [--public DIR]",
		Short: "Send images to vehicles over MQTT, where HTTP is closed to them",
		Long: `Send images to vehicles over MQTT, where HTTP is closed to them.

A vehicle with update: {mqtt: true} asks for parts of an image on wb1/TENANT/DEVICE/up/request when no mirror brings anything, and gets them on
down/chunk. Answered are requests for files below DIR/image/targets, as ota publish writes them, by their SHA-256 and nothing else. DIR may
be a copy; it is looked at every 10 s. No keys are needed: what comes is verified by the vehicle like that from any mirror.

The client reads wb1/+/+/up/request and writes wb1/+/+/down/chunk: the broker's rules should allow it no more (docs/BROKERS.md), and each vehicle no
more than its own topics, since limits go by them. Several processes share the requests by the broker's shared subscriptions; limits are those of each.

Every --every a line says what was done since the start, or with --json an object: requests, and of these malformed, unknown (no such file),
outside (of the file) and limited (too much or too often); chunks and bytes sent; failed, which could not be read from the disk.`,
		Example: `  waybill-fleet ota serve --broker ssl://mqtt.example:8884 --public oem/public --ca ca.pem --cert images.pem --key images.key
  waybill-fleet ota serve --broker tcp://127.0.0.1:1883 --public oem/public --vehicle-rate 65536`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			go func() { <-ctx.Done(); stop() }() // the second signal kills
			return f.serve(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.broker, "broker", "", "broker, tcp://HOST:PORT or ssl://HOST:PORT")
	flags.StringVar(&f.public, "public", "public", "the folder public that ota writes, or a copy of it")
	flags.StringVar(&f.tenant, "tenant", "", "answer only this tenant's vehicles (default: all)")
	flags.StringVar(&f.share, "share", "waybill-ota", "group of the processes that share the requests; empty for a broker without shared subscriptions, and then one process only")
	flags.StringVar(&f.clientID, "client-id", "", "MQTT client id, nobody else's (default: waybill-ota- and random letters)")
	flags.StringVar(&f.user, "user", "", "MQTT user")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the MQTT password; read at each connection")
	flags.StringVar(&f.ca, "ca", "", "PEM file of the authorities that may vouch for the broker (default: the system's)")
	flags.StringVar(&f.cert, "cert", "", "PEM file of the client certificate")
	flags.StringVar(&f.key, "key", "", "PEM file of its key")
	flags.BoolVar(&f.insecure, "insecure", false, "allow a broker without TLS that is not on this machine")
	flags.IntVar(&f.limits.ChunkBytes, "chunk-bytes", 64<<10, "bytes of an image in one message, 1024 to 65536; below the broker's packet limit by 200")
	flags.Float64Var(&f.limits.VehicleRate, "vehicle-rate", 256<<10, "bytes a second to one vehicle, lasting")
	flags.Float64Var(&f.limits.TotalRate, "total-rate", 16<<20, "bytes a second to all vehicles")
	flags.IntVar(&f.limits.VehicleFlight, "vehicle-flight", 256<<10, "bytes to one vehicle that the broker has not acknowledged yet")
	flags.IntVar(&f.limits.TotalFlight, "total-flight", 4<<20, "the same, to all vehicles")
	flags.StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics on this address of this machine, such as 127.0.0.1:9464 (default: none)")
	flags.BoolVar(&f.insecureMetrics, "insecure-metrics", false, "allow --metrics on an address that others can reach")
	flags.BoolVar(&f.json, "json", false, "one JSON object per interval instead of a line")
	flags.DurationVar(&f.every, "every", time.Minute, "interval of the status")
	return cmd
}

// options checks the flags.
func (f *otaServeFlags) options(log *slog.Logger) (o chunks.Options, err error) {
	if f.broker == "" {
		return o, errors.New("--broker URL is needed")
	}
	if f.every < 10*time.Millisecond || f.every > time.Hour {
		return o, fmt.Errorf("--every: must be between 10ms and 1h, got %v", f.every)
	}
	if err := f.checkBroker(); err != nil {
		return o, err
	}
	if f.metrics != "" {
		if err := checkMetrics(f.metrics, f.insecureMetrics); err != nil {
			return o, err
		}
	}
	o = chunks.Options{
		Broker: f.broker, ClientID: f.clientID, Tenant: f.tenant, Share: f.share, Credentials: f.credentials(),
		TLS: f.tls(), Limits: f.limits, Log: log,
	}
	if o.ClientID == "" {
		o.ClientID = "waybill-ota-" + rand.Text()[:10] // with the prefix what every broker of MQTT 3.1.1 takes (§3.1.3.1)
	}
	if f.share != "" {
		shared, err := ingest.SharedChecker(ingest.ReceiverOptions{Broker: o.Broker, ClientID: o.ClientID, Share: o.Share,
			Credentials: o.Credentials, TLS: o.TLS, Log: log})
		if err != nil {
			return o, err
		}
		o.Admit = func(ctx context.Context) error {
			err := shared(ctx)
			if errors.Is(err, ingest.ErrNoShared) {
				return fmt.Errorf("%w: the broker has no shared subscriptions: run one process, with --share ''", chunks.ErrStop)
			}
			return err
		}
	}
	return o, nil
}

// serve answers until ctx ends.
func (f *otaServeFlags) serve(ctx context.Context, stdout, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	o, err := f.options(log)
	if err != nil {
		return cli.UsageError(err)
	}
	images, err := chunks.OpenImages(f.public, log)
	if err != nil {
		return fmt.Errorf("--public: %w", err)
	}
	defer images.Close()
	s, err := chunks.New(o, images)
	if err != nil {
		return cli.UsageError(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	var served, metrics error
	tasks.Go(func() { served = s.Run(ctx); cancel() })
	if f.metrics != "" {
		tasks.Go(func() {
			metrics = serveMetrics(ctx, f.metrics, s.Connected, []prometheus.Collector{chunkMetrics{s, images}}, log)
			cancel()
		})
	}
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	var shown error
	for ctx.Err() == nil && shown == nil {
		select {
		case <-tick.C:
			shown = f.show(stdout, s, images)
		case <-ctx.Done():
		}
	}
	cancel()
	tasks.Wait()
	return errors.Join(served, metrics, shown, f.show(stdout, s, images))
}

// chunkStatus is a line of --json.
type chunkStatus struct {
	Time      time.Time `json:"time"`
	Connected bool      `json:"connected"`
	Files     int       `json:"files"` // images and patches
	Requests  uint64    `json:"requests"`
	Malformed uint64    `json:"malformed"`
	Unknown   uint64    `json:"unknown"`
	Outside   uint64    `json:"outside"`
	Limited   uint64    `json:"limited"`
	Chunks    uint64    `json:"chunks"`
	Bytes     uint64    `json:"bytes"`
	Failed    uint64    `json:"failed"`
}

func (f *otaServeFlags) show(out io.Writer, s *chunks.Server, images *chunks.Images) error {
	c := s.Counts()
	n := chunkStatus{time.Now().UTC(), s.Connected(), images.Len(), c.Requests,
		c.Malformed, c.Unknown, c.Outside, c.Limited, c.Chunks, c.Bytes, c.Failed}
	if f.json {
		return json.NewEncoder(out).Encode(n)
	}
	link := "connected"
	if !n.Connected {
		link = "NOT CONNECTED"
	}
	_, err := fmt.Fprintf(out, "%s  %s  files %d  requests %d  malformed %d  unknown %d  outside %d  limited %d  chunks %d  bytes %d  failed %d\n",
		n.Time.Format(time.TimeOnly), link, n.Files, n.Requests, n.Malformed, n.Unknown, n.Outside, n.Limited, n.Chunks, n.Bytes, n.Failed)
	return err
}

// chunkMetrics are a server's figures.
type chunkMetrics struct {
	s      *chunks.Server
	images *chunks.Images
}

// Describe describes nothing.
func (m chunkMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counts.
func (m chunkMetrics) Collect(out chan<- prometheus.Metric) {
	c := m.s.Counts()
	connected := 0.0
	if m.s.Connected() {
		connected = 1
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	for _, f := range []figure{
		{"connected", "1 while subscribed at the broker.", gauge, connected},
		{"files", "Images and patches that are served.", gauge, float64(m.images.Len())},
		{"requests_total", "Requests, since the start.", counter, float64(c.Requests)},
		{"malformed_total", "Of these, those that are none.", counter, float64(c.Malformed)},
		{"unknown_total", "Of these, those for files that the repository does not have.", counter, float64(c.Unknown)},
		{"outside_total", "Of these, those for bytes that the file does not have.", counter, float64(c.Outside)},
		{"limited_total", "Of these, those for too much, too often, or by too many at once.", counter, float64(c.Limited)},
		{"chunks_total", "Messages with parts of images, since the start.", counter, float64(c.Chunks)},
		{"bytes_total", "Bytes of images in them, since the start.", counter, float64(c.Bytes)},
		{"failed_total", "Parts that could not be read from the disk, since the start.", counter, float64(c.Failed)},
	} {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("waybill_ota_"+f.name, f.help, nil, nil), f.kind, f.value)
	}
}
