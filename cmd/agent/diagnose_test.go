package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/diagnose"
	"github.com/waybill-telematics/waybill/can/poll"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/pipeline"
	"github.com/waybill-telematics/waybill/pipeline/pipelinetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// attached is the vehicle of a configuration, what is about diagnostics attached to an interface that is not there: opening it would
// be seen as a failure.
func attached(t *testing.T, text string) (d *diagnosis, taps []tap, tasks []reader) {
	t.Helper()
	_, s, v, err := loadText(t, strings.ReplaceAll(text, "vcan0", "nowhere0"))
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := pipeline.New(pipeline.Options{Tenant: "t", Device: "d", BootID: [16]byte{1}, BootCount: 1}, v.selection, pipelinetest.NewQueue(1))
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{settings: s, vehicle: v, pipe: pipe, log: slog.New(slog.DiscardHandler), clock: clock.System{}, metrics: prometheus.NewRegistry()}
	bus := &canSource{agent: a, canSettings: s.CAN[0]}
	for _, f := range v.features[0] {
		switch f := f.(type) {
		case *diagnosis:
			d = f
		case *watch:
		default:
			continue // what else a bus offers
		}
		one, more := f.attach(bus)
		if one != nil {
			taps = append(taps, one)
		}
		tasks = append(tasks, more...)
	}
	return d, taps, tasks
}

func TestNothingIsAskedUnlessConfigured(t *testing.T) {
	plain := goodDiagnose[:strings.Index(goodDiagnose, "    diagnose:")] + goodDiagnose[strings.Index(goodDiagnose, "collect:"):]
	if d, taps, tasks := attached(t, plain); d != nil || taps != nil || tasks != nil {
		t.Errorf("without the section: %v %v %v", d, taps, tasks)
	}
	// What nobody collects is not asked for; the VIN is no signal.
	text := strings.Replace(strings.Replace(goodDiagnose, "'*'", "'can0.Body.*'", 1), "        vin: true\n", "", 1)
	if d, _, tasks := attached(t, text); d == nil || d.poller != nil || tasks != nil {
		t.Errorf("with nothing of it collected: %v %v", d, tasks)
	}
}

func TestTheBusIsOpenedWhenTheFirstFrameMayBeSent(t *testing.T) {
	d, taps, tasks := attached(t, goodDiagnose)
	if len(taps) != 3 || len(tasks) != 1 {
		t.Fatalf("%d taps, %d tasks", len(taps), len(tasks))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tasks[0].run(ctx) }()
	until := func(what string, reached func(diagnose.Stats) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !reached(d.poller.Stats()); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it is not %s: %+v", what, d.poller.Stats())
			}
		}
	}
	body := func(ignition, voltage byte) {
		for _, one := range taps {
			one.take(&can.Frame{ID: 257, Len: 8, Data: [64]byte{ignition, voltage}}, nil)
		}
	}
	until("silent", func(s diagnose.Stats) bool { return s.Pause == poll.IgnitionOff })
	body(1, 130) // not above 1.5
	body(2, 110) // 11 V
	until("silent for the voltage", func(s diagnose.Stats) bool { return s.Pause == poll.LowVoltage })
	if s := d.poller.Stats(); s.Failed[diagnose.Unsent] != 0 || s.Frames[poll.Send] != 0 {
		t.Errorf("it tried to send: %+v", s)
	}
	body(2, 130)
	until("sending", func(s diagnose.Stats) bool { return s.Failed[diagnose.Unsent] > 0 })
	body(1, 130)
	until("silent again", func(s diagnose.Stats) bool { return s.Pause == poll.IgnitionOff })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	families, err := (prometheus.Gatherers{registryOf(t, d)}).Gather()
	if err != nil || len(families) != 5 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}

func registryOf(t *testing.T, d *diagnosis) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(newDiagnoseMetrics("can0", d.poller)); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTapsOfDiagnosisAllocateNothing(t *testing.T) {
	_, taps, _ := attached(t, goodDiagnose)
	frames := []can.Frame{{ID: 257, Len: 8, Data: [64]byte{2, 130}}, {ID: 0x7E0, Len: 8, Data: [64]byte{2, 0x3E}}, {ID: 0x7E8, Len: 8}, {ID: 0x123, Len: 8},
		{ID: 0x18DAF110, Len: 8, Flags: can.FlagExtended}}
	samples := make([]telemetrypb.Sample, 0, 64)
	if n := testing.AllocsPerRun(1000, func() {
		for i := range frames {
			for _, one := range taps {
				samples = one.take(&frames[i], samples[:0])
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
	for _, one := range taps {
		list, all := one.filters()
		if all || len(list) == 0 {
			t.Errorf("%T asks for %v, %v", one, list, all)
		}
	}
}
