package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/profile"
)

// delivery is what became of one question.
type delivery struct {
	bytes   int
	err     error // no PUBACK
	puback  time.Duration
	receipt *telemetrypb.Receipt // nil: none came
	answer  time.Duration
}

// deliver asks the store, with a small publish and with one as large as the agent makes them, then the broker by MQTT 5,
// and reports what all of that together says.
func (x *examination) deliver(ctx context.Context) {
	small := x.send(ctx, 0, true)
	large := delivery{err: errors.New("not tried")}
	if small.err == nil {
		large = x.send(ctx, x.trial.Options().PayloadBytes+profile.PacketHead/2, small.receipt != nil)
	}
	x.trial.Close()
	told, err := x.ask(ctx)
	if x.reportPublish(small, told, err) {
		x.reportReceipt(small, told, err)
		x.reportSize(small, large)
	} else {
		x.skipAll("nothing gets through", StepReceipt, StepSize)
	}
	x.limits(told, err)
}

// send publishes a question, of so many bytes if that is more than it takes, and waits for its PUBACK, and for its answer if there can be one.
func (x *examination) send(ctx context.Context, size int, answer bool) (d delivery) {
	step, cancel := x.step(ctx)
	defer cancel()
	asked := question()
	payload := telemetrypb.AppendProbe(nil, asked, 0)
	if more := size - len(payload); more > 0 {
		payload = telemetrypb.AppendProbe(nil, asked, more)
		payload = telemetrypb.AppendProbe(nil, asked, more-(len(payload)-size)) // the padding has a head
	}
	d.bytes = len(payload)
	began := time.Now()
	d.err = x.trial.Publish(step, x.trial.Topic(topicQuestion), payload)
	d.puback = time.Since(began)
	if d.err != nil || !answer || x.trial.Options().Ack != uplink.AckReceipt {
		return d
	}
	for {
		topic, message, err := x.trial.Next(step)
		if err != nil {
			return d
		}
		r := new(telemetrypb.Receipt)
		if topic == x.trial.Topic(topicReceipt) && proto.Unmarshal(message, r) == nil && bytes.Equal(r.GetProbe(), asked) {
			d.receipt, d.answer = r, time.Since(began)
			return d
		}
	}
}

// ask has the broker say by MQTT 5 what it cannot say by 3.1.1.
func (x *examination) ask(ctx context.Context) (answer5, error) {
	step, cancel := context.WithTimeout(ctx, x.limit)
	defer cancel()
	user, password, err := x.trial.Credentials()
	if err != nil {
		return answer5{}, err
	}
	conn, err := x.trial.Open(step)
	if err != nil {
		return answer5{}, err
	}
	q := question5{ClientID: x.trial.Options().ClientID, User: user, Password: password, Keep: x.o.AsVehicle}
	for _, lane := range lanes() {
		payload := telemetrypb.AppendProbe(nil, question(), 0)
		if x.trial.Options().Format(lane) == uplink.FormatJSON { // so that a tool which reads that lane can read this
			if payload, err = protojson.Marshal(&telemetrypb.Payload{Format: telemetrypb.Format, Probe: question()}); err != nil {
				return answer5{}, err
			}
		}
		q.Topics = append(q.Topics, x.trial.Topic(telemetrypb.TopicLane(lane)))
		q.Payloads = append(q.Payloads, payload)
	}
	return q.ask(step, conn)
}

// lanes are all of them, that of the question first.
func lanes() [4]telemetrypb.Lane {
	return [...]telemetrypb.Lane{telemetrypb.Lane_LANE_CONTROL, telemetrypb.Lane_LANE_EVENT, telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Lane_LANE_RAW}
}

// denied are the topics of lanes that the broker says it denies.
func (x *examination) denied(told answer5) (topics []string) {
	for i, lane := range lanes() {
		if i < len(told.Reasons) && told.Reasons[i] == reasonNotAuthorised {
			topics = append(topics, x.trial.Topic(telemetrypb.TopicLane(lane)))
		}
	}
	return topics
}

