package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/uplink/doctor"
)

// The doctor's steps on the device itself. Those of a bus and of a receiver are "can NAME" and "gps NAME".
const (
	stepUser         = "user"
	stepTime         = "time"
	stepData         = "data_dir"
	stepQueue        = "queue"
	stepCertificates = "certificates"
)

// device looks at the vehicle's computer: user, clock, disk, buses, receivers. It writes nothing that stays, sends
// nothing, and reads a serial line only while no agent does, since two readers would share its bytes.
type device struct {
	*agent
	listen time.Duration // to each bus and receiver; 0: not at all
	report func(doctor.Step)
	began  time.Time // of the step

	read  func() clock.Reading   // the system's clocks
	flush func(f *os.File) error // makes a file's content durable
	owner string                 // who has the queue open, in words; "": nobody
}

func newDevice(a *agent, listen time.Duration, report func(doctor.Step)) *device {
	return &device{agent: a, listen: listen, report: report, began: time.Now(), read: clock.Read, flush: (*os.File).Sync}
}

// examine takes every step.
func (d *device) examine(ctx context.Context) {
	d.user()
	d.time()
	if d.dataFolder() {
		d.queueFolder()
	}
	for i, bus := range d.settings.CAN {
		if bus.Replay == nil {
			d.bus(ctx, bus, i)
		}
	}
	for _, receiver := range d.settings.GPS {
		if receiver.Replay == nil {
			d.receiver(ctx, receiver)
		}
	}
	if d.settings.Uplink.Broker != nil {
		d.certificates()
	}
}

func (d *device) tell(s doctor.Step) {
	s.Took = float64(time.Since(d.began).Microseconds()) / 1000
	d.report(s)
	d.began = time.Now()
}

func (d *device) ok(step, format string, args ...any) {
	d.tell(doctor.Step{Name: step, Result: doctor.OK, Found: fmt.Sprintf(format, args...)})
}

func (d *device) skip(step, format string, args ...any) {
	d.tell(doctor.Step{Name: step, Result: doctor.Skipped, Found: fmt.Sprintf(format, args...)})
}

// fail tells of what keeps the agent from its work, by the problem's name in docs/DOCTOR.md.
func (d *device) fail(step, problem, wrong, remedy string) {
	d.tell(doctor.Step{Name: step, Result: doctor.Failed, Problem: problem, Wrong: wrong, Remedy: remedy})
}

// warn tells of what the agent can live with.
func (d *device) warn(step, problem, wrong, remedy string) {
	d.tell(doctor.Step{Name: step, Result: doctor.Warned, Problem: problem, Wrong: wrong, Remedy: remedy})
}

// Capabilities (capabilities(7)) that make a difference.
const (
	capNetAdmin = 12 // brings interfaces up, and forces the size of a receive buffer
	capNetRaw   = 13 // binds a socket to an interface before Linux 5.7; reading CAN does not need it
)

// user says as whom all of this is tried.
func (d *device) user() {
	name := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	text := "as " + name + "; reading CAN needs no capability"
	if capable(capNetAdmin) {
		text += ", CAP_NET_ADMIN is there for bringing interfaces up"
	}
	if os.Geteuid() == 0 {
		text += "; root may what the agent's own user may not: run the doctor as that user, too (sudo -u waybill)"
	}
	d.ok(stepUser, "%s", text)
}

// capable says whether this thread has a capability in effect; proc(5), CapEff.
func capable(number int) bool {
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return os.Geteuid() == 0
	}
	for line := range strings.Lines(string(text)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && mask>>number&1 == 1
		}
	}
	return false
}

// Problems of the time.
const (
	problemClockNotSet         = "clock-not-set"
	problemClockFuture         = "clock-in-the-future"
	problemClockUnsynced       = "clock-not-synchronised"
	clockEarliest        int64 = 1_735_689_600 // 2025-01-01, Unix s: past wherever this software runs
)

// time says whether samples get the right time: from the system's clock, or from a receiver.
func (d *device) time() {
	if d.settings.LogTime {
		d.skip(stepTime, "a recording's stamps are the clock")
		return
	}
	r := d.read()
	now, reference := time.Unix(0, r.Unix), d.times.Keeper().Reference()
	if first := time.Unix(clockEarliest, 0); reference.Before(first) {
		reference = first
	}
	byGPS := ""
	for _, g := range d.settings.GPS {
		if !g.Clock.Ignored {
			byGPS = g.Name
		}
	}
	wrong := fmt.Sprintf("the system's clock says %s", now.UTC().Format(time.DateTime+" UTC"))
	remedy := "set it: by NTP (systemd-timesyncd, chrony), by GPS (gps: in the configuration), or by hand with date -s; a " +
		"clock that is wrong after each start needs a new battery"
	switch {
	case now.Before(reference) && byGPS != "":
		d.warn(stepTime, problemClockNotSet, fmt.Sprintf("%s, and it is later than %s; samples get their time when %s has a "+
			"fix", wrong, reference.UTC().Format(time.DateOnly), byGPS), remedy)
	case now.Before(reference):
		d.fail(stepTime, problemClockNotSet, fmt.Sprintf("%s, and it is later than %s: nobody knows when samples were taken",
			wrong, reference.UTC().Format(time.DateOnly)), remedy)
	case now.After(reference.AddDate(25, 0, 0)):
		d.fail(stepTime, problemClockFuture, wrong+", far in the future", remedy)
	case !r.Synced && byGPS == "":
		d.warn(stepTime, problemClockUnsynced, wrong+", and nobody keeps it right: samples will be as wrong as it is",
			"run an NTP client (systemd-timesyncd, chrony), or give the agent a receiver")
	case !r.Synced:
		d.ok(stepTime, "%s; not synchronised, %s gives the time", now.UTC().Format(time.DateTime+" UTC"), byGPS)
	default:
		d.ok(stepTime, "%s, synchronised, good to %v", now.UTC().Format(time.DateTime+" UTC"),
			time.Duration(r.MaxError).Round(time.Millisecond))
	}
}
