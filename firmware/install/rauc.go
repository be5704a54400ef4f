package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// RAUC's names on the bus (RAUC 1.5 and later, rauc.readthedocs.io "D-Bus API").
const (
	raucService   = "de.pengutronix.rauc"
	raucInterface = "de.pengutronix.rauc.Installer"
	raucPath      = dbus.ObjectPath("/")
	raucIdle      = "idle" // of the property Operation
)

// RAUCOptions say where RAUC is. Zero values are the defaults in brackets.
type RAUCOptions struct {
	Address string        // of the bus [DBUS_SYSTEM_BUS_ADDRESS, else unix:path=/run/dbus/system_bus_socket]
	Timeout time.Duration // of an installation [1 h]
	Call    time.Duration // of any other call: a boot loader's tool may be slow [30 s]
	Poll    time.Duration // how often it is asked whether it is still at it [10 s]
	Logger  *slog.Logger
}

// RAUC installs a bundle through RAUC's service. The bundle's own signature is RAUC's business; the image has to lie where RAUC
// may read it by the path by which it was opened. With `activate-installed=true`, RAUC's default, Install activates as well.
type RAUC struct{ o RAUCOptions }

// NewRAUC makes an installer; nothing is connected before it is used.
func NewRAUC(o RAUCOptions) *RAUC {
	if o.Address == "" {
		o.Address = os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	}
	if o.Address == "" {
		o.Address = "unix:path=/run/dbus/system_bus_socket"
	}
	o.Timeout, o.Call, o.Poll = orDefault(o.Timeout, time.Hour), orDefault(o.Call, 30*time.Second), orDefault(o.Poll, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &RAUC{o}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Name is "rauc".
func (r *RAUC) Name() string { return "rauc" }

// Install gives RAUC the bundle's path and follows it to its end.
func (r *RAUC) Install(caller context.Context, image *os.File, progress Progress) error {
	path, err := nameOf(image)
	if err != nil {
		return fmt.Errorf("rauc: %w", err)
	}
	ctx, cancel := context.WithTimeout(caller, r.o.Timeout)
	defer cancel()
	b, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	signals, err := b.watch(ctx)
	if err != nil {
		return err
	}
	doing := "rauc: waiting for another installation"
	err = b.idle(ctx, r.o.Poll)
	if err == nil {
		doing = "rauc: installing " + path
		var from dbus.Sequence
		if from, err = b.send(ctx, "InstallBundle", []any{path, map[string]dbus.Variant{}}); err == nil {
			err = r.follow(ctx, b, signals, from, progress)
		}
	}
	return ended(ctx, caller, r.o.Timeout, doing, err)
}

// follow waits for the signal Completed and passes on what Progress says. Signals from before the answer to InstallBundle are of
// the installation that was waited for.
func (r *RAUC) follow(ctx context.Context, b *raucBus, signals <-chan *dbus.Signal, from dbus.Sequence, progress Progress) error {
	poll := time.NewTicker(r.o.Poll)
	defer poll.Stop()
	idle := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
			// Completed comes before Operation is idle, but a signal may be lost with what carries it.
			operation, err := b.text(ctx, "Operation")
			if err != nil {
				return err
			}
			if operation != raucIdle {
				idle = 0
			} else if idle++; idle > 1 {
				return fmt.Errorf("rauc: %w: it stopped without saying how it ended", ErrUnreachable)
			}
		case s, ok := <-signals:
			if !ok {
				return fmt.Errorf("rauc: %w: the bus closed the connection", ErrUnreachable)
			}
			if s.Sequence < from {
				continue
			}
			switch s.Name {
			case "org.freedesktop.DBus.NameOwnerChanged":
				if len(s.Body) == 3 && s.Body[0] == raucService && s.Body[1] != "" { // it had an owner: not the start of one
					return fmt.Errorf("rauc: %w: its service ended in the middle", ErrUnreachable)
				}
			case raucInterface + ".Completed":
				if len(s.Body) == 1 && s.Body[0] == int32(0) {
					return nil
				}
				why, err := b.text(ctx, "LastError")
				if err != nil || why == "" {
					why = "it does not say why"
				}
				return fmt.Errorf("rauc: %w: %s", ErrFailed, why)
			case "org.freedesktop.DBus.Properties.PropertiesChanged":
				if percent, text, ok := raucProgress(s.Body); ok && progress != nil {
					progress(percent, text)
				}
			}
		}
	}
}

