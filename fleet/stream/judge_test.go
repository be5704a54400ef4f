package stream

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A consumer of another topic than the raw one gives the values that were judged good, and sets the others aside.
func TestConsumerOfAnotherTopic(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	if err := k.CreateTopic("wb1.events", 1, nil); err != nil {
		t.Fatal(err)
	}
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	send(t, p, sent, 1, 3) // on the raw topic: not its business
	client, err := o.client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, value := range []string{"one", "bad", "two"} {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "wb1.events", Key: []byte("acme/car-1"), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	judge := func(key, value []byte) error {
		if string(key) != "acme/car-1" || string(value) == "bad" {
			return errNo
		}
		return nil
	}
	c, _ := startConsumer(t, ConsumerOptions{Options: o, Group: "g", Topic: "wb1.events", Judge: judge}, s)
	eventually(t, "all passed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.positions[0] == 3 })
	if len(s.taken) != 2 || s.taken[0].Topic != "wb1.events" || string(s.taken[0].Payload) != "one" || string(s.taken[1].Payload) != "two" {
		t.Errorf("taken %q", s.taken)
	}
	if n := c.Counts(); n.DeadLetters != 1 {
		t.Errorf("%d dead letters, want 1", n.DeadLetters)
	}
	dead := read(t, o, o.DeadTopic(), 1)
	if from, _ := headerOf(dead[0], HeaderFrom); string(dead[0].Value) != "bad" || from != "wb1.events/0/1" {
		t.Errorf("the dead letter is %q from %q", dead[0].Value, from)
	}
	for _, wrong := range []ConsumerOptions{{Options: o, Topic: "wb1.events"}, {Options: o, Judge: judge}} {
		if _, err := NewConsumer(wrong, s); err == nil || errors.Is(err, errNo) {
			t.Errorf("a topic without a judge, or a judge without a topic: %v", err)
		}
	}
}
