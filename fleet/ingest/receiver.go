package ingest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Limits of one transaction: what waits is committed together, so that a commit's two flushes are shared, but never so
// much that a receipt has to wait long.
const (
	groupMessages = 256
	groupBytes    = 4 << 20
)

// waitingMessages is how many messages may wait for the store; the broker's window of unacknowledged ones ends before.
const waitingMessages = 1024

// receiptsInFlight bounds the receipts whose PUBACK is outstanding. A PUBACK comes behind all that the broker sent before
// it, and that is only taken while nobody waits for a PUBACK: so this is more than any broker sends unacknowledged.
const receiptsInFlight = 1 << 14

// Session limits (see uplink for their reasons).
const (
	connectTimeout = 15 * time.Second
	keepAlive      = 20 * time.Second
	pingTimeout    = 20 * time.Second
	writeTimeout   = 20 * time.Second
	userTimeout    = 30 * time.Second // TCP_USER_TIMEOUT
	steadyAfter    = 60 * time.Second // a session that lasted this long resets the back-off
)

// Applier takes messages durably. *Ingester is one.
type Applier interface {
	Apply(context.Context, []Message) ([]Reply, Counts, error)
}

// ReceiverOptions of a Receiver.
type ReceiverOptions struct {
	Broker   string // tcp://HOST:PORT, ssl://HOST:PORT
	ClientID string // fixed: the broker keeps the session under it
	Tenant   string // empty: all
	// Share is the group of a shared subscription, by which several receivers with client ids of their own share what
	// comes; empty: all of it comes here. Statuses are not shared: one receiver of the group has them (shared.go).
	Share    string
	Statuses bool // with Share: this one
	// Admit, if not nil, is asked ahead of each connection: on an error there is none, and it is asked again later.
	Admit func(context.Context) error
	// Credentials and TLS are asked at each dial, so that renewed files are taken. nil: none.
	Credentials func() (user, password string, err error)
	TLS         func() (*tls.Config, error)

	BackoffBase time.Duration // 0: 2 s
	BackoffCap  time.Duration // 0: 15 s, or BackoffBase if that is more: a fleet waits, and there are few receivers
	Log         *slog.Logger  // nil: nothing is logged
}

// Receiver brings messages from a broker: subscribed with QoS 1 in a persistent MQTT 3.1.1 session, and acknowledged in
// the order of their arrival (MQTT 3.1.1 §4.6), each only after Apply made it durable.
//
// When Apply fails nothing is acknowledged and the session ends, because a broker sends what is unacknowledged again
// only on a new connection. Receipts go out before the acknowledgement: if the process ends between the two, the
// message comes again and is receipted again; the other way round its vehicle would wait for nothing.
type Receiver struct {
	o         ReceiverOptions
	apply     Applier
	outgoing  chan outgoing
	shares    atomic.Bool // the broker was asked, and has shared subscriptions
	silent    int         // answers in a row that were none, when it was asked; of Run
	connected atomic.Bool
	mu        sync.Mutex // guards what follows
	counts    Counts
	over      chan struct{} // closed when the session ends that is under way, or was the last; nil before the first
}

// Check says what is wrong with the options.
func (o *ReceiverOptions) Check() error {
	u, err := url.Parse(o.Broker)
	if err != nil || u.Host == "" {
		return fmt.Errorf("broker %q: want a URL such as tcp://HOST:1883 or ssl://HOST:8883", o.Broker)
	}
	if o.ClientID == "" {
		return errors.New("a client id is needed: the broker keeps the session under it")
	}
	if o.Tenant != "" {
		if err := telemetrypb.CheckName("tenant", o.Tenant); err != nil {
			return err
		}
	}
	if o.Share != "" {
		return checkShare(o.Share)
	}
	return nil
}

// NewReceiver makes a Receiver.
func NewReceiver(o ReceiverOptions, a Applier) (*Receiver, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.BackoffBase == 0 {
		o.BackoffBase = 2 * time.Second
	}
	if o.BackoffCap == 0 {
		o.BackoffCap = max(15*time.Second, o.BackoffBase)
	}
	if err := o.Check(); err != nil {
		return nil, err
	}
	return &Receiver{o: o, apply: a, outgoing: make(chan outgoing)}, nil
}

// Filter is the subscription, or with Share what the group takes together.
func (r *Receiver) Filter() string { return r.topic("up/#") }

func (r *Receiver) topic(rest string) string {
	tenant := r.o.Tenant
	if tenant == "" {
		tenant = "+"
	}
	return telemetrypb.Topic(tenant, "+", rest)
}

