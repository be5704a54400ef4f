package fleetwise

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/waybill-telematics/waybill/can/obd"
)

// Options say what FleetWise's files do not.
type Options struct {
	Device     string            // its id
	Ignition   string            // full name of a signal that tells of the ignition; empty: nothing is asked on the bus
	Interfaces map[string]string // Linux's names by FleetWise's ids; before those of the files
}

// Result is a configuration with its DBC files.
type Result struct {
	Config   string            // YAML
	DBC      map[string]string // by file name
	Findings []Finding
}

// conversion is one run of Convert.
type conversion struct {
	*Source
	o       Options
	buses   map[string]*bus
	names   map[string]string // full names of ours by FleetWise's
	asleep  map[string]bool   // of those, what would be asked for
	collect map[string]*collected
	rules   []rule
}

// bus is one of Linux's interfaces.
type bus struct {
	name     string
	signals  []CANSignal
	messages []message
	pids     []string // names of ours
	every    int      // s, between requests for them
	codes    int      // s, between requests for trouble codes; 0: none
	record   []string
}

type collected struct {
	from     string // FleetWise's name
	interval uint32 // ms
}

type rule struct {
	name string
	Bounds
}

// Convert makes the configuration of what was read.
func (s *Source) Convert(o Options) Result {
	c := &conversion{Source: s, o: o, buses: map[string]*bus{}, names: map[string]string{}, asleep: map[string]bool{},
		collect: map[string]*collected{}}
	for _, signal := range s.CAN {
		b := c.bus(signal.Interface)
		b.signals = append(b.signals, signal)
	}
	result := Result{DBC: map[string]string{}}
	for _, b := range c.sorted() {
		b.messages = s.messages(b.signals)
		for _, m := range b.messages {
			for _, signal := range m.signals {
				c.known(signal.Name, b.name+"."+m.name+"."+signal.name)
				if signal.Length == 64 && !signal.Signed && !signal.Float {
					s.note("%s: FleetWise reads values of 64 bits without sign from 2^63 on as negative; here they stay what they are",
						signal.Name)
				}
			}
		}
		if len(b.messages) > 0 {
			result.DBC[b.name+".dbc"] = dbc(b.messages)
		}
	}
	for _, signal := range s.OBD {
		c.pid(signal)
	}
	used := map[string]bool{}
	for i := range s.Schemes {
		c.scheme(&s.Schemes[i], used)
	}
	c.troubleCodes()
	for _, b := range c.sorted() {
		if c.o.Ignition == "" && (len(b.pids) > 0 || b.codes > 0) {
			s.lost("bus %s: nothing is asked for by OBD until it is known whether the ignition is on; give --ignition SIGNAL, "+
				"or fill in and uncomment diagnose: and what of it is collected", b.name)
		}
	}
	result.Config, result.Findings = c.yaml(), s.Findings
	return result
}

// known notes the name of a signal; of two that share one the first counts.
func (c *conversion) known(theirs, ours string) {
	if before, ok := c.names[theirs]; ok {
		c.lost("signal %s is there twice: %s is collected, %s is not", theirs, before, ours)
		return
	}
	c.names[theirs] = ours
}

// bus finds the interface that FleetWise names by an id.
func (c *conversion) bus(id string) *bus {
	name := cmp.Or(c.o.Interfaces[id], c.Interfaces[id].Name)
	if name == "" {
		name = id
		if _, err := strconv.Atoi(id); err == nil {
			name = "can" + id
		}
	}
	if clean := identifier(name, "can0"); clean != name || len(clean) > 15 {
		name = clean[:min(len(clean), 15)]
	}
	if c.o.Interfaces[id] == "" && c.Interfaces[id].Name == "" && c.buses[name] == nil {
		c.note("no file names the Linux interface of network %q: %s is taken; --interface %s=NAME says another", id, name, id)
	}
	if c.buses[name] == nil {
		c.buses[name] = &bus{name: name}
	}
	b := c.buses[name]
	if i := c.Interfaces[id]; i.OBD {
		b.every, b.codes = max(b.every, i.EveryS), max(b.codes, i.CodesS)
	}
	return b
}

func (c *conversion) sorted() []*bus {
	return slices.SortedFunc(maps.Values(c.buses), func(a, b *bus) int { return cmp.Compare(a.name, b.name) })
}

