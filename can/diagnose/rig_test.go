package diagnose

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/cantest"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/poll"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// bubble is a clock of virtual time.
type bubble struct{ began time.Time }

func (b bubble) Boot() int64     { return int64(time.Since(b.began)) }
func (b bubble) Wall() time.Time { return time.Now() }

// rig is a bus in memory with a Poller that reads it through the filters it asks for, and units that answer by a script:
// request → identifier and answer.
type rig struct {
	t       *testing.T
	bus     *cantest.Bus
	clock   bubble
	poller  *Poller
	log     strings.Builder
	stopped func()

	mu      sync.Mutex // guards what follows
	answers map[string][]string
	sent    []can.Frame // ours
	samples []telemetrypb.Sample
	vins    []string
	down    error // what Send answers
	rest    map[uint32][]can.Frame
}

func (r *rig) Send(_ context.Context, f *can.Frame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return r.down
	}
	r.sent = append(r.sent, *f)
	r.sent[len(r.sent)-1].Time = r.clock.Boot()
	r.put(*f)
	return nil
}

func (r *rig) put(f can.Frame) {
	f.Time = r.clock.Boot() - 1e6 // the kernel stamps a frame before it is read
	r.bus.Send(f)
}

// requests are ours so far, without padding and flow control, as "7DF 010C".
func (r *rig) requests() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.sent {
		if f.Data[0]>>4 == 0 {
			list = append(list, strings.ToUpper(fmt.Sprintf("%X %s", f.ID, hex.EncodeToString(f.Data[1:1+f.Data[0]]))))
		}
	}
	return list
}

func (r *rig) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent, r.samples = nil, nil
}

// take are the samples so far as "ID value".
func (r *rig) take() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.samples {
		value := s.Str
		switch s.Kind {
		case telemetrypb.KindInt:
			value = fmt.Sprint(int64(s.Bits))
		case telemetrypb.KindUint:
			value = fmt.Sprint(s.Bits)
		case telemetrypb.KindFloat:
			value = fmt.Sprint(s.Float())
		}
		list = append(list, fmt.Sprint(s.Signal, " ", value))
	}
	r.samples = nil
	return list
}

// answer lets the units react to a frame, 5 ms later.
func (r *rig) answer(f *can.Frame) {
	r.mu.Lock()
	ours := slices.ContainsFunc(r.sent, func(s can.Frame) bool { return s.ID == f.ID })
	r.mu.Unlock()
	if !ours {
		return
	}
	time.Sleep(5 * time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch f.Data[0] >> 4 {
	case 3:
		for _, next := range r.rest[f.ID] {
			r.put(next)
		}
		delete(r.rest, f.ID)
	case 0:
		for _, line := range r.answers[strings.ToUpper(fmt.Sprintf("%X %s", f.ID, hex.EncodeToString(f.Data[1:1+f.Data[0]&15])))] {
			var id, flow uint32
			var text string
			if _, err := fmt.Sscanf(line, "%X/%X %s", &id, &flow, &text); err != nil {
				r.t.Errorf("%q: %v", line, err)
			}
			data, err := hex.DecodeString(text)
			if err != nil {
				r.t.Errorf("%q: %v", line, err)
			}
			one := can.Frame{ID: id, Len: 8}
			if id > can.MaxStandardID {
				one.Flags = can.FlagExtended
			}
			if len(data) <= 7 {
				one.Data[0] = byte(len(data))
				copy(one.Data[1:], data)
				r.put(one)
				continue
			}
			one.Data[0], one.Data[1] = 0x10|byte(len(data)>>8), byte(len(data))
			copy(one.Data[2:8], data)
			r.put(one)
			r.rest[flow] = nil
			for i, part := range slices.Collect(slices.Chunk(data[6:], 7)) {
				next := can.Frame{ID: id, Len: 8, Flags: one.Flags}
				next.Data[0] = 0x20 | byte(i+1)&15
				copy(next.Data[1:8], part)
				r.rest[flow] = append(r.rest[flow], next)
			}
		}
	}
}

// drive runs a test beside a Poller in virtual time. The ignition is on and the voltage good, told every second, while
// the test does not say otherwise by told.
func drive(t *testing.T, o Options, answers map[string][]string, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, bus: cantest.NewBus(), clock: bubble{time.Now().Add(-time.Hour)}, answers: answers, rest: map[uint32][]can.Frame{}}
		o.Clock = r.clock
		o.Log = slog.New(slog.NewTextHandler(&lockedWriter{r: r}, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Governor.BitRate = 500_000
		o.Emit = func(s []telemetrypb.Sample) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.samples = append(r.samples, s...)
		}
		o.VIN = func(vin string, _ int64) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.vins = append(r.vins, vin)
		}
		var err error
		if r.poller, err = New(o, r); err != nil {
			t.Fatal(err)
		}
		if r.poller.Idle() {
			t.Fatal("nothing to ask")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		own := r.bus.Open(cantest.ReaderOptions{Filters: r.poller.Filters()})
		units := r.bus.Open(cantest.ReaderOptions{})
		read := func(reader can.FrameReader, take func(*can.Frame)) func() {
			return func() {
				buf := make([]can.Frame, 16)
				for {
					n, _, err := reader.Read(buf)
					for i := range n {
						take(&buf[i])
					}
					if err != nil {
						return
					}
				}
			}
		}
		tasks.Go(read(own, r.poller.Take))
		tasks.Go(read(units, r.answer))
		tasks.Go(func() {
			if err := r.poller.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		r.stopped = func() {
			began := time.Now()
			cancel()
			_, _ = own.Close(), units.Close()
			tasks.Wait()
			if d := time.Since(began); d > 100*time.Millisecond {
				t.Errorf("it took %v to end", d)
			}
		}
		synctest.Wait() // it has looked, and looks again in a second
		test(r)
		r.stopped()
		for _, f := range r.sent {
			if !slices.ContainsFunc(r.allowed(), func(a isotp.Address) bool { return a.ID == f.ID && a.Extended == f.Extended() }) {
				t.Errorf("frame %X is not one that may be sent", f.ID)
			}
		}
	})
}

func (r *rig) allowed() []isotp.Address {
	list, err := r.poller.allow()
	if err != nil {
		r.t.Error(err)
	}
	return list
}

// run lets time pass with the ignition on.
func (r *rig) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		r.poller.Ignition(true)
		r.poller.Voltage(13.8)
		time.Sleep(min(100*time.Millisecond, time.Until(end)))
	}
	synctest.Wait()
}

type lockedWriter struct{ r *rig }

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.log.Write(p)
}

func (r *rig) want(what string, got, want []string) {
	r.t.Helper()
	if !slices.Equal(got, want) {
		r.t.Errorf("%s: got\n  %s\nwant\n  %s\n%s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "), r.logged())
	}
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func (r *rig) pause() poll.Verdict { return r.poller.Stats().Pause }
