package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/waybill-telematics/waybill/can/obd"
)

// polls says what is asked on the buses, for a person.
func (v *vehicle) polls() (lines []string) {
	for _, list := range v.features {
		for _, f := range list {
			if d, ok := f.(*diagnosis); ok {
				lines = append(lines, d.describe()...)
			}
		}
	}
	return lines
}

func (d *diagnosis) describe() (lines []string) {
	o := &d.settings.Options
	perSecond := 0.0
	name := map[uint32]string{}
	for _, s := range d.settings.Offered {
		name[*s.id] = strings.TrimPrefix(s.signal.Name, d.bus+".")
	}
	say := func(seconds float64, format string, args ...any) {
		if seconds > 0 {
			perSecond += 1 / seconds
		}
		lines = append(lines, d.bus+": asks "+fmt.Sprintf(format, args...))
	}
	if v := o.OBD; v != nil {
		for _, g := range v.Groups {
			var what []string
			pids := 0
			for _, p := range g.PIDs {
				before := len(what)
				for _, f := range p.Fields {
					if f.ID != 0 {
						what = append(what, fmt.Sprintf("%02X %s", p.Number, f.Field.Name))
					}
				}
				if len(what) > before {
					pids++
				}
			}
			if len(what) > 0 {
				say(g.Every.Seconds()/math.Ceil(float64(pids)/obd.MaxPIDs), "%v, mode 01, every %v: %s", v.Request, g.Every, strings.Join(what, ", "))
			}
		}
		for _, c := range []struct {
			mode string
			on   bool
		}{{"03", v.StoredID != 0 || v.FreezeID != 0}, {"07", v.PendingID != 0}, {"0A", v.PermanentID != 0}} {
			if c.on {
				say(v.Codes.Seconds(), "%v, mode %s, every %v: trouble codes", v.Request, c.mode, v.Codes)
			}
		}
		if v.FreezeID != 0 {
			say(0, "%v, mode 02, when a stored code appears: freeze frame", v.Request)
		}
		if v.VIN {
			say(0, "%v, mode 09, when the ignition goes on: VIN", v.Request)
		}
	}
	for _, u := range o.Units {
		for _, identifier := range u.Identifiers {
			var what []string
			for _, value := range identifier.Values {
				if value.ID != 0 {
					what = append(what, name[value.ID])
				}
			}
			if len(what) > 0 {
				say(identifier.Every.Seconds(), "%v, service 22 %04X, every %v: %s", u.Request, identifier.ID, identifier.Every, strings.Join(what, ", "))
			}
		}
		if c := u.DTCs; c != nil && c.ID != 0 {
			what := "trouble codes"
			if c.Snapshots {
				what += ", snapshots of new ones"
			}
			say(c.Every.Seconds(), "%v, service 19 02, status mask %02X, every %v: %s", u.Request, uint8(c.Mask), c.Every, what)
		}
		if u.VIN {
			say(0, "%v, service 22 F190, when the ignition goes on: VIN", u.Request)
		}
	}
	if len(lines) == 0 {
		return []string{d.bus + ": asks nothing: none of the signals of diagnose: is collected"}
	}
	voltage := ""
	if d.settings.Voltage != "" {
		low := o.Governor.MinVoltage
		if low == 0 {
			low = 12
		}
		voltage = fmt.Sprintf(" and %s is not below %g", d.settings.Voltage, low)
	}
	while := fmt.Sprintf("%s is above %g", d.settings.Ignition, d.settings.Above)
	if d.settings.Ignition == "" {
		while = "the ignition of power: is on"
	}
	g := o.Governor
	return append(lines, fmt.Sprintf("%s: asks %.3g requests a second, with at most %g frames a second, %d at once, and %g%% of %d bit/s; while %s%s; not for %v after another tester",
		d.bus, perSecond, g.FrameRate, g.Burst, 100*g.Share, g.BitRate, while, voltage, g.BackOff))
}
