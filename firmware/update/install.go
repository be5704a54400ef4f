package update

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/waybill-telematics/waybill/firmware/conditions"
)

// install waits until the order's conditions are met and it is this unit's turn, installs, and arms the trial.
func (u *Updater) install(ctx context.Context, order *Order, image *os.File) error {
	log := u.o.Log.With("campaign", order.Meta.Campaign, "version", order.Meta.Version)
	if err := u.await(ctx, order, order.Conditions); err != nil {
		return err
	}
	u.look()
	again := order.Conditions
	if again.Consent { // it is good for one installation, which begins
		if err := u.useConsent(order.Meta.Campaign); err != nil {
			return fmt.Errorf("the consent could not be used up: %w", err)
		}
		again.Consent = false
	}
	t := trial{SHA256: order.Meta.SHA256, Baseline: u.record.Baseline(u.o.Version, u.o.Sources)}
	if err := u.writeTrial(t); err != nil {
		return fmt.Errorf("what works now could not be noted: %w", err)
	}
	if err := u.place.install(ctx, image, order.Meta); err != nil {
		return err
	}
	log.Info("installed")
	// That took a while: it is not started unless the vehicle still stands as it has to.
	if err := u.await(ctx, order, again); err != nil {
		return err
	}
	if err := u.place.try(ctx); err != nil {
		return err
	}
	log.Info("it is started next, on trial")
	return nil
}

func (u *Updater) useConsent(campaign string) error {
	u.vehicle.asking.Lock()
	defer u.vehicle.asking.Unlock()
	return u.o.Consents.Use(campaign)
}

// await waits for the conditions, and then for the end of another unit's update. What is missing is told once, and when
// it changes.
func (u *Updater) await(ctx context.Context, order *Order, set conditions.Set) error {
	next := u.o.Awake() + u.o.Poll
	for {
		if err := ctx.Err(); err != nil { // another unit's restart may be under way: nothing is begun any more
			return fmt.Errorf("update: %w", err)
		}
		unmet := u.unmet(ctx, order, set)
		switch {
		case len(unmet) > 0:
			u.refuse(ctx, order.Meta, waiting(unmet))
		case u.vehicle.take(u):
			return nil
		default:
			u.refuse(ctx, order.Meta, errors.New("it waits for another update of this vehicle"))
		}
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

// unmet are the conditions that are not met now. Somebody is asked when nothing else is missing.
func (u *Updater) unmet(ctx context.Context, order *Order, set conditions.Set) []conditions.Unmet {
	readings, now := u.o.Readings()
	if u.o.Consents == nil || !set.Consent {
		return u.o.Checker.Check(set, readings, now)
	}
	u.vehicle.asking.Lock()
	defer u.vehicle.asking.Unlock()
	readings.Consent = u.o.Consents.Current(order.Meta.Campaign)
	unmet := u.o.Checker.Check(set, readings, now)
	if conditions.OnlyConsent(unmet) {
		question := conditions.Question{Campaign: order.Meta.Campaign, Version: order.Meta.Version, Size: order.Meta.Length}
		if _, err := u.o.Consents.Ask(ctx, question); err != nil {
			u.o.Log.Warn("nobody could be asked for consent", "error", err)
		}
	}
	return unmet
}

// waiting names the conditions that are not met, without their figures: those change all the time.
func waiting(unmet []conditions.Unmet) error {
	text := "it waits for"
	for _, m := range unmet {
		text += " " + m.Condition
	}
	return errors.New(text)
}
