package stream

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The headers of a record of the raw topic; their values are text.
const (
	HeaderTopic    = "waybill-topic"    // the MQTT topic
	HeaderReceived = "waybill-received" // when the producer took it, Unix ns
	HeaderVersion  = "waybill-version"  // of this layout: "1"
)

// The headers that a dead letter has beside those that its record had.
const (
	HeaderReason = "waybill-reason" // one word: topic, key, payload, newer, large
	HeaderDetail = "waybill-detail" // in words
	HeaderFrom   = "waybill-from"   // TOPIC/PARTITION/OFFSET, where it stood on a topic
)

const version = "1"

// deadHead is how much of a dead letter's value is kept, bytes: what fits a topic that somebody made with Kafka's defaults.
const deadHead = 512 << 10

// badRecord is a record or message that cannot be taken.
type badRecord struct {
	reason string // HeaderReason
	err    error
}

func (b *badRecord) Error() string { return b.reason + ": " + b.err.Error() }
func (b *badRecord) Unwrap() error { return b.err }

func bad(reason, format string, args ...any) error {
	return &badRecord{reason, fmt.Errorf(format, args...)}
}

// recordOf makes the record of a message, whose payload it aliases.
func recordOf(m ingest.Message, topic string, received time.Time) (*kgo.Record, error) {
	tenant, device, _, err := telemetrypb.ParseTopic(m.Topic)
	if err != nil {
		return nil, &badRecord{"topic", err}
	}
	r := &kgo.Record{
		Topic: topic, Key: []byte(tenant + "/" + device), Value: m.Payload, // the client dates it, and counts its time limit from there
		Headers: []kgo.RecordHeader{
			{Key: HeaderTopic, Value: []byte(m.Topic)},
			{Key: HeaderReceived, Value: strconv.AppendInt(nil, received.UnixNano(), 10)},
			{Key: HeaderVersion, Value: []byte(version)},
		},
	}
	if size := sizeOf(r); size > MaxRecord {
		return nil, bad("large", "%d bytes, at most %d fit the topic", size, MaxRecord)
	}
	return r, nil
}

// sizeOf bounds a record's bytes on Kafka, its share of a batch's head included.
func sizeOf(r *kgo.Record) int {
	size := 128 + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += 10 + len(h.Key) + len(h.Value)
	}
	return size
}

// messageOf makes the message of a record, whose value it aliases. Records of other producers, without our headers, are
// taken where they hold a payload and a key of the form tenant/device.
func messageOf(r *kgo.Record) (ingest.Message, error) {
	topic, written := header(r, HeaderTopic)
	if !written {
		return foreignMessage(r)
	}
	if v, ok := header(r, HeaderVersion); ok && string(v) != version {
		return ingest.Message{}, bad("newer", "written in layout %.20q, this consumer reads %q; update it and produce the record again", v, version)
	}
	tenant, device, _, err := telemetrypb.ParseTopic(string(topic))
	if err != nil {
		return ingest.Message{}, &badRecord{"topic", err}
	}
	if key := tenant + "/" + device; string(r.Key) != key {
		return ingest.Message{}, bad("key", "key %.200q on topic %.200q: want %q, or a vehicle's records are not in one partition", r.Key, topic, key)
	}
	return ingest.Message{Topic: string(topic), Payload: r.Value}, nil
}

// foreignMessage rebuilds the MQTT topic from the key and the lane of the first batch.
func foreignMessage(r *kgo.Record) (ingest.Message, error) {
	tenant, device, ok := strings.Cut(string(r.Key), "/")
	if err := errors.Join(telemetrypb.CheckName("tenant", tenant), telemetrypb.CheckName("device", device)); !ok || err != nil {
		return ingest.Message{}, bad("key", "no header %s, and the key %.200q is not TENANT/DEVICE", HeaderTopic, r.Key)
	}
	view, err := telemetrypb.OpenPayload(r.Value)
	if err != nil {
		return ingest.Message{}, &badRecord{"payload", fmt.Errorf("no header %s, and %w", HeaderTopic, err)}
	}
	return ingest.Message{Topic: telemetrypb.Topic(tenant, device, telemetrypb.TopicLane(laneOf(view))), Payload: r.Value}, nil
}

// laneOf finds a lane in the batches. What has none that can be read goes on as control: package ingest looks at the
// batches and takes the topic's lane for nothing but a name.
func laneOf(view telemetrypb.PayloadView) telemetrypb.Lane {
	known := func(l telemetrypb.Lane) bool {
		return l >= telemetrypb.Lane_LANE_CONTROL && l <= telemetrypb.Lane_LANE_RAW
	}
	for _, b := range view.Batches {
		if batch, err := telemetrypb.OpenBatch(b); (err == nil || errors.Is(err, telemetrypb.ErrNewerFormat)) && known(batch.Envelope.GetLane()) {
			return batch.Envelope.GetLane()
		}
	}
	for _, p := range view.Plain {
		if known(p.GetLane()) {
			return p.GetLane()
		}
	}
	return telemetrypb.Lane_LANE_CONTROL
}

// header is the first header of that name.
func header(r *kgo.Record, name string) ([]byte, bool) {
	for _, h := range r.Headers {
		if h.Key == name {
			return h.Value, true
		}
	}
	return nil, false
}

// deadMessage is the dead letter of a message that becomes no record of the raw topic.
func deadMessage(m ingest.Message, topic string, received time.Time, cause error) *kgo.Record {
	return deadRecord(topic, cause, &kgo.Record{
		Value: m.Payload,
		Headers: []kgo.RecordHeader{
			{Key: HeaderTopic, Value: cut([]byte(m.Topic), 4<<10)},
			{Key: HeaderReceived, Value: strconv.AppendInt(nil, received.UnixNano(), 10)},
		},
	}, "")
}

// deadRecord is the dead letter of a record: its value, of which a long one loses its end, its key and headers, and why.
func deadRecord(topic string, cause error, r *kgo.Record, from string) *kgo.Record {
	reason := "payload"
	if b := (*badRecord)(nil); errors.As(cause, &b) {
		reason = b.reason
	}
	d := &kgo.Record{Topic: topic, Key: cut(r.Key, 4<<10), Value: cut(r.Value, deadHead)}
	for room := 16 << 10; len(d.Headers) < min(len(r.Headers), 32) && room > 0; {
		h := r.Headers[len(d.Headers)]
		h.Key, h.Value = string(cut([]byte(h.Key), 256)), cut(h.Value, 4<<10)
		d.Headers = append(d.Headers, h)
		room -= len(h.Key) + len(h.Value)
	}
	d.Headers = append(d.Headers, kgo.RecordHeader{Key: HeaderReason, Value: []byte(reason)},
		kgo.RecordHeader{Key: HeaderDetail, Value: cut([]byte(cause.Error()), 1<<10)})
	if from != "" {
		d.Headers = append(d.Headers, kgo.RecordHeader{Key: HeaderFrom, Value: []byte(from)})
	}
	return d
}

func cut(b []byte, n int) []byte {
	if len(b) <= n {
		return b
	}
	return bytes.Clone(b[:n])
}
