package main

import (
	"fmt"
	"math"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/diagnose"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	"github.com/waybill-telematics/waybill/can/uds"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func (c *diagnoseChecker) unit(r *unitConfig, i int) {
	u := diagnose.Unit{Name: r.Name, VIN: r.VIN}
	if err := telemetrypb.CheckName("name", r.Name); err != nil {
		c.bad(err.Error()+"; it becomes part of signal names", "uds", i, "name")
	} else if r.Name == "OBD" {
		c.bad("OBD is what the values of obd: are called; choose another name", "uds", i, "name")
	}
	u.Request = c.address(r.Request, "uds", i, "request")
	switch {
	case u.Request == obd.Functional().Send || u.Request == obd.Functional29().Send:
		c.bad("all units listen there; name the identifier of one", "uds", i, "request")
	case r.Response != nil:
		if u.Response = c.address(r.Response, "uds", i, "response"); u.Response == u.Request && u.Request.ID != 0 {
			c.bad("must not be the request's", "uds", i, "response")
		}
	case u.Request.ID >= 0x7E0 && u.Request.ID <= 0x7E7:
		u.Response = isotp.Address{ID: u.Request.ID + 8}
	case u.Request.Extended && u.Request.ID&^0xFF00 == 0x18DA00F1:
		u.Response = isotp.Address{ID: 0x18DAF100 | u.Request.ID>>8&0xFF, Extended: true}
	case u.Request.ID != 0:
		c.bad("want the identifier that the unit answers with", "uds", i, "response")
	}
	for _, other := range c.into.Options.Units {
		if other.Request == u.Request && u.Request.ID != 0 {
			c.bad(fmt.Sprintf("unit %s is asked there already", other.Name), "uds", i, "request")
		}
	}
	if len(r.Identifiers) == 0 && r.DTCs == nil && !r.VIN {
		c.bad("asks nothing; name identifiers:, dtcs: or vin:", "uds", i)
	}
	for j := range r.Identifiers {
		u.Identifiers = append(u.Identifiers, c.identifier(&r.Identifiers[j], r.Name, "uds", i, "identifiers", j))
	}
	if d := r.DTCs; d != nil {
		u.DTCs = &diagnose.DTCs{Every: c.every(d.Every, 10*time.Minute, "uds", i, "dtcs", "every"), Mask: uds.ConfirmedDTC, Snapshots: d.Snapshots}
		if d.StatusMask != nil {
			if *d.StatusMask < 1 || *d.StatusMask > 0xFF {
				c.bad(fmt.Sprintf("want the bits of the status byte that count, 0x01 to 0xFF, got %#x", *d.StatusMask), "uds", i, "dtcs", "status_mask")
			}
			u.DTCs.Mask = uds.Status(*d.StatusMask)
		}
		c.offer(&telemetrypb.Signal{Name: r.Name + ".DTCs", Message: r.Name + ".DTCs", Type: telemetrypb.ValueType_VALUE_TYPE_STRING,
			Comment: "ISO 14229-1 service 19: JSON, codes with status and snapshots"}, &u.DTCs.ID, "uds", i, "dtcs")
	}
	c.into.Options.Units = append(c.into.Options.Units, u)
}

// address takes an identifier beyond 11 bits for one of 29.
func (c *diagnoseChecker) address(id *uint32, path ...any) isotp.Address {
	if id == nil || *id == 0 || *id > can.MaxExtendedID {
		c.bad("want an identifier, such as 0x7E4, or 0x18DA40F1 of 29 bits", path...)
		return isotp.Address{}
	}
	return isotp.Address{ID: *id, Extended: *id > can.MaxStandardID}
}

