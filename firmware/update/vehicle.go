package update

import (
	"context"
	"errors"
	"sync"
)

// vehicle is what the Updaters of one vehicle share.
type vehicle struct {
	asking sync.Mutex // held for calls of Resolve, Consents and Report

	mu   sync.Mutex
	turn *Updater // whose update is installed, started and judged now; guarded by mu
}

// take says whether it is u's turn, from now on or already.
func (v *vehicle) take(u *Updater) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.turn == nil {
		v.turn = u
	}
	return v.turn == u
}

// leave ends u's turn, if it is.
func (v *vehicle) leave(u *Updater) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.turn == u {
		v.turn = nil
	}
}

// Run lets the Updaters of one vehicle work beside each other, one a unit, until ctx ends or one of them wants a
// restart (ErrRestart): the others have ended then. They fetch and wait at the same time, but one after the other
// installs, has its image started and judges it: what fails meanwhile is so known to be of that update. Where several
// were on trial when the vehicle was switched off, those named first are judged first. Resolve, Consents and Report are
// called by one at a time, and may be the same for all.
func Run(ctx context.Context, units ...*Updater) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shared := &vehicle{}
	for _, u := range units {
		u.vehicle = shared
		if st, err := u.place.status(); err == nil && st.trial != nil {
			shared.take(u)
		}
	}
	ends := make(chan error)
	for _, u := range units {
		go func() {
			err := u.run(ctx)
			if ctx.Err() == nil && !errors.Is(err, ErrRestart) { // the others go on; before a restart none has its turn
				shared.leave(u)
				u.o.Log.Error("updates of a unit are not followed any more", "ecu", u.o.ECU, "error", err)
			}
			ends <- err
		}()
	}
	var first error
	for range units {
		err := <-ends
		if first == nil || errors.Is(err, ErrRestart) {
			first = err
		}
		if errors.Is(err, ErrRestart) {
			cancel()
		}
	}
	return first
}
