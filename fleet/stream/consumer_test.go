package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// send produces n more messages of each device and says how many there are in all.
func send(t *testing.T, p *Producer, sent map[string]int, devices, n int) {
	t.Helper()
	for range n {
		var group []ingest.Message
		for d := range devices {
			name := fmt.Sprintf("car-%d", d)
			group = append(group, message(name, sent[name]))
			sent[name]++
		}
		apply(t, p, group...)
	}
}

func total(sent map[string]int) (n int) {
	for _, s := range sent {
		n += s
	}
	return n
}

// told is what Kafka knows of the group's positions.
func told(t *testing.T, o Options) map[int32]int64 {
	t.Helper()
	client, err := o.client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	offsets, err := kadm.NewClient(client).FetchOffsets(t.Context(), "waybill-store")
	if err != nil {
		t.Fatal(err)
	}
	positions := map[int32]int64{}
	offsets.Each(func(r kadm.OffsetResponse) { positions[r.Partition] = r.At })
	return positions
}

func TestConsumerTakesOnce(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 3)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	var replied atomic.Int64
	reply := func(_ context.Context, r []ingest.Reply) error { replied.Add(int64(len(r))); return nil }
	send(t, p, sent, 10, 20)
	c, stop := startConsumer(t, ConsumerOptions{Options: o, Reply: reply}, s)
	send(t, p, sent, 10, 5)
	eventually(t, "all taken", func() bool { return s.count() == total(sent) })
	stop()
	s.checkExact(t, sent)
	if got := told(t, o); fmt.Sprint(got) != fmt.Sprint(s.positions) {
		t.Errorf("Kafka knows %v, the store %v", got, s.positions)
	}
	if n := c.Counts(); int(replied.Load()) != total(sent) || n.Receipts != uint64(total(sent)) || n.Records != uint64(total(sent)) || n.Payloads != n.Records {
		t.Errorf("%d receipts for %d messages: %+v", replied.Load(), total(sent), n)
	}
	// The next one begins where the store is, and has nothing to do.
	send(t, p, sent, 10, 1)
	startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "the rest taken", func() bool { return s.count() == total(sent) })
	s.checkExact(t, sent)
}

// The store's position rules, whatever Kafka was told.
func TestConsumerBelievesTheStore(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	send(t, p, sent, 1, 30)
	_, stop := startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "all taken", func() bool { return s.count() == 30 && told(t, o)[0] == 30 })
	stop()
	// The store is restored from a copy of when it had 12.
	s.taken, s.positions[0] = s.taken[:12], 12
	var restored atomic.Pointer[string]
	_, stop = startConsumer(t, ConsumerOptions{Options: o, Restored: func(topic string, partition int32, store, kafka int64) {
		said := fmt.Sprint(topic, partition, store, kafka)
		restored.Store(&said)
	}}, s)
	eventually(t, "all taken again", func() bool { return s.count() == 30 })
	stop()
	s.checkExact(t, sent)
	if said := restored.Load(); said == nil || *said != "wb1.raw0 12 30" {
		t.Errorf("a restored store was told of as %v", said)
	}
}

func TestConsumerFencedGoesOnWhereTheOtherStands(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	var once sync.Once
	s.before = func(pr Progress) error {
		if pr.From > 0 {
			once.Do(func() { // another consumer takes the next three, out of the record of this sink's own order
				s.mu.Lock()
				defer s.mu.Unlock()
				for n := range 3 {
					s.taken = append(s.taken, message("car-0", int(pr.From)+n))
				}
				s.positions[0] += 3
			})
		}
		return nil
	}
	send(t, p, sent, 1, 5)
	c, _ := startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "the first taken", func() bool { return s.count() == 5 })
	for range 10 {
		var group []ingest.Message
		for range 4 {
			group = append(group, message("car-0", sent["car-0"]))
			sent["car-0"]++
		}
		apply(t, p, group...)
	}
	eventually(t, "all taken", func() bool { return s.count() >= total(sent) })
	s.checkExact(t, sent)
	if n := c.Counts(); n.Fenced != 1 {
		t.Errorf("fenced %d times, want 1", n.Fenced)
	}
}

