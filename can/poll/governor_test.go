package poll

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"context"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
)

const second = int64(time.Second)

func request() *can.Frame { return &can.Frame{ID: 0x7DF, Len: 8, Data: [64]byte{2, 1, 0x0C}} }

// ready is a governor of a running vehicle.
func ready(t *testing.T, change func(*Options)) *Governor {
	t.Helper()
	o := Options{Allow: []isotp.Address{{ID: 0x7DF}, {ID: 0x18DB33F1, Extended: true}}, BitRate: 500_000}
	if change != nil {
		change(&o)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	g.Ignition(0, true)
	g.Voltage(0, 14)
	return g
}

func want(t *testing.T, g *Governor, now int64, f *can.Frame, v Verdict) {
	t.Helper()
	if got := g.Decide(now, f); got != v {
		t.Errorf("at %v: %v, want %v", time.Duration(now), got, v)
	}
}

func TestSilentByDefault(t *testing.T) {
	g, err := New(Options{BitRate: 500_000, Allow: []isotp.Address{{ID: 0x7DF}}})
	if err != nil {
		t.Fatal(err)
	}
	want(t, g, 0, request(), IgnitionOff) // nothing is known
	g.Ignition(0, true)
	want(t, g, 0, request(), LowVoltage)
	g.Voltage(0, math.NaN())
	want(t, g, 0, request(), LowVoltage)
	g.Voltage(0, 12.1)
	want(t, g, 0, request(), Send)
	for _, f := range []*can.Frame{{ID: 0x7E0}, {ID: 0x7DF, Flags: can.FlagExtended}, {ID: 0x7DF, Flags: can.FlagRemote}, {}} {
		want(t, g, 0, f, NotListed)
	}
	if s := g.Stats(); s != (Stats{Send: 1, NotListed: 4, IgnitionOff: 1, LowVoltage: 2}) {
		t.Errorf("%v", s)
	}
	nothing := ready(t, func(o *Options) { o.Allow = nil })
	want(t, nothing, 0, request(), NotListed)
}

func TestIgnitionAndVoltage(t *testing.T) {
	g := ready(t, nil)
	want(t, g, second, request(), Send)
	g.Ignition(second, false)
	want(t, g, second, request(), IgnitionOff)
	g.Ignition(2*second, true)
	want(t, g, 2*second, request(), Send)
	for _, s := range []struct {
		volts float64
		v     Verdict
	}{{11.99, LowVoltage}, {12.1, LowVoltage}, {12.29, LowVoltage}, {12.3, Send}, {12.0, Send}, {11.9, LowVoltage}} {
		g.Voltage(3*second, s.volts)
		want(t, g, 3*second, request(), s.v)
	}
	g.Voltage(4*second, 13)
	want(t, g, 62*second, request(), Send)
	want(t, g, 62*second+1, request(), IgnitionOff) // its report is a minute old
	g.Ignition(63*second, true)
	want(t, g, 64*second+1, request(), LowVoltage)
}

func TestRate(t *testing.T) {
	g := ready(t, func(o *Options) { o.FrameRate, o.Burst, o.Share = 5, 3, 0.5 })
	for range 3 {
		want(t, g, 0, request(), Send)
	}
	want(t, g, 0, request(), Rate)
	want(t, g, second/5-1, request(), Rate)
	want(t, g, second/5, request(), Send)
	want(t, g, second/5, request(), Rate)
	sent := 0
	for now := second; now < 11*second; now += second / 100 {
		g.Ignition(now, true)
		if g.Decide(now, request()) == Send {
			sent++
		}
	}
	if sent < 50 || sent > 53 {
		t.Errorf("%d frames in 10 s at 5 a second and 3 at once", sent)
	}
	want(t, g, 0, request(), Rate) // a clock that goes back gives no tokens
}

// A frame of 8 bytes is 47 + 64 bits and at most 24 stuffed ones: 135 with the space (ISO 11898-1).
func TestShareOfTheBus(t *testing.T) {
	if got := frameBits(request()); got != 135 {
		t.Errorf("a base frame of 8 bytes is %v bits", got)
	}
	if got := frameBits(&can.Frame{Flags: can.FlagExtended, Len: 8}); got != 160 {
		t.Errorf("an extended frame of 8 bytes is %v bits", got)
	}
	if got := frameBits(&can.Frame{Flags: can.FlagExtended | can.FlagFD, Len: 64}); got > longestFrame {
		t.Errorf("the longest frame is %v bits", got)
	}
	g := ready(t, func(o *Options) { o.FrameRate, o.Burst, o.Share, o.BitRate = 1000, 1000, 0.01, 500_000 })
	bits := 0.0
	for now := int64(0); now < 10*second; now += second / 1000 {
		if v := g.Decide(now, request()); v == Send {
			bits += frameBits(request())
		} else if v != Load {
			t.Fatal(v)
		}
	}
	// The share, and what may be saved up for one second.
	if share := bits / (11 * 500_000); share > 0.01 || share < 0.0097 {
		t.Errorf("%v of the bus", share)
	}
}

func TestOtherTesters(t *testing.T) {
	for _, f := range []can.Frame{{ID: 0x7DF}, {ID: 0x7E0}, {ID: 0x7E7}, {ID: 0x18DB33F1, Flags: can.FlagExtended}, {ID: 0x18DA10F1, Flags: can.FlagExtended}} {
		g := ready(t, nil)
		g.Heard(second, &f)
		want(t, g, second, request(), OtherTester)
		g.Heard(5*second, &f)
		want(t, g, 15*second-1, request(), OtherTester)
		want(t, g, 15*second, request(), Send)
	}
	for _, f := range []can.Frame{{ID: 0x7E8}, {ID: 0x7DE}, {ID: 0x7DF, Flags: can.FlagExtended}, {ID: 0x18DAF110, Flags: can.FlagExtended},
		{ID: 0x18DB33F1 & 0x7FF}, {ID: 0x7DF, Flags: can.FlagError}, {ID: 0x18DA10F2, Flags: can.FlagExtended}} {
		g := ready(t, nil)
		g.Heard(second, &f)
		want(t, g, second, request(), Send)
	}
}

// What the reader hears of our own is nobody else's, once; the same frame from another comes on top.
func TestOwnFramesAreNoOtherTesters(t *testing.T) {
	g := ready(t, nil)
	want(t, g, second, request(), Send)
	g.Heard(second+1000, request())
	want(t, g, second+2000, request(), Send)
	g.Heard(second+3000, request())
	g.Heard(second+4000, request())
	want(t, g, second+5000, request(), OtherTester)

	g = ready(t, nil)
	want(t, g, second, request(), Send)
	g.Heard(second+1000, &can.Frame{ID: 0x7DF, Len: 8, Data: [64]byte{2, 1, 0x0D}})
	want(t, g, second+2000, request(), OtherTester)

	g = ready(t, nil)
	want(t, g, second, request(), Send)
	g.Heard(3*second, request()) // too late to be ours
	want(t, g, 3*second, request(), OtherTester)
}

// A unit may listen on an identifier that no standard gives to testers: who else asks there is one all the same.
func TestOtherTesterOnAListedIdentifier(t *testing.T) {
	g := ready(t, func(o *Options) { o.Allow = append(o.Allow, isotp.Address{ID: 0x740}) })
	own := &can.Frame{ID: 0x740, Len: 8, Data: [64]byte{3, 0x22, 0xF1, 0x90}}
	want(t, g, second, own, Send)
	g.Heard(second+1000, own)
	want(t, g, second+2000, request(), Send)
	g.Heard(second+3000, &can.Frame{ID: 0x740, Len: 8, Data: [64]byte{2, 0x10, 0x03}})
	want(t, g, second+4000, request(), OtherTester)
}

// A vehicle without a voltage signal has to say so.
func TestNoVoltage(t *testing.T) {
	g, err := New(Options{Allow: []isotp.Address{{ID: 0x7DF}}, BitRate: 500_000, NoVoltage: true})
	if err != nil {
		t.Fatal(err)
	}
	want(t, g, 0, request(), IgnitionOff)
	g.Ignition(0, true)
	want(t, g, 0, request(), Send)
}

func TestRoom(t *testing.T) {
	g := ready(t, func(o *Options) { o.FrameRate, o.Burst, o.Share = 10, 4, 0.5 })
	want(t, g, 0, request(), Send)
	want(t, g, 0, request(), Send)
	for _, c := range []struct {
		frames int
		v      Verdict
		wait   time.Duration
	}{{1, Send, 0}, {2, Send, 0}, {3, Rate, 100 * time.Millisecond}, {4, Rate, 200 * time.Millisecond}, {9, Rate, 200 * time.Millisecond}} {
		if v, wait := g.Room(0, request(), c.frames); v != c.v || wait != c.wait {
			t.Errorf("%d frames: %v and %v, want %v and %v", c.frames, v, wait, c.v, c.wait)
		}
	}
	if s := g.Stats(); s != (Stats{Send: 2}) {
		t.Errorf("%v: asking for room counts", s)
	}
	if v, _ := g.Room(0, &can.Frame{ID: 0x7E0}, 1); v != NotListed {
		t.Errorf("%v", v)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{}, {BitRate: 2_000_000}, {BitRate: 500_000, Share: 0.9}, {BitRate: 500_000, Share: -1}, {BitRate: 500_000, FrameRate: math.NaN()},
		{BitRate: 500_000, Burst: -1}, {BitRate: 500_000, MinVoltage: 12, Resume: 11}, {BitRate: 500_000, BackOff: -1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

type sink struct{ frames int }

func (s *sink) Send(context.Context, *can.Frame) error { s.frames++; return nil }

type bubble struct{ began time.Time }

func (b bubble) Boot() int64     { return int64(time.Since(b.began)) }
func (b bubble) Wall() time.Time { return time.Now() }

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		to := &sink{}
		g := NewGuard(ready(t, func(o *Options) { o.FrameRate, o.Burst = 10, 1 }), to, bubble{began})
		for range 11 {
			if err := g.Send(t.Context(), request()); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); to.frames != 11 || d < time.Second || d > 1100*time.Millisecond {
			t.Errorf("%d frames in %v", to.frames, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := g.Send(ctx, request()); !errors.Is(err, ErrRefused) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		g.Do(func(now int64, governor *Governor) { governor.Ignition(now, false) })
		if err := g.Send(t.Context(), request()); !errors.Is(err, ErrRefused) {
			t.Errorf("%v", err)
		}
	})
}