// raucProgress reads the property Progress, (percent, text, depth), out of a change of properties.
func raucProgress(body []any) (percent int, text string, ok bool) {
	if len(body) < 2 || body[0] != raucInterface {
		return 0, "", false
	}
	changed, _ := body[1].(map[string]dbus.Variant)
	fields, _ := changed["Progress"].Value().([]any)
	if len(fields) != 3 {
		return 0, "", false
	}
	n, isNumber := fields[0].(int32)
	text, isText := fields[1].(string)
	return int(min(max(n, 0), 100)), clean(text), isNumber && isText
}

// Activate marks the slot that does not run as the one to start next.
func (r *RAUC) Activate(ctx context.Context) error { return r.mark(ctx, "active", "other") }

// Rearm marks the slot that runs as the one to start next, which gives it its attempts anew.
func (r *RAUC) Rearm(ctx context.Context) error { return r.mark(ctx, "active", "booted") }

// MarkGood marks the slot that runs.
func (r *RAUC) MarkGood(ctx context.Context) error { return r.mark(ctx, "good", "booted") }

// MarkBad marks the slot that runs.
func (r *RAUC) MarkBad(ctx context.Context) error { return r.mark(ctx, "bad", "booted") }

func (r *RAUC) mark(ctx context.Context, state, slot string) error {
	b, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	var name, message string
	if err := b.call(ctx, "Mark", []any{state, slot}, &name, &message); err != nil {
		if operation, askErr := b.text(ctx, "Operation"); askErr == nil && operation != raucIdle && errors.Is(err, ErrFailed) {
			return fmt.Errorf("rauc: %w: it is %s: %w", ErrBusy, operation, err)
		}
		return err
	}
	r.o.Logger.Info("marked", "installer", "rauc", "slot", clean(name), "state", state, "text", clean(message))
	return nil
}

// Status asks for all that RAUC tells. While it is busy that is no more than this.
func (r *RAUC) Status(ctx context.Context) (Status, error) {
	b, err := r.connect(ctx)
	if err != nil {
		return Status{}, err
	}
	defer b.close()
	var s Status
	operation, err := b.text(ctx, "Operation")
	if err != nil {
		return Status{}, err
	}
	s.Busy = operation != raucIdle
	if s.LastError, err = b.text(ctx, "LastError"); err != nil {
		return Status{}, err
	}
	if s.Busy { // it answers nothing else then
		return s, nil
	}
	var slots []struct {
		Name   string
		Status map[string]dbus.Variant
	}
	if err := b.call(ctx, "GetSlotStatus", nil, &slots); err != nil {
		return Status{}, err
	}
	for _, slot := range slots[:min(len(slots), maxSlots)] {
		text := func(key string) string {
			v, _ := slot.Status[key].Value().(string)
			return clean(v)
		}
		// A slot without a name for the boot loader is a part of another, and in no state of its own.
		one := Slot{Name: clean(slot.Name), Booted: text("state") == "booted", Version: text("bundle.version"), Hash: text("sha256")}
		switch text("boot-status") {
		case "good":
			one.State = Good
		case "bad":
			one.State = Bad
		}
		if one.Booted {
			s.Booted, s.State = one.Name, one.State
		}
		s.Slots = append(s.Slots, one)
	}
	if err := b.call(ctx, "GetPrimary", nil, &s.Primary); err != nil && !errors.Is(err, ErrFailed) { // some boot loaders cannot tell
		return Status{}, err
	}
	s.Primary = clean(s.Primary)
	return s, nil
}

// raucBus is one connection to the bus, for one operation: a bus or a service that was restarted needs no care that way.
type raucBus struct {
	conn   *dbus.Conn
	object dbus.BusObject
	limit  time.Duration // of a call
	cancel context.CancelFunc
}

