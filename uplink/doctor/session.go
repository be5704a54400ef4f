package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/uplink"
)

// session tries TLS and MQTT, in one connection as the agent makes it.
func (x *examination) session(ctx context.Context) {
	all := []string{StepTLS, StepCertificate, StepConnect, StepSubscribe, StepPublish, StepReceipt, StepSize, StepLimits}
	for _, s := range []string{StepLinks, StepDNS, StepTCP, StepProxy} {
		if x.failed[s] {
			x.skipAll("the broker cannot be reached", all...)
			return
		}
	}
	if x.failed[StepCredentials] {
		x.skipAll("without credentials the agent does not connect", all...)
		return
	}
	x.began = time.Now()
	step, cancel := context.WithTimeout(ctx, x.limit)
	code, err := x.trial.Connect(step, !x.o.AsVehicle)
	if err != nil && step.Err() != nil { // whatever broke off by then did so for this
		err = errors.Join(err, step.Err())
	}
	cancel()
	if !x.connected(code, err) {
		return
	}
	defer x.trial.Close()
	if !x.subscribe(ctx) {
		x.skipAll("not without the subscription", StepPublish, StepReceipt, StepSize)
		x.trial.Close()
		x.limits(x.ask(ctx))
		return
	}
	x.deliver(ctx)
}

// connected reports TLS, our certificate and CONNECT by the result of one try, and says whether there is a session.
func (x *examination) connected(code byte, err error) bool {
	asked, verified, state := x.shake.seen()
	rest := []string{StepSubscribe, StepPublish, StepReceipt, StepSize, StepLimits}
	if x.trial.Secure() {
		switch {
		case err != nil && asked && !verified:
			x.tlsFailed(err)
			x.skipAll("not without TLS", append([]string{StepCertificate, StepConnect}, rest...)...)
			return false
		case err != nil && !asked:
			x.fail(StepTLS, "the connection that came about a moment ago does not come about now: "+err.Error(), "run the doctor again; if it stays so, the broker or a firewall bounds connections")
			x.skipAll("not without a connection", append([]string{StepCertificate, StepConnect}, rest...)...)
			return false
		}
		x.ok(StepTLS, x.secured(state))
	} else {
		x.skip(StepTLS, "the URL is without TLS: anybody on the way reads and changes what is sent")
	}
	// TLS 1.3 tells of a refused certificate only after the handshake, in the place of the CONNACK.
	switch {
	case err != nil && uplink.RemoteAlert(err):
		text, remedy := cut("the broker " + x.trial.Refusal(0, err))
		if remedy == "" {
			text, remedy = "the broker ends TLS after it saw our certificate ("+err.Error()+")", "look at the broker's log for this moment; check cert: and key:"
		}
		x.fail(StepCertificate, text, remedy)
		x.skipAll("the broker does not go on without a certificate that it accepts", append([]string{StepConnect}, rest...)...)
		return false
	case !x.o.Certificate || !x.trial.Secure():
		x.skip(StepCertificate, "none is shown")
	case err != nil && code == 0:
		x.skip(StepCertificate, "nothing is known of it: there was no answer to CONNECT")
	default:
		x.ok(StepCertificate, "the broker goes on with ours")
	}
	if err == nil {
		x.ok(StepConnect, fmt.Sprintf("accepted as %q", x.trial.Options().ClientID))
		return true
	}
	x.connectFailed(code, err)
	x.skipAll("not without a session", rest...)
	return false
}

// connackUnavailable is a return code of CONNACK (MQTT 3.1.1 §3.2.2.3).
const connackUnavailable = 3

