// Package alarm holds the conditions that a person should know of. One definition serves all three ways to see an
// alarm: a log line, a field of the status message, and a sample in the event lane.
package alarm

import (
	"log/slog"
	"sort"
	"sync"
)

// Alarm is one condition, standing or gone.
type Alarm struct {
	Name   string // stable, lower case with dots: queue.disk, uplink.receipt
	Text   string // what is wrong, the likely cause and the remedy
	Since  int64  // CLOCK_BOOTTIME ns of the raise that stands
	Times  uint64 // raises since the start
	Raised bool
}

// Board keeps the alarms. It is safe for use from several goroutines.
type Board struct {
	now    func() int64
	log    *slog.Logger
	mu     sync.Mutex // guards what follows
	alarms map[string]*Alarm
	watch  []func(Alarm)
}

// NewBoard makes an empty board; now gives CLOCK_BOOTTIME in ns.
func NewBoard(now func() int64, log *slog.Logger) *Board {
	return &Board{now: now, log: log, alarms: map[string]*Alarm{}}
}

// Watch adds a function that is called at every change, on the goroutine that made it. It must not block.
func (b *Board) Watch(f func(Alarm)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watch = append(b.watch, f)
}

// Raise sets an alarm. One that stands already only gets the new text.
func (b *Board) Raise(name, text string) {
	b.mu.Lock()
	a := b.alarms[name]
	if a == nil {
		a = &Alarm{Name: name}
		b.alarms[name] = a
	}
	standing := a.Raised
	a.Text = text
	if standing {
		b.mu.Unlock()
		return
	}
	a.Raised, a.Since = true, b.now()
	a.Times++
	seen, watch := *a, b.watch
	b.mu.Unlock()
	b.log.Error("alarm raised", "alarm", name, "text", text)
	for _, f := range watch {
		f(seen)
	}
}

// Clear takes an alarm down; one that does not stand stays silent.
func (b *Board) Clear(name string) {
	b.mu.Lock()
	a := b.alarms[name]
	if a == nil || !a.Raised {
		b.mu.Unlock()
		return
	}
	a.Raised = false
	seen, watch := *a, b.watch
	b.mu.Unlock()
	b.log.Info("alarm cleared", "alarm", name)
	for _, f := range watch {
		f(seen)
	}
}

// Standing lists the raised alarms by name.
func (b *Board) Standing() []Alarm {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Alarm
	for _, a := range b.alarms {
		if a.Raised {
			list = append(list, *a)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}
