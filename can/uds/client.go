package uds

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-telematics/waybill/can/isotp"
)

// The client's timeouts (ISO 14229-2:2021 table 4): a unit has 50 ms, or 5 s after it asked for time; the bus and its
// gateways take some more.
const (
	DefaultP2     = 150 * time.Millisecond
	DefaultP2Star = 5100 * time.Millisecond
)

// DefaultMaxPending is how many times in a row a unit may ask for time.
const DefaultMaxPending = 10

// ErrPending is a unit that asked for time again and again.
var ErrPending = errors.New("the response stays pending")

// Conn is what a Client asks over: *isotp.Conn.
type Conn interface {
	Discard() error
	Send(ctx context.Context, request []byte) error
	ReceiveWithin(ctx context.Context, p2 time.Duration) (isotp.Message, error)
}

// Options are the choices of a Client.
type Options struct {
	P2, P2Star time.Duration               // 0 takes the default of each
	MaxPending int                         // 0 takes DefaultMaxPending
	Length     func(id uint16) (int, bool) // bytes of a data identifier; nil knows none
}

// Client asks one unit. One goroutine uses it.
type Client struct {
	conn    Conn
	options Options
	last    int64
}

// NewClient makes a Client over a conversation with one unit.
func NewClient(conn Conn, o Options) *Client {
	if o.P2 <= 0 {
		o.P2 = DefaultP2
	}
	if o.P2Star <= 0 {
		o.P2Star = DefaultP2Star
	}
	if o.MaxPending <= 0 {
		o.MaxPending = DefaultMaxPending
	}
	return &Client{conn: conn, options: o}
}

// Do sends a request and returns its response. One that is pending is waited for, one to another request left out; a
// refusal is a NegativeError.
func (c *Client) Do(ctx context.Context, request []byte) ([]byte, error) {
	if len(request) == 0 {
		return nil, fmt.Errorf("an empty request: %w", ErrMalformed)
	}
	if err := c.conn.Discard(); err != nil {
		return nil, err
	}
	if err := c.conn.Send(ctx, request); err != nil {
		return nil, fmt.Errorf("service %02X: %w", request[0], err)
	}
	wait := c.options.P2
	// Answers to requests that were given up do not come without end either.
	for pending, others := 0, 0; others <= c.options.MaxPending; {
		m, err := c.conn.ReceiveWithin(ctx, wait)
		if err != nil {
			return nil, fmt.Errorf("service %02X: %w", request[0], err)
		}
		data, err := Check(request[0], m.Data)
		if err == nil && !echoes(request, data) {
			err = ErrOther
		}
		switch {
		case errors.Is(err, ErrOther):
			others++
		case Pending(err):
			if pending++; pending > c.options.MaxPending {
				return nil, fmt.Errorf("service %02X, %d times: %w", request[0], pending, ErrPending)
			}
			wait = c.options.P2Star
		case err != nil:
			return nil, err
		default:
			c.last = m.Last
			return m.Data, nil
		}
	}
	return nil, fmt.Errorf("service %02X: %w", request[0], ErrOther)
}

// Answered is the time of the last frame of the latest response, ns.
func (c *Client) Answered() int64 { return c.last }

// echoes reports whether a response's data begin with what the service repeats of its request: the first data identifier,
// or the sub-function without the bit that suppresses responses.
func echoes(request, data []byte) bool {
	switch request[0] {
	case ReadDataByIdentifier:
		return len(request) < 3 || len(data) >= 2 && data[0] == request[1] && data[1] == request[2]
	case ReadDTCInformation, TesterPresent:
		return len(request) < 2 || len(data) >= 1 && data[0] == request[1]&0x7F
	}
	return true
}

// ReadData reads data identifiers. Several at once need Options.Length, since the response does not part them.
func (c *Client) ReadData(ctx context.Context, ids ...uint16) ([]Value, error) {
	response, err := c.Do(ctx, AppendReadData(nil, ids...))
	if err != nil {
		return nil, err
	}
	return DecodeReadData(response, c.options.Length, ids...)
}

// VIN reads the vehicle identification number.
func (c *Client) VIN(ctx context.Context) (string, error) {
	response, err := c.Do(ctx, AppendReadData(nil, VINIdentifier))
	if err != nil {
		return "", err
	}
	values, err := DecodeReadData(response, nil, VINIdentifier)
	if err != nil {
		return "", err
	}
	return VIN(values[0].Data)
}

// CountDTCs tells how many DTCs have one of the bits.
func (c *Client) CountDTCs(ctx context.Context, mask Status) (Count, error) {
	response, err := c.Do(ctx, AppendCountDTCs(nil, mask))
	if err != nil {
		return Count{}, err
	}
	return DecodeCountDTCs(response)
}

// ListDTCs lists the DTCs that have one of the bits.
func (c *Client) ListDTCs(ctx context.Context, mask Status) (available Status, list []DTCStatus, err error) {
	response, err := c.Do(ctx, AppendListDTCs(nil, mask))
	if err != nil {
		return 0, nil, err
	}
	return DecodeListDTCs(response)
}

// Snapshots reads a snapshot record of a DTC, or AllRecords.
func (c *Client) Snapshots(ctx context.Context, d DTC, record uint8) ([]Record, error) {
	response, err := c.Do(ctx, AppendSnapshot(nil, d, record))
	if err != nil {
		return nil, err
	}
	return DecodeSnapshot(response, c.options.Length)
}

// ExtendedData reads an extended data record of a DTC.
func (c *Client) ExtendedData(ctx context.Context, d DTC, record uint8) (r Record, ok bool, err error) {
	response, err := c.Do(ctx, AppendExtendedData(nil, d, record))
	if err != nil {
		return r, false, err
	}
	return DecodeExtendedData(response)
}

// TesterPresent keeps a session that is not the default one from ending (§10.7), and waits for the response.
func (c *Client) TesterPresent(ctx context.Context) error {
	_, err := c.Do(ctx, []byte{TesterPresent, 0})
	return err
}