// A position that went back under a running consumer is fetched from again.
func TestConsumerFencedGoesBack(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	send(t, p, sent, 1, 40)
	startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "the first taken", func() bool { return s.count() == 40 })
	s.mu.Lock()
	s.taken, s.positions[0] = s.taken[:7], 7
	s.mu.Unlock()
	send(t, p, sent, 1, 1)
	eventually(t, "all taken again", func() bool { return s.count() == total(sent) })
	s.checkExact(t, sent)
}

// A store that fails, before the commit or after it, costs nothing but time.
func TestConsumerSurvivesTheStore(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 2)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	var n, m atomic.Int64
	s.before = func(Progress) error {
		if n.Add(1)%3 != 0 {
			return errNo
		}
		return nil
	}
	s.after = func(Progress) error { // the commit's answer is lost
		if m.Add(1)%2 == 0 {
			return errNo
		}
		return nil
	}
	c, _ := startConsumer(t, ConsumerOptions{Options: o}, s)
	for range 4 {
		send(t, p, sent, 4, 1)
		eventually(t, "all taken", func() bool { return s.count() == total(sent) })
	}
	s.checkExact(t, sent)
	if n := c.Counts(); n.StoreErrors == 0 || n.Fenced == 0 {
		t.Errorf("%+v", n)
	}
}

// Records that retention took before the store did are counted, told, and passed by one transaction.
func TestConsumerTellsWhatRetentionTook(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	send(t, p, sent, 1, 20)
	s.positions[0] = 4
	if err := k.DeleteRecords("wb1.raw", 0, 10); err != nil {
		t.Fatal(err)
	}
	var lost atomic.Pointer[string]
	c, stop := startConsumer(t, ConsumerOptions{Options: o, Lost: func(topic string, partition int32, from, to int64) {
		said := fmt.Sprint(topic, partition, from, to)
		lost.Store(&said)
	}}, s)
	eventually(t, "what is left is taken", func() bool { return s.count() == 10 })
	stop()
	if said := lost.Load(); said == nil || *said != "wb1.raw0 4 10" || c.Counts().Lost != 6 {
		t.Errorf("told %v, counted %d lost", said, c.Counts().Lost)
	}
	if s.takes[0] != (Progress{"wb1.raw", 0, 4, 10}) {
		t.Errorf("the first step is %+v", s.takes[0])
	}
	c, stop = startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "assigned", func() bool { return len(c.Partitions()) == 1 })
	stop()
	if n := c.Counts().Lost; n != 0 {
		t.Errorf("counted %d lost a second time", n)
	}
}

// A topic that was made anew is taken from its beginning.
func TestConsumerTopicMadeAnew(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	s.positions[0] = 1000
	send(t, p, sent, 1, 3)
	startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "all taken", func() bool { return s.count() == 3 })
	s.checkExact(t, sent)
	if s.takes[0] != (Progress{"wb1.raw", 0, 1000, 0}) {
		t.Errorf("the first step is %+v", s.takes[0])
	}
}

// A slow store pauses its partition and no other, and what waits is bounded.
func TestConsumerBoundsWhatWaits(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 2)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	hold := make(chan struct{})
	s.before = func(pr Progress) error {
		if pr.Partition == 0 {
			<-hold
		}
		return nil
	}
	const each = 200
	on := map[int]int{} // messages by partition
	for n := range each {
		var group []ingest.Message
		for d := range 10 {
			m := message(fmt.Sprintf("car-%d", d), n)
			m.Payload = []byte(strings.Repeat(".", 2000) + string(m.Payload))
			group = append(group, m)
			sent[fmt.Sprintf("car-%d", d)]++
			on[partitionOf(m, 2)]++
		}
		apply(t, p, group...)
	}
	c, _ := startConsumer(t, ConsumerOptions{Options: o, QueueBytes: 128 << 10}, s)
	eventually(t, "the other partition is taken", func() bool { return s.count() == on[1] })
	time.Sleep(300 * time.Millisecond)
	c.mu.Lock()
	w := c.workers[0]
	c.mu.Unlock()
	w.mu.Lock()
	waits, paused := w.bytes, w.paused
	w.mu.Unlock()
	if !paused || waits > 128<<10+partitionBytes+4096 {
		t.Errorf("%d bytes wait, paused: %v", waits, paused)
	}
	close(hold)
	eventually(t, "all taken", func() bool { return s.count() == total(sent) })
	s.checkExact(t, sent)
}

