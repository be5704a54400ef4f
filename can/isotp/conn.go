package isotp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// What ends a message of a Conn, beside a TimeoutError, a LossError and what the Link answers.
var (
	ErrClosed     = errors.New("the link is closed")                                        // nothing more comes from the Link
	ErrFunctional = errors.New("a functional request fits one frame")                       // §9.3: there is no one whose flow control would count
	ErrLength     = errors.New("the message is empty or too long")                          // nothing was sent
	ErrRefused    = errors.New("the receiver has no room for the message (N_BUFFER_OVFLW)") // §9.6.5.1
	ErrFlowStatus = errors.New("flow control of a reserved status (N_INVALID_FS)")          // §9.6.5.3
	ErrWaits      = errors.New("the receiver asks to wait again and again (N_WFT_OVRN)")    // §9.6.5.6
	ErrOptions    = errors.New("these options do not go together")                          // of NewConn
)

// TimeoutError is a network layer timeout (§9.7).
type TimeoutError struct {
	Timer string // "N_As", "N_Bs" or "N_Cr"
	After time.Duration
}

func (e *TimeoutError) Error() string { return fmt.Sprintf("nothing within %s = %v", e.Timer, e.After) }

// Timeout reports that it is one, as net.Error does.
func (e *TimeoutError) Timeout() bool { return true }

// LossError is a message that began and did not come whole.
type LossError struct {
	From Address
	Why  Reason
}

func (e *LossError) Error() string { return fmt.Sprintf("message from %v lost: %v", e.From, e.Why) }

// ConnOptions are the choices of a Conn.
type ConnOptions struct {
	Send Address // our messages
	// Receive is where the answers come from; their flow control comes from there too, and ours goes to Send.
	Receive Address
	// Answer is set for functional addressing instead of Receive: it tells whether a frame is an answer, which address that
	// is, and where our flow control for it goes. Our own messages then have to fit a single frame.
	Answer func(f *can.Frame) (from, flow Address, ok bool)

	FD      bool // send CAN FD frames
	BRS     bool // FD: with the higher bit rate
	TxDL    int  // FD: bytes of the longest frame that is sent (TX_DL: 8, 12, 16, 20, 24, 32, 48, 64); 0 takes 64
	NoPad   bool // do not fill classic frames up to 8 bytes; ISO 15765-4 wants them filled
	Padding byte // what fills them; often 00, 55, AA or CC

	BlockSize  uint8         // frames between our flow controls; 0 asks for no more of them
	STmin      time.Duration // between the frames that we receive: what our flow control asks for
	MaxMessage int           // bytes, both ways; 0 takes DefaultMaxMessage
	MaxWaits   int           // N_WFTmax; 0 takes DefaultMaxWaits

	NAs, NBs, NCr time.Duration // 0 takes the default of each

	Clock clock.Clock // for timeouts, and dates frames that have no time; nil takes the system's
	// Timer makes a context that ends with cause after d; nil takes context.WithTimeoutCause.
	Timer func(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc)
}

// maxReady bounds the messages that came while a message was sent. More than that, and the oldest are given up.
const maxReady = 16

// Conn is one end of a conversation, as a tester has it: it sends a message, and receives what is answered. One goroutine
// uses it.
type Conn struct {
	link    Link
	options ConnOptions
	sending int                   // bytes of the longest frame
	inbound map[Address]*incoming // by the sender
	ready   []result              // whole messages and lost ones, that nobody has asked for yet
	dropped uint64
	flow    *pci // the latest flow control from the receiver, while one is waited for
	waiting bool
}

// incoming is a message on its way to us.
type incoming struct {
	assembly
	from, flow Address
	block      uint8 // frames until our next flow control; BlockSize 0 never asks
}

type result struct {
	message Message
	err     error
}

// NewConn makes a Conn over a link, which stays the caller's to close.
func NewConn(l Link, o ConnOptions) (*Conn, error) {
	o.MaxMessage = orDefault(o.MaxMessage, DefaultMaxMessage)
	o.MaxWaits = orDefault(o.MaxWaits, DefaultMaxWaits)
	o.NAs, o.NBs, o.NCr = orDefault(o.NAs, DefaultNAs), orDefault(o.NBs, DefaultNBs), orDefault(o.NCr, DefaultNCr)
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Timer == nil {
		o.Timer = context.WithTimeoutCause
	}
	sending := can.MaxClassicLen
	if o.FD {
		sending = orDefault(o.TxDL, can.MaxLen)
	} else if o.TxDL != 0 && o.TxDL != sending {
		return nil, fmt.Errorf("frames of %d bytes without FD: %w", o.TxDL, ErrOptions)
	}
	if sending < can.MaxClassicLen || sending > can.MaxLen || can.PaddedLen(sending) != sending {
		return nil, fmt.Errorf("frames of %d bytes: %w", sending, ErrOptions)
	}
	c := &Conn{link: l, options: o, sending: sending, inbound: map[Address]*incoming{}}
	if o.Answer == nil {
		c.options.Answer = func(f *can.Frame) (from, flow Address, ok bool) {
			return o.Receive, o.Send, o.Receive.Matches(f)
		}
	} else if o.Receive != (Address{}) {
		return nil, fmt.Errorf("both Receive and Answer: %w", ErrOptions)
	}
	return c, nil
}

