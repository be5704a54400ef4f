package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// stuckReader gives a frame, and its next Read waits until it is told to go on.
type stuckReader struct{ next chan struct{} }

func (s stuckReader) Read(dst []can.Frame) (int, uint64, error) {
	<-s.next
	return 1, 0, nil
}

func (s stuckReader) Close() error { return nil }

// What waits is alive, what works at the same thing for a whole look is not, and what fails is.
func TestWatchdogLook(t *testing.T) {
	answer := func(context.Context) error { return nil }
	bus := &pulse{name: "can can0"}
	w := &watchdog{every: time.Minute, pulses: []*pulse{bus}, commit: func(ctx context.Context) error { return answer(ctx) }}
	look := func(what, want string) {
		t.Helper()
		if got := w.look(t.Context()); got != want {
			t.Errorf("%s: %q hangs, want %q", what, got, want)
		}
	}
	source := stuckReader{make(chan struct{}, 1)}
	frames := pulsed{source, bus}
	read := func() {
		source.next <- struct{}{}
		if n, _, err := frames.Read(nil); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}

	look("nothing was read yet", "")
	look("nothing was read yet, still", "")
	read()
	look("frames came since the last look", "")
	look("they are still being worked at", "reader can can0")
	read()
	look("the next ones", "")
	waiting := make(chan struct{})
	go func() { defer close(waiting); _, _, _ = frames.Read(nil) }()
	for bus.count.Load()%2 == 1 {
		time.Sleep(time.Millisecond)
	}
	look("it waits for frames", "")
	look("it waits for frames, a silent bus", "")
	source.next <- struct{}{}
	<-waiting
	look("it got them", "")
	bus.rest()
	look("the interface is gone", "")
	look("the interface is gone, still", "")

	answer = func(context.Context) error { return errors.New("no space left on device") }
	look("the disk says no", "")
	answer = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	w.every = time.Millisecond
	look("the commit does not come back", "pipeline or queue")
	ended, end := context.WithCancel(t.Context())
	end()
	w.every = time.Minute
	if got := w.look(ended); got != "" {
		t.Errorf("told to stop: %q hangs", got)
	}
}