func (c *diagnoseChecker) identifier(r *identifierConfig, unit string, path ...any) diagnose.Identifier {
	at := func(more ...any) []any { return append(append([]any{}, path...), more...) }
	o := diagnose.Identifier{Every: c.every(r.Every, time.Minute, at("every")...), Values: make([]diagnose.Value, len(r.Values))}
	if r.ID == nil || *r.ID > math.MaxUint16 {
		c.bad("want a data identifier, 0x0000 to 0xFFFF", at("id")...)
	} else {
		o.ID = uint16(*r.ID)
	}
	if len(r.Values) == 0 {
		c.bad("want at least one value, such as - {name: voltage, start: 0, bits: 16, scale: 0.1, unit: V}", at("values")...)
	}
	for k := range r.Values {
		c.value(&r.Values[k], &o.Values[k], unit, o.ID, at("values", k)...)
	}
	return o
}

var valueTypes = map[string]diagnose.Type{"uint": diagnose.Uint, "int": diagnose.Int, "float": diagnose.Float, "ascii": diagnose.ASCII, "hex": diagnose.Hex}

// maxValueBits bounds where a value may end: in the longest message.
const maxValueBits = 8 * isotp.DefaultMaxMessage

func (c *diagnoseChecker) value(r *valueConfig, v *diagnose.Value, unit string, id uint16, path ...any) {
	at := func(key string) []any { return append(append([]any{}, path...), key) }
	if err := telemetrypb.CheckName("name", r.Name); err != nil {
		c.bad(err.Error()+"; it becomes the last part of the signal's name", at("name")...)
	} else if r.Name == "DTCs" {
		c.bad("DTCs is what the trouble codes are called; choose another name", at("name")...)
	}
	v.Start, v.Type = r.Start, valueTypes[c.oneOf(r.Type, []string{"uint", "int", "float", "ascii", "hex"}, append(append([]any{}, c.at...), at("type")...)...)]
	if r.Bits != nil {
		v.Bits = *r.Bits
	}
	words := v.Type == diagnose.ASCII || v.Type == diagnose.Hex
	if v.Type == diagnose.Float && r.Bits == nil {
		v.Bits = 32
	}
	switch {
	case v.Start < 0 || v.Start >= maxValueBits:
		c.bad(fmt.Sprintf("must be between 0 and %d; 0 is the highest bit of the first byte behind the identifier", maxValueBits-1), at("start")...)
	case words && v.Start%8 != 0:
		c.bad(fmt.Sprintf("must be a multiple of 8 bits for %s, got %d", r.Type, v.Start), at("start")...)
	case words && (v.Bits%8 != 0 || v.Bits < 0 || v.Bits > maxValueBits):
		c.bad(fmt.Sprintf("must be a multiple of 8 bits for %s, or left out to take all that comes; got %d", r.Type, v.Bits), at("bits")...)
	case v.Type == diagnose.Float && v.Bits != 32 && v.Bits != 64:
		c.bad(fmt.Sprintf("must be 32 or 64 for float, got %d", v.Bits), at("bits")...)
	case !words && (v.Bits < 1 || v.Bits > 64):
		c.bad(fmt.Sprintf("want how many bits the value has, 1 to 64, got %d", v.Bits), at("bits")...)
	}
	s := &telemetrypb.Signal{Name: unit + "." + r.Name, Message: fmt.Sprintf("%s.%04X", unit, id), Unit: r.Unit, Scale: 1, Offset: r.Offset,
		Comment: fmt.Sprintf("ISO 14229-1 data identifier %04X", id)}
	if r.Scale != nil {
		s.Scale = *r.Scale
	}
	if s.Scale == 0 || math.IsNaN(s.Scale) || math.IsInf(s.Scale, 0) {
		c.bad("must be a number other than 0", at("scale")...)
	}
	if words && (r.Scale != nil || r.Offset != 0) {
		c.bad("a text has no scale and no offset", at("scale")...)
	}
	switch v.Type {
	case diagnose.Uint:
		s.Type = telemetrypb.ValueType_VALUE_TYPE_UINT
	case diagnose.Int:
		s.Type = telemetrypb.ValueType_VALUE_TYPE_INT
	case diagnose.Float:
		s.Type = telemetrypb.ValueType_VALUE_TYPE_FLOAT
	default:
		s.Type = telemetrypb.ValueType_VALUE_TYPE_STRING
		s.Scale = 0
	}
	c.offer(s, &v.ID, at("name")...)
}