// Counts is what was done since the start.
func (r *Receiver) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Connected says whether there is a subscribed session now.
func (r *Receiver) Connected() bool { return r.connected.Load() }

// Run receives until ctx ends, over as many sessions as it takes, and returns nil then. A broker that has no shared
// subscriptions where one is asked for ends it with ErrNoShared.
func (r *Receiver) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		began := time.Now()
		progress, err := r.session(ctx)
		r.connected.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrNoShared) {
			return err // it will be the same the next time
		}
		if progress || time.Since(began) >= steadyAfter {
			failures = 0
		}
		wait := r.backoff(failures)
		failures++
		r.o.Log.Warn("session ended", "broker", r.o.Broker, "err", err, "retry_in", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// backoff is full jitter under a doubling ceiling.
func (r *Receiver) backoff(failures int) time.Duration {
	ceiling := r.o.BackoffCap
	if failures < 16 {
		ceiling = min(ceiling, r.o.BackoffBase<<failures)
	}
	return time.Duration(rand.Int64N(int64(ceiling) + 1))
}

// session is one connection with a client of its own. It says whether anything was committed, and why it ended.
func (r *Receiver) session(ctx context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	defer close(over)
	r.mu.Lock()
	r.over = over
	r.mu.Unlock()
	if r.o.Admit != nil {
		if err := r.o.Admit(ctx); err != nil {
			return false, err
		}
	}
	if err := r.checkShared(ctx); err != nil {
		return false, err
	}
	incoming := make(chan mqtt.Message, waitingMessages)
	options, err := r.clientOptions()
	if err != nil {
		return false, err
	}
	options.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		select {
		case incoming <- m:
		case <-ctx.Done(): // unacknowledged, it comes again
		}
	})
	options.SetConnectionLostHandler(func(_ mqtt.Client, err error) { cancel(fmt.Errorf("connection lost: %w", err)) })
	client := mqtt.NewClient(options)
	defer client.Disconnect(250)
	connect := client.Connect()
	if err := await(ctx, connect, connectTimeout); err != nil {
		return false, fmt.Errorf("connect: %w", err)
	}
	resumed := false
	if c, ok := connect.(*mqtt.ConnectToken); ok {
		resumed = c.SessionPresent()
	}
	return r.work(ctx, client, incoming, resumed)
}

// subscription is what became of asking for one.
type subscription struct {
	ok  bool
	err error
}

// askSubscription subscribes while messages are taken: those of a resumed session come ahead of the broker's answer, and
// more of them than may wait, so that who waits for the answer first would never see it.
func (r *Receiver) askSubscription(ctx context.Context, client mqtt.Client) <-chan subscription {
	answer := make(chan subscription, 1)
	go func() { // ends with ctx, or writeTimeout
		ok, err := r.subscribe(ctx, client)
		answer <- subscription{ok, err}
	}()
	return answer
}

// subscribe asks for the filters; the broker may refuse.
func (r *Receiver) subscribe(ctx context.Context, client mqtt.Client) (ok bool, err error) {
	filters := map[string]byte{}
	for _, f := range r.filters() {
		filters[f] = 1
	}
	token := client.SubscribeMultiple(filters, nil)
	err = await(ctx, token, writeTimeout)
	ok = true
	select {
	case <-token.Done(): // before that its result is not ours to read
		if t, isSubscribe := token.(*mqtt.SubscribeToken); isSubscribe {
			for _, code := range t.Result() {
				ok = ok && code <= 2
			}
		}
	default:
	}
	if err != nil && (ok || ctx.Err() != nil) {
		return false, fmt.Errorf("subscribe to %s: %w", r.Filter(), err)
	}
	if ok && r.o.Share != "" {
		return true, r.leaveOthers(ctx, client)
	}
	return ok, nil
}

func (r *Receiver) clientOptions() (*mqtt.ClientOptions, error) {
	o := mqtt.NewClientOptions().AddBroker(r.o.Broker).SetClientID(r.o.ClientID).
		SetProtocolVersion(4).SetCleanSession(false).SetAutoReconnect(false).SetConnectRetry(false).
		SetOrderMatters(true).SetAutoAckDisabled(true).SetStore(mqtt.NewOrderedMemoryStore()).
		SetConnectTimeout(connectTimeout).SetKeepAlive(keepAlive).SetPingTimeout(pingTimeout).SetWriteTimeout(writeTimeout).
		SetDialer(&net.Dialer{Timeout: connectTimeout, Control: setUserTimeout})
	if r.o.Credentials != nil {
		user, password, err := r.o.Credentials()
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		o.SetUsername(user).SetPassword(password)
	}
	if r.o.TLS != nil {
		c, err := r.o.TLS()
		if err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		o.SetTLSConfig(c)
	}
	return o, nil
}

