package isotp

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// scripted is a link whose other end says what it is told to, whatever is sent to it, and then hangs up.
type scripted struct {
	frames chan can.Frame
	sent   []can.Frame
}

func (s *scripted) Frames() <-chan can.Frame { return s.frames }
func (s *scripted) Err() error               { return nil }

func (s *scripted) Send(_ context.Context, f *can.Frame) error {
	s.sent = append(s.sent, *f)
	return nil
}

// FuzzConn lets the other end say anything while a Conn sends a message and then receives. What it receives has to be no
// longer than allowed, what it says it has sent has to be what it was given, and it never says more than it was asked to.
func FuzzConn(f *testing.F) {
	f.Add([]byte("\x08\x30\x00\x00\x00\x00\x00\x00\x00\x08\x10\x14\x00\x01\x02\x03\x04\x05\x08\x21\x06\x07\x08\x09\x0A\x0B\x0C\x08\x22\x0D\x0E\x0F\x10\x11\x12\x13"), uint8(0), uint16(20))
	f.Add([]byte("\x03\x30\x02\x01\x03\x31\x00\x00\x03\x30\x00\xF3\x02\x01\x7F\x0C\x00\x0A0123456789"), uint8(7), uint16(300))
	f.Add([]byte("\x09\xF1\x10\x08\x00\x01\x02\x03\x04\x05\x05\xF1\x21\x06\x07\x08\x05\xF1\x30\x01\x00"), uint8(8), uint16(9))
	f.Fuzz(func(t *testing.T, said []byte, how uint8, length uint16) {
		const longest = 500
		link := &scripted{frames: make(chan can.Frame, len(said)+1)}
		o := ConnOptions{
			Send: Address{ID: 1, WithTA: how&8 != 0, TA: 0x10}, Receive: Address{ID: 2, WithTA: how&8 != 0, TA: 0xF1},
			FD: how&1 != 0, BlockSize: how >> 1 & 3, NoPad: how&16 != 0, MaxMessage: longest,
			// Only what is over at once: separation times, and nothing that would be waited for.
			Timer: func(ctx context.Context, _ time.Duration, cause error) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancelCause(ctx)
				var timeout *TimeoutError
				if errors.As(cause, &timeout) && timeout.Timer == "STmin" {
					cancel(cause)
				}
				return ctx, func() { cancel(context.Canceled) }
			},
		}
		count := 0
		for len(said) > 0 {
			n := min(int(said[0]%(can.MaxLen+1)), len(said)-1)
			frame := can.Frame{ID: 2, Len: uint8(n)}
			copy(frame.Data[:], said[1:1+n])
			said = said[1+n:]
			link.frames <- frame
			count++
		}
		close(link.frames)
		conn, err := NewConn(link, o)
		if err != nil {
			t.Fatal(err)
		}
		message := make([]byte, length%longest+1)
		for i := range message {
			message[i] = byte(i * 7)
		}
		err = conn.Send(t.Context(), message)
		listener := NewReassembler(ReassemblerOptions{Streams: []Stream{{Data: o.Send}}, MaxMessage: longest})
		flows, whole := 0, false
		for i := range link.sent {
			p, valid := parsePCI(&link.sent[i], o.Send.head())
			if !valid {
				t.Fatalf("sent %+v", link.sent[i])
			}
			if p.kind == pciFlow {
				flows++ // for what the other end began meanwhile
				continue
			}
			if m, ok := listener.Frame(&link.sent[i]); ok {
				whole = bytes.Equal(m.Data, message)
			}
		}
		if whole != (err == nil) {
			t.Fatalf("whole on the bus: %t, Send answers %v", whole, err)
		}
		sent := len(link.sent)
		for {
			m, err := conn.Receive(t.Context())
			if errors.Is(err, ErrClosed) {
				break
			}
			var lost *LossError
			if err != nil && !errors.As(err, &lost) {
				t.Fatal(err)
			}
			if err == nil && (len(m.Data) == 0 || len(m.Data) > longest || m.From.ID != 2) {
				t.Fatalf("%+v", m)
			}
		}
		if flows += len(link.sent) - sent; flows > count {
			t.Fatalf("%d flow controls for %d frames", flows, count)
		}
		if len(conn.inbound) > 1 || len(conn.ready) > maxReady {
			t.Fatalf("%d senders, %d messages are kept", len(conn.inbound), len(conn.ready))
		}
	})
}
