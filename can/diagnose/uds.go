package diagnose

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/uds"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Type says what the bits of a value are.
type Type uint8

// The types.
const (
	Uint  Type = iota
	Int        // two's complement
	Float      // IEEE 754, of 32 or 64 bits
	ASCII      // text, without its filling
	Hex        // bytes, as digits
)

// Value is one value within the data of an identifier.
type Value struct {
	ID    uint32
	Type  Type
	Start int // the first bit: 0 is the highest bit of the first byte
	Bits  int // the highest first, up to 64 of a number; of text and bytes a multiple of 8, 0: to the end
}

// Sample reads the value. It is false where the data are too short.
func (v *Value) Sample(data []byte, at int64) (s telemetrypb.Sample, ok bool) {
	if v.Type == ASCII || v.Type == Hex {
		from := v.Start / 8
		to := from + v.Bits/8
		if v.Bits == 0 {
			to = len(data)
		}
		if from > to || to > len(data) {
			return s, false
		}
		if v.Type == Hex {
			return telemetrypb.StringSample(v.ID, at, strings.ToUpper(hex.EncodeToString(data[from:to]))), true
		}
		return telemetrypb.StringSample(v.ID, at, text(data[from:to])), true
	}
	if v.Start < 0 || v.Bits < 1 || v.Bits > 64 || v.Start+v.Bits > 8*len(data) {
		return s, false
	}
	var raw uint64
	for i := v.Start; i < v.Start+v.Bits; i++ {
		raw = raw<<1 | uint64(data[i/8]>>(7-i%8)&1)
	}
	switch {
	case v.Type == Int:
		shift := 64 - uint(v.Bits)
		return telemetrypb.IntSample(v.ID, at, int64(raw<<shift)>>shift), true
	case v.Type == Float && v.Bits == 32:
		return telemetrypb.FloatSample(v.ID, at, float64(math.Float32frombits(uint32(raw)))), true
	case v.Type == Float:
		return telemetrypb.FloatSample(v.ID, at, math.Float64frombits(raw)), true
	}
	return telemetrypb.UintSample(v.ID, at, raw), true
}

// text leaves out the filling at both ends, and shows what cannot be printed as a dot.
func text(data []byte) string {
	filling := func(c byte) bool { return c == 0 || c == 0xFF || c == ' ' }
	for len(data) > 0 && filling(data[0]) {
		data = data[1:]
	}
	for len(data) > 0 && filling(data[len(data)-1]) {
		data = data[:len(data)-1]
	}
	b := bytes.Clone(data)
	for i, c := range b {
		if c < 0x20 || c > 0x7E {
			b[i] = '.'
		}
	}
	return string(b)
}

// unit is a control unit that answers to UDS.
type unit struct {
	*Poller
	client *uds.Client
	known  map[uds.DTC]knownDTC
}

// knownDTC is what was read of a trouble code.
type knownDTC struct {
	status   uds.Status
	snapshot string
}

func (p *Poller) addUnit(o Unit) error {
	conn, err := p.conn(isotp.ConnOptions{Send: o.Request, Receive: o.Response})
	if err != nil {
		return err
	}
	u := &unit{Poller: p, client: uds.NewClient(conn, uds.Options{P2: p.options.AnswerWithin}), known: map[uds.DTC]knownDTC{}}
	who := &partner{name: o.Name}
	add := func(j job) {
		j.to, j.unit = o.Request, who
		p.add(&j)
	}
	for _, identifier := range o.Identifiers {
		values := slices.DeleteFunc(slices.Clone(identifier.Values), func(v Value) bool { return v.ID == 0 })
		if len(values) > 0 {
			add(job{name: fmt.Sprintf("22 %04X", identifier.ID), every: identifier.Every,
				ask: func(ctx context.Context) error { return u.read(ctx, identifier.ID, values) }})
		}
	}
	if d := o.DTCs; d != nil && d.ID != 0 {
		add(job{name: "19 02", every: d.Every, ask: func(ctx context.Context) error { return u.codes(ctx, d) }})
	}
	if o.VIN {
		add(job{name: "22 F190 for the VIN", every: vinEvery, once: true, secret: true, ask: func(ctx context.Context) error {
			vin, err := u.client.VIN(ctx)
			if err == nil {
				p.options.VIN(vin, u.client.Answered())
			}
			return err
		}})
	}
	return nil
}

func (u *unit) read(ctx context.Context, id uint16, values []Value) error {
	answer, err := u.client.ReadData(ctx, id)
	if err != nil {
		return err
	}
	samples := make([]telemetrypb.Sample, 0, len(values))
	for i := range values {
		if s, ok := values[i].Sample(answer[0].Data, u.client.Answered()); ok {
			samples = append(samples, s)
		} else {
			err = fmt.Errorf("%d bytes of %04X, which are too few: %w", len(answer[0].Data), id, uds.ErrMalformed)
		}
	}
	if len(samples) > 0 {
		u.options.Emit(samples)
	}
	return err
}

// maxSnapshots is how many snapshots are read at a time; those of further codes are read the next time.
const maxSnapshots = 16

// maxSnapshotBytes is how much of a code's snapshots is kept.
const maxSnapshotBytes = 1024

func (u *unit) codes(ctx context.Context, o *DTCs) error {
	_, list, err := u.client.ListDTCs(ctx, o.Mask)
	if err != nil {
		return err
	}
	at := u.client.Answered()
	known := make(map[uds.DTC]knownDTC, len(list))
	asked := 0
	for _, d := range list {
		k, ok := u.known[d.DTC]
		if o.Snapshots && (!ok || k.status != d.Status) {
			if asked++; asked > maxSnapshots {
				known[d.DTC] = k // its status stays the old one, so that it is read the next time
				continue
			}
			if k.snapshot, err = u.snapshots(ctx, d.DTC); err != nil {
				return err
			}
		}
		known[d.DTC] = knownDTC{status: d.Status, snapshot: k.snapshot}
	}
	u.known = known
	if asked > 0 {
		at = max(at, u.client.Answered())
	}
	u.options.Emit([]telemetrypb.Sample{telemetrypb.StringSample(o.ID, at, dtcsText(list, known))})
	return nil
}

// snapshots reads the records of a code as they come: how long the data of an identifier in them are only its maker knows.
// A unit that refuses has none.
func (u *unit) snapshots(ctx context.Context, d uds.DTC) (string, error) {
	answer, err := u.client.Do(ctx, uds.AppendSnapshot(nil, d, uds.AllRecords))
	if classify(err) == Refused && err != nil {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	const head = 6 // service, sub-function, code, status
	if len(answer) < head || binary.BigEndian.Uint32(answer[1:])&0xFFFFFF != uint32(d) {
		return "", fmt.Errorf("snapshots of %v: %w", d, uds.ErrMalformed)
	}
	records := answer[head:]
	more := ""
	if len(records) > maxSnapshotBytes {
		more = fmt.Sprintf("… and %d bytes", len(records)-maxSnapshotBytes)
		records = records[:maxSnapshotBytes]
	}
	return strings.ToUpper(hex.EncodeToString(records)) + more, nil
}