// pid finds the value of ours that an OBD signal is.
func (c *conversion) pid(o OBDSignal) {
	b := c.bus(o.Interface)
	start, bits := 8*o.StartByte, 8*o.ByteLength
	if o.ByteLength == 1 && o.Mask != 0 && o.Mask < 8 && o.Shift+o.Mask <= 8 {
		start, bits = start+8-o.Shift-o.Mask, o.Mask
	}
	known, ok := obd.Lookup(uint8(o.PID))
	if ok && o.Mode == 1 && o.PID <= 0xFF {
		for _, f := range known.Fields {
			if uint32(f.Start) != start || uint32(f.Bits) != bits || f.Signed != o.Signed || f.Offset != o.Offset ||
				!near(f.Scale, o.Scaling, 1e-3) {
				continue
			}
			if !near(f.Scale, o.Scaling, 1e-9) {
				c.note("signal %s: its factor %g is a rounded one; %g is SAE J1979's", o.Name, o.Scaling, f.Scale)
			}
			if !slices.Contains(b.pids, f.Name) {
				b.pids = append(b.pids, f.Name)
			}
			c.known(o.Name, b.name+".OBD."+f.Name)
			c.asleep[o.Name] = c.o.Ignition == ""
			return
		}
	}
	c.lost("signal %s: mode %d, PID %#02x, byte %d, %d bits × %g + %g is no value of SAE J1979 that is known here",
		o.Name, o.Mode, o.PID, o.StartByte, bits, o.Scaling, o.Offset)
}

// troubleCodes asks for them where a campaign wants them.
func (c *conversion) troubleCodes() {
	wanted, asked := slices.ContainsFunc(c.Schemes, func(s Scheme) bool { return s.Codes }), false
	for _, b := range c.buses {
		if b.codes == 0 || !wanted {
			b.codes = 0
			continue
		}
		asked = true
		c.collect[b.name+".OBD.*Codes"] = &collected{from: activeCodes}
	}
	if c.asleep[activeCodes] = c.o.Ignition == ""; wanted && !asked {
		c.lost("active trouble codes are collected, and no OBD interface is described that asks for them")
	}
}

// activeCodes stands where a signal's name would.
const activeCodes = "active trouble codes"

func near(a, b, share float64) bool { return math.Abs(a-b) <= share*math.Abs(a) }

// scheme adds what a campaign collects.
func (c *conversion) scheme(s *Scheme, used map[string]bool) {
	s.Name = cmp.Or(s.Name, "campaign")
	where := "campaign " + s.Name
	for _, one := range s.Signals {
		ours, ok := c.names[one.Name]
		if one.ConditionOnly {
			continue
		}
		if !ok {
			c.lost("%s: signal %s is not in the decoder manifest, or did not carry over", where, one.Name)
			continue
		}
		interval := one.MinPeriodMS
		if one.Samples == 1 {
			interval = max(interval, s.PeriodMS)
		}
		if before := c.collect[ours]; before == nil {
			c.collect[ours] = &collected{one.Name, interval}
		} else {
			before.interval = min(before.interval, interval)
		}
	}
	for _, r := range s.Raw {
		id := r.Message &^ extendedBit
		switch {
		case id > maxExtended:
			c.lost("%s: there is no CAN identifier %#x", where, r.Message)
			continue
		case r.MinPeriodMS > 0:
			c.lost("%s: frames %#x are recorded all, not one each %d ms", where, id, r.MinPeriodMS)
		}
		text := fmt.Sprintf("%03X", id)
		if id > maxStandard || r.Message&extendedBit != 0 {
			text = fmt.Sprintf("%08X", id)
		}
		if b := c.bus(r.Interface); !slices.Contains(b.record, text) {
			b.record = append(b.record, text)
		}
	}
	if s.PeriodMS > 0 {
		c.note("%s: what is collected is not sent every %d ms but as queue: and uplink: say", where, s.PeriodMS)
	}
	if s.Condition != nil {
		c.condition(s, where, used)
	}
	if s.Priority != 0 {
		c.lost("%s: its priority %d has no counterpart", where, s.Priority)
	}
	if s.Probability != 0 && s.Probability != 1 {
		c.lost("%s: it is for %g of the vehicles or triggers; here it is for all", where, s.Probability)
	}
	if s.Expires {
		c.lost("%s: it ends at a time; here it ends when it is taken out of the configuration", where)
	}
}

// condition makes a rule of a campaign's condition, where one can be.
func (c *conversion) condition(s *Scheme, where string, used map[string]bool) {
	c.note("%s: its signals are collected all the time, not only around its condition", where)
	b, ok := s.Condition.bounds()
	if !ok {
		c.lost("%s: its condition is more than a signal above or below a number, and raises no event", where)
		return
	}
	ours, ok := c.names[b.Signal]
	if !ok {
		c.lost("%s: the signal of its condition, %s, is not in the decoder manifest, or did not carry over", where, b.Signal)
		return
	}
	if c.asleep[b.Signal] {
		c.lost("%s: its condition is on %s, which is not asked for", where, b.Signal)
		return
	}
	if b.Above != nil && b.Below != nil && *b.Above < *b.Below {
		c.lost("%s: its condition is always true", where)
		return
	}
	if b.Inclusive {
		c.note("%s: the rule is not met by the bound itself", where)
	}
	if !s.RisingEdge || s.IntervalMS > 0 {
		c.note("%s: the rule raises an event when its condition becomes true, and not again each %d ms while it is",
			where, s.IntervalMS)
	}
	if c.collect[ours] == nil {
		c.collect[ours] = &collected{b.Signal, 0}
	}
	b.Signal = ours
	c.rules = append(c.rules, rule{unique(identifier(s.Name, "campaign"), used), b})
}
