package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Leaser shares the slots 0 … n−1 among processes, so that each is run by one of them at a time.
type Leaser interface {
	// Lease takes slots that are free, up to this process's share, and says which ones it has now: those are to be run, and no
	// others. over is how many it has beyond its share, because others came: so many are to be released. It is called again and
	// again, and is what keeps a lease that ends by itself.
	Lease(ctx context.Context, n int) (slots []int, over int, err error)
	// Release gives a slot up, once nothing runs it.
	Release(slot int) error
}

// Confirmer is a Leaser whose leases can end while a process believes in them: Confirm is nil when a slot is this process's now.
// It is asked ahead of each connection to the broker.
type Confirmer interface {
	Confirm(ctx context.Context, slot int) error
}

// SlotsOptions of Slots.
type SlotsOptions struct {
	// Receiver is what all slots have in common. Its ClientID is the prefix: slot 3 is PREFIX-3. With Share, slot 0 has the
	// statuses too.
	Receiver ReceiverOptions
	Fixed    []int // the slots to run, without a Leaser
	Leaser   Leaser
	Count    int           // of all slots, with a Leaser
	Every    time.Duration // between two looks at the leases. Default 2 s
	Stop     time.Duration // a receiver that is to end is waited for so long. Default 30 s; then the lease is kept
}

// MaxSlots is the most slots that make sense: each is a session at the broker.
const MaxSlots = 1024

// Slots runs the receivers of some slots: fixed client ids, under which the broker keeps a session each. A slot whose process
// ended waits at the broker, with what it was sent and did not acknowledge, until another process leases it and connects
// under the same id: so nothing needs to be moved.
type Slots struct {
	o     SlotsOptions
	apply Applier
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	running map[int]*slot
	ended   Counts // of receivers that are no more
}

// slot is one that runs.
type slot struct {
	receiver *Receiver
	cancel   context.CancelFunc
	done     chan struct{} // closed when its Run has returned
}

// NewSlots makes Slots.
func NewSlots(o SlotsOptions, a Applier) (*Slots, error) {
	if o.Every <= 0 {
		o.Every = 2 * time.Second
	}
	if o.Stop <= 0 {
		o.Stop = 30 * time.Second
	}
	most := o.Count
	if o.Leaser == nil {
		if len(o.Fixed) == 0 {
			return nil, errors.New("slots: none is given")
		}
		most = slices.Max(o.Fixed) + 1
		if slices.Min(o.Fixed) < 0 {
			return nil, fmt.Errorf("slots %v: they count from 0", o.Fixed)
		}
	}
	if most < 1 || most > MaxSlots {
		return nil, fmt.Errorf("slots: %d, want 1 to %d", most, MaxSlots)
	}
	if o.Receiver.Share == "" && (most > 1 || o.Leaser != nil) {
		return nil, errors.New("slots: several receivers without a share would each get everything")
	}
	if o.Receiver.Log == nil {
		o.Receiver.Log = slog.New(slog.DiscardHandler)
	}
	s := &Slots{o: o, apply: a, log: o.Receiver.Log, running: map[int]*slot{}}
	_, err := s.receiver(0)
	return s, err
}

func (s *Slots) receiver(n int) (*Receiver, error) {
	o := s.o.Receiver
	o.ClientID = fmt.Sprintf("%s-%d", o.ClientID, n)
	o.Statuses = n == 0
	if c, ok := s.o.Leaser.(Confirmer); ok {
		o.Admit = func(ctx context.Context) error { return c.Confirm(ctx, n) }
	}
	return NewReceiver(o, s.apply)
}

// Run receives until ctx ends and returns nil then; it ends earlier when the broker has no shared subscriptions.
func (s *Slots) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.stopAll()
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
	for {
		if err := s.look(ctx, cancel); err != nil && ctx.Err() == nil {
			s.log.Warn("slots stay as they are", "err", err)
		}
		if s.o.Leaser == nil {
			<-ctx.Done()
		}
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); errors.Is(err, ErrNoShared) {
				return err
			}
			return nil
		case <-tick.C:
		}
	}
}

// look makes what runs be what is leased.
func (s *Slots) look(ctx context.Context, fail context.CancelCauseFunc) error {
	slots, over := s.o.Fixed, 0
	if s.o.Leaser != nil {
		var err error
		if slots, over, err = s.o.Leaser.Lease(ctx, s.o.Count); err != nil {
			return err
		}
	}
	slots = slices.Sorted(slices.Values(slots))
	keep := slots[:max(0, len(slots)-over)]
	var errs []error
	for _, n := range s.list() {
		if slices.Contains(keep, n) {
			continue
		}
		if !s.end(n) {
			errs = append(errs, fmt.Errorf("slot %d does not end", n))
			continue
		}
		s.log.Info("slot ended here", "slot", n)
	}
	for _, n := range slots[len(keep):] {
		if s.runs(n) {
			continue // it has not ended; it is tried again
		}
		errs = append(errs, s.o.Leaser.Release(n))
	}
	for _, n := range keep {
		if s.runs(n) {
			continue
		}
		r, err := s.receiver(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.start(ctx, n, r, fail)
		s.log.Info("slot runs here", "slot", n)
	}
	return errors.Join(errs...)
}

func (s *Slots) start(ctx context.Context, n int, r *Receiver, fail context.CancelCauseFunc) {
	ctx, cancel := context.WithCancel(ctx)
	one := &slot{receiver: r, cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.running[n] = one
	s.mu.Unlock()
	go func() { // ended by end
		defer close(one.done)
		if err := r.Run(ctx); err != nil {
			fail(err)
		}
	}()
}

// end stops a slot and says whether it has ended.
func (s *Slots) end(n int) bool {
	s.mu.Lock()
	one := s.running[n]
	s.mu.Unlock()
	one.cancel()
	timer := time.NewTimer(s.o.Stop)
	defer timer.Stop()
	select {
	case <-one.done:
	case <-timer.C:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended.Add(one.receiver.Counts())
	delete(s.running, n)
	return true
}

// stopAll ends all, together, and gives their leases back.
func (s *Slots) stopAll() {
	list := s.list()
	s.mu.Lock()
	for _, n := range list {
		s.running[n].cancel()
	}
	s.mu.Unlock()
	for _, n := range list {
		if !s.end(n) {
			s.log.Error("slot does not end; its lease is kept until the process has", "slot", n)
			continue
		}
		if s.o.Leaser == nil {
			continue
		}
		if err := s.o.Leaser.Release(n); err != nil {
			s.log.Warn("lease not given back; it ends with the process", "slot", n, "err", err)
		}
	}
}

func (s *Slots) runs(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[n] != nil
}

// list is the slots that run, ascending.
func (s *Slots) list() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]int, 0, len(s.running))
	for n := range s.running {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// Running lists the slots that are connected and subscribed here.
func (s *Slots) Running() (list []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, one := range s.running {
		if one.receiver.Connected() {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// Connected says whether all slots of this process are connected; without any it has nothing to be connected for.
func (s *Slots) Connected() bool { return len(s.Running()) == len(s.list()) }

// Counts is what was done since the start, by all slots that were here.
func (s *Slots) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.ended
	for _, one := range s.running {
		c.Add(one.receiver.Counts())
	}
	return c
}

// Send is Receiver.Send, over any slot that is connected.
func (s *Slots) Send(ctx context.Context, replies []Reply) error {
	s.mu.Lock()
	var r *Receiver
	for _, one := range s.running {
		if one.receiver.Connected() {
			r = one.receiver
		}
	}
	s.mu.Unlock()
	if r == nil {
		return errNotConnected
	}
	return r.Send(ctx, replies)
}
