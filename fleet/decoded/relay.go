package decoded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/stream"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const laneEvent = telemetrypb.Lane_LANE_EVENT

// Options of a Relay.
type Options struct {
	stream.Options
	Format   Format    // "": JSON
	Registry *Registry // nil: rows are written plainly
	// Samples is about how many samples a transaction carries; 0: 20,000.
	Samples int
	// Poll is how often the store is asked whether there is something to carry; 0: 100 ms.
	Poll time.Duration
	// Rebalance is how often relays look how many they are; 0: 2 s.
	Rebalance time.Duration
	Now       func() time.Time // nil: time.Now

	at func(point string) // tests stop a relay where it hurts; nil: nothing
}

// Counts says what a Relay did since its start: what is committed on the topics.
type Counts struct {
	Samples, Events, Positions, Losses uint64
	Notes                              uint64
	Transactions                       uint64
	Failures                           uint64 // sessions that ended with an error
	Cut                                uint64 // rows whose texts were too long for the topic
	Shards                             int    // that this relay has now
}

type counters struct {
	rows                               [4]atomic.Uint64
	notes, transactions, failures, cut atomic.Uint64
	shards                             atomic.Int64
}

func (c *counters) add(rows [4]uint64, notes uint64) {
	for i, n := range rows {
		c.rows[i].Add(n)
	}
	c.notes.Add(notes)
	c.transactions.Add(1)
}

// Relay carries an outbox to the decoded topics. Several of them, in one process or in many, share its shards.
type Relay struct {
	o      Options
	store  store.Outbox
	topics [4]string // by kind
	heads  [4][]byte // what stands ahead of each value
	counts counters
}

// New makes a Relay. Nothing is connected before Run.
func New(o Options, s store.Outbox) (*Relay, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Format == "" {
		o.Format = JSON
	}
	if _, err := ParseFormat(string(o.Format)); err != nil {
		return nil, err
	}
	if o.Samples == 0 {
		o.Samples = 20_000
	}
	if o.Poll == 0 {
		o.Poll = 100 * time.Millisecond
	}
	if o.Rebalance == 0 {
		o.Rebalance = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.at == nil {
		o.at = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Relay{o: o, store: s}
	for i, kind := range Kinds() {
		r.topics[i] = o.DecodedTopic(kind)
	}
	return r, nil
}

// Counts is safe to call at any time.
func (r *Relay) Counts() Counts {
	c := &r.counts
	return Counts{Samples: c.rows[0].Load(), Events: c.rows[1].Load(), Positions: c.rows[2].Load(), Losses: c.rows[3].Load(), Notes: c.notes.Load(),
		Transactions: c.transactions.Load(), Failures: c.failures.Load(), Cut: c.cut.Load(), Shards: int(c.shards.Load())}
}

// Run switches the outbox on and carries until ctx ends. Where Kafka, the database or the registry is away it goes on when they are back; the
// outbox grows meanwhile.
func (r *Relay) Run(ctx context.Context) error {
	wait := newBackoff()
	for ctx.Err() == nil {
		began := time.Now()
		err := r.round(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > time.Minute {
			wait = newBackoff()
		}
		r.counts.failures.Add(1)
		r.o.Log.Warn("the decoded topics wait", "err", err)
		wait.sleep(ctx)
	}
	return nil
}

// backoff waits longer each time, up to 15 s.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{250 * time.Millisecond} }

func (b *backoff) sleep(ctx context.Context) {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, 15*time.Second)
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// round shares shards with the other relays until the database fails.
func (r *Relay) round(ctx context.Context) error {
	begun, err := r.store.SwitchOn(ctx)
	if err != nil {
		return err
	}
	if begun {
		r.o.Log.Info("the decoded topics begin now; `waybill-fleet decoded backfill` adds what was stored before")
	}
	if r.o.Registry != nil {
		for i, kind := range Kinds() {
			if r.heads[i], err = r.o.Registry.Head(ctx, r.topics[i], kind, r.o.Format); err != nil {
				return err
			}
		}
	}
	lease, err := r.store.Lease(ctx)
	if err != nil {
		return err
	}
	defer lease.Close()
	held := map[int]*carrier{}
	defer func() {
		for _, c := range held {
			c.stop()
		}
		for _, c := range held {
			<-c.done
		}
		r.counts.shards.Store(0)
	}()
	poll := time.NewTicker(r.o.Poll)
	defer poll.Stop()
	var balanced time.Time
	for {
		if now := time.Now(); now.Sub(balanced) >= r.o.Rebalance {
			balanced = now
			if err := r.balance(ctx, lease, held); err != nil {
				return err
			}
		}
		var shards []int
		for shard := range held {
			shards = append(shards, shard)
		}
		pending, err := r.store.Pending(ctx, shards)
		if err != nil {
			return err
		}
		for _, shard := range pending {
			select {
			case held[shard].wake <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
	}
}

// balance takes shards up to this relay's part, and gives back what is above it.
func (r *Relay) balance(ctx context.Context, lease store.Lease, held map[int]*carrier) error {
	relays, err := lease.Relays(ctx)
	if err != nil {
		return err
	}
	part := (store.OutboxShards + max(relays, 1) - 1) / max(relays, 1)
	for shard := store.OutboxShards - 1; shard >= 0 && len(held) > part; shard-- {
		if c := held[shard]; c != nil {
			c.stop()
			<-c.done
			delete(held, shard)
			if err := lease.Give(ctx, shard); err != nil {
				return err
			}
		}
	}
	for shard := 0; shard < store.OutboxShards && len(held) < part; shard++ {
		if held[shard] != nil {
			continue
		}
		taken, err := lease.Take(ctx, shard)
		if err != nil {
			return err
		}
		if taken {
			held[shard] = r.start(ctx, shard)
		}
	}
	r.counts.shards.Store(int64(len(held)))
	return nil
}

// carrier is the task of one shard.
type carrier struct {
	wake chan struct{} // there may be notes
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
}

// start carries a shard until it is stopped, session after session.
func (r *Relay) start(ctx context.Context, shard int) *carrier {
	ctx, cancel := context.WithCancel(ctx)
	c := &carrier{wake: make(chan struct{}, 1), stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		wait := newBackoff()
		for ctx.Err() == nil {
			began := time.Now()
			s, err := r.newSession(ctx, shard)
			if err == nil {
				err = s.run(ctx, c.wake)
			}
			if err == nil || ctx.Err() != nil {
				continue
			}
			r.counts.failures.Add(1)
			r.o.Log.Warn("a shard of the decoded topics begins anew", "shard", shard, "err", err)
			if time.Since(began) > time.Minute {
				wait = newBackoff()
			}
			wait.sleep(ctx)
		}
	}()
	return c
}

// Check says what is wrong with the options.
func (o *Options) Check() error {
	if o.Samples < 0 || o.Samples > 1_000_000 {
		return fmt.Errorf("samples of a transaction: must be between 1 and 1000000, got %d", o.Samples)
	}
	if o.Registry == nil {
		return o.Options.Check()
	}
	return errors.Join(o.Options.Check(), o.Registry.check())
}