func partitionOf(m ingest.Message, n int) int {
	r, err := recordOf(m, "", time.Now())
	if err != nil {
		panic(err)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic("").Partition(r, n)
}

// Receipts that cannot be sent are tried again, and hold up nothing.
func TestConsumerReceiptsWait(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	var open atomic.Bool
	var mu sync.Mutex
	var got []string
	reply := func(_ context.Context, r []ingest.Reply) error {
		if !open.Load() {
			return errNo
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range r {
			got = append(got, r.Topic)
		}
		return nil
	}
	c, stop := startConsumer(t, ConsumerOptions{Options: o, Reply: reply}, s)
	send(t, p, sent, 2, 30)
	eventually(t, "all taken", func() bool { return s.count() == total(sent) })
	if k := told(t, o); len(k) != 0 && k[0] > 0 {
		t.Errorf("Kafka was told %v before the receipts were out", k)
	}
	open.Store(true)
	eventually(t, "the receipts are out", func() bool { return c.Counts().Receipts == uint64(total(sent)) })
	eventually(t, "Kafka is told", func() bool { return told(t, o)[0] == int64(total(sent)) })
	// What cannot be sent when the partition goes is counted.
	open.Store(false)
	send(t, p, sent, 2, 1)
	eventually(t, "all taken", func() bool { return s.count() == total(sent) })
	stop()
	if n := c.Counts(); n.ReceiptsDropped != 2 || len(got) != total(sent)-2 {
		t.Errorf("%d receipts sent, %d dropped, want %d and 2", len(got), n.ReceiptsDropped, total(sent)-2)
	}
}

func TestReplyQueueIsBounded(t *testing.T) {
	var q replyQueue
	q.init()
	dropped := 0
	for n := range 300 {
		dropped += q.add(make([]ingest.Reply, 100), int64(n+1))
	}
	held, last := 0, int64(0)
	for {
		s, ok, _ := q.pop()
		if !ok {
			break
		}
		held, last = held+len(s.replies), s.to
	}
	if held+dropped != 30_000 || held > maxReplies || held < maxReplies-100 || last != 300 {
		t.Errorf("%d held, %d dropped, the last position %d", held, dropped, last)
	}
}

// What other producers write is taken by its key and payload; what is no message goes to the dead letters, with the
// reason, and holds up nothing.
func TestConsumerForeignRecords(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	s := newSink()
	client, err := o.client(kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	payload := eventPayload(t)
	header := func(pairs ...string) (list []kgo.RecordHeader) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
		}
		return list
	}
	records := []*kgo.Record{
		{Key: []byte("acme/car-1"), Value: payload}, // as EMQX writes
		{Key: []byte("acme/car-1"), Value: []byte("online"), Headers: header(HeaderTopic, "wb1/acme/car-1/up/status")},         // EMQX with the topic's header
		{Key: []byte("acme/car-1"), Value: []byte("nonsense")},                                                                 // payload
		{Key: []byte("car-1"), Value: payload},                                                                                 // key
		{Value: payload},                                                                                                       // key
		{Key: []byte("acme/a/b"), Value: payload},                                                                              // key
		{Key: []byte("acme/car-2"), Value: payload, Headers: header(HeaderTopic, "wb1/acme/car-1/up/event")},                   // key
		{Key: []byte("acme/car-1"), Value: payload, Headers: header(HeaderTopic, "v1/devices/me")},                             // topic
		{Key: []byte("acme/car-1"), Value: payload, Headers: header(HeaderTopic, "wb1/acme/car-1/up/raw", HeaderVersion, "2")}, // newer
		{Key: []byte("acme/car-1"), Value: []byte("0"), Headers: header(HeaderTopic, "wb1/acme/car-1/up/raw", HeaderVersion, "1")},
	}
	for _, r := range records {
		r.Topic, r.Timestamp = o.RawTopic(), time.Now().Add(-20*time.Second) // they may have waited for long
	}
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	c, _ := startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "all passed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.positions[0] == int64(len(records)) })
	var topics []string
	for _, m := range s.taken {
		topics = append(topics, m.Topic)
	}
	if want := []string{"wb1/acme/car-1/up/event", "wb1/acme/car-1/up/status", "wb1/acme/car-1/up/raw"}; !slices.Equal(topics, want) {
		t.Errorf("taken %q, want %q", topics, want)
	}
	if n := c.Counts(); n.DeadLetters != 7 || n.DeadLost != 0 {
		t.Errorf("%d dead letters, %d lost; want 7 and none", n.DeadLetters, n.DeadLost)
	}
	dead := read(t, o, o.DeadTopic(), 7)
	for i, want := range []string{"payload", "key", "key", "key", "key", "topic", "newer"} {
		reason, _ := headerOf(dead[i], HeaderReason)
		from, _ := headerOf(dead[i], HeaderFrom)
		original := records[2+i]
		if reason != want || from != fmt.Sprintf("wb1.raw/0/%d", 2+i) || string(dead[i].Value) != string(original.Value) || string(dead[i].Key) != string(original.Key) {
			t.Errorf("dead letter %d: reason %q from %q, want %q", i, reason, from, want)
		}
	}
}

// A dead-letter topic that is missing is counted, and holds up nothing.
func TestConsumerWithoutDeadLetterTopic(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	if err := k.DeleteTopic("wb1.dead"); err != nil {
		t.Fatal(err)
	}
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	apply(t, p, ingest.Message{Topic: "elsewhere", Payload: []byte("x")})
	client, err := o.client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: o.RawTopic(), Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	send(t, p, sent, 1, 2)
	c, _ := startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "all taken", func() bool { return s.count() == 2 })
	if c.Counts().DeadLost != 1 || p.Counts().DeadLost != 1 {
		t.Errorf("the consumer counts %d dead letters as gone, the producer %d", c.Counts().DeadLost, p.Counts().DeadLost)
	}
}

