package cantest

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

func TestBus(t *testing.T) {
	bus := NewBus()
	TestReader(t, Rig{
		Open: func(_ *testing.T, filters []can.Filter) can.FrameReader {
			return bus.Open(ReaderOptions{Filters: filters})
		},
		Send: func(_ *testing.T, f can.Frame) { bus.Send(f) },
	})
}

func TestBusCountsDrops(t *testing.T) {
	bus := NewBus()
	slow, fast := bus.Open(ReaderOptions{Depth: 3, Bus: 2}), bus.Open(ReaderOptions{})
	for i := range 10 {
		bus.Send(can.Frame{ID: uint32(i)})
	}
	got, drops := Collect(t, slow, 3)
	if drops != 7 || got[2].ID != 2 || got[0].Bus != 2 {
		t.Errorf("%d drops, frames %+v", drops, got)
	}
	if _, drops := Collect(t, fast, 10); drops != 0 {
		t.Errorf("%d drops", drops)
	}
}

func TestBusDown(t *testing.T) {
	bus := NewBus()
	r := bus.Open(ReaderOptions{})
	bus.Send(can.Frame{ID: 1})
	bus.Down()
	bus.Send(can.Frame{ID: 2})
	if got, _ := Collect(t, r, 1); got[0].ID != 1 {
		t.Errorf("%+v", got)
	}
	for range 2 {
		if _, _, err := r.Read(make([]can.Frame, 1)); !errors.Is(err, can.ErrDown) {
			t.Errorf("%v", err)
		}
	}
	again := bus.Open(ReaderOptions{})
	bus.Send(can.Frame{ID: 3})
	if got, _ := Collect(t, again, 1); got[0].ID != 3 {
		t.Errorf("%+v", got)
	}
}

func TestPlayKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := NewBus()
		r := bus.Open(ReaderOptions{})
		began := time.Now()
		go bus.Play([]Step{{Frame: can.Frame{ID: 1}}, {After: time.Hour, Frame: can.Frame{ID: 2}}})
		buf := make([]can.Frame, 4)
		for i, want := range []time.Duration{0, time.Hour} {
			n, _, err := r.Read(buf)
			if n != 1 || err != nil || buf[0].ID != uint32(i+1) || time.Since(began) != want {
				t.Errorf("frame %d: %d %v %+v after %v", i, n, err, buf[0], time.Since(began))
			}
		}
		_ = r.Close()
	})
}
