package ingest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestSharesAreEvenAndMove(t *testing.T) {
	dir := t.TempDir()
	var processes []*FileLeaser
	join := func() *FileLeaser {
		l, err := NewFileLeaser(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	// settle lets all look, and release what is over, until nothing changes; it returns how many each has.
	settle := func() (sizes []int) {
		t.Helper()
		for range 4 {
			sizes = nil
			owner := map[int]int{}
			for i, l := range processes {
				slots, over, err := l.Lease(context.Background(), 7)
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(slots)
				for _, n := range slots[len(slots)-over:] {
					if err := l.Release(n); err != nil {
						t.Fatal(err)
					}
				}
				slots = slots[:len(slots)-over]
				for _, n := range slots {
					if other, twice := owner[n]; twice {
						t.Fatalf("slot %d is run by %d and %d", n, other, i)
					}
					owner[n] = i
				}
				sizes = append(sizes, len(slots))
			}
		}
		return sizes
	}
	for i, want := range []string{"[7]", "[4 3]", "[3 2 2]", "[2 2 2 1]"} {
		processes = append(processes, join())
		if got := fmt.Sprint(settle()); got != want {
			t.Errorf("%d processes have %s, want %s", i+1, got, want)
		}
	}
	// One ends, as the kernel sees it: its files are closed.
	processes[1].Close()
	processes = slices.Delete(processes, 1, 2)
	if got := fmt.Sprint(settle()); got != "[3 2 2]" {
		t.Errorf("after one has ended: %s", got)
	}
	processes = append(processes, join())
	if got := settle(); len(got) != 4 || slices.Min(got) < 1 || slices.Max(got) > 2 {
		t.Errorf("after another has come: %v", got)
	}
}

func TestSlotsOptions(t *testing.T) {
	base := ReceiverOptions{Broker: "tcp://127.0.0.1:1", ClientID: "fleet", Share: "g"}
	plain := base
	plain.Share = ""
	for i, o := range []SlotsOptions{
		{Receiver: base}, {Receiver: base, Fixed: []int{-1}}, {Receiver: base, Fixed: []int{MaxSlots}}, {Receiver: plain, Fixed: []int{0, 1}},
		{Receiver: base, Leaser: &FileLeaser{}}, {Receiver: plain, Leaser: &FileLeaser{}, Count: 2},
		{Receiver: ReceiverOptions{Broker: "tcp://127.0.0.1:1", ClientID: "fleet", Share: "a/b"}, Fixed: []int{0}},
	} {
		if _, err := NewSlots(o, &script{}); err == nil {
			t.Errorf("options %d were accepted", i)
		}
	}
}

// The answers of brokers to CONNECT in MQTT 5, §3.2.
func TestSharedInConnack(t *testing.T) {
	for name, test := range map[string]struct {
		body []byte
		want bool
		err  bool
	}{
		"no properties":           {[]byte{0, 0, 0}, true, false},
		"available":               {[]byte{0, 0, 2, 0x2A, 1}, true, false},
		"not available":           {[]byte{0, 0, 2, 0x2A, 0}, false, false},
		"behind others":           {[]byte{0, 0, 16, 0x22, 0, 10, 0x12, 0, 1, 'x', 0x27, 0, 0, 1, 0, 0x25, 1, 0x2A, 0}, false, false},
		"user property":           {[]byte{0, 0, 9, 0x26, 0, 1, 'a', 0, 1, 'b', 0x2A, 0}, false, false},
		"no MQTT 5":               {[]byte{0, 0x84, 0}, false, false},
		"no MQTT 5, as in 3.1.1":  {[]byte{0, 1}, false, false},
		"not authorized":          {[]byte{0, 0x87, 0}, false, true},
		"cut off":                 {[]byte{0, 0, 3, 0x2A}, false, true},
		"a text that is cut off":  {[]byte{0, 0, 3, 0x12, 0, 9}, false, true},
		"a property of no MQTT 5": {[]byte{0, 0, 2, 0x7f, 0}, false, true},
		"nothing":                 {nil, false, true},
	} {
		got, err := sharedIn(0x20, test.body)
		if got != test.want || (err != nil) != test.err {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzSharedIn(f *testing.F) {
	f.Add([]byte{0, 0, 16, 0x22, 0, 10, 0x12, 0, 1, 'x', 0x27, 0, 0, 1, 0, 0x25, 1, 0x2A, 0})
	f.Add([]byte{0, 0, 9, 0x26, 0, 1, 'a', 0, 1, 'b', 0x2A, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		if has, err := sharedIn(0x20, body); has && err != nil {
			t.Errorf("both an answer and %v", err)
		}
	})
}

// A slot whose receiver was told to end and a lease that is taken away end what runs; Counts keeps what it did.
func TestSlotsFollowTheLeases(t *testing.T) {
	address, _ := startBroker(t)
	leases := &scripted{slots: []int{0, 2}}
	free := &script{hold: make(chan struct{}), entered: make(chan struct{}, 1000)}
	close(free.hold)
	s, err := NewSlots(SlotsOptions{Receiver: ReceiverOptions{Broker: "tcp://" + address, ClientID: "fleet", Share: "g", BackoffBase: time.Millisecond},
		Leaser: leases, Count: 4, Every: 10 * time.Millisecond}, free)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	running := func(want ...int) func() bool {
		return func() bool { return slices.Equal(s.Running(), want) }
	}
	eventually(t, "0 and 2 run", running(0, 2))
	leases.set([]int{0, 1, 2}, 1)
	eventually(t, "the highest is given up", func() bool { return slices.Equal(leases.given(), []int{2}) })
	eventually(t, "0 and 1 run", running(0, 1))
	leases.set([]int{1}, 0) // 0 was taken away
	eventually(t, "1 runs alone", running(1))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := leases.given(); !slices.Contains(got, 1) || len(s.list()) != 0 {
		t.Errorf("released %v, running %v", got, s.list())
	}
}

// scripted is a Leaser that says what it is told.
type scripted struct {
	mu       sync.Mutex
	slots    []int
	over     int
	released []int
}

func (l *scripted) set(slots []int, over int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots, l.over = slots, over
}

func (l *scripted) given() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.released)
}

func (l *scripted) Lease(context.Context, int) ([]int, int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.slots), l.over, nil
}

func (l *scripted) Release(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = append(l.released, n)
	if i := slices.Index(l.slots, n); i >= 0 {
		l.slots = slices.Delete(l.slots, i, i+1)
		l.over = max(0, l.over-1)
	}
	return nil
}
