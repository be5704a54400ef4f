package cantest

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// Rig is a bus under test.
type Rig struct {
	Open func(t *testing.T, filters []can.Filter) can.FrameReader // on the bus, listening when it returns
	Send func(t *testing.T, f can.Frame)
}

// waitTime bounds every wait of the suite; nothing in it is about speed.
const waitTime = 20 * time.Second

// SampleFrames is one frame of every kind that can be sent.
func SampleFrames() []can.Frame {
	long := can.Frame{ID: 0x18FEF100, Len: 64, Flags: can.FlagExtended | can.FlagFD | can.FlagBRS}
	for i := range long.Data {
		long.Data[i] = byte(255 - i)
	}
	return []can.Frame{
		{ID: 0x123, Len: 8, Data: [64]byte{1, 2, 3, 4, 5, 6, 7, 8}},
		{ID: 0x7FF, Len: 0},
		{ID: 0x1FFFFFFF, Len: 3, Flags: can.FlagExtended, Data: [64]byte{0xAA, 0xBB, 0xCC}},
		{ID: 0x123, Len: 3, Flags: can.FlagExtended, Data: [64]byte{9, 9, 9}},
		{ID: 0x55, Len: 4, Flags: can.FlagRemote},
		long,
		{ID: 0x456, Len: 12, Flags: can.FlagFD, Data: [64]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
	}
}

// TestReader is what every FrameReader has to do.
func TestReader(t *testing.T, rig Rig) {
	t.Run("every kind of frame arrives whole and in order", func(t *testing.T) {
		r := rig.Open(t, nil)
		defer r.Close()
		sent := SampleFrames()
		for _, f := range sent {
			rig.Send(t, f)
		}
		got, drops := Collect(t, r, len(sent))
		if drops != 0 {
			t.Errorf("%d drops of %d frames", drops, len(sent))
		}
		for i := range sent {
			if !Same(&got[i], &sent[i]) {
				t.Errorf("frame %d: got %+v, sent %+v", i, got[i], sent[i])
			}
		}
	})
	t.Run("filters let pass what they name", func(t *testing.T) {
		m := &can.Message{Name: "M", ID: 0x123, Length: 8}
		e := &can.Message{Name: "E", ID: 0x18FEF1FE, Extended: true, J1939: true, Length: 8}
		r := rig.Open(t, can.Compile([]can.Subscription{{Message: m}, {Message: e}}, can.PlanOptions{}).Filters())
		defer r.Close()
		rig.Send(t, can.Frame{ID: 0x124, Len: 1})
		rig.Send(t, can.Frame{ID: 0x123, Len: 1, Flags: can.FlagExtended})
		rig.Send(t, can.Frame{ID: 0x18FEF200, Len: 1, Flags: can.FlagExtended})
		rig.Send(t, can.Frame{ID: 0x0CFEF142, Len: 1, Flags: can.FlagExtended})
		rig.Send(t, can.Frame{ID: 0x123, Len: 1})
		got, _ := Collect(t, r, 2)
		if got[0].ID != 0x0CFEF142 || got[1].ID != 0x123 || got[1].Extended() {
			t.Errorf("passed %#x and %#x (extended: %t)", got[0].ID, got[1].ID, got[1].Extended())
		}
	})
	t.Run("Close ends a Read under way", func(t *testing.T) {
		r := rig.Open(t, nil)
		result := make(chan error, 1)
		go func() {
			_, _, err := r.Read(make([]can.Frame, 1))
			result <- err
		}()
		time.Sleep(20 * time.Millisecond) // most likely Read waits by now; it has to hold either way
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-result:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("Read answered %v, want os.ErrClosed", err)
			}
		case <-time.After(waitTime):
			t.Fatal("Read still waits")
		}
		if _, _, err := r.Read(make([]can.Frame, 1)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read after Close answered %v, want os.ErrClosed", err)
		}
	})
}

// Same reports whether two frames have the same identifier, flags and payload. Whether a frame carries its ESI flag is the
// controller's to say.
func Same(a, b *can.Frame) bool {
	const mask = ^can.FlagESI
	return a.ID == b.ID && a.Len == b.Len && a.Flags&mask == b.Flags&mask && string(a.Payload()) == string(b.Payload())
}

// Collect reads n frames, or fails the test.
func Collect(t *testing.T, r can.FrameReader, n int) (frames []can.Frame, drops uint64) {
	t.Helper()
	stop := time.AfterFunc(waitTime, func() { _ = r.Close() })
	defer stop.Stop()
	buf := make([]can.Frame, 64)
	for len(frames) < n {
		got, lost, err := r.Read(buf[:min(len(buf), n-len(frames))])
		frames = append(frames, buf[:got]...)
		drops += lost
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", len(frames), n, err)
		}
	}
	return frames, drops
}
