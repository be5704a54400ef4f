package can

import (
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// detector makes the change detection of all signals of the messages.
func detector(refresh time.Duration, messages ...*Message) *Changes {
	var subscriptions []Subscription
	for _, m := range messages {
		for _, s := range m.Signals {
			subscriptions = append(subscriptions, Subscription{ID: uint32(len(subscriptions) + 1), Message: m, Signal: s, OnChange: true, Refresh: refresh})
		}
	}
	return Compile(subscriptions, PlanOptions{J1939: true}).NewChanges()
}

// Each step is a frame of one message and whether it has to be decoded.
func TestChanges(t *testing.T) {
	narrow := &Message{Name: "N", ID: 0x100, Length: 8, Signals: []*Signal{{Name: "A", Start: 3, Size: 2}, {Name: "B", Start: 15, Size: 12, BigEndian: true}}}
	wide := &Message{Name: "W", ID: 0x101, Length: 64, Signals: []*Signal{{Name: "A", Start: 0, Size: 8}, {Name: "Z", Start: 509, Size: 3}}}
	switcher := &Signal{Name: "M", Start: 0, Size: 4}
	paged := &Message{Name: "P", ID: 0x102, Length: 8, Signals: []*Signal{{Name: "A", Start: 8, Size: 8, Multiplexor: switcher, Ranges: []MuxRange{{First: 1, Last: 1}}}}}
	group := &Message{Name: "G", ID: 0x0CFEF100, Extended: true, J1939: true, Length: 8, Signals: []*Signal{{Name: "A", Start: 0, Size: 8}}}
	constant := &Message{Name: "K", ID: 0x103, Length: 8, Signals: []*Signal{{Name: "A", Start: 0, Size: 8}}}
	c := detector(time.Second, narrow, wide, paged, group)
	every := Compile([]Subscription{{ID: 1, Message: constant, Signal: constant.Signals[0]}}, PlanOptions{}).NewChanges()

	const ms = int64(time.Millisecond)
	frame := func(id uint32, at int64, n uint8, data ...byte) Frame {
		f := Frame{ID: id, Time: at * ms, Len: n}
		for i := 0; i < len(data); i += 2 {
			f.Data[data[i]] = data[i+1] // place and value
		}
		if id > MaxStandardID {
			f.Flags = FlagExtended
		}
		return f
	}
	for i, step := range []struct {
		c    *Changes
		f    Frame
		want int // samples
	}{
		{c, frame(0x100, 0, 8), 2}, // all zeros are new at first
		{c, frame(0x100, 1, 8), 0},
		{c, frame(0x100, 2, 8, 0, 0xE7, 2, 0x0F, 7, 1), 0}, // bits of no signal
		{c, frame(0x100, 3, 3), 0},                         // as long as the signals
		{c, frame(0x100, 4, 8, 0, 0x08), 2},
		{c, frame(0x100, 5, 8, 0, 0x08), 0},
		{c, frame(0x100, 6, 8, 0, 0x08, 2, 0x10), 2},
		{c, frame(0x100, 7, 2, 0, 0x08), 1}, // short: A only, each time
		{c, frame(0x100, 8, 2, 0, 0x08), 1},
		{c, frame(0x100, 9, 8, 0, 0x08, 2, 0x10), 2}, // what it was before the short ones
		{c, frame(0x100, 9, 8, 0, 0x08, 2, 0x10), 0},
		{c, frame(0x100, 8, 8, 0, 0x08, 2, 0x10), 2}, // time runs back
		{c, frame(0x100, 1007, 8, 0, 0x08, 2, 0x10), 0},
		{c, frame(0x100, 1008, 8, 0, 0x08, 2, 0x10), 2}, // refresh
		{c, frame(0x100, 1009, 8, 0, 0x08, 2, 0x10), 0},

		{c, frame(0x101, 0, 64), 2},
		{c, frame(0x101, 1, 64, 30, 1), 0},
		{c, frame(0x101, 2, 64, 63, 0x20), 2},
		{c, frame(0x101, 3, 64, 63, 0x3F), 0},
		{c, frame(0x101, 4, 48), 1},

		{c, frame(0x102, 0, 8, 0, 1, 1, 7), 1},
		{c, frame(0x102, 1, 8, 0, 1, 1, 7), 0},
		{c, frame(0x102, 2, 8, 0, 2, 1, 7), 0}, // another page, which has nothing subscribed
		{c, frame(0x102, 3, 8, 0, 1, 1, 7), 1}, // back

		{c, frame(0x0CFEF117, 0, 8, 0, 1), 1},
		{c, frame(0x18FEF117, 1, 8, 0, 1), 0}, // the same PGN
		{c, frame(0x0CFEF118, 1, 8, 0, 2), 1},
		{c, frame(0x0CFEF117, 2, 8, 0, 1), 1},

		{every, frame(0x103, 0, 8), 1},
		{every, frame(0x103, 1, 8), 1},
	} {
		before := step.c.Unchanged()
		if got := step.c.Decode(&step.f, nil); len(got) != step.want {
			t.Errorf("step %d: %d samples, want %d", i, len(got), step.want)
		}
		if left := step.c.Unchanged() > before; left && step.want > 0 {
			t.Errorf("step %d was left out", i)
		}
	}
	again := frame(0x100, 1010, 8, 0, 0x08, 2, 0x10)
	c.Forget()
	if got := c.Decode(&again, nil); len(got) != 2 {
		t.Errorf("after Forget: %v", got)
	}
	if got := c.Decode(&again, nil); len(got) != 0 {
		t.Errorf("after Forget, again: %v", got)
	}
	sent := frame(0x0CFEF117, 3, 8, 0, 1)
	c.DecodeAssembled(&Assembled{ID: 0x18FEF117, Time: 2 * ms, Data: []byte{9, 0, 0, 0, 0, 0, 0, 0}}, nil)
	if got := c.Decode(&sent, nil); len(got) != 1 {
		t.Errorf("after a message of several frames: %v", got)
	}
	counters := &c.plan.Counters
	for _, f := range []Frame{{ID: 0x7FF, Len: 8}, {ID: 0x100, Len: 8, Flags: FlagRemote}, {ID: 0x100, Len: 8, Flags: FlagError}, {ID: 0x100, Flags: FlagExtended}} {
		if got := c.Decode(&f, nil); len(got) != 0 {
			t.Errorf("%+v: %v", f, got)
		}
	}
	if counters.Short.Load() != 3 || counters.Unknown.Load() != 2 || counters.Remote.Load() != 1 || counters.Error.Load() != 1 {
		t.Errorf("%d short, %d unknown, %d remote, %d error frames", counters.Short.Load(), counters.Unknown.Load(), counters.Remote.Load(), counters.Error.Load())
	}
}

func TestChangesAllocateNothing(t *testing.T) {
	m, f := fdMessage()
	c := detector(0, m)
	samples := make([]telemetrypb.Sample, 0, 8)
	n := 0
	allocations := testing.AllocsPerRun(100, func() {
		for range 3 {
			n += len(c.Decode(f, samples))
		}
		f.Data[16]++
	})
	if allocations != 0 || n != 8*101 {
		t.Errorf("%v allocations, %d samples", allocations, n)
	}
}
