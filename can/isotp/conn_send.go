package isotp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// Send sends a message, and returns when its last frame is handed over. Messages that arrive meanwhile are kept for
// Receive.
//
//	single frame ─▶ done
//	first frame ─▶ N_Bs ──continue──▶ block of consecutive frames, STmin apart ─▶ N_Bs or done
//	                 └─wait─▶ N_Bs again   └─overflow, reserved─▶ error
func (c *Conn) Send(ctx context.Context, data []byte) error {
	if len(data) == 0 || len(data) > c.options.MaxMessage {
		return fmt.Errorf("%d bytes of at most %d: %w", len(data), c.options.MaxMessage, ErrLength)
	}
	head := c.options.Send.head()
	var f can.Frame
	// A single frame of more than 8 bytes says its length in a second byte (§9.6.2.1).
	switch {
	case len(data) <= singleCapacity(can.MaxClassicLen, head):
		c.fill(&f, c.options.Send, []byte{byte(len(data))}, data)
	case c.sending > can.MaxClassicLen && len(data) <= singleCapacity(c.sending, head):
		c.fill(&f, c.options.Send, []byte{0, byte(len(data))}, data)
	default:
		return c.sendMany(ctx, data)
	}
	if err := c.transmit(ctx, &f); err != nil {
		return fmt.Errorf("sending to %v: %w", c.options.Send, err)
	}
	return nil
}

func (c *Conn) sendMany(ctx context.Context, data []byte) error {
	to := c.options.Send
	if c.functional() {
		return fmt.Errorf("%d bytes to %v: %w", len(data), to, ErrFunctional)
	}
	control := []byte{pciFirst<<4 | byte(len(data)>>8&0x0F), byte(len(data))}
	if len(data) > maxShortLength { // §9.6.3.1
		control = binary.BigEndian.AppendUint32([]byte{pciFirst << 4, 0}, uint32(len(data)))
	}
	var f can.Frame
	n := c.sending - to.head() - len(control)
	c.fill(&f, to, control, data[:n])
	c.waiting, c.flow = true, nil
	defer func() { c.waiting, c.flow = false, nil }()
	if err := c.transmit(ctx, &f); err != nil {
		return fmt.Errorf("sending to %v: %w", to, err)
	}
	rest, seq := data[n:], byte(1)
	for len(rest) > 0 {
		block, gap, err := c.awaitFlow(ctx)
		if err != nil {
			return fmt.Errorf("sending to %v, %d of %d bytes sent: %w", to, len(data)-len(rest), len(data), err)
		}
		for i := 0; len(rest) > 0 && (block == 0 || i < block); i++ {
			if i > 0 {
				if err := c.pause(ctx, gap); err != nil {
					return fmt.Errorf("sending to %v: %w", to, err)
				}
			}
			n := min(len(rest), c.sending-to.head()-1)
			f = can.Frame{}
			c.fill(&f, to, []byte{pciConsecutive<<4 | seq}, rest[:n])
			// Flow control that came before the block's last frame answers nothing (§9.8.3: unexpected, ignored); what
			// comes while that frame is being sent does.
			c.flow = nil
			if err := c.transmit(ctx, &f); err != nil {
				return fmt.Errorf("sending to %v: %w", to, err)
			}
			rest, seq = rest[n:], (seq+1)&0x0F
		}
	}
	return nil
}

// awaitFlow waits for the receiver's leave to go on: how many frames (0: all), and how far apart.
func (c *Conn) awaitFlow(ctx context.Context) (block int, gap time.Duration, err error) {
	for waits := 0; ; waits++ {
		if waits > c.options.MaxWaits {
			return 0, 0, fmt.Errorf("%d times: %w", waits, ErrWaits)
		}
		p, err := c.nextFlow(ctx)
		if err != nil {
			return 0, 0, err
		}
		switch p.flow {
		case flowContinue:
			return int(p.block), DecodeSTmin(p.stmin), nil
		case flowWait:
		case flowOverflow:
			return 0, 0, ErrRefused
		default:
			return 0, 0, fmt.Errorf("status %d: %w", p.flow, ErrFlowStatus)
		}
	}
}

// nextFlow is the next flow control frame, within N_Bs.
func (c *Conn) nextFlow(ctx context.Context) (*pci, error) {
	limited, cancel := c.options.Timer(ctx, c.options.NBs, &TimeoutError{Timer: "N_Bs", After: c.options.NBs})
	defer cancel()
	for c.flow == nil {
		if err := c.wait(ctx, limited); err != nil {
			return nil, err
		}
	}
	p := c.flow
	c.flow = nil
	return p, nil
}

// pause keeps STmin, and takes what comes meanwhile.
func (c *Conn) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	over := &TimeoutError{Timer: "STmin", After: d}
	limited, cancel := c.options.Timer(ctx, d, over)
	defer cancel()
	for {
		if err := c.wait(ctx, limited); err != nil {
			if errors.Is(context.Cause(limited), over) && ctx.Err() == nil {
				return nil
			}
			return err
		}
	}
}
