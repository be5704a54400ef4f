package sim

import (
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// peril is something that goes wrong at a time, or the end of it.
type peril struct {
	at     time.Time
	befall func()
}

// perils draws what goes wrong in a drive.
func (w *week) perils(d time.Duration) {
	for range w.random.IntN(7) {
		at := time.Now().Add(w.between(0, d))
		lasts := w.between(time.Second, 5*time.Minute)
		if w.chance(50) {
			lasts = w.between(100*time.Millisecond, 20*time.Second)
		}
		begin, end := w.peril(w.random.IntN(16), lasts)
		w.perilous = append(w.perilous, peril{at, begin})
		if end != nil {
			w.perilous = append(w.perilous, peril{at.Add(lasts), end})
		}
	}
	slices.SortStableFunc(w.perilous, func(a, b peril) int { return a.at.Compare(b.at) })
}

// peril makes one of a kind. end is nil where nothing is left to end.
func (w *week) peril(kind int, lasts time.Duration) (begin, over func()) {
	b, f, d := w.broker, w.fleet, w.disk
	tell := func(what string, f func()) func() {
		return func() {
			w.say("%s, %v", what, lasts.Round(time.Millisecond))
			f()
		}
	}
	switch kind {
	case 0:
		resets := w.chance(50)
		return tell("dead zone", func() {
				b.set(func() { b.covered = false })
				b.each((*end).deafen)
			}), func() {
				b.set(func() { b.covered = true })
				if resets {
					b.each((*end).reset)
				}
			}
	case 1:
		return tell("broker down", func() { b.stop(false) }), func() { b.set(func() { b.down = false }) }
	case 2:
		return tell("broker down, forgets", func() { b.stop(true) }), func() { b.set(func() { b.down = false }) }
	case 3:
		return tell("broker restarts and forgets", func() {
			b.stop(true)
			b.set(func() { b.down = false })
		}), nil
	case 4:
		return tell("kicked", func() { b.each(func(c *end) { _ = c.Close() }) }), nil
	case 5:
		return tell("no PUBACKs", func() { b.set(func() { b.withheld = true }) }), func() { b.set(func() { b.withheld = false }) }
	case 6:
		return tell("half-open", func() { b.each((*end).deafen) }), nil
	case 7:
		bytes := 40 + w.random.IntN(6000)
		return tell("connections break after bytes", func() {
			b.set(func() { b.bound = bytes })
			b.each((*end).reset)
		}), func() { b.set(func() { b.bound = 0 }) }
	case 8:
		return tell("store down", func() { f.set(func() { f.down = true }) }), func() { f.set(func() { f.down = false }) }
	case 9:
		return tell("receipts lost", func() { f.set(func() { f.silent = true }) }), func() { f.set(func() { f.silent = false }) }
	case 10:
		burst := w.random.IntN(150)
		return tell("disk full", func() {
			d.set(func() { d.full = true })
			for range burst {
				w.sample(textSignal)
			}
		}), func() { d.set(func() { d.full = false }) }
	case 11:
		slow := w.between(50*time.Millisecond, 2*time.Second)
		return tell("slow disk", func() { d.set(func() { d.slow = slow }) }), func() { d.set(func() { d.slow = 20 * time.Millisecond }) }
	case 12:
		wait := w.between(100*time.Millisecond, 20*time.Second)
		return tell("SIGKILL", func() {
			w.cut()
			time.Sleep(wait)
			w.begin()
		}), nil
	case 13:
		wrong := w.between(-400*24*time.Hour, 400*24*time.Hour)
		synced := w.chance(40)
		if synced {
			wrong = w.between(-10*time.Millisecond, 10*time.Millisecond)
		}
		return tell("the clock is set", func() { w.step(wrong, synced) }), nil
	case 14:
		return tell("receiver lost", func() { w.receiver = false }), func() { w.receiver = true }
	default:
		return w.backups()
	}
}

// step sets the system's clock; synced: by somebody who is right.
func (w *week) step(wrong time.Duration, synced bool) {
	m := w.machine
	m.now()
	m.mu.Lock()
	m.setSystem(wrong)
	m.synced, m.wrong, m.claimed = synced, wrong, 20*time.Millisecond
	m.mu.Unlock()
	w.agent.times.System(m.reading())
}

// backups: the store is copied, or the copy takes its place under another generation. What the store forgot with that
// the vehicle may have released: those samples are noted, and nobody is blamed for them.
func (w *week) backups() (begin, over func()) {
	restores := w.chance(30)
	return func() {
		w.fleet.set(func() {
			m, ok := w.fleet.store.(*memStore)
			if !ok || w.backup != nil && !restores {
				return
			}
			if w.backup == nil {
				copy := m.copy()
				w.backup = &copy
				w.say("store copied")
				return
			}
			had := map[string]map[int]bool{}
			_ = m.Samples(nil, store.Query{}, func(r *store.Reading) error { // it cannot fail
				if had[r.Signal] == nil {
					had[r.Signal] = map[int]bool{}
				}
				had[r.Signal][serialOfRow(r)] = true
				return nil
			})
			losses, _ := m.Losses(nil, "")
			w.forgotten = append(w.forgotten, losses...)
			m.restore(*w.backup)
			w.backup = nil
			_ = m.Samples(nil, store.Query{}, func(r *store.Reading) error {
				delete(had[r.Signal], serialOfRow(r))
				return nil
			})
			lost := 0
			for name, serials := range had {
				if w.restored[name] == nil {
					w.restored[name] = map[int]bool{}
				}
				for serial := range serials {
					w.restored[name][serial] = true
					lost++
				}
			}
			w.wasRestored = true
			w.say("store restored, %d samples older", lost)
		})
	}, nil
}

// calm ends everything that may be going on.
func (w *week) calm() {
	for _, p := range w.perilous {
		p.befall()
	}
	w.perilous = nil
	w.broker.set(func() { w.broker.covered, w.broker.down, w.broker.withheld, w.broker.bound = true, false, false, 0 })
	w.fleet.set(func() { w.fleet.down, w.fleet.silent = false, false })
	w.disk.set(func() { w.disk.full, w.disk.slow = false, 20*time.Millisecond })
}

func (d *disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}
