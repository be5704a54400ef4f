package stream

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Retention that overtakes a running consumer is counted; what was fetched before is taken.
func TestConsumerOvertakenByRetention(t *testing.T) {
	t.Parallel()
	k, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	hold := make(chan struct{})
	s.before = func(Progress) error { <-hold; return nil }
	send(t, p, sent, 1, 20)
	c, _ := startConsumer(t, ConsumerOptions{Options: o, QueueBytes: 1 << 10}, s)
	var w *worker
	eventually(t, "the partition is paused", func() bool {
		c.mu.Lock()
		w = c.workers[0]
		c.mu.Unlock()
		if w == nil {
			return false
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.paused || w.shown.End == 20
	})
	time.Sleep(100 * time.Millisecond) // a fetch that was on its way
	send(t, p, sent, 1, 60)
	time.Sleep(100 * time.Millisecond)
	if err := k.DeleteRecords("wb1.raw", 0, 70); err != nil {
		t.Fatal(err)
	}
	close(hold)
	eventually(t, "what is left is taken", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.positions[0] == 80 })
	if n := c.Counts(); n.Lost+uint64(s.count()) != 80 || n.Skipped != 0 || n.Lost > 50 {
		t.Errorf("%d taken, %d lost, %d skipped; want 80 together", s.count(), n.Lost, n.Skipped)
	}
}

// Offsets that a topic does not have are passed, counted, and only after they were asked for.
func TestConsumerPassesCompactedOffsets(t *testing.T) {
	t.Parallel()
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "wb1.dead"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.CreateTopic("wb1.raw", 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	o := Options{Brokers: k.ListenAddrs(), Log: testLog(t)}
	p, s := newProducer(t, o, 0), newSink()
	apply(t, p, message("van", 0))
	for n := range 4 {
		apply(t, p, message("car", n))
	}
	k.Compact()
	have := left(t, k)
	if have == 5 {
		t.Fatal("nothing was compacted")
	}
	c, _ := startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "all passed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.positions[0] == 5 })
	if n := c.Counts(); s.count() != have || n.Skipped != uint64(5-have) || n.Lost != 0 {
		t.Errorf("%d taken of %d, %d skipped, %d lost", s.count(), have, n.Skipped, n.Lost)
	}
}

// left is how many records the topic still has.
func left(t *testing.T, k *kfake.Cluster) (n int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.ConsumeTopics("wb1.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for last := int64(-1); last < 4; {
		for _, r := range client.PollFetches(t.Context()).Records() {
			n, last = n+1, r.Offset
		}
	}
	return n
}

// A gap that is our own, as of a fetch from the wrong place, closes by fetching anew: nothing is passed over.
func TestConsumerDoesNotPassItsOwnGap(t *testing.T) {
	t.Parallel()
	_, o := fakeKafka(t, 1)
	p, s, sent := newProducer(t, o, 0), newSink(), map[string]int{}
	send(t, p, sent, 1, 3)
	c, _ := startConsumer(t, ConsumerOptions{Options: o}, s)
	eventually(t, "all taken", func() bool { return s.count() == 3 })
	far, err := recordOf(message("car-0", 10), "wb1.raw", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	far.Offset = 10
	c.mu.Lock()
	w := c.workers[0]
	c.mu.Unlock()
	w.queue([]*kgo.Record{far}, 11)
	send(t, p, sent, 1, 10)
	eventually(t, "all taken", func() bool { return s.count() >= total(sent) })
	s.checkExact(t, sent)
	if n := c.Counts(); n.Skipped != 0 {
		t.Errorf("%d skipped", n.Skipped)
	}
}
