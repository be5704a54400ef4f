package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Queue is what the uplink needs of the durable queue. Implementations are safe for use from several goroutines.
type Queue interface {
	// Epoch names the queue's sequence numbers.
	Epoch() uint64
	// Next is the oldest committed and unreleased batch with seq ≥ from, or buffer.ErrEmpty.
	Next(l buffer.Lane, from uint64) (buffer.Record, error)
	// Release lets go of batches; it is idempotent.
	Release(l buffer.Lane, r ...buffer.Range) error
	// Stats says, among other things, the newest committed seq of each lane.
	Stats() buffer.Stats
	// Notify has a capacity of 1 and tells that something was committed.
	Notify() <-chan struct{}
}

// Ack says whose word releases a batch.
type Ack string

// The acknowledgements.
const (
	AckReceipt Ack = "receipt" // the store's receipt: nothing is lost between broker and store
	AckPuback  Ack = "puback"  // the broker's PUBACK: for a plain broker, and only as safe as that broker
)

// Format is how the batches of a lane are published.
type Format string

// The formats.
const (
	FormatColumns Format = "columns" // the stored batches, byte for byte
	FormatPlain   Format = "plain"   // rendered at sending: repeated protobuf samples
	FormatJSON    Format = "json"    // the same in protobuf's JSON mapping
)

