package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Why we close a connection ourselves.
var (
	errStopped  = errors.New("stopped")
	errNoPuback = errors.New("no PUBACK in time")
)

// session is one connection to the broker, from dial to loss.
type session struct {
	u      *Uplink
	client mqtt.Client
	link   atomic.Pointer[link]

	lost     chan struct{}     // closed by paho once the connection is gone and its goroutines have ended
	lostWhy  error             // written before lost is closed
	done     chan struct{}     // closed when the session is over: feeder and acker end
	wake     chan struct{}     // capacity 1: there may be something to send
	wrote    chan struct{}     // capacity 1: the kernel has taken a PUBLISH
	fifo     chan *flight      // published, in order; large enough that the feeder never waits for the acker
	inbox    chan mqtt.Message // what arrived
	leave    chan string       // capacity 1: a wish to connect anew, and why
	lane     atomic.Int32      // of what is being published; 0: not a batch
	filling  bool              // segments are sent full only; of the feeder
	stopping atomic.Bool       // nothing more is to be fed

	present bool      // the broker had kept the session
	began   time.Time // of the online state
	killed  time.Time // when the link was seen killed; paho should tell within killGrace

	// Guarded by Uplink.mu.
	dead        bool      // nothing that this session says counts any more
	flying      []*flight // without PUBACK, oldest first
	flyingBytes int
	budget      budget
	request     *request // waits for its turn; nil: there is none
	hears       hearing  // chunks
	acks        int      // PUBACKs of batches
	ackedBytes  int64
	inARow      int // PUBACKs since the payload size last changed
	pubacks     int // of batches and status

	// Written by finish.
	few      bool // little was acknowledged for a connection
	mute     bool // something was published and nothing acknowledged
	quiet    bool // nothing was in flight
	troubled bool // what was next in line has broken connections before
	verdict  bool // and has been put off
}

// killGrace is how long paho may take to report a link that we closed, before the session ends without its word.
const killGrace = 10 * time.Second

// outcome is how a session ended.
type outcome struct {
	opened bool // the broker was sent a CONNECT
	online bool // and accepted us
	lived  time.Duration
	acks   int
	left   bool // we left to connect anew
	code   byte // CONNACK return code (MQTT 3.1.1 §3.2.2.3), where the broker refused
	err    error

	few, mute, quiet, troubled, verdict bool // see session
}

func newSession(u *Uplink) *session {
	return &session{
		u: u, lost: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1), wrote: make(chan struct{}, 1),
		fifo: make(chan *flight, u.o.InFlight+8), inbox: make(chan mqtt.Message, 16),
		leave: make(chan string, 1),
	}
}

// run connects and serves until the connection is lost or ctx ends.
func (s *session) run(ctx context.Context) outcome {
	s.u.count.attempts.Add(1)
	present, code, err := s.connect(ctx)
	if s.u.o.OnConnect != nil && ctx.Err() == nil {
		s.u.o.OnConnect(err)
	}
	if err != nil {
		return outcome{opened: s.link.Load() != nil, code: code, err: err}
	}
	s.began, s.present = time.Now(), present
	s.u.o.Alarms.Clear(alarmCredentials)
	s.u.o.Alarms.Clear(alarmTLS)
	s.u.o.Alarms.Clear(alarmUnavailable)
	err = s.subscribe(ctx, present)
	if err == nil {
		err = s.subscribeMore(ctx)
	}
	if err != nil {
		s.link.Load().kill(err)
		s.await(killGrace)
		s.end()
		return outcome{online: true, lived: time.Since(s.began), err: err}
	}
	s.u.begin(s)
	s.u.tasks.Add(2)
	go s.feed()
	go s.ack()
	left := s.listen(ctx)
	s.end()
	s.u.mu.Lock()
	defer s.u.mu.Unlock()
	return outcome{online: true, lived: time.Since(s.began), acks: s.acks, left: left, few: s.few, mute: s.mute, quiet: s.quiet, troubled: s.troubled, verdict: s.verdict, err: s.why()}
}

