package chunks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/firmware/delivery"
)

// Limits of a connection, as fleet/ingest has them for its own.
const (
	connectTimeout = 15 * time.Second
	keepAlive      = 20 * time.Second
	pingTimeout    = 20 * time.Second
	writeTimeout   = 20 * time.Second
	ackTimeout     = time.Minute // for the oldest chunk in flight

	waitingRequests = 4096 // what comes faster is dropped: it is asked again
)

// flight is a chunk without PUBACK.
type flight struct {
	piece
	token mqtt.Token
	at    time.Time
}

// session is one connection: a clean one, since requests from before it have been asked again since, or are not wanted any more.
func (s *Server) session(ctx context.Context, q *queue) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.o.Admit != nil {
		if err := s.o.Admit(ctx); err != nil {
			return err
		}
	}
	options, err := s.clientOptions()
	if err != nil {
		return err
	}
	incoming := make(chan mqtt.Message, waitingRequests)
	options.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		select {
		case incoming <- m:
		default: // PUBACKs come the same way and must not wait
			s.count.requests.Add(1)
			s.count.limited.Add(1)
		}
	})
	options.SetConnectionLostHandler(func(_ mqtt.Client, err error) { cancel(fmt.Errorf("connection lost: %w", err)) })
	client := mqtt.NewClient(options)
	defer client.Disconnect(250)
	if err := await(ctx, client.Connect(), connectTimeout); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	token := client.Subscribe(s.Filter(), 1, nil).(*mqtt.SubscribeToken)
	if err := await(ctx, token, writeTimeout); err != nil {
		return fmt.Errorf("subscribe to %s: %w", s.Filter(), err)
	}
	if code := token.Result()[s.Filter()]; code > 2 { // 0x80: refused (MQTT 3.1.1 §3.9.3)
		return fmt.Errorf("the broker refuses the subscription to %s: check this client's access rules", s.Filter())
	}
	s.connected.Store(true)
	s.o.Log.Info("connected", "broker", s.o.Broker, "filter", s.Filter(), "client_id", s.o.ClientID, "files", s.images.Len())
	return s.work(ctx, client, incoming, q)
}

// work takes requests and publishes chunks until the connection ends. A broker acknowledges in the order of publishing (MQTT 3.1.1 §4.6),
// so the oldest chunk is the one to wait for.
func (s *Server) work(ctx context.Context, client mqtt.Client, incoming <-chan mqtt.Message, q *queue) error {
	var flying []flight
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		more, wait := s.send(client, incoming, q)
		flying = append(flying, more...)
		var acked <-chan struct{}
		if len(flying) > 0 {
			acked = flying[0].token.Done()
		}
		if wait == 0 || wait > time.Second {
			wait = time.Second // then the oldest chunk is looked at
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-incoming:
			s.take(q, time.Now(), m)
		case <-timer.C:
			if len(flying) > 0 && time.Since(flying[0].at) > ackTimeout {
				return fmt.Errorf("no PUBACK for a chunk of %d bytes in %s: the broker may refuse packets of that length (--chunk-bytes)",
					flying[0].length, ackTimeout)
			}
		case <-acked:
			if err := flying[0].token.Error(); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
			q.done(flying[0].piece)
			flying = flying[1:]
		}
	}
}

// send publishes what may go now, and takes what has been asked meanwhile. wait is the queue's.
func (s *Server) send(client mqtt.Client, incoming <-chan mqtt.Message, q *queue) (flying []flight, wait time.Duration) {
	for {
		now := time.Now()
		p, wait, ok := q.next(now)
		if !ok {
			return flying, wait
		}
		b, err := s.images.Read(p.sum, p.offset, p.length)
		if err != nil { // the vehicle asks again
			s.count.failed.Add(1)
			s.refused(now, p.vehicle.topic, err)
			q.done(p)
			continue
		}
		c := delivery.Chunk{File: p.sum, Offset: p.offset, Bytes: b}
		flying = append(flying, flight{p, client.Publish(p.vehicle.topic, 1, false, c.Encode()), now})
		s.count.chunks.Add(1)
		s.count.bytes.Add(uint64(len(b)))
		select {
		case m := <-incoming:
			s.take(q, now, m)
		default:
		}
	}
}

func (s *Server) clientOptions() (*mqtt.ClientOptions, error) {
	o := mqtt.NewClientOptions().AddBroker(s.o.Broker).SetClientID(s.o.ClientID).
		SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetOrderMatters(true).SetStore(mqtt.NewOrderedMemoryStore()).
		SetConnectTimeout(connectTimeout).SetKeepAlive(keepAlive).SetPingTimeout(pingTimeout).SetWriteTimeout(writeTimeout).
		SetDialer(&net.Dialer{Timeout: connectTimeout})
	if s.o.Credentials != nil {
		user, password, err := s.o.Credentials()
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		o.SetUsername(user).SetPassword(password)
	}
	if s.o.TLS != nil {
		c, err := s.o.TLS()
		if err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		o.SetTLSConfig(c)
	}
	return o, nil
}

// await waits for a token, the end of the connection or the time limit, whichever is first: a token alone may never end.
func await(ctx context.Context, t mqtt.Token, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return errors.New("no answer within " + limit.String())
	}
}