// Options are what New needs to know. The zero value of a field means its default where one is named.
type Options struct {
	URL      string // tcp, mqtt, ssl, tls, mqtts, ws or wss://host[:port][/path]
	ClientID string // default: Device
	Tenant   string
	Device   string // opaque provisioned id; fixed for an epoch
	Insecure bool   // allows the schemes without TLS, on loopback addresses too

	// TLS is called at each dial, so that renewed certificates are taken. nil: the system's roots. A configuration
	// with InsecureSkipVerify is refused. Sessions are resumed over all connections while certificate and roots stay.
	TLS func() (*tls.Config, error)
	// User and Password are called at each dial. nil: what the URL says, or none. Where one of the three returns a
	// *CredentialError, that is the alarm.
	User     func() (string, error)
	Password func() (string, error)
	// Explain says what is known here of the credentials shown last, for the alarm of a broker that refused them, in
	// words and without secrets: until when they are valid, what time it is thought to be. nil: nothing.
	Explain func() string
	// Dial opens the network connection under TLS and websocket. nil: the system's, with TCPUserTimeout.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// OnConnect is told how each try to connect ended, as nil or an error. It must not block.
	OnConnect func(error)
	// Allowed says whether batches of a lane may be sent now, over the link that Dial chose; nil: always. It is asked
	// again at least once a second and must not block.
	Allowed func(telemetrypb.Lane) bool
	// OnTraffic is told of bytes below TLS and websocket, as they are given to and taken from the kernel: those sent for
	// batches of a lane at once, all others (lane 0) at the next tick. Requests and chunks are told of as raw's. It must not block.
	OnTraffic func(lane telemetrypb.Lane, sent, received int)

	Ack       Ack                                          // default AckReceipt
	Format    func(telemetrypb.Lane) Format                // nil: FormatColumns everywhere
	Clocks    func(boot [16]byte) *telemetrypb.ClockRecord // the clock record of a boot as known now; nil result: none
	Catalogue func(short [16]byte) *telemetrypb.Catalogue  // for plain and json; nil result: the batch goes in columns
	Status    func() *telemetrypb.Status                   // a fresh message that the uplink may change

	// OnRejected takes the ledger's entry of batches that the store will never have, before they are released.
	OnRejected func(*telemetrypb.Loss)
	// OnConflict is told that the store has given numbers of ours to other bytes: it rejected these very batches for that, or
	// confirms some of the current epoch that were never committed. The folder was put back to an earlier state, or
	// another vehicle has this one's identity. It begins a new epoch, and gives what was rejected other names; what it has
	// dealt with is settled. The rest is parked. nil: what was rejected so is rejected like anything else.
	OnConflict func(Conflict) (settled bool)
	// Recall gives out again what was released and is only kept, for a store that was restored from a copy; OnNotKept takes
	// the ledger's entries of what it asks for and is not kept. Both count only with AckReceipt. nil Recall: none may ask.
	Recall    func(epoch uint64, l buffer.Lane, r ...buffer.Range) (buffer.Recalled, error)
	OnNotKept func(*telemetrypb.Loss)
	// OnWantCatalogue is told of a catalogue that the store misses.
	OnWantCatalogue func(short [16]byte)
	// Topics are subscribed to beside the receipts', by what follows wb1/{tenant}/{device}/.
	Topics []string
	// OnMessage takes what arrives on topics other than the receipts'. nil: counted and left. Like those above it
	// is called on the goroutine that takes receipts and must not block.
	OnMessage func(topic string, payload []byte)
	// OnChunk takes what Ask asked for, and says why a message is none of it, which counts and drops it. It is called on several
	// goroutines, receipts wait for none of them, and it must not block. nil: Ask asks for nothing.
	OnChunk func(payload []byte) error

	PayloadBytes     int   // most bytes of batches in one publish; one batch always goes. Default 64 KiB
	InFlight         int   // publishes without PUBACK. Default 10
	InFlightBytes    int   // most of their bytes; the budget is what the link needs. Default InFlight × PayloadBytes
	UnreceiptedCount int   // batches sent and without receipt. Default 4096
	UnreceiptedBytes int64 // their bytes. Default 16 MiB

	// Paho looks at its timers every 5 s. A link that has become half-open is found after KeepAlive, a tick and
	// PingTimeout, rounded up to a tick; where the kernel's buffer is full, after KeepAlive, a tick and WriteTimeout; where the
	// vehicle's own publishes keep pings away, after AckTimeout: 40 s each. For a publish after silence the silence counts,
	// up to half of AckTimeout: a publish just before a ping was due has put that off.
	KeepAlive      time.Duration // whole seconds. Default 15 s
	PingTimeout    time.Duration // default 18 s
	WriteTimeout   time.Duration // of one packet. Default 20 s
	ConnectTimeout time.Duration // of dial, TLS and CONNACK together. Default 15 s
	TCPUserTimeout time.Duration // default 30 s
	AckTimeout     time.Duration // between two PUBACKs, while one is awaited; then the connection is given up. Default 40 s
	ReceiptTimeout time.Duration // after the PUBACK, at the least (see late); probes of a silent store are up to 32 times as far apart. Default 45 s: a denial that only this shows is an alarm within a minute
	ParkedRetry    time.Duration // a parked batch is sent again after this long. Default 10 min
	StatusEvery    time.Duration // default 60 s
	RecallGap      time.Duration // another store, or another generation, is followed after this long at the soonest. Default 10 min
	StopTimeout    time.Duration // bound of the farewell when Run is cancelled. Default 3 s

	BackoffBase  time.Duration // default 2 s
	BackoffCap   time.Duration // default 5 min
	RefusedRetry time.Duration // after refused credentials, or a broker that is not trusted: the longest wait. Default 15 min
	WakeGap      time.Duration // least time between two tries, however often Retry is called. Default 5 s
	PoisonRetry  time.Duration // first wait of a batch that breaks connections; doubles up to 1 h. Default 1 min
	ResetAfter   time.Duration // a connection that lived this long resets the back-off. Default 60 s

	Rand    *rand.Rand // jitter; used by Run alone. nil: seeded by the runtime
	Alarms  *alarm.Board
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
}

// Sessions shorter than this are short; so many of them, none of Options.ResetAfter between, mean another client with the
// same id.
const (
	shortSession = 5 * time.Second
	duelSessions = 3
	unheardTries = 3 // so many tries in a row that reached the broker and got no CONNACK that accepts are an alarm
)