// connect dials and waits for the CONNACK; present is its session-present flag.
func (s *session) connect(ctx context.Context) (present bool, code byte, err error) {
	options, err := s.options(ctx)
	if err != nil {
		return false, 0, err
	}
	options.SetBinaryWill(s.u.topic(telemetrypb.TopicStatus), s.u.status(false, ""), 1, true)
	return s.connectWith(ctx, options)
}

func (s *session) connectWith(ctx context.Context, options *mqtt.ClientOptions) (present bool, code byte, err error) {
	s.client = mqtt.NewClient(options)
	token := s.client.Connect().(*mqtt.ConnectToken)
	select {
	case <-token.Done():
	case <-ctx.Done():
		if l := s.link.Load(); l != nil {
			l.kill(errStopped)
		}
		<-token.Done() // soon: the dial has the same ctx, the handshake's link is closed
	}
	if err := token.Error(); err != nil {
		if l := s.link.Load(); l != nil {
			l.kill(err)
		}
		return false, token.ReturnCode(), err
	}
	return token.SessionPresent(), 0, nil
}

// options are paho's for one connection: a client that never reconnects, with a store of its own that is thrown away
// with it, so that a token without error is a PUBACK and nothing else.
func (s *session) options(ctx context.Context) (*mqtt.ClientOptions, error) {
	o := &s.u.o
	user, password, err := s.u.credentials()
	if err != nil {
		return nil, err
	}
	c := mqtt.NewClientOptions()
	c.AddBroker("tcp://" + s.u.end.host) // for paho's loop over brokers; CustomOpenConnectionFn does what is done
	c.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return s.open(ctx) })
	c.SetClientID(o.ClientID)
	c.SetUsername(user)
	c.SetPassword(password)
	c.SetProtocolVersion(4)
	c.SetCleanSession(false)
	c.SetAutoReconnect(false)
	c.SetConnectRetry(false)
	c.SetResumeSubs(false)
	c.SetStore(mqtt.NewOrderedMemoryStore())
	c.SetOrderMatters(false)
	c.SetKeepAlive(o.KeepAlive)
	c.SetPingTimeout(o.PingTimeout)
	c.SetWriteTimeout(o.WriteTimeout)
	c.SetConnectTimeout(o.ConnectTimeout)
	chunk := s.u.topic(telemetrypb.TopicChunk)
	c.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		if o.OnChunk != nil && m.Topic() == chunk {
			s.u.takeChunk(m)
			return
		}
		select {
		case s.inbox <- m:
		case <-s.done:
		}
	})
	c.SetConnectionLostHandler(func(_ mqtt.Client, err error) { // once: this client never reconnects
		s.lostWhy = err
		close(s.lost)
	})
	return c, nil
}

// open is paho's way to a connection.
func (s *session) open(ctx context.Context) (net.Conn, error) {
	conn, err := s.u.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: conn, writing: make(chan struct{}, 1), writeTimeout: s.u.o.WriteTimeout, sent: &s.u.count.bytesSent, got: &s.u.count.bytesReceived, wire: &s.u.wire}
	l.published = func(bytes uint64) {
		s.u.carried(telemetrypb.Lane(s.lane.Load()), bytes)
		signal(s.wrote)
	}
	s.link.Store(l)
	if ctx.Err() != nil {
		l.kill(errStopped)
	}
	return l, nil
}

