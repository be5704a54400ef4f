package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/internal/alarm"
)

// ErrDenied: the broker refuses a subscription (SUBACK 0x80, MQTT 3.1.1 §3.9.3).
var ErrDenied = errors.New("the broker refuses the subscription")

// Trial takes single steps of the way to the broker, by the code and with the options of an Uplink, for somebody who
// looks for what is wrong. It sets no last will and sends no status. It is for one goroutine.
type Trial struct {
	u *Uplink
	s *session // nil: no connection
}

// NewTrial checks the options as New does; it opens nothing. Alarms, Log and Metrics may be nil.
func NewTrial(o Options) (*Trial, error) {
	o.Metrics = nil
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Alarms == nil {
		o.Alarms = alarm.NewBoard(func() int64 { return 0 }, o.Log)
	}
	o, end, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Trial{u: &Uplink{o: o, end: end}}, nil
}

// Broker is the URL without user and password.
func (t *Trial) Broker() string { return t.u.end.String() }

// Addr is the broker's host:port.
func (t *Trial) Addr() string { return t.u.end.host }

// Name is the broker's host, without the port.
func (t *Trial) Name() string { return t.u.end.name }

// Secure says whether the URL means TLS.
func (t *Trial) Secure() bool { return t.u.end.secure }

// Options are those of NewTrial with the defaults filled in.
func (t *Trial) Options() *Options { return &t.u.o }

// Topic is wb1/{tenant}/{device}/{rest}.
func (t *Trial) Topic(rest string) string { return t.u.topic(rest) }

// Open opens a connection up to where MQTT begins: dial, TLS, websocket. The caller closes it.
func (t *Trial) Open(ctx context.Context) (net.Conn, error) { return t.u.dial(ctx) }

// Credentials are the user and password that CONNECT carries.
func (t *Trial) Credentials() (user, password string, err error) { return t.u.credentials() }

// Connect opens a connection and waits for the CONNACK, of which code is the return code where the broker refuses. With
// clean the session is a new one and ends with the connection; else it is the vehicle's own, and what waits in it stays
// there: nothing that arrives is acknowledged.
func (t *Trial) Connect(ctx context.Context, clean bool) (code byte, err error) {
	s := newSession(t.u)
	options, err := s.options(ctx)
	if err != nil {
		return 0, err
	}
	options.SetCleanSession(clean)
	options.SetAutoAckDisabled(!clean)
	if _, code, err = s.connectWith(ctx, options); err != nil {
		return code, err
	}
	t.s = s
	return 0, nil
}

// Subscribe asks for a topic with QoS 1. A refusal is ErrDenied.
func (t *Trial) Subscribe(ctx context.Context, topic string) error {
	token, err := wait(ctx, t, func() *mqtt.SubscribeToken {
		return t.s.client.Subscribe(topic, 1, nil).(*mqtt.SubscribeToken)
	})
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	if granted, ok := token.Result()[topic]; !ok || granted > 2 {
		return fmt.Errorf("subscribe to %s: %w", topic, ErrDenied)
	}
	return nil
}

// Publish sends a message with QoS 1 and waits for its PUBACK.
func (t *Trial) Publish(ctx context.Context, topic string, payload []byte) error {
	_, err := wait(ctx, t, func() mqtt.Token { return t.s.client.Publish(topic, 1, false, payload) })
	if err != nil {
		return fmt.Errorf("publish on %s: %w", topic, err)
	}
	return nil
}

// wait has paho do something that may block, and waits for its token, the end of the connection or that of ctx.
func wait[T mqtt.Token](ctx context.Context, t *Trial, do func() T) (token T, err error) {
	began := make(chan T, 1)
	t.u.tasks.Go(func() { began <- do() })
	select {
	case token = <-began:
	case <-t.s.lost:
		return token, t.s.lostWhy
	case <-ctx.Done():
		return token, ctx.Err()
	}
	select {
	case <-token.Done():
		return token, token.Error()
	case <-t.s.lost:
		return token, t.s.lostWhy
	case <-ctx.Done():
		return token, ctx.Err()
	}
}

// Next is the next message that arrives.
func (t *Trial) Next(ctx context.Context) (topic string, payload []byte, err error) {
	select {
	case m := <-t.s.inbox:
		return m.Topic(), m.Payload(), nil
	case <-t.s.lost:
		return "", nil, t.s.lostWhy
	case <-ctx.Done():
		return "", nil, ctx.Err()
	}
}

// Close ends the connection, if there is one, with a DISCONNECT.
func (t *Trial) Close() {
	if t.s == nil {
		return
	}
	close(t.s.done)
	t.s.client.Disconnect(50)
	t.s.link.Load().kill(errStopped)
	t.s = nil
}

// Distrust says why the vehicle does not talk to the broker, with the remedy; empty: err is something else.
func (t *Trial) Distrust(err error) string { return t.u.distrust(err) }

// Refusal says how the broker turned the vehicle away for who it is, with the remedy; empty: it did not.
func (t *Trial) Refusal(code byte, err error) string {
	if err == nil {
		return ""
	}
	return refusal(outcome{code: code, err: err})
}

// RemoteAlert says whether err is the broker's word that it ends a TLS connection.
func RemoteAlert(err error) bool { return isRemoteAlert(err) }