// A batch in flight at so many losses in a row travels alone; at so many more losses it is called poison.
const (
	suspectLosses = 3
	poisonLosses  = 2
	poisonCap     = time.Hour
)

// maxDoublings bounds how far apart a silent store is probed: 2⁵ receipt timeouts. patienceCap bounds how long a copy waits for
// a store that is behind.
const (
	maxDoublings = 5
	patienceCap  = time.Hour
	maxTardy     = 1 << 14 // batches of which it is known that they wait
)

// Payloads start at firstPayload, since a slow link may not live long enough for a large one; they shrink to no less
// than minPayload, and double after growAfter PUBACKs in a row on one connection.
const (
	firstPayload = 16 << 10
	minPayload   = 1 << 10
	growAfter    = 16
)

// maxRendered bounds a batch rendered for tools: brokers commonly take packets up to 1 MB. Above it the batch goes in
// columns.
const maxRendered = 900 << 10

// Bounds of one receipt range: what a hostile or broken store can make the vehicle read.
const (
	maxRangeCount = 1 << 16
	maxRangeRead  = 1 << 20 // bytes read back from the queue to verify batches this process has not sent
)

// withDefaults checks the options and fills in the defaults.
func (o Options) withDefaults() (Options, *endpoint, error) {
	for _, name := range [][2]string{{"tenant", o.Tenant}, {"device", o.Device}} {
		if err := telemetrypb.CheckName(name[0], name[1]); err != nil {
			return o, nil, err
		}
	}
	end, err := parseEndpoint(o.URL)
	if err != nil {
		return o, nil, err
	}
	if !end.secure && !o.Insecure {
		return o, nil, fmt.Errorf("broker %s: %w; use mqtts or wss, or say insecure: true", end, ErrPlainText)
	}
	switch o.Ack {
	case "":
		o.Ack = AckReceipt
	case AckReceipt, AckPuback:
	default:
		return o, nil, fmt.Errorf("ack %q: want receipt or puback", o.Ack)
	}
	if o.Alarms == nil || o.Log == nil {
		return o, nil, errors.New("uplink: Options.Alarms and Options.Log are needed")
	}
	if o.ClientID == "" {
		o.ClientID = o.Device
	}
	if o.Format == nil {
		o.Format = func(telemetrypb.Lane) Format { return FormatColumns }
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	orInt(&o.PayloadBytes, 64<<10)
	orInt(&o.InFlight, 10)
	orInt(&o.InFlightBytes, o.InFlight*o.PayloadBytes)
	orInt(&o.UnreceiptedCount, 4096)
	if o.UnreceiptedBytes <= 0 {
		o.UnreceiptedBytes = 16 << 20
	}
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{
		{&o.KeepAlive, 15 * time.Second}, {&o.PingTimeout, 18 * time.Second}, {&o.WriteTimeout, 20 * time.Second},
		{&o.ConnectTimeout, 15 * time.Second}, {&o.TCPUserTimeout, 30 * time.Second}, {&o.AckTimeout, 40 * time.Second},
		{&o.ReceiptTimeout, 45 * time.Second}, {&o.ParkedRetry, 10 * time.Minute}, {&o.StatusEvery, time.Minute}, {&o.RecallGap, 10 * time.Minute},
		{&o.StopTimeout, 3 * time.Second}, {&o.BackoffBase, 2 * time.Second}, {&o.BackoffCap, 5 * time.Minute},
		{&o.RefusedRetry, 15 * time.Minute}, {&o.WakeGap, 5 * time.Second}, {&o.PoisonRetry, time.Minute}, {&o.ResetAfter, time.Minute},
	} {
		if *d.at <= 0 {
			*d.at = d.def
		}
	}
	// MQTT counts the keep-alive in whole seconds; 0 would switch it off.
	o.KeepAlive = max(o.KeepAlive.Truncate(time.Second), time.Second)
	return o, end, nil
}

func orInt(at *int, def int) {
	if *at <= 0 {
		*at = def
	}
}
