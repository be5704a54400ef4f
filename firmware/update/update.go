package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/firmware/conditions"
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
	o      Options
	record probation.Record
	looked time.Duration
	told   string // what was refused, and why: once is enough

	fetching atomic.Pointer[delivery.Delivery] // nil: nothing is
}

// New checks the options; it touches no disk.
func New(o Options) (*Updater, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	return &Updater{o: o, looked: o.Awake()}, nil
}

// Run follows the director until ctx ends, and then returns its error; or ErrRestart. It is to be called when the agent has come
// through its start: a version on trial is alive from then on.
func (u *Updater) Run(ctx context.Context) error {
	if err := os.MkdirAll(u.o.Dir, 0o750); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := u.o.Slots.Alive(ctx); err != nil {
		u.o.Log.Warn("that this version has started could not be noted", "error", err)
	}
	st, err := u.o.Slots.Status()
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if st.OnTrial() {
		if err := u.probation(ctx, st); err != nil {
			return err
		}
	}
	for {
		u.reportOutcomes(ctx)
		if err := u.follow(ctx); err != nil {
			return err
		}
		if err := u.rest(ctx, u.o.Poll); err != nil {
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
		switch {
		case errors.Is(err, errChanged):
			continue
		case errors.Is(err, ErrRestart):
			if err := d.Discard(); err != nil {
				u.o.Log.Warn("the download could not be removed", "error", err)
			}
			return err
		case err != nil && ctx.Err() == nil:
			u.refuse(ctx, order.Meta, err)
		}
		return ctx.Err()
	}
}

// errChanged: the director wants something else by now, or nothing.
var errChanged = errors.New("the director has changed its mind")

// wanted asks the repositories. Nil: there is nothing to do.
func (u *Updater) wanted(ctx context.Context) *Order {
	bundle, err := u.o.Resolve(ctx)
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
	st, err := u.o.Slots.Status()
	if err != nil {
		u.o.Log.Error("the slots cannot be read", "error", err)
		return nil
	}
	if running := st.Slots[st.Committed].Image; running != nil && running.SHA256 == order.Meta.SHA256 {
		return nil // it runs
	}
	for _, r := range st.Rejected {
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
	bundle, err := u.o.Resolve(ctx)
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

// install waits until the order's conditions are met, installs, and arms the trial. ErrRestart: it is to be started.
func (u *Updater) install(ctx context.Context, order *Order, image *os.File) error {
	log := u.o.Log.With("campaign", order.Meta.Campaign, "version", order.Meta.Version)
	if err := u.await(ctx, order, order.Conditions); err != nil {
		return err
	}
	u.look()
	again := order.Conditions
	if again.Consent { // it is good for one installation, which begins
		if err := u.o.Consents.Use(order.Meta.Campaign); err != nil {
			return fmt.Errorf("the consent could not be used up: %w", err)
		}
		again.Consent = false
	}
	t := trial{SHA256: order.Meta.SHA256, Baseline: u.record.Baseline(u.o.Version, u.o.Sources)}
	if err := u.writeTrial(t); err != nil {
		return fmt.Errorf("what works now could not be noted: %w", err)
	}
	slot, err := u.o.Slots.Install(ctx, image, order.Meta)
	if err != nil {
		return err
	}
	log.Info("installed", "slot", slot)
	// That took a while: it is not started unless the vehicle still stands as it has to.
	if err := u.await(ctx, order, again); err != nil {
		return err
	}
	if err := u.o.Slots.Try(ctx, slots.Limits{}); err != nil {
		return err
	}
	log.Info("it is started next, on trial")
	return ErrRestart
}

// await waits for the conditions. What is missing is told once, and when it changes.
func (u *Updater) await(ctx context.Context, order *Order, set conditions.Set) error {
	next := u.o.Awake() + u.o.Poll
	for {
		readings, now := u.o.Readings()
		if set.Consent && u.o.Consents != nil {
			readings.Consent = u.o.Consents.Current(order.Meta.Campaign)
		}
		unmet := u.o.Checker.Check(set, readings, now)
		if len(unmet) == 0 {
			return nil
		}
		if conditions.OnlyConsent(unmet) && u.o.Consents != nil {
			if _, err := u.o.Consents.Ask(ctx, conditions.Question{Campaign: order.Meta.Campaign, Version: order.Meta.Version, Size: order.Meta.Length}); err != nil {
				u.o.Log.Warn("nobody could be asked for consent", "error", err)
			}
		}
		u.refuse(ctx, order.Meta, waiting(unmet))
		if err := wait(ctx, u.o.Look); err != nil {
			return err
		}
		u.look()
		if u.o.Awake() >= next {
			next = u.o.Awake() + u.o.Poll
			if !u.stillWanted(ctx, order) {
				return errChanged
			}
		}
	}
}

// waiting names the conditions that are not met, without their figures: those change all the time.
func waiting(unmet []conditions.Unmet) error {
	text := "it waits for"
	for _, m := range unmet {
		text += " " + m.Condition
	}
	return errors.New(text)
}