func (r *RAUC) connect(caller context.Context) (*raucBus, error) {
	ctx, cancel := context.WithCancel(caller)
	// The connection ends with its context, and with it whatever waits in it, the greeting too.
	late := time.AfterFunc(r.o.Call, cancel)
	conn, err := dbus.Connect(r.o.Address, dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	timely := late.Stop()
	switch {
	case timely && err == nil:
		return &raucBus{conn, conn.Object(raucService, raucPath), r.o.Call, cancel}, nil
	case err == nil:
		_ = conn.Close()
	}
	cancel()
	switch {
	case caller.Err() != nil:
		err = caller.Err()
	case !timely:
		err = fmt.Errorf("%w, more than %s", ErrTimeout, r.o.Call)
	}
	return nil, fmt.Errorf("rauc: %w: the bus at %s: %w", ErrUnreachable, r.o.Address, err)
}

func (b *raucBus) close() {
	_ = b.conn.Close() // nothing is left to be sent
	b.cancel()
}

// watch asks for RAUC's signals and for its going away.
func (b *raucBus) watch(ctx context.Context) (<-chan *dbus.Signal, error) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	signals := make(chan *dbus.Signal, 16)
	b.conn.Signal(signals)
	err := b.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(raucService), dbus.WithMatchObjectPath(raucPath))
	if err == nil {
		err = b.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"),
			dbus.WithMatchArg(0, raucService))
	}
	if err != nil && !errors.Is(err, ErrUnreachable) {
		err = fmt.Errorf("rauc: %w: %w", ErrUnreachable, err)
	}
	return signals, err
}

// idle waits until RAUC does nothing.
func (b *raucBus) idle(ctx context.Context, poll time.Duration) error {
	doing := "" // what it was at when it was last asked
	for {
		operation, err := b.text(ctx, "Operation")
		if err == nil && operation == raucIdle {
			return nil
		}
		if err == nil {
			doing = operation
			err = wait(ctx, poll)
		}
		if err != nil && doing != "" && over(ctx) {
			return fmt.Errorf("rauc: %w: it is %s: %w", ErrBusy, doing, err)
		}
		if err != nil {
			return err
		}
	}
}

func (b *raucBus) call(ctx context.Context, method string, args []any, results ...any) error {
	_, err := b.send(ctx, method, args, results...)
	return err
}

// send is call, and tells where among the signals the answer came.
func (b *raucBus) send(ctx context.Context, method string, args []any, results ...any) (dbus.Sequence, error) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	call := b.object.CallWithContext(ctx, raucInterface+"."+method, 0, args...)
	return call.ResponseSequence, raucError(method, call.Store(results...), ctx.Err())
}

// text is a property that is a text.
func (b *raucBus) text(ctx context.Context, property string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	var v dbus.Variant
	err := b.object.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, raucInterface, property).Store(&v)
	text, ok := v.Value().(string)
	if err == nil && !ok {
		err = fmt.Errorf("%s is no text", property)
	}
	return clean(text), raucError(property, err, ctx.Err())
}

// raucError tells an answer of RAUC from a way to it that is closed.
func raucError(what string, err, over error) error {
	var reply dbus.Error
	switch {
	case err == nil:
		return nil
	case over != nil:
		return fmt.Errorf("rauc: %s: %w: %w: %w", what, ErrUnreachable, ErrTimeout, over)
	case !errors.As(err, &reply):
		return fmt.Errorf("rauc: %s: %w: %w", what, ErrUnreachable, err)
	case strings.HasPrefix(reply.Name, "org.freedesktop.DBus.Error.") && reply.Name != "org.freedesktop.DBus.Error.Failed":
		// ServiceUnknown, NoReply, AccessDenied, UnknownMethod, Spawn…
		return fmt.Errorf("rauc: %s: %w: %s (%s); is RAUC's service installed, and may this user call it?", what, ErrUnreachable, clean(reply.Error()), reply.Name)
	}
	return fmt.Errorf("rauc: %s: %w: %s", what, ErrFailed, clean(reply.Error()))
}
