package power

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestRequestIsAsTheKernelWantsIt: sizes and places by linux/gpio.h, on 32 bits too.
func TestRequestIsAsTheKernelWantsIt(t *testing.T) {
	r := request(LineOptions{Line: 17, ActiveLow: true, Debounce: 50 * time.Millisecond})
	b := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if len(b) != 592 || eventBytes != 48 || unsafe.Sizeof(unix.GPIOV2LineValues{}) != 16 {
		t.Fatalf("a request has %d bytes, an event %d", len(b), eventBytes)
	}
	u32 := func(at int) uint32 { return *(*uint32)(unsafe.Pointer(&b[at])) }
	u64 := func(at int) uint64 { return *(*uint64)(unsafe.Pointer(&b[at])) }
	if u32(0) != 17 || string(b[256:269]) != "waybill-agent" || u64(288) != 0x36 || u32(296) != 1 || u32(560) != 1 {
		t.Errorf("offset %d, consumer %q, flags %#x, attributes %d, lines %d", u32(0), b[256:269], u64(288), u32(296), u32(560))
	}
	if u32(320) != 3 || u32(328) != 50_000 || u64(336) != 1 {
		t.Errorf("debounce: id %d, %d us, mask %d", u32(320), u32(328), u64(336))
	}
}

// TestWatch: a pipe in the place of the line's file descriptor, since no kernel here has a simulated chip.
func TestWatch(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	var on atomic.Bool
	l := &Line{file: read, value: func() (bool, error) { return on.Load(), nil }}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan bool), make(chan error, 1)
	go func() { done <- l.Watch(ctx, func(on bool) { told <- on }) }()
	if <-told {
		t.Error("on at the start")
	}
	for _, want := range []bool{true, false, true} {
		on.Store(want)
		if _, err := write.Write(make([]byte, eventBytes)); err != nil {
			t.Fatal(err)
		}
		if got := <-told; got != want {
			t.Errorf("%v after an edge, want %v", got, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestOpenLineThatIsNoChip(t *testing.T) {
	if _, err := OpenLine(LineOptions{Chip: "/dev/null"}); err == nil {
		t.Error("/dev/null was taken for a chip")
	}
	if _, err := OpenLine(LineOptions{Chip: "/dev/gpiochip-none"}); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}
