package isotp

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/cantest"
)

// bench is a Conn on cantest's bus, in synctest's time. The other end is a script.
type bench struct {
	*Conn
	bus   *cantest.Bus
	began time.Time
	tap   *Tap
	sent  []string // frames of ours: "ms id data"
	reply func(b *bench, data string)
}

// Boot and Wall make the bench a clock.
func (b *bench) Boot() int64     { return int64(time.Since(b.began)) }
func (b *bench) Wall() time.Time { return time.Now() }

// Send implements Sender.
func (b *bench) Send(_ context.Context, f *can.Frame) error {
	data := strings.ToUpper(hex.EncodeToString(f.Payload()))
	b.sent = append(b.sent, fmt.Sprintf("%v %X %s", time.Since(b.began), f.ID, data))
	b.bus.Send(*f)
	if b.reply != nil {
		b.reply(b, data)
	}
	return nil
}

func (b *bench) say(t *testing.T, data string) {
	b.bus.Send(frame(t, 0, 0x7E8, data))
}

// onBench runs a test in synctest's time.
func onBench(t *testing.T, o ConnOptions, test func(t *testing.T, ctx context.Context, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{bus: cantest.NewBus(), began: time.Now()}
		if o.Answer == nil {
			o.Send, o.Receive = Address{ID: 0x7E0}, Address{ID: 0x7E8}
		}
		o.Clock = b
		b.tap = NewTap(b, 0, nil)
		conn, err := NewConn(b.tap, o)
		if err != nil {
			t.Fatal(err)
		}
		b.Conn = conn
		ctx, cancel := context.WithCancel(t.Context())
		reader := b.bus.Open(cantest.ReaderOptions{})
		done := make(chan error)
		go func() { done <- Pump(ctx, reader, b.tap) }()
		test(t, ctx, b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (b *bench) wantSent(t *testing.T, want ...string) {
	t.Helper()
	if fmt.Sprint(b.sent) != fmt.Sprint(want) {
		t.Errorf("sent\n%s\nwant\n%s", strings.Join(b.sent, "\n"), strings.Join(want, "\n"))
	}
}

func TestSendKeepsFlowControl(t *testing.T) {
	message := make([]byte, 34) // a first frame of 6 bytes, four of 7
	onBench(t, ConnOptions{Padding: 0xCC}, func(t *testing.T, ctx context.Context, b *bench) {
		go func() {
			for _, s := range []struct {
				after time.Duration
				data  string
			}{{50 * time.Millisecond, "310000"}, {900 * time.Millisecond, "300214"}, {300 * time.Millisecond, "3000F5"}} {
				time.Sleep(s.after)
				b.say(t, s.data)
			}
		}()
		if err := b.Conn.Send(ctx, message); err != nil {
			t.Fatal(err)
		}
		b.wantSent(t, "0s 7E0 1022000000000000", "950ms 7E0 2100000000000000", "970ms 7E0 2200000000000000",
			"1.25s 7E0 2300000000000000", "1.2505s 7E0 2400000000000000")
	})
}

func TestSendFails(t *testing.T) {
	message := make([]byte, 34)
	reserved := func(status string) func(b *bench, data string) {
		return func(b *bench, data string) {
			if data[0] == '1' || status == "31" {
				b.say(t, status+"0000")
			}
		}
	}
	for _, c := range []struct {
		name  string
		reply func(b *bench, data string)
		want  error
		at    time.Duration
	}{
		{"nobody answers", nil, &TimeoutError{"N_Bs", time.Second}, time.Second},
		{"no more flow control", reserved("3002"), &TimeoutError{"N_Bs", time.Second}, time.Second},
		{"refused", reserved("32"), ErrRefused, 0},
		{"reserved", reserved("35"), ErrFlowStatus, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBench(t, ConnOptions{}, func(t *testing.T, ctx context.Context, b *bench) {
				b.reply = c.reply
				if c.name == "no more flow control" {
					b.reply = func(b *bench, data string) {
						if data[0] == '1' {
							b.say(t, "300200")
						}
					}
				}
				err := b.Conn.Send(ctx, message)
				var got, want *TimeoutError
				if errors.As(c.want, &want) {
					if !errors.As(err, &got) || *got != *want {
						t.Errorf("%v, want %v", err, c.want)
					}
				} else if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if d := time.Since(b.began); d != c.at {
					t.Errorf("after %v, want %v", d, c.at)
				}
			})
		})
	}
	t.Run("waits without end", func(t *testing.T) {
		onBench(t, ConnOptions{MaxWaits: 3}, func(t *testing.T, ctx context.Context, b *bench) {
			go func() {
				for range 4 {
					time.Sleep(100 * time.Millisecond)
					b.say(t, "310000")
				}
			}()
			if err := b.Conn.Send(ctx, message); !errors.Is(err, ErrWaits) || time.Since(b.began) != 400*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(b.began))
			}
		})
	})
	t.Run("the caller gives up", func(t *testing.T) {
		onBench(t, ConnOptions{}, func(t *testing.T, ctx context.Context, b *bench) {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			if err := b.Conn.Send(ctx, message); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("lengths", func(t *testing.T) {
		onBench(t, ConnOptions{}, func(t *testing.T, ctx context.Context, b *bench) {
			for _, n := range []int{0, DefaultMaxMessage + 1} {
				if err := b.Conn.Send(ctx, make([]byte, n)); !errors.Is(err, ErrLength) {
					t.Errorf("%d bytes: %v", n, err)
				}
			}
			b.wantSent(t)
		})
	})
}

func TestReceiveSendsFlowControl(t *testing.T) {
	onBench(t, ConnOptions{BlockSize: 2, STmin: 15 * time.Millisecond}, func(t *testing.T, ctx context.Context, b *bench) {
		for _, data := range []string{"1022000102030405", "21060708090A0B0C", "220D0E0F10111213", "231415161718191A", "241B1C1D1E1F2021"} {
			b.say(t, data)
		}
		m, err := b.Receive(ctx)
		if err != nil || len(m.Data) != 34 || m.Data[33] != 0x21 {
			t.Fatalf("% x, %v", m.Data, err)
		}
		b.wantSent(t, "0s 7E0 30020F0000000000", "0s 7E0 30020F0000000000")
	})
}

func TestReceiveFails(t *testing.T) {
	onBench(t, ConnOptions{MaxMessage: 100}, func(t *testing.T, ctx context.Context, b *bench) {
		for _, c := range []struct {
			frames []string
			want   Reason
		}{
			{[]string{"1065000102030405"}, TooLong},
			{[]string{"1022000102030405", "220D0E0F10111213"}, Sequence},
			{[]string{"1022000102030405", "0141"}, Interrupted},
		} {
			for _, data := range c.frames {
				b.say(t, data)
			}
			var lost *LossError
			if _, err := b.Receive(ctx); !errors.As(err, &lost) || lost.Why != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
		}
		if m, err := b.Receive(ctx); err != nil || !bytes.Equal(m.Data, []byte{0x41}) {
			t.Errorf("after the interruption: %v %v", m, err)
		}
		if b.sent[0] != "0s 7E0 3200000000000000" {
			t.Errorf("%v", b.sent)
		}
		b.say(t, "1022000102030405")
		time.Sleep(10 * time.Millisecond)
		began := time.Now()
		var late *TimeoutError
		if _, err := b.Receive(ctx); !errors.As(err, &late) || late.Timer != "N_Cr" || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		b.tap.Close(can.ErrDown)
		if _, err := b.Receive(ctx); !errors.Is(err, ErrClosed) || !errors.Is(err, can.ErrDown) {
			t.Errorf("%v", err)
		}
	})
}

// Two units answer a functional request at once, and each gets flow control at its own address.
func TestFunctionalAnswers(t *testing.T) {
	o := ConnOptions{Send: Address{ID: 0x7DF}, Answer: func(f *can.Frame) (from, flow Address, ok bool) {
		return Address{ID: f.ID}, Address{ID: f.ID - 8}, f.ID >= 0x7E8 && f.ID <= 0x7EF
	}}
	onBench(t, o, func(t *testing.T, ctx context.Context, b *bench) {
		if err := b.Conn.Send(ctx, make([]byte, 8)); !errors.Is(err, ErrFunctional) {
			t.Errorf("%v", err)
		}
		if err := b.Conn.Send(ctx, []byte{9, 2}); err != nil {
			t.Fatal(err)
		}
		for _, data := range []string{"100A010203040506", "210708090A"} {
			for _, id := range []uint32{0x7E8, 0x7EA, 0x6E8} {
				b.bus.Send(frame(t, 0, id, data))
			}
		}
		for _, id := range []uint32{0x7E8, 0x7EA} {
			m, err := b.Receive(ctx)
			if err != nil || m.From.ID != id || len(m.Data) != 10 {
				t.Errorf("%+v, %v", m, err)
			}
		}
		b.wantSent(t, "0s 7DF 0209020000000000", "0s 7E0 3000000000000000", "0s 7E2 3000000000000000")
	})
}

// stuck is a bus that takes nothing.
type stuck struct{ *Tap }

func (stuck) Send(ctx context.Context, _ *can.Frame) error { <-ctx.Done(); return ctx.Err() }

func TestSendTimesOutOnAStuckBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, err := NewConn(stuck{NewTap(nil, 0, nil)}, ConnOptions{Send: Address{ID: 1}, Receive: Address{ID: 2}})
		if err != nil {
			t.Fatal(err)
		}
		var late *TimeoutError
		if err := conn.Send(t.Context(), []byte{1}); !errors.As(err, &late) || late.Timer != "N_As" {
			t.Errorf("%v", err)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []ConnOptions{{TxDL: 64}, {FD: true, TxDL: 9}, {FD: true, TxDL: 7}, {FD: true, TxDL: 65},
		{Receive: Address{ID: 1}, Answer: func(*can.Frame) (a, b Address, ok bool) { return }}} {
		if _, err := NewConn(NewTap(nil, 0, nil), o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
