package obd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/uds"
)

// The client's timeouts (ISO 15765-4 §6.2.2.2): P2CAN is 50 ms, 5 s after a unit asked for time; the bus and its gateways
// take some more.
const (
	DefaultP2     = 100 * time.Millisecond
	DefaultP2Star = 5100 * time.Millisecond
)

// maxAnswers bounds the answers to one request: eight units, each of which may ask for time.
const maxAnswers = 64

// ErrSilent is a request that no unit answered.
var ErrSilent = errors.New("no unit answers")

// Options are the choices of a Client.
type Options struct {
	P2, P2Star time.Duration // how long answers may take to begin; 0 takes the default of each
	// PIDs is how many PIDs a request names; 0 takes MaxPIDs. A vehicle that does not answer that many is asked for one at
	// a time from then on.
	PIDs int
	// One says that one unit alone is asked: its answer is not waited beyond.
	One bool
}

// Client asks a vehicle, or one of its units. One goroutine uses it.
type Client struct {
	conn    uds.Conn
	options Options
	single  bool // the vehicle answers one PID a request
	units   []Answer[Set]
}

// NewClient makes a Client over a conversation, functional or physical.
func NewClient(conn uds.Conn, o Options) *Client {
	if o.P2 <= 0 {
		o.P2 = DefaultP2
	}
	if o.P2Star <= 0 {
		o.P2Star = DefaultP2Star
	}
	if o.PIDs <= 0 || o.PIDs > MaxPIDs {
		o.PIDs = MaxPIDs
	}
	return &Client{conn: conn, options: o}
}

// Answer is what one unit said.
type Answer[T any] struct {
	From  isotp.Address
	At    int64 // time of its last frame, ns
	Value T
}

// ask sends a request and collects the answers, until none has begun for P2, or all units that are expected to answer
// have. Refusals are left out; without any answer the last refusal, or ErrSilent, is the error.
func ask[T any](ctx context.Context, c *Client, request []byte, decode func([]byte) (T, error), expected ...isotp.Address) (answers []Answer[T], err error) {
	if err := c.conn.Discard(); err != nil {
		return nil, err
	}
	if err := c.conn.Send(ctx, request); err != nil {
		return nil, fmt.Errorf("mode %02X: %w", request[0], err)
	}
	failed := ErrSilent
	pending, heard := map[isotp.Address]bool{}, map[isotp.Address]bool{}
	missing := func(unit isotp.Address) bool { return !heard[unit] }
	end := func() ([]Answer[T], error) {
		if len(answers) == 0 {
			return nil, fmt.Errorf("request % X: %w", request, failed)
		}
		return answers, nil
	}
	for range maxAnswers {
		wait := c.options.P2
		if len(pending) > 0 {
			wait = c.options.P2Star
		}
		m, err := c.conn.ReceiveWithin(ctx, wait)
		var late *isotp.TimeoutError
		var lost *isotp.LossError
		switch {
		case ctx.Err() != nil:
			return answers, context.Cause(ctx)
		case errors.As(err, &late) && late.Timer == "P2":
			return end()
		case errors.As(err, &late), errors.As(err, &lost):
			failed = err
			continue
		case err != nil:
			return answers, err
		}
		value, err := decode(m.Data)
		switch {
		case uds.Pending(err):
			pending[m.From] = true
			continue
		case err != nil:
			failed = err
			// What cannot be read may be late, of an earlier request; a refusal is an answer.
			var refusal *uds.NegativeError
			heard[m.From] = heard[m.From] || errors.As(err, &refusal)
		default:
			answers = append(answers, Answer[T]{From: m.From, At: m.Last, Value: value})
			heard[m.From] = true
		}
		delete(pending, m.From)
		if len(pending) == 0 && (c.options.One && heard[m.From] || len(expected) > 0 && !slices.ContainsFunc(expected, missing)) {
			return end()
		}
	}
	return answers, nil
}

// Supported asks each unit which PIDs it has, by the bitmaps 00, 20 and so on, one a request.
func (c *Client) Supported(ctx context.Context) ([]Answer[Set], error) {
	var units []Answer[Set]
	for id := 0; id < 0x100; id += 0x20 {
		request, err := AppendCurrent(nil, uint8(id))
		if err != nil {
			return nil, err
		}
		answers, err := ask(ctx, c, request, func(b []byte) (bitmap [4]byte, err error) {
			values, err := DecodeCurrent(b, uint8(id))
			if err != nil {
				return bitmap, err
			}
			copy(bitmap[:], values[0].Data)
			return bitmap, nil
		})
		if err != nil {
			if id > 0 && ctx.Err() == nil && !errors.Is(err, isotp.ErrClosed) {
				break // a vehicle that claims a further bitmap and does not have it
			}
			return units, err
		}
		further := false
		for _, a := range answers {
			i := slices.IndexFunc(units, func(u Answer[Set]) bool { return u.From == a.From })
			if i < 0 {
				i = len(units)
				units = append(units, Answer[Set]{From: a.From})
			}
			units[i].Value.AddBitmap(uint8(id), a.Value)
			further = further || id < 0xE0 && units[i].Value.Has(uint8(id+0x20))
		}
		if !further {
			break
		}
	}
	c.units = units
	return units, nil
}