// reportPublish says whether the broker takes what the vehicle publishes, and returns whether a question came through.
func (x *examination) reportPublish(d delivery, told answer5, told5 error) bool {
	topic := x.trial.Topic(topicQuestion)
	remedy := fmt.Sprintf("allow this vehicle to publish on %s in the broker's ACL (policy, topic permission)%s", x.trial.Topic("up/#"), x.asOther())
	var denied []string
	if told5 == nil {
		denied = x.denied(told)
	}
	switch {
	case errors.Is(d.err, context.DeadlineExceeded):
		x.fail(StepPublish, fmt.Sprintf("no PUBACK for a publish on %s", topic),
			"its ACL denies the publish and it says nothing ("+remedy+"), or it is overloaded, or waits for somebody else (a bridge, a rule engine, a plugin): look at its log")
		return false
	case d.err != nil:
		x.fail(StepPublish, fmt.Sprintf("the broker ends the connection at a publish on %s, as one does whose ACL denies it (%v)", topic, d.err), x.takenBack()+remedy)
		return false
	case len(denied) > 0:
		where := strings.Join(denied, ", ")
		if len(denied) == len(lanes()) {
			where = "all lanes, such as " + topic + ","
		}
		x.fail(StepPublish, fmt.Sprintf("the broker acknowledges publishes on %s and drops them: its ACL denies them to this vehicle (asked by MQTT 5 it says so, reason 0x87)", where), remedy)
		return d.receipt != nil || denied[0] != topic
	}
	text := fmt.Sprintf("PUBACK after %s", d.puback.Round(100*time.Microsecond))
	if told5 == nil && !told.Closed && len(told.Reasons) == len(lanes()) {
		text += ", allowed by the ACL on all lanes"
	}
	x.ok(StepPublish, text)
	return true
}

// reportReceipt says whether a store answers, and if not, why that may be.
func (x *examination) reportReceipt(d delivery, told answer5, told5 error) {
	topic, down := x.trial.Topic(topicQuestion), x.trial.Topic(topicReceipt)
	start := "start waybill-fleet serve, with this broker and this tenant; look at its log"
	reason, said := told.reason()
	said = said && told5 == nil
	switch {
	case x.trial.Options().Ack != uplink.AckReceipt:
		x.skip(StepReceipt, "ack: puback, so nobody waits for one: what the broker loses is lost")
	case d.receipt != nil:
		x.ok(StepReceipt, fmt.Sprintf("store %q answers after %s", d.receipt.GetStore(), d.answer.Round(100*time.Microsecond)))
	case said && reason == reasonNoSubscribers:
		x.fail(StepReceipt, fmt.Sprintf("no store answers: the broker takes the publish, and nobody is subscribed to %s (asked by MQTT 5 it says so)", topic),
			start+". It is not the vehicle's ACL")
	case said && reason == reasonOK:
		x.fail(StepReceipt, fmt.Sprintf("no store answers, although the broker takes the publish and somebody has subscribed to %s: that may be the session that it keeps for a store which is not running", topic),
			fmt.Sprintf("%s. If it runs: it may not be allowed to publish on %s, this vehicle may not be allowed to read there, or it is a version that answers no questions (then look whether the agent gets receipts)", start, down))
	case x.o.Profile != nil && x.o.Profile.Denial == profile.DenialCloses:
		x.fail(StepReceipt, "no store answers. A denied publish would have closed the connection with this broker, so the store is not running, or its receipts do not get back",
			fmt.Sprintf("%s. If it runs: its right to publish on %s, and this vehicle's to read there", start, down))
	default:
		x.fail(StepReceipt, "no store answers: either it is not running, or the broker's ACL denies this vehicle's publishes, which Mosquitto and EMQX acknowledge and drop, or the receipt may not get back; the broker does not say which",
			fmt.Sprintf("%s. Then the ACL: this vehicle publishes on %s and reads %s, the store the other way round%s", start, x.trial.Topic("up/#"), down, x.asOther()))
	}
}

// reportSize says whether what the agent makes at most gets through.
func (x *examination) reportSize(small, large delivery) {
	o := x.trial.Options()
	remedy := fmt.Sprintf("set payload_bytes: below the broker's limit for packets (1KiB to 256KiB; half of it: %dKiB), or raise that limit", max(1, o.PayloadBytes>>11))
	switch {
	case errors.Is(large.err, context.DeadlineExceeded):
		x.fail(StepSize, fmt.Sprintf("no PUBACK for a publish of %d bytes in %s; a small one had its own at once", large.bytes, x.limit), "a slow link needs longer (--timeout); else something on the way swallows large packets (MTU), or the broker's limit is smaller: "+remedy)
	case large.err != nil:
		x.fail(StepSize, fmt.Sprintf("the broker ends the connection at a publish of %d bytes, which payload_bytes: allows; a small one it takes", large.bytes), remedy)
	case small.receipt != nil && large.receipt == nil:
		x.fail(StepSize, fmt.Sprintf("a publish of %d bytes, which payload_bytes: allows, is acknowledged and does not arrive; a small one does", large.bytes), remedy)
	case small.receipt == nil:
		x.ok(StepSize, fmt.Sprintf("PUBACK for %d bytes after %s; whether they were dropped only a store can say", large.bytes, large.puback.Round(100*time.Microsecond)))
	default:
		x.ok(StepSize, fmt.Sprintf("%d bytes arrive at the store, answer after %s", large.bytes, large.answer.Round(100*time.Microsecond)))
	}
}
