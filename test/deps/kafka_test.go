//go:build system

package deps

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What Kafka has acknowledged is there when it was stopped, and when it was killed.
func TestKafkaKeeps(t *testing.T) {
	began := time.Now()
	k := Kafka(t, KafkaOptions{})
	t.Logf("started in %v", time.Since(began).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Addr), kgo.DefaultProduceTopic("kept"), kgo.ConsumeTopics("kept"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, nil, "kept"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){k.Stop, k.Kill} {
		if err := client.ProduceSync(ctx, kgo.StringRecord("kept")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		end()
		began := time.Now()
		k.Start()
		t.Logf("started again in %v", time.Since(began).Round(time.Millisecond))
	}
	for got := 0; got < 2; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fetches.Records() {
			if string(r.Value) != "kept" {
				t.Errorf("got %q", r.Value)
			}
			got++
		}
	}
}