func orDefault[T ~int | ~int64](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// functional reports whether anyone may answer.
func (c *Conn) functional() bool { return c.options.Receive == Address{} }

// Dropped counts the messages that came unasked and were given up for newer ones.
func (c *Conn) Dropped() uint64 { return c.dropped }

// Discard forgets what has come so far: answers to an earlier request that came too late.
func (c *Conn) Discard() error {
	for {
		select {
		case _, ok := <-c.link.Frames():
			if !ok {
				return c.closed()
			}
		default:
			clear(c.inbound)
			c.ready = c.ready[:0]
			return nil
		}
	}
}

// Request sends a message and receives the next one.
func (c *Conn) Request(ctx context.Context, data []byte) (Message, error) {
	if err := c.Discard(); err != nil {
		return Message{}, err
	}
	if err := c.Send(ctx, data); err != nil {
		return Message{}, err
	}
	return c.Receive(ctx)
}

// Receive waits for the next message, which is the caller's to keep, until ctx ends. A message that began and was lost is
// a LossError or a TimeoutError; the Conn stays of use.
func (c *Conn) Receive(ctx context.Context) (Message, error) { return c.receive(ctx, ctx) }

// ReceiveWithin is Receive with a limit for the message's beginning: P2 of the layers above, which names the TimeoutError.
// A message that has begun by then is waited for.
func (c *Conn) ReceiveWithin(ctx context.Context, p2 time.Duration) (Message, error) {
	limit, cancel := c.options.Timer(ctx, p2, &TimeoutError{Timer: "P2", After: p2})
	defer cancel()
	return c.receive(ctx, limit)
}

func (c *Conn) receive(ctx, limit context.Context) (Message, error) {
	for {
		if len(c.ready) > 0 {
			r := c.ready[0]
			c.ready = c.ready[1:]
			return r.message, r.err
		}
		if err := c.wait(ctx, limit); err != nil {
			if _, open := c.nextDeadline(); !open || ctx.Err() != nil || limit.Err() == nil {
				return Message{}, err
			}
			limit = ctx // N_Cr bounds it from here
		}
	}
}

// wait handles one frame, or what is overdue; an error is the end of limit, which is ctx or a part of it, or of the link.
func (c *Conn) wait(ctx, limit context.Context) error {
	until := limit
	if next, open := c.nextDeadline(); open {
		due, cancel := c.options.Timer(limit, max(next, 0), context.DeadlineExceeded)
		defer cancel()
		until = due
	}
	select {
	case f, ok := <-c.link.Frames():
		if !ok {
			return c.closed()
		}
		return c.handle(ctx, &f)
	case <-until.Done():
		if limit.Err() != nil {
			return context.Cause(limit)
		}
		c.expire()
		return nil
	}
}

// nextDeadline is how long the message that is due first has still got.
func (c *Conn) nextDeadline() (d time.Duration, open bool) {
	now := c.options.Clock.Boot()
	for _, in := range c.inbound {
		if !in.open {
			continue
		}
		if left := c.options.NCr - time.Duration(now-in.last); !open || left < d {
			d, open = left, true
		}
	}
	return d, open
}

func (c *Conn) expire() {
	now := c.options.Clock.Boot()
	for _, in := range c.inbound {
		if in.open && time.Duration(now-in.last) >= c.options.NCr {
			in.open = false
			c.put(result{err: fmt.Errorf("message from %v: %w", in.from, &TimeoutError{Timer: "N_Cr", After: c.options.NCr})})
		}
	}
}

func (c *Conn) closed() error {
	if err := c.link.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return ErrClosed
}

func (c *Conn) put(r result) {
	if len(c.ready) >= maxReady {
		c.ready = c.ready[1:]
		c.dropped++
	}
	c.ready = append(c.ready, r)
}
