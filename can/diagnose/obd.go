package diagnose

import (
	"context"
	"fmt"
	"slices"

	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// vehicle is what answers to OBD.
type vehicle struct {
	*Poller
	client *obd.Client
	owner  map[uint8]isotp.Address // of a PID: the first unit by address that has it; nil: not asked yet
	frozen string                  // the stored codes whose freeze frame was read
}

// connection finds the conversation for an address.
func connection(request isotp.Address) (isotp.ConnOptions, error) {
	candidates := []isotp.ConnOptions{obd.Functional(), obd.Functional29()}
	for unit := range uint8(8) {
		one, err := obd.Physical(unit)
		if err != nil {
			return one, err
		}
		candidates = append(candidates, one)
	}
	for unit := range 256 {
		candidates = append(candidates, obd.Physical29(uint8(unit)))
	}
	for _, c := range candidates {
		if c.Send == request {
			return c, nil
		}
	}
	return isotp.ConnOptions{}, fmt.Errorf("diagnose: OBD is not asked at %v; want 7DF, 7E0–7E7, 18DB33F1 or 18DA..F1", request)
}

func (p *Poller) addOBD(o *OBD) error {
	options, err := connection(o.Request)
	if err != nil {
		return err
	}
	conn, err := p.conn(options)
	if err != nil {
		return err
	}
	v := &vehicle{Poller: p, client: obd.NewClient(conn, obd.Options{P2: p.options.AnswerWithin, One: options.Answer == nil})}
	p.forget = append(p.forget, func() { v.owner = nil })
	unit := &partner{name: "OBD " + o.Request.String()}
	add := func(j job) *job {
		j.to, j.unit = o.Request, unit
		return p.add(&j)
	}
	for _, g := range o.Groups {
		var pids []PID
		for _, pid := range g.PIDs {
			pid.Fields = slices.DeleteFunc(slices.Clone(pid.Fields), func(f Field) bool { return f.ID == 0 })
			if len(pid.Fields) > 0 {
				pids = append(pids, pid)
			}
		}
		for some := range slices.Chunk(pids, obd.MaxPIDs) {
			add(job{name: "mode 01", every: g.Every, ask: func(ctx context.Context) error { return v.current(ctx, some) }})
		}
	}
	var freeze *job
	if o.FreezeID != 0 {
		freeze = add(job{name: "mode 02", ask: func(ctx context.Context) error { return v.freeze(ctx, o.FreezeID) }})
	}
	for _, c := range []struct {
		mode uint8
		id   uint32
	}{{obd.Stored, o.StoredID}, {obd.PendingDTC, o.PendingID}, {obd.Permanent, o.PermanentID}} {
		trigger := freeze
		if c.mode != obd.Stored {
			trigger = nil
		}
		if c.id != 0 || trigger != nil {
			add(job{name: fmt.Sprintf("mode %02X", c.mode), every: o.Codes, ask: func(ctx context.Context) error { return v.codes(ctx, c.mode, c.id, trigger) }})
		}
	}
	if o.VIN {
		add(job{name: "mode 09", every: vinEvery, once: true, secret: true, ask: func(ctx context.Context) error {
			vin, err := v.client.VIN(ctx)
			if err == nil {
				p.options.VIN(vin, p.options.Clock.Boot())
			}
			return err
		}})
	}
	return nil
}

// current asks for PIDs. What the bitmaps did not name is not asked for until the ignition goes on again.
func (v *vehicle) current(ctx context.Context, pids []PID) error {
	if v.owner == nil {
		units, err := v.client.Supported(ctx)
		if err != nil {
			return err
		}
		slices.SortFunc(units, func(a, b obd.Answer[obd.Set]) int { return int(a.From.ID) - int(b.From.ID) })
		v.owner = map[uint8]isotp.Address{}
		for _, unit := range units {
			for _, pid := range unit.Value.Values() {
				if _, ok := v.owner[pid]; !ok {
					v.owner[pid] = unit.From
				}
			}
		}
	}
	var numbers []uint8
	for _, pid := range pids {
		if _, ok := v.owner[pid.Number]; ok {
			numbers = append(numbers, pid.Number)
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	answers, err := v.client.Current(ctx, numbers...)
	var samples []telemetrypb.Sample
	for _, a := range answers {
		for _, value := range a.Value {
			i := slices.IndexFunc(pids, func(pid PID) bool { return pid.Number == value.PID })
			if i >= 0 && v.owner[value.PID] == a.From {
				samples = appendReadings(samples, &pids[i], value.Data, a.At)
			}
		}
	}
	if len(samples) > 0 {
		v.options.Emit(samples)
	}
	return err
}

func appendReadings(samples []telemetrypb.Sample, pid *PID, data []byte, at int64) []telemetrypb.Sample {
	table, ok := obd.Lookup(pid.Number)
	if !ok {
		return samples
	}
	for _, r := range table.Decode(data, nil) {
		for _, f := range pid.Fields {
			switch {
			case f.Field != r.Field:
			case r.Field.Signed:
				samples = append(samples, telemetrypb.IntSample(f.ID, at, r.Raw))
			default:
				samples = append(samples, telemetrypb.UintSample(f.ID, at, uint64(r.Raw)))
			}
		}
	}
	return samples
}

// codes asks for trouble codes. When other codes are stored than before, the freeze frame is due.
func (v *vehicle) codes(ctx context.Context, mode uint8, id uint32, freeze *job) error {
	answers, err := v.client.Codes(ctx, mode)
	if err != nil {
		return err
	}
	text, any := codesText(answers)
	if id != 0 {
		v.options.Emit([]telemetrypb.Sample{telemetrypb.StringSample(id, latest(answers), text)})
	}
	switch {
	case freeze == nil:
	case !any:
		v.frozen = ""
	case v.frozen != text:
		v.frozen = text
		freeze.due = v.options.Clock.Boot()
	}
	return nil
}

func latest[T any](answers []obd.Answer[T]) (at int64) {
	for _, a := range answers {
		at = max(at, a.At)
	}
	return at
}

// freeze reads freeze frame 0 of each unit: all that its bitmaps name.
func (v *vehicle) freeze(ctx context.Context, id uint32) error {
	var have obd.Set
	for bitmap := 0; bitmap < 0x100; bitmap += 0x20 {
		answers, err := v.client.FreezeFrame(ctx, 0, uint8(bitmap))
		if err != nil && bitmap == 0 {
			return err
		}
		for _, a := range answers {
			for _, value := range a.Value {
				if len(value.Data) == 4 {
					have.AddBitmap(uint8(bitmap), [4]byte(value.Data))
				}
			}
		}
		if bitmap >= 0xE0 || !have.Has(uint8(bitmap+0x20)) {
			break
		}
	}
	frames := map[isotp.Address]*frozenFrame{}
	at := int64(0)
	for _, pid := range have.Values() {
		if _, known := obd.Lookup(pid); !known {
			continue
		}
		// One PID a request: few units take more in mode 02, and it is not asked often.
		answers, err := v.client.FreezeFrame(ctx, 0, pid)
		if err != nil {
			if why := classify(err); ctx.Err() != nil || why == Held || why == Unsent {
				return err
			}
			continue
		}
		at = max(at, latest(answers))
		for _, a := range answers {
			frame := frames[a.From]
			if frame == nil {
				frame = &frozenFrame{from: a.From, Unit: a.From.String(), Values: map[string]float64{}}
				frames[a.From] = frame
			}
			for _, value := range a.Value {
				frame.add(value)
			}
		}
	}
	if text, any := frozenText(frames); any {
		v.options.Emit([]telemetrypb.Sample{telemetrypb.StringSample(id, at, text)})
	}
	return nil
}