// Two members share the partitions; when one leaves, the other has them all, and nothing is taken twice.
func TestConsumersShare(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 4)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	first, _ := startConsumer(t, ConsumerOptions{Options: o, SessionTimeout: time.Second}, s)
	send(t, p, sent, 12, 3)
	eventually(t, "the first has all", func() bool { return len(first.Partitions()) == 4 })
	second, stop := startConsumer(t, ConsumerOptions{Options: o, SessionTimeout: time.Second}, s)
	eventually(t, "they share", func() bool {
		send(t, p, sent, 12, 1)
		return len(first.Partitions()) == 2 && len(second.Partitions()) == 2
	})
	send(t, p, sent, 12, 3)
	eventually(t, "all taken", func() bool { return s.count() == total(sent) })
	stop()
	send(t, p, sent, 12, 3)
	eventually(t, "the first has all again", func() bool { return len(first.Partitions()) == 4 && s.count() == total(sent) })
	s.checkExact(t, sent)
}

// A transaction that does not end is broken off when its partition goes to another.
func TestConsumerRevokeIsBounded(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	send(t, p, sent, 1, 1)
	stuck := make(chan struct{})
	blocked := blockedSink{s, stuck}
	_, stop := startConsumer(t, ConsumerOptions{Options: o, RevokeWait: 200 * time.Millisecond}, blocked)
	<-stuck
	stop()
	startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "another takes it", func() bool { return s.count() == 1 })
}

// blockedSink never commits.
type blockedSink struct {
	*fakeSink
	stuck chan struct{}
}

func (b blockedSink) Take(ctx context.Context, _ Progress, _ []ingest.Message) ([]ingest.Reply, ingest.Counts, error) {
	close(b.stuck)
	<-ctx.Done()
	return nil, ingest.Counts{}, ctx.Err()
}

// eventPayload is a payload with one batch of the event lane.
func eventPayload(t testing.TB) []byte {
	t.Helper()
	b, err := telemetrypb.AppendBatch(nil, &telemetrypb.Head{Tenant: "acme", Device: "car-1", Epoch: 1, Lane: telemetrypb.Lane_LANE_EVENT, Seq: 1, BootID: [16]byte{1}, Catalogue: [16]byte{1}},
		[]telemetrypb.Sample{telemetrypb.UintSample(1, 1, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return telemetrypb.AppendPayload(nil, false, nil, b)
}

func headerOf(r *kgo.Record, name string) (string, bool) {
	v, ok := header(r, name)
	return string(v), ok
}

// read gives the first n records of a topic's partitions.
func read(t *testing.T, o Options, topic string, n int) (list []*kgo.Record) {
	t.Helper()
	client, err := o.client(kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	for len(list) < n && ctx.Err() == nil {
		list = append(list, client.PollFetches(ctx).Records()...)
	}
	if len(list) != n {
		t.Fatalf("%d records on %s, want %d", len(list), topic, n)
	}
	return list
}
