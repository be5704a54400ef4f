package ingest

import (
	"context"
	"errors"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// TestTake: a step of a log is taken once, with what stands in it or not at all, and again from the beginning where the
// log was made anew.
func TestTake(t *testing.T) {
	c := newCloud(t)
	ctx := context.Background()
	take := func(from, to int64, messages ...Message) error {
		t.Helper()
		_, _, err := c.Take(ctx, Step{Topic: "raw", Partition: 3, From: from, To: to}, messages)
		return err
	}
	one := Message{Topic: "wb1/acme/car-1/up/telemetry", Payload: []byte("garbage")}
	if err := take(5, 6, one); !errors.Is(err, store.ErrFenced) {
		t.Errorf("from the middle of a log that is not known: %v", err)
	}
	if n := c.s.Totals().Letters; n != 0 {
		t.Errorf("%d letters of a step that was not taken", n)
	}
	for _, step := range []struct {
		from, to int64
		letters  int64
	}{{0, 4, 1}, {4, 4, 1}, {4, 9, 1}, {9, 2, 1}, {2, 3, 1}} {
		if err := take(step.from, step.to, one); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		if n := c.s.Totals().Letters; n != step.letters {
			t.Errorf("%+v: %d letters", step, n)
		}
	}
	if err := take(2, 3, one); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a step once more: %v", err)
	}
	if at, err := c.s.Positions(ctx, "raw"); err != nil || at[3] != 3 || len(at) != 1 {
		t.Errorf("the store is at %v, %v", at, err)
	}
}

// TestRequestsAreOthers: what a vehicle asks of waybill-fleet ota serve comes here too, and leaves nothing.
func TestRequestsAreOthers(t *testing.T) {
	c := newCloud(t)
	replies, counts := c.take(Message{Topic: "wb1/acme/car-1/up/request", Payload: []byte("\x01\x01 whatever")})
	if n := c.s.Totals(); n.Letters != 0 || n.Devices != 0 || len(replies) != 0 || counts.Malformed != 0 {
		t.Errorf("a request: %+v, %d replies, %+v", n, len(replies), counts)
	}
}