// Current asks for PIDs that the vehicle has (see Supported), up to MaxPIDs a request. Where some stay unanswered, each is
// asked for alone; when that helps, the Client keeps to it.
func (c *Client) Current(ctx context.Context, pids ...uint8) ([]Answer[[]Value], error) {
	var all []Answer[[]Value]
	size := c.options.PIDs
	if c.single {
		size = 1
	}
	failed := error(nil)
	for group := range slices.Chunk(pids, size) {
		answers, err := c.current(ctx, group)
		if err != nil && (ctx.Err() != nil || errors.Is(err, isotp.ErrClosed)) {
			return all, err
		}
		missing := slices.DeleteFunc(slices.Clone(group), func(pid uint8) bool { return answered(answers, pid) })
		if err != nil {
			failed = err
		}
		all = append(all, answers...)
		if len(group) == 1 || len(missing) == 0 {
			continue
		}
		for _, pid := range missing {
			alone, err := c.current(ctx, []uint8{pid})
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, isotp.ErrClosed) {
					return all, err
				}
				continue
			}
			c.single = true
			all = append(all, alone...)
		}
	}
	if len(all) == 0 {
		return nil, failed
	}
	return all, nil
}

func (c *Client) current(ctx context.Context, pids []uint8) ([]Answer[[]Value], error) {
	request, err := AppendCurrent(nil, pids...)
	if err != nil {
		return nil, err
	}
	var expected []isotp.Address
	for _, unit := range c.units {
		if slices.ContainsFunc(pids, unit.Value.Has) {
			expected = append(expected, unit.From)
		}
	}
	return ask(ctx, c, request, func(b []byte) ([]Value, error) { return DecodeCurrent(b, pids...) }, expected...)
}

func answered(answers []Answer[[]Value], pid uint8) bool {
	return slices.ContainsFunc(answers, func(a Answer[[]Value]) bool {
		return slices.ContainsFunc(a.Value, func(v Value) bool { return v.PID == pid })
	})
}

// FreezeFrame asks for up to MaxPIDs/2 PIDs of a freeze frame. PID 02 tells the trouble code that it belongs to.
func (c *Client) FreezeFrame(ctx context.Context, frame uint8, pids ...uint8) ([]Answer[[]Value], error) {
	request, err := AppendFreeze(nil, frame, pids...)
	if err != nil {
		return nil, err
	}
	return ask(ctx, c, request, func(b []byte) ([]Value, error) { return DecodeFreeze(b, pids...) })
}

// Codes asks for trouble codes: mode Stored, PendingDTC or Permanent.
func (c *Client) Codes(ctx context.Context, mode uint8) ([]Answer[[]DTC], error) {
	request, err := AppendCodes(nil, mode)
	if err != nil {
		return nil, err
	}
	return ask(ctx, c, request, func(b []byte) ([]DTC, error) { return DecodeCodes(mode, b) })
}

// VehicleInformation asks for an information type of mode 09.
func (c *Client) VehicleInformation(ctx context.Context, info uint8) ([]Answer[[][]byte], error) {
	return ask(ctx, c, AppendVehicle(nil, info), func(b []byte) ([][]byte, error) { return DecodeVehicle(info, b) })
}

// VIN asks for the vehicle identification number: the first valid one of any unit.
func (c *Client) VIN(ctx context.Context) (string, error) {
	answers, err := c.VehicleInformation(ctx, InfoVIN)
	if err != nil {
		return "", err
	}
	for _, a := range answers {
		var vin string
		if vin, err = uds.VIN(a.Value[0]); err == nil {
			return vin, nil
		}
	}
	return "", err
}

// CalibrationIDs asks each unit for the names of its software.
func (c *Client) CalibrationIDs(ctx context.Context) ([]Answer[[]string], error) {
	answers, err := c.VehicleInformation(ctx, InfoCalibration)
	if err != nil {
		return nil, err
	}
	var named []Answer[[]string]
	for _, a := range answers {
		var names []string
		for _, item := range a.Value {
			names = append(names, Text(item))
		}
		named = append(named, Answer[[]string]{From: a.From, At: a.At, Value: names})
	}
	return named, nil
}
