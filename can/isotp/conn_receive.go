package isotp

import (
	"bytes"
	"context"
	"fmt"

	"github.com/waybill-telematics/waybill/can"
)

// handle takes a frame from the link. An error is that our flow control could not be sent.
func (c *Conn) handle(ctx context.Context, f *can.Frame) error {
	if f.Flags&(can.FlagError|can.FlagRemote) != 0 {
		return nil
	}
	from, flow, ok := c.options.Answer(f)
	if !ok {
		return nil
	}
	p, valid := parsePCI(f, from.head())
	if !valid {
		return nil // §9.6: frames that are not allowed are ignored
	}
	if p.kind == pciFlow {
		if c.waiting {
			p.data = nil
			c.flow = &p
		}
		return nil
	}
	in := c.inbound[from]
	if in == nil {
		in = &incoming{from: from, flow: flow}
		c.inbound[from] = in
	}
	now := c.options.Clock.Boot()
	// A message has its frames' time; how long it may take goes by the clock.
	stamp := f.Time
	if stamp == 0 {
		stamp = now
	}
	switch p.kind {
	case pciSingle:
		c.interrupt(in)
		c.put(result{message: Message{Data: bytes.Clone(p.data), First: stamp, Last: stamp, From: from, Bus: f.Bus}})
	case pciFirst:
		c.interrupt(in)
		if uint64(p.length) > uint64(c.options.MaxMessage) {
			c.put(result{err: &LossError{From: from, Why: TooLong}})
			return c.sendFlow(ctx, flow, flowOverflow)
		}
		in.begin(&p, int(f.Len), from.head(), now)
		in.first = stamp
		in.block = c.options.BlockSize
		return c.sendFlow(ctx, flow, flowContinue)
	case pciConsecutive:
		if in.open {
			return c.consecutive(ctx, in, &p, f, now, stamp)
		}
	}
	return nil
}

// consecutive goes on with an open message. After each block the sender waits for our flow control (§9.6.5.2).
func (c *Conn) consecutive(ctx context.Context, in *incoming, p *pci, f *can.Frame, now, stamp int64) error {
	whole, fits, why := in.add(p, now)
	switch {
	case !fits:
		c.put(result{err: &LossError{From: in.from, Why: why}})
	case whole:
		c.put(result{message: Message{Data: bytes.Clone(in.buf), First: in.first, Last: stamp, From: in.from, Bus: f.Bus}})
	case c.options.BlockSize != 0:
		if in.block--; in.block == 0 {
			in.block = c.options.BlockSize
			return c.sendFlow(ctx, in.flow, flowContinue)
		}
	}
	return nil
}

// interrupt gives up a message in whose midst another begins (§9.8.3).
func (c *Conn) interrupt(in *incoming) {
	if in.open {
		in.open = false
		c.put(result{err: &LossError{From: in.from, Why: Interrupted}})
	}
}

func (c *Conn) sendFlow(ctx context.Context, to Address, status uint8) error {
	var f can.Frame
	c.fill(&f, to, []byte{pciFlow<<4 | status, c.options.BlockSize, EncodeSTmin(c.options.STmin)}, nil)
	if err := c.transmit(ctx, &f); err != nil {
		return fmt.Errorf("flow control to %v: %w", to, err)
	}
	return nil
}

// fill makes a frame of protocol control information and data, padded.
func (c *Conn) fill(f *can.Frame, to Address, control, data []byte) {
	f.ID = to.ID
	if to.Extended {
		f.Flags |= can.FlagExtended
	}
	b := f.Data[:0]
	if to.WithTA {
		b = append(b, to.TA)
	}
	b = append(append(b, control...), data...)
	n := len(b)
	if !c.options.NoPad {
		n = max(n, can.MaxClassicLen)
	}
	if c.options.FD {
		f.Flags |= can.FlagFD
		if c.options.BRS {
			f.Flags |= can.FlagBRS
		}
		n = can.PaddedLen(n)
	}
	for i := len(b); i < n; i++ {
		f.Data[i] = c.options.Padding
	}
	f.Len = uint8(n)
}

// transmit hands a frame to the bus within N_As.
func (c *Conn) transmit(ctx context.Context, f *can.Frame) error {
	limited, cancel := c.options.Timer(ctx, c.options.NAs, &TimeoutError{Timer: "N_As", After: c.options.NAs})
	defer cancel()
	err := c.link.Send(limited, f)
	if err != nil && limited.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(limited), err)
	}
	return err
}