// signal sets a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// subscribe asks for receipts, always: a broker that says it kept the session may have lost the subscription. Its
// SUBACK is a barrier as well. A broker that kept the session may send PUBACKs of the connection before (mochi does),
// and a new client counts packet ids from 1 again, so that they would acknowledge what was never received. They come
// ahead of the SUBACK; nothing is published before it.
func (s *session) subscribe(ctx context.Context, present bool) error {
	if s.u.o.Ack == AckPuback && !present {
		return nil // nothing can be left of an earlier connection, and receipts are not awaited
	}
	topic := s.u.topic(telemetrypb.TopicReceipt)
	timeout := time.NewTimer(s.u.o.AckTimeout)
	defer timeout.Stop()
	for range s.u.o.InFlight + 16 { // no more PUBACKs can be left than publishes were in flight
		asked := make(chan *mqtt.SubscribeToken, 1)
		s.u.tasks.Go(func() { asked <- s.client.Subscribe(topic, 1, nil).(*mqtt.SubscribeToken) })
		var token *mqtt.SubscribeToken
		for answered := false; !answered; {
			var answer <-chan struct{}
			if token != nil {
				answer = token.Done()
			}
			select {
			case token = <-asked:
			case <-answer:
				answered = true
			case <-s.lost:
				return s.lostWhy
			case <-ctx.Done():
				return errStopped
			case <-timeout.C:
				return errors.New("no SUBACK in time")
			}
		}
		if err := token.Error(); err != nil {
			return fmt.Errorf("subscribe to %s: %w", topic, err)
		}
		granted, ok := token.Result()[topic]
		if !ok {
			continue // a PUBACK of the connection before bore this packet id
		}
		if s.u.o.Ack == AckReceipt && granted > 2 { // 0x80: refused (MQTT 3.1.1 §3.9.3)
			s.u.count.denied.Add(1)
			s.u.o.Alarms.Raise(alarmReceipt, fmt.Sprintf("the broker refuses the subscription to %s, so no receipt can arrive and nothing is released: allow it in the broker's ACL", topic))
		}
		return nil
	}
	return errors.New("every SUBSCRIBE was answered with something else")
}

// listen waits for the loss, for messages, for timers and for the wish to connect anew. It never publishes.
func (s *session) listen(ctx context.Context) (left bool) {
	tick := time.NewTicker(s.u.tick())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.farewell()
			return false
		case <-s.lost:
			return false
		case why := <-s.leave:
			s.depart(ctx, why)
			return true
		case m := <-s.inbox:
			s.u.receive(s, m)
		case now := <-tick.C:
			s.u.onTick(s, now)
			if s.overdue(now) {
				s.u.o.Log.Error("paho did not report a closed connection; going on without it")
				s.client.Disconnect(0)
				return false
			}
		}
	}
}

// overdue says whether paho owes us the loss of a link that we killed.
func (s *session) overdue(now time.Time) bool {
	l := s.link.Load()
	if l.because(nil) == nil {
		return false
	}
	if s.killed.IsZero() {
		s.killed = now
	}
	return now.Sub(s.killed) > killGrace
}

// await gives paho time to end its goroutines.
func (s *session) await(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.lost:
	case <-timer.C:
	}
}

// end makes the session's word worth nothing and counts what was in flight.
func (s *session) end() {
	close(s.done)
	s.u.live.CompareAndSwap(s, nil)
	s.u.finish(s)
}

// why is the cause of the end, best known first.
func (s *session) why() error {
	if err := s.link.Load().because(nil); err != nil {
		return err
	}
	select {
	case <-s.lost:
		return s.lostWhy
	default:
		return errStopped
	}
}

// farewell says goodbye: the offline status, retained, then DISCONNECT, so that the broker keeps the will to itself.
// Batches that are in flight get their PUBACKs meanwhile.
func (s *session) farewell() {
	s.stopping.Store(true)
	reason, _, _ := s.u.rest.look()
	if reason == "" {
		reason = "shutdown"
	}
	limit := time.NewTimer(s.u.o.StopTimeout)
	defer limit.Stop()
	said := make(chan struct{})
	quit := make(chan struct{})
	defer close(quit)
	s.u.tasks.Go(func() {
		token := s.client.Publish(s.u.topic(telemetrypb.TopicStatus), 1, true, s.u.status(false, reason))
		select {
		case <-token.Done():
			close(said)
		case <-quit:
		}
	})
	select {
	case <-said:
	case <-s.lost:
		return
	case <-limit.C:
	}
	s.client.Disconnect(uint(min(s.u.o.StopTimeout, 250*time.Millisecond).Milliseconds()))
	s.link.Load().kill(errStopped)
}
