package main

import (
	"context"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/diagnose"
	"github.com/waybill-telematics/waybill/firmware"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// diagnosis is the feature of a bus whose units are asked. It opens the bus for sending when the first frame may be sent,
// and not at all when nothing of it is collected.
type diagnosis struct {
	bus      string
	settings *diagnoseSettings
	poller   *diagnose.Poller // from attach on; nil when there is nothing to ask
	vin      string           // of the poller's task: what was told last
}

var _ feature = (*diagnosis)(nil)

func (d *diagnosis) signals() []*telemetrypb.Signal {
	list := make([]*telemetrypb.Signal, len(d.settings.Offered))
	for i, o := range d.settings.Offered {
		list[i] = o.signal
	}
	return list
}

func (d *diagnosis) choose(id func(name string) (uint32, bool)) {
	for _, o := range d.settings.Offered {
		if n, ok := id(o.signal.Name); ok {
			*o.id = n
		}
	}
}

// diagnoseDepth is how many chunks of answers may wait for the pipeline.
const diagnoseDepth = 64

func (d *diagnosis) attach(bus *canSource) (tap, []reader) {
	source := bus.pipe.Source(bus.lossName(), diagnoseDepth)
	o := d.settings.Options
	o.Clock = bus.clock
	o.Log = bus.log.With("bus", d.bus)
	o.Emit = func(samples []telemetrypb.Sample) {
		chunk := source.Chunk()
		chunk.Samples = append(chunk.Samples, samples...)
		source.Offer(chunk)
	}
	o.VIN = func(vin string, at int64) {
		if vin == d.vin {
			return
		}
		d.vin = vin
		bus.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{
			BootNs: at, Vin: vin, Mode: "normal", Versions: map[string]string{"waybill-agent": firmware.Current().Version},
		}}})
	}
	out := &port{name: bus.Interface}
	poller, err := diagnose.New(o, out)
	if err != nil {
		return nil, []reader{{"diagnostics " + d.bus, func(context.Context) error { return err }}}
	}
	if poller.Idle() {
		return nil, nil
	}
	d.poller = poller
	bus.metrics.MustRegister(newDiagnoseMetrics(d.bus, poller))
	return d, []reader{{"diagnostics " + d.bus, func(ctx context.Context) error {
		defer out.close()
		return poller.Run(ctx)
	}}}
}

func (d *diagnosis) filters() (list []can.Filter, all bool) { return d.poller.Filters(), false }

func (d *diagnosis) take(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	d.poller.Take(f)
	return dst
}

// port sends on an interface. It is opened for the first frame, and anew after it went down or did not take a frame in
// time. One goroutine uses it.
type port struct {
	name   string
	writer *can.Writer
}

func (p *port) Send(ctx context.Context, f *can.Frame) error {
	if p.writer == nil {
		w, err := can.NewWriter(p.name)
		if err != nil {
			return err
		}
		p.writer = w
	}
	w := p.writer
	stop := context.AfterFunc(ctx, func() { _ = w.Close() }) // ends a Send under way
	err := w.Send(ctx, f)
	if !stop() || err != nil {
		p.close()
	}
	return err
}

func (p *port) close() {
	if p.writer != nil {
		_ = p.writer.Close()
		p.writer = nil
	}
}
