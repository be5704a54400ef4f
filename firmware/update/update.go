package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	"github.com/waybill-telematics/waybill/firmware/trust"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// ErrRestart: the agent is to end in order, so that the launcher starts what is to run now.
var ErrRestart = errors.New("another version is to be started")

// Updater follows the director. Run does the work.
type Updater struct {
	o       Options
	place   place
	vehicle *vehicle
	record  probation.Record
	looked  time.Duration
	told    string // what was refused, and why: once is enough

	fetching atomic.Pointer[delivery.Delivery] // nil: nothing is
}

// New checks the options; it touches no disk.
func New(o Options) (*Updater, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	u := &Updater{o: o, vehicle: &vehicle{}, looked: o.Awake()}
	if u.place = o.System; o.Slots != nil {
		u.place = agentSlots{o.Slots, o.Log}
	}
	return u, nil
}

// Run follows the director until ctx ends, and then returns its error; or ErrRestart. It is to be called when the agent has come
// through its start: a version on trial is alive from then on. For several units see the function Run.
func (u *Updater) Run(ctx context.Context) error { return u.run(ctx) }

func (u *Updater) run(ctx context.Context) error {
	if err := os.MkdirAll(u.o.Dir, 0o750); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := u.begin(ctx); err != nil {
		return err
	}
	st, err := u.place.status()
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if st.trial != nil {
		if err := u.probation(ctx, st); err != nil {
			return err
		}
	}
	for {
		u.vehicle.leave(u)
		u.reportOutcomes(ctx)
		if err := u.follow(ctx); err != nil {
			return err
		}
		if err := u.rest(ctx, u.o.Poll); err != nil {
			return err
		}
	}
}

// begin goes on until the place answers: who updates the system may come up later than the agent.
func (u *Updater) begin(ctx context.Context) error {
	said := ""
	for {
		err := u.place.begin(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			u.o.Log.Warn("it is not known yet how updates stand", "ecu", u.o.ECU, "error", err)
		}
		if err := wait(ctx, u.o.Look); err != nil {
			return err
		}
	}
}

// rest waits, and looks at what works meanwhile: should there be an update, that is what it is judged by.
func (u *Updater) rest(ctx context.Context, d time.Duration) error {
	for end := u.o.Awake() + d; u.o.Awake() < end; {
		if err := wait(ctx, min(u.o.Look, d)); err != nil {
			return err
		}
		u.look()
	}
	return nil
}

func (u *Updater) look() {
	now := u.o.Awake()
	u.record.Look(u.o.Health(), now-u.looked)
	u.looked = now
}

// follow does what the director wants, as far as it can be done now. Nil: look again later.
func (u *Updater) follow(ctx context.Context) error {
	for {
		order := u.wanted(ctx)
		if order == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		d, err := u.delivery(order)
		if err != nil {
			u.refuse(ctx, order.Meta, err)
			return ctx.Err()
		}
		image, err := u.deliver(ctx, order, d)
		if errors.Is(err, errChanged) {
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				u.refuse(ctx, order.Meta, err)
			}
			return ctx.Err()
		}
		err = u.install(ctx, order, image)
		_ = image.Close() // it was read only
		if err == nil {
			err = u.place.restart(ctx)
			if errors.Is(err, ErrRestart) || ctx.Err() != nil { // it is under way
				if err := d.Discard(); err != nil {
					u.o.Log.Warn("the download could not be removed", "error", err)
				}
				return err
			}
		}
		u.vehicle.leave(u)
		if errors.Is(err, errChanged) {
			continue
		}
		if ctx.Err() == nil {
			u.refuse(ctx, order.Meta, err)
		}
		return ctx.Err()
	}
}

// errChanged: the director wants something else by now, or nothing.
var errChanged = errors.New("the director has changed its mind")

func (u *Updater) resolve(ctx context.Context) (trust.Bundle, error) {
	u.vehicle.asking.Lock()
	defer u.vehicle.asking.Unlock()
	return u.o.Resolve(ctx)
}

