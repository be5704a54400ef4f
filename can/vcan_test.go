package can_test

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"go.einride.tech/can/pkg/candevice"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/cantest"
	"github.com/waybill-telematics/waybill/internal/clock"
)

// vcan is the interface that these tests run on. Kernels of build machines have none: test/vm runs them in a guest whose
// kernel has one, and says so with WAYBILL_VM=1.
func vcan(t testing.TB) string {
	t.Helper()
	const name = "vcan0"
	if _, err := net.InterfaceByName(name); err != nil {
		if os.Getenv("WAYBILL_VM") == "1" {
			t.Fatalf("the guest has no %s: %v", name, err)
		}
		t.Skip("no vcan0 here; test/vm runs this in a guest kernel")
	}
	return name
}

func openReader(t *testing.T, o can.ReaderOptions) *can.Reader {
	t.Helper()
	r, err := can.Open(vcan(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func newWriter(t *testing.T) *can.Writer {
	t.Helper()
	w, err := can.NewWriter(vcan(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func send(t *testing.T, w *can.Writer, f can.Frame) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.Send(ctx, &f); err != nil {
		t.Fatal(err)
	}
}

func TestVcanReader(t *testing.T) {
	w := newWriter(t)
	for _, gather := range []time.Duration{0, 5 * time.Millisecond} {
		t.Run(gather.String(), func(t *testing.T) {
			cantest.TestReader(t, cantest.Rig{
				Open: func(t *testing.T, filters []can.Filter) can.FrameReader {
					return openReader(t, can.ReaderOptions{Bus: 3, Filters: filters, Gather: gather})
				},
				Send: func(t *testing.T, f can.Frame) { send(t, w, f) },
			})
		})
	}
}

// A reader that gathers takes many frames at a time, all of them, and each has the time at which it came. After a pause
// of the bus it goes on.
func TestVcanGather(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{Gather: 20 * time.Millisecond}), newWriter(t)
	const bursts, count = 3, 100
	var sent [bursts * count][2]int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range sent {
			if i%count == 0 {
				time.Sleep(100 * time.Millisecond) // the reader waits in the poller
			}
			sent[i][0] = clock.System{}.Boot()
			if err := w.Send(t.Context(), &can.Frame{ID: uint32(i), Len: 1}); err != nil {
				t.Error(err)
			}
			sent[i][1] = clock.System{}.Boot()
			time.Sleep(time.Millisecond)
		}
	}()
	buf := make([]can.Frame, 64)
	var got []can.Frame
	reads := 0
	for len(got) < len(sent) {
		n, drops, err := r.Read(buf)
		if err != nil || drops > 0 {
			t.Fatal(drops, err)
		}
		got = append(got, buf[:n]...)
		reads++
	}
	<-done
	for i, f := range got {
		const slack = int64(2 * time.Millisecond) // two clocks are read one after the other
		if int(f.ID) != i || f.Time < sent[i][0]-slack || f.Time > sent[i][1]+slack {
			t.Errorf("frame %d is %d, of time %d, sent between %d and %d", i, f.ID, f.Time, sent[i][0], sent[i][1])
		}
	}
	if reads > len(sent)/2 {
		t.Errorf("%d reads for %d frames", reads, len(sent))
	}
	if s := r.Stats(); s.Clamped+s.Unstamped > 0 {
		t.Errorf("%+v", s)
	}
}

// Close ends a Read wherever it is: in the poller, and while it gathers.
func TestVcanCloseEndsRead(t *testing.T) {
	w := newWriter(t)
	for _, wake := range []bool{false, true} {
		r := openReader(t, can.ReaderOptions{Gather: time.Hour})
		result := make(chan error, 1)
		go func() {
			_, _, err := r.Read(make([]can.Frame, 1))
			result <- err
		}()
		time.Sleep(50 * time.Millisecond)
		if wake {
			send(t, w, can.Frame{ID: 1})
			time.Sleep(50 * time.Millisecond)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-result:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("Read answered %v, want os.ErrClosed", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Close did not end Read")
		}
	}
}

// awaitStamps waits until the kernel stamps frames as they come. The first socket that asks for stamps has a worker of the
// kernel switch them on (net_enable_timestamp); what comes before is stamped when it is read.
func awaitStamps(t *testing.T, r *can.Reader, w *can.Writer) can.ReaderStats {
	t.Helper()
	for range 500 {
		send(t, w, can.Frame{ID: 0x7FE})
		sent := clock.System{}.Boot()
		time.Sleep(20 * time.Millisecond)
		if got, _ := cantest.Collect(t, r, 1); got[0].Time < sent+int64(10*time.Millisecond) {
			return r.Stats()
		}
	}
	t.Fatal("the kernel does not stamp frames as they come")
	return can.ReaderStats{}
}

// The time of a frame lies between the moments before it was sent and after it was read, however late it is read.
func TestVcanTime(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{Bus: 3}), newWriter(t)
	const count = 50
	before := awaitStamps(t, r, w)
	var sent [count][2]int64
	for i := range sent {
		sent[i][0] = clock.System{}.Boot()
		send(t, w, can.Frame{ID: uint32(i), Len: 1})
		sent[i][1] = clock.System{}.Boot()
		time.Sleep(time.Millisecond)
	}
	got, _ := cantest.Collect(t, r, count)
	const slack = int64(2 * time.Millisecond) // two clocks are read one after the other
	for i, f := range got {
		if f.Time < sent[i][0]-slack || f.Time > sent[i][1]+slack {
			t.Errorf("frame %d has time %d, it was sent between %d and %d", i, f.Time, sent[i][0], sent[i][1])
		}
		if f.Bus != 3 {
			t.Errorf("frame %d is of bus %d", i, f.Bus)
		}
	}
	if s := r.Stats(); s.Unstamped+s.Clamped > before.Unstamped+before.Clamped || s.Frames != before.Frames+count {
		t.Errorf("%+v", s)
	}
}

// Every frame that was sent is received or counted as dropped.
func TestVcanDrops(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{ReceiveBuffer: 8192}), newWriter(t)
	const count = 500
	for i := range count {
		send(t, w, can.Frame{ID: 0x100, Len: 2, Data: [64]byte{byte(i >> 8), byte(i)}})
	}
	const last = 0x7FF
	received, dropped := 0, uint64(0)
	buf := make([]can.Frame, 64)
	// The kernel tells its count beside a frame that was queued after the drops: what was in the buffer has to go first.
	for received+int(dropped) < count {
		n, drops, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		dropped += drops
		for i := range buf[:n] {
			if buf[i].ID != last {
				received++
			}
		}
		if n < len(buf) && received+int(dropped) < count {
			send(t, w, can.Frame{ID: last})
		}
	}
	if dropped == 0 || received == 0 || received+int(dropped) != count {
		t.Errorf("sent %d, received %d, counted %d", count, received, dropped)
	}
	if s := r.Stats(); s.Drops != dropped {
		t.Errorf("the statistics say %d drops, Read said %d", s.Drops, dropped)
	}
}

func TestVcanErrorFrame(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{Filters: []can.Filter{{ID: 0x123, Mask: 0x7FF}}}), newWriter(t)
	const busOff = 0x40 // CAN_ERR_BUSOFF
	send(t, w, can.Frame{ID: busOff, Len: 8, Flags: can.FlagError})
	got, _ := cantest.Collect(t, r, 1)
	if got[0].Flags != can.FlagError || got[0].ID != busOff {
		t.Errorf("got %+v", got[0])
	}
	if s := r.Stats(); s.Errors != 1 {
		t.Errorf("%+v", s)
	}
}

func TestVcanReadAllocatesNothing(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{Gather: time.Millisecond}), newWriter(t)
	buf := make([]can.Frame, 64)
	f := can.Frame{ID: 0x123, Len: 8}
	ctx := context.Background()
	allocations := testing.AllocsPerRun(200, func() {
		if err := w.Send(ctx, &f); err != nil {
			t.Fatal(err)
		}
		if n, _, err := r.Read(buf); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations a frame", allocations)
	}
}

// An interface that goes down ends Read with ErrDown, and after BringUp another Open reads on.
func TestVcanDown(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{}), newWriter(t)
	device, err := candevice.New(vcan(t))
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 2)
	read := func(r *can.Reader) {
		_, _, err := r.Read(make([]can.Frame, 1))
		result <- err
	}
	late := openReader(t, can.ReaderOptions{}) // does not wait yet when it happens
	go read(r)
	if err := device.SetDown(); err != nil {
		_ = r.Close()
		<-result
		if os.Getenv("WAYBILL_VM") == "1" {
			t.Fatal(err)
		}
		t.Skipf("cannot set %s down: %v; test/vm runs this in a guest kernel", vcan(t), err)
	}
	defer func() {
		if err := can.BringUp(vcan(t), can.LinkOptions{}); err != nil {
			t.Fatal(err)
		}
	}()
	go read(late)
	for range 2 {
		select {
		case err := <-result:
			if !errors.Is(err, can.ErrDown) {
				t.Errorf("Read answered %v, want ErrDown", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Read did not notice that the interface went down")
		}
	}
	f := can.Frame{ID: 1}
	if err := w.Send(t.Context(), &f); !errors.Is(err, can.ErrDown) {
		t.Errorf("Send answered %v, want ErrDown", err)
	}
	if _, err = can.Open(vcan(t), can.ReaderOptions{}); !errors.Is(err, can.ErrDown) {
		t.Errorf("Open of an interface that is down answers %v, want ErrDown", err)
	}
	if err := can.BringUp(vcan(t), can.LinkOptions{Bitrate: 500000}); err != nil {
		t.Fatal(err)
	}
	again := openReader(t, can.ReaderOptions{})
	send(t, newWriter(t), can.Frame{ID: 0x42})
	if got, _ := cantest.Collect(t, again, 1); got[0].ID != 0x42 {
		t.Errorf("got %+v", got[0])
	}
}

// What came before an interface went down is read before ErrDown, and what was dropped meanwhile is counted, also with
// no frame behind it.
func TestVcanFramesBeforeDown(t *testing.T) {
	r, w := openReader(t, can.ReaderOptions{ReceiveBuffer: 128 << 10}), newWriter(t)
	device, err := candevice.New(vcan(t))
	if err != nil {
		t.Fatal(err)
	}
	const count = 1000 // more than there is room for
	for i := range count {
		send(t, w, can.Frame{ID: uint32(i), Len: 1})
	}
	if err := device.SetDown(); err != nil {
		if os.Getenv("WAYBILL_VM") == "1" {
			t.Fatal(err)
		}
		t.Skipf("cannot set %s down: %v; test/vm runs this in a guest kernel", vcan(t), err)
	}
	defer func() {
		if err := can.BringUp(vcan(t), can.LinkOptions{}); err != nil {
			t.Fatal(err)
		}
	}()
	buf := make([]can.Frame, 64)
	dropped := uint64(0)
	for got := 0; ; {
		n, drops, err := r.Read(buf)
		dropped += drops
		for _, f := range buf[:n] {
			if f.ID != uint32(got) {
				t.Errorf("frame %d has the identifier %d", got, f.ID)
			}
			got++
		}
		if err != nil {
			if got <= len(buf) || dropped == 0 || got+int(dropped) != count || !errors.Is(err, can.ErrDown) {
				t.Errorf("%d frames and %d drops of %d, then %v", got, dropped, count, err)
			}
			if s := r.Stats(); s.Drops != dropped {
				t.Errorf("the statistics say %d drops, Read said %d", s.Drops, dropped)
			}
			return
		}
	}
}

func TestOpenWithoutInterface(t *testing.T) {
	if _, err := can.Open("nosuchcan", can.ReaderOptions{}); !errors.Is(err, can.ErrDown) {
		t.Errorf("Open answered %v, want ErrDown", err)
	}
}
