package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/can/diagnose"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func (c *diagnoseChecker) obd(r *obdConfig) {
	o := &diagnose.OBD{Request: c.addressing(r.Addressing), VIN: r.VIN}
	c.into.Options.OBD = o
	if len(r.PIDs) == 0 && r.Codes == "" && !r.VIN && !r.FreezeFrame {
		c.bad("asks nothing; name pids:, codes:, vin: or freeze_frame:", "obd")
	}
	for i, group := range r.PIDs {
		o.Groups = append(o.Groups, c.group(group, "obd", "pids", i))
	}
	if o.Codes = c.every(r.Codes, 0, "obd", "codes"); r.FreezeFrame && r.Codes == "" {
		c.bad("is read when a stored code appears; set codes: too, such as codes: 10m", "obd", "freeze_frame")
	}
	list := []struct {
		want    bool
		name    string
		id      *uint32
		comment string
	}{
		{r.Codes != "", "StoredCodes", &o.StoredID, "SAE J1979 mode 03: JSON, the codes of each unit that answers"},
		{r.Codes != "", "PendingCodes", &o.PendingID, "SAE J1979 mode 07: JSON, the codes of each unit that answers"},
		{r.Codes != "", "PermanentCodes", &o.PermanentID, "SAE J1979 mode 0A: JSON, the codes of each unit that answers"},
		{r.FreezeFrame, "FreezeFrame", &o.FreezeID, "SAE J1979 mode 02: JSON, code and values in their units, of each unit that has one"},
	}
	for _, s := range list {
		if s.want {
			c.offer(&telemetrypb.Signal{Name: "OBD." + s.name, Message: "OBD." + s.name, Type: telemetrypb.ValueType_VALUE_TYPE_STRING, Comment: s.comment}, s.id, "obd")
		}
	}
}

// group reads PIDs of one interval. Fields of one PID are asked for together.
func (c *diagnoseChecker) group(r pidsConfig, path ...any) diagnose.Group {
	at := func(more ...any) []any { return append(append([]any{}, path...), more...) }
	g := diagnose.Group{Every: c.every(r.Every, time.Second, at("every")...)}
	if len(r.List) == 0 {
		c.bad("want PIDs, such as [EngineSpeed, 0x0D]", at("list")...)
	}
	type named struct {
		field *obd.Field
		word  int
	}
	byPID := map[uint8][]named{}
	var order []uint8
	for j, word := range r.List {
		pid, fields, err := findPID(word)
		if err != nil {
			c.bad(err.Error(), at("list", j)...)
			continue
		}
		if byPID[pid.ID] == nil {
			order = append(order, pid.ID)
		}
		for _, f := range fields {
			byPID[pid.ID] = append(byPID[pid.ID], named{f, j})
		}
	}
	for _, number := range order {
		p := diagnose.PID{Number: number, Fields: make([]diagnose.Field, len(byPID[number]))}
		for k, n := range byPID[number] {
			p.Fields[k].Field = n.field
			kind := telemetrypb.ValueType_VALUE_TYPE_UINT
			if n.field.Signed {
				kind = telemetrypb.ValueType_VALUE_TYPE_INT
			}
			c.offer(&telemetrypb.Signal{Name: "OBD." + n.field.Name, Message: fmt.Sprintf("OBD.PID%02X", number), Unit: n.field.Unit,
				Scale: n.field.Scale, Offset: n.field.Offset, Type: kind, Comment: fmt.Sprintf("SAE J1979 PID %02X", number)}, &p.Fields[k].ID, at("list", n.word)...)
		}
		g.PIDs = append(g.PIDs, p)
	}
	return g
}

// addressing finds where OBD requests go.
func (c *diagnoseChecker) addressing(text string) isotp.Address {
	switch text {
	case "", "functional":
		return obd.Functional().Send
	case "functional29":
		return obd.Functional29().Send
	}
	id, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(text), "0x"), 16, 32)
	switch {
	case err == nil && id >= 0x7E0 && id <= 0x7E7:
		return isotp.Address{ID: uint32(id)}
	case err == nil && id&^0xFF00 == 0x18DA00F1:
		return isotp.Address{ID: uint32(id), Extended: true}
	}
	c.bad(fmt.Sprintf("want functional, functional29, or the identifier of one unit: 7E0 to 7E7, or 18DA..F1; got %q", text), "obd", "addressing")
	return obd.Functional().Send
}

// findPID finds a PID by its number, with all its fields, or one field by its name: EngineSpeed, engine_speed.
func findPID(word string) (*obd.PID, []*obd.Field, error) {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	if digits, ok := strings.CutPrefix(strings.ToLower(word), "0x"); ok {
		n, err := strconv.ParseUint(digits, 16, 8)
		if err != nil {
			return nil, nil, fmt.Errorf("%s is no PID; they are 0x01 to 0xFF", word)
		}
		pid, known := obd.Lookup(uint8(n))
		if !known || len(pid.Fields) == 0 {
			return nil, nil, fmt.Errorf("of PID %s no value is known", word)
		}
		fields := make([]*obd.Field, len(pid.Fields))
		for i := range pid.Fields {
			fields[i] = &pid.Fields[i]
		}
		return pid, fields, nil
	}
	names := map[string]string{}
	var all []string
	for n := range 256 {
		pid, known := obd.Lookup(uint8(n))
		if !known {
			continue
		}
		for i := range pid.Fields {
			f := &pid.Fields[i]
			if plain(f.Name) == plain(word) {
				return pid, []*obd.Field{f}, nil
			}
			names[plain(f.Name)] = f.Name
			all = append(all, plain(f.Name))
		}
	}
	hint := "docs/DIAGNOSTICS.md lists them; numbers begin with 0x"
	if near := nearest(plain(word), all); near != "" {
		hint = fmt.Sprintf("did you mean %q?", names[near])
	}
	return nil, nil, fmt.Errorf("no PID has a value %q; %s", word, hint)
}