// wanted asks the repositories. Nil: there is nothing to do.
func (u *Updater) wanted(ctx context.Context) *Order {
	bundle, err := u.resolve(ctx)
	if err != nil {
		if ctx.Err() == nil {
			u.o.Log.Warn("the update repositories are not followed", "reason", trust.ReasonOf(err), "error", err)
		}
		return nil
	}
	target := bundle[u.o.ECU]
	if target == nil {
		return nil
	}
	order, err := orderOf(target)
	if err != nil {
		u.o.Log.Error("refused", "error", err)
		return nil
	}
	st, err := u.place.status()
	if err != nil {
		u.o.Log.Error("how updates stand cannot be read", "error", err)
		return nil
	}
	if st.image != nil && st.image.SHA256 == order.Meta.SHA256 {
		return nil // it runs
	}
	for _, r := range st.rejected {
		if r.SHA256 == order.Meta.SHA256 && (order.Meta.RetryOf == "" || order.Meta.RetryOf != r.Campaign || order.Meta.Campaign == r.Campaign) {
			if r.Campaign != order.Meta.Campaign { // else that campaign knows
				u.refuse(ctx, order.Meta, fmt.Errorf("it was rolled back here before: %s", r.Reason))
			}
			return nil
		}
	}
	return order
}

// refuse says once why an order is not followed.
func (u *Updater) refuse(ctx context.Context, m slots.Meta, why error) {
	said := m.Campaign + " " + m.SHA256 + " " + why.Error()
	if said == u.told {
		return
	}
	u.o.Log.Warn("an update is not installed", "campaign", m.Campaign, "version", m.Version, "error", why)
	if u.tell(ctx, m, u.o.Version, telemetrypb.UpdateRefused, why.Error()) {
		u.told = said
	}
}

func (u *Updater) delivery(order *Order) (*delivery.Delivery, error) {
	o := u.o.Delivery
	o.Dir, o.Image, o.Campaign, o.Log = filepath.Join(u.o.Dir, "download"), order.Image, order.Meta.Campaign, u.o.Log
	o.Patch, o.Budget = order.Patch, order.Budget
	o.Gate = func() (bool, string) { return u.o.Flow(order.WiFiOnly) }
	return delivery.New(o)
}

// deliver fetches the image while the repositories are still looked at: what is not wanted any more is not fetched to its end.
func (u *Updater) deliver(ctx context.Context, order *Order, d *delivery.Delivery) (*os.File, error) {
	fetching, cancel := context.WithCancel(ctx)
	defer cancel()
	u.fetching.Store(d)
	defer u.fetching.Store(nil)
	type result struct {
		image *os.File
		err   error
	}
	done := make(chan result, 1)
	go func() {
		image, err := d.Run(fetching)
		done <- result{image, err}
	}()
	next := u.o.Awake() + u.o.Poll
	changed := false
	for {
		timer := time.NewTimer(u.o.Look)
		select {
		case r := <-done:
			timer.Stop()
			if changed {
				if r.image != nil {
					_ = r.image.Close()
				}
				return nil, errChanged
			}
			return r.image, r.err
		case <-timer.C:
		}
		u.look()
		if !changed && u.o.Awake() >= next {
			next = u.o.Awake() + u.o.Poll
			if changed = !u.stillWanted(ctx, order); changed {
				cancel()
			}
		}
	}
}

// stillWanted asks the repositories again. Where they cannot be asked, what was signed stands: it was verified, and has not expired
// longer ago than the next look.
func (u *Updater) stillWanted(ctx context.Context, order *Order) bool {
	bundle, err := u.resolve(ctx)
	if err != nil {
		return trust.ReasonOf(err) != trust.Expired
	}
	target := bundle[u.o.ECU]
	if target == nil {
		return false
	}
	now, err := orderOf(target)
	return err == nil && now.same(order)
}