// setUserTimeout bounds how long sent bytes may go unacknowledged before the kernel gives the connection up.
func setUserTimeout(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	})
	return errors.Join(err, failed)
}

// subscribeAgain is how long after a refusal in a resumed session the subscription is tried once more.
const subscribeAgain = 2 * time.Second

// work subscribes and applies what comes, group by group, until the session ends.
//
// A resumed session has its subscription already, unless the one before it ended between the two; so the subscription
// is always asked for. mochi refuses it while its own unacknowledged messages use the same packet id: what it sends is
// taken meanwhile, and the subscription tried again.
func (r *Receiver) work(ctx context.Context, client mqtt.Client, incoming <-chan mqtt.Message, resumed bool) (progress bool, err error) {
	receipts := receiptFIFO{client: client}
	answer := r.askSubscription(ctx, client)
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	for {
		var group []mqtt.Message
		select {
		case <-ctx.Done():
			return progress, context.Cause(ctx)
		case <-again.C:
			answer = r.askSubscription(ctx, client)
			continue
		case s := <-answer:
			switch {
			case s.err != nil:
				return progress, s.err
			case !s.ok && !resumed:
				return progress, fmt.Errorf("the broker refuses the subscription to %s: check this client's access rules", r.Filter())
			case !s.ok:
				again.Reset(subscribeAgain)
			}
			if s.ok || !r.connected.Load() {
				r.o.Log.Info("connected", "broker", r.o.Broker, "filter", r.Filter(), "client_id", r.o.ClientID, "resumed", resumed, "subscribed", s.ok)
			}
			r.connected.Store(true)
			continue
		case m := <-incoming:
			group = gather(m, incoming)
		case o := <-r.outgoing:
			err := receipts.sendAll(ctx, o.replies)
			o.done <- err
			if err != nil {
				return progress, fmt.Errorf("receipt: %w", err)
			}
			continue
		}
		messages := make([]Message, len(group))
		for i, m := range group {
			messages[i] = Message{m.Topic(), m.Payload()}
		}
		// A commit under way is not broken off for a lost connection: it is bounded, and what it took is then a duplicate.
		replies, counts, err := r.apply.Apply(context.WithoutCancel(ctx), messages)
		if err != nil {
			return progress, fmt.Errorf("store: %w", err)
		}
		progress = true
		r.mu.Lock()
		r.counts.Add(counts)
		r.mu.Unlock()
		if err := receipts.sendAll(ctx, replies); err != nil {
			return progress, fmt.Errorf("receipt: %w", err)
		}
		for _, m := range group {
			m.Ack()
		}
	}
}

// gather takes what else is waiting, within the limits of a group.
func gather(first mqtt.Message, incoming <-chan mqtt.Message) []mqtt.Message {
	group := []mqtt.Message{first}
	for size := len(first.Payload()); len(group) < groupMessages && size < groupBytes; {
		select {
		case m := <-incoming:
			group = append(group, m)
			size += len(m.Payload())
		default:
			return group
		}
	}
	return group
}

// receiptFIFO publishes receipts and bounds how many are on their way.
type receiptFIFO struct {
	client  mqtt.Client
	pending []mqtt.Token
}

func (f *receiptFIFO) sendAll(ctx context.Context, replies []Reply) error {
	for _, r := range replies {
		if err := f.send(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (f *receiptFIFO) send(ctx context.Context, r Reply) error {
	payload, err := proto.Marshal(r.Receipt)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Topic, err)
	}
	for len(f.pending) > 0 {
		select {
		case <-f.pending[0].Done():
		default:
			if len(f.pending) < receiptsInFlight {
				f.pending = append(f.pending, f.client.Publish(r.Topic, 1, false, payload))
				return nil
			}
		}
		if err := await(ctx, f.pending[0], writeTimeout); err != nil {
			return err
		}
		f.pending = f.pending[1:]
	}
	f.pending = append(f.pending, f.client.Publish(r.Topic, 1, false, payload))
	return nil
}

// await waits for a token, the end of the session or the time limit, whichever is first: a token alone may never end.
func await(ctx context.Context, t mqtt.Token, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("no answer within %v", limit)
	}
}