func (x *examination) connectFailed(code byte, err error) {
	id := x.trial.Options().ClientID
	other := ""
	if !x.o.AsVehicle {
		other = fmt.Sprintf(". The doctor came as %q so as not to end a running agent's connection; where the broker's rules want the vehicle's own id, stop the agent and try --as-vehicle", id)
	}
	text := x.trial.Refusal(code, err)
	switch {
	case code == connackUnavailable:
		x.fail(StepConnect, "the broker is not available (CONNACK 3)", "look at the broker: it runs, and cannot serve")
	case text != "":
		wrong, remedy := cut("the broker " + text)
		if explain := x.trial.Options().Explain; explain != nil && explain() != "" {
			wrong += "; known here: " + explain()
		}
		x.fail(StepConnect, wrong, remedy+other)
	case strings.Contains(err.Error(), "websocket") || strings.Contains(err.Error(), "the server answered"):
		x.fail(StepConnect, fmt.Sprintf("%s opens no websocket for MQTT: %v", x.trial.Broker(), err),
			"the path of the URL is the broker's, /mqtt is usual (RabbitMQ: /ws); a proxy in front of the broker has to pass websockets on")
	case timedOut(err):
		x.fail(StepConnect, fmt.Sprintf("%s takes the connection and does not answer CONNECT", x.trial.Addr()),
			"the port is not that of an MQTT broker, or the broker asks somebody who does not answer (its authentication)"+other)
	case ended(err) && !x.trial.Secure():
		x.fail(StepConnect, fmt.Sprintf("%s ends the connection instead of answering CONNECT (%v)", x.trial.Addr(), err),
			"a port that wants TLS does that: mqtts: (8883 is usual); so does one that is not MQTT, and a broker whose rules do not know this client"+other)
	default:
		x.fail(StepConnect, fmt.Sprintf("no answer to CONNECT: %v", err),
			"look at the broker's log for this moment: its rules may not know this client"+other)
	}
}

// subscribe asks for what the agent asks for.
func (x *examination) subscribe(ctx context.Context) bool {
	step, cancel := x.step(ctx)
	defer cancel()
	o := x.trial.Options()
	var granted, refused []string
	if o.Ack == uplink.AckReceipt {
		topic := x.trial.Topic(topicReceipt)
		if err := x.trial.Subscribe(step, topic); err != nil {
			x.subscribeFailed(topic, err)
			return false
		}
		granted = append(granted, topic)
	}
	for _, rest := range o.Topics {
		topic := x.trial.Topic(rest)
		err := x.trial.Subscribe(step, topic)
		switch {
		case errors.Is(err, uplink.ErrDenied):
			refused = append(refused, topic)
		case err != nil:
			x.subscribeFailed(topic, err)
			return false
		default:
			granted = append(granted, topic)
		}
	}
	text := "granted: " + strings.Join(granted, ", ")
	if len(refused) > 0 {
		text += "; refused, so that no command arrives: " + strings.Join(refused, ", ")
	}
	x.ok(StepSubscribe, text)
	return true
}

func (x *examination) subscribeFailed(topic string, err error) {
	remedy := fmt.Sprintf("allow this vehicle to subscribe to %s in the broker's ACL (policy, topic permission)%s", topic, x.asOther())
	switch {
	case errors.Is(err, uplink.ErrDenied):
		x.fail(StepSubscribe, fmt.Sprintf("the broker refuses the subscription to %s (SUBACK 0x80): no receipt can arrive, and the agent would keep everything", topic), remedy)
	case errors.Is(err, context.DeadlineExceeded):
		x.fail(StepSubscribe, "the broker does not answer SUBSCRIBE", "look at the broker; a link that carries only a little and then freezes does the same (MTU)")
	default:
		x.fail(StepSubscribe, fmt.Sprintf("the broker ends the connection at the subscription to %s (%v)", topic, err), x.takenBack()+remedy)
	}
}

// asOther reminds of rules that go by the client id.
func (x *examination) asOther() string {
	if x.o.AsVehicle {
		return ""
	}
	return fmt.Sprintf("; rules that go by the client id do not know %q: --as-vehicle", x.trial.Options().ClientID)
}

// takenBack reminds of the agent that runs.
func (x *examination) takenBack() string {
	if !x.o.AsVehicle {
		return ""
	}
	return "stop the agent while the doctor takes its place, or it takes it back; else: "
}

// What follows wb1/{tenant}/{device}/ in a topic. Questions go where data goes, so that the broker's rules are the same,
// and on the lane of which no rule engine expects samples.
const (
	topicReceipt  = "down/receipt"
	topicQuestion = "up/control"
)

// question is a new one.
func question() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return b
}
