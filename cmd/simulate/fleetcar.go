package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/drive"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// queueBatches is how many batches a vehicle of a fleet holds in memory; while it holds more it samples nothing.
const queueBatches = 360

// car is what all vehicles of a fleet have in common: their bus, and what is sampled of it.
type car struct {
	plan      *can.Plan
	signals   int
	fix       gps.IDs
	catalogue []byte
	short     [16]byte
}

func newCar() *car {
	c := &car{}
	var list []*telemetrypb.Signal
	var subscriptions []can.Subscription
	db := can.ParseDBC(drive.DBC())
	for group, m := range db.Messages {
		for _, s := range m.Signals {
			kind := telemetrypb.ValueType_VALUE_TYPE_UINT
			if s.Signed {
				kind = telemetrypb.ValueType_VALUE_TYPE_INT
			}
			id := uint32(len(list) + 1)
			subscriptions = append(subscriptions, can.Subscription{ID: id, Message: m, Signal: s})
			list = append(list, &telemetrypb.Signal{Id: id, Name: "can0." + m.Name + "." + s.Name, Unit: s.Unit, Scale: s.Scale, Offset: s.Offset, Type: kind,
				Source: "can:can0", Message: m.Name, Group: uint32(group + 1)})
		}
	}
	ids := map[string]uint32{}
	for _, s := range gps.Signals("gps0") {
		s.Id = uint32(len(list) + 1)
		ids[s.Name] = s.Id
		list = append(list, s)
	}
	c.plan, c.signals = can.Compile(subscriptions, can.PlanOptions{}), len(list)
	c.fix = gps.ChooseIDs("gps0", func(name string) (uint32, bool) { id, ok := ids[name]; return id, ok })
	var hash [32]byte
	c.catalogue, hash = telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Format: telemetrypb.Format, Signals: list})
	copy(c.short[:], hash[:])
	return c
}

type vehicleOptions struct {
	broker, user, tenant, device, scenario string
	plain                                  bool
	tls                                    *tls.Config
	password                               func() (string, error)
	epoch, seed                            uint64
	duration, seal                         time.Duration
	log                                    *slog.Logger
}

// simVehicle is one of a fleet: the agent's uplink and codec over a queue in memory.
type simVehicle struct {
	car   *car
	o     vehicleOptions
	queue *uplinktest.Queue
	up    *uplink.Uplink
	clock *telemetrypb.ClockRecord
	boot  [16]byte
	began time.Time // CLOCK_BOOTTIME 0

	list                   []telemetrypb.Sample
	last                   []int64 // by signal: when it was sampled
	batches, samples, held uint64
	control                uint64
}

func newSimVehicle(c *car, o vehicleOptions) (*simVehicle, error) {
	v := &simVehicle{car: c, o: o, last: make([]int64, c.signals+1)}
	binary.LittleEndian.PutUint64(v.boot[:], o.epoch)
	var err error
	if v.queue, err = uplinktest.NewQueue(o.tenant, o.device, o.epoch); err != nil {
		return nil, err
	}
	options := uplink.Options{
		URL: o.broker, Tenant: o.tenant, Device: o.device, Insecure: o.plain, Password: o.password,
		Clocks: func([16]byte) *telemetrypb.ClockRecord { return v.clock },
		Status: v.status,
		Alarms: alarm.NewBoard(func() int64 { return int64(time.Since(v.began)) }, o.log), Log: o.log,
	}
	if o.tls != nil {
		options.TLS = func() (*tls.Config, error) { return o.tls.Clone(), nil }
	}
	if o.user != "" {
		options.User = func() (string, error) { return o.user, nil }
	}
	v.begin(time.Now())
	if v.up, err = uplink.New(options, v.queue); err != nil {
		return nil, err
	}
	return v, v.announce()
}

// begin is its boot.
func (v *simVehicle) begin(now time.Time) {
	v.began = now
	v.clock = &telemetrypb.ClockRecord{BootId: v.boot[:], BootCount: 1, Revision: 1, Anchors: []*telemetrypb.Anchor{
		{BootNs: 0, UnixNs: now.UnixNano(), UncertaintyNs: 1e6, Source: telemetrypb.TimeSource_TIME_SOURCE_NTP}}}
}

func (v *simVehicle) status() *telemetrypb.Status {
	return &telemetrypb.Status{Online: true, Device: v.o.device, Tenant: v.o.tenant, Version: "simulated", Epoch: v.o.epoch, BootId: v.boot[:], BootCount: 1,
		TimeUnixNs: time.Now().UnixNano(), TimeSource: telemetrypb.TimeSource_TIME_SOURCE_NTP, Power: "on"}
}

func (v *simVehicle) head(l telemetrypb.Lane) telemetrypb.Head {
	h := telemetrypb.Head{Tenant: v.o.tenant, Device: v.o.device, Epoch: v.o.epoch, Lane: l, BootID: v.boot, BootCount: 1}
	if l != telemetrypb.Lane_LANE_CONTROL {
		h.Catalogue = v.car.short
	}
	return h
}

// announce puts the catalogue into the control lane, as the agent does.
func (v *simVehicle) announce() error {
	var records []*telemetrypb.Record
	for _, p := range telemetrypb.SplitCatalogue(v.car.catalogue) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	rec := buffer.Record{Lane: buffer.Lane(telemetrypb.Lane_LANE_CONTROL), Samples: 1}
	rec.Seq = v.queue.Reserve(rec.Lane)
	h := v.head(telemetrypb.Lane_LANE_CONTROL)
	h.Seq = rec.Seq
	var err error
	if rec.Bytes, err = telemetrypb.AppendControl(nil, &h, &telemetrypb.Records{Records: records}); err != nil {
		return err
	}
	v.control++
	return v.queue.Commit([]buffer.Record{rec}, nil)
}

// drive samples until the drive's end or until ctx ends.
func (v *simVehicle) drive(ctx context.Context) error {
	d, err := drive.New(drive.Options{Seed: v.o.seed, Start: time.Now(), Duration: v.o.duration, Scenario: v.o.scenario})
	if err != nil {
		return err
	}
	start := time.Since(v.began)
	sealed := start
	for {
		e, ok := d.Next()
		if ok {
			if wait := start + e.At - time.Since(v.began); wait > 0 && !pause(ctx, max(wait, 100*time.Millisecond)) {
				ok = false
			}
		}
		now := start + e.At
		if !ok || now-sealed >= v.o.seal {
			if err := v.seal(); err != nil {
				return fmt.Errorf("%s: %w", v.o.device, err)
			}
			sealed = now
		}
		if !ok {
			return nil
		}
		v.take(&e, int64(now))
	}
}

// take samples each signal once a second.
func (v *simVehicle) take(e *drive.Event, boot int64) {
	from := len(v.list)
	switch {
	case e.Frame != nil:
		e.Frame.Time = boot
		v.list = v.car.plan.Decode(e.Frame, v.list)
	case e.Fix:
		fix := e.Place
		fix.Boot = boot
		v.list = gps.AppendSamples(v.list, v.car.fix, fix)
		return
	}
	kept := v.list[:from]
	for _, s := range v.list[from:] {
		if s.Time-v.last[s.Signal] >= 1e9 || v.last[s.Signal] == 0 {
			v.last[s.Signal] = s.Time
			kept = append(kept, s)
		}
	}
	v.list = kept
}

func (v *simVehicle) seal() error {
	n := uint64(len(v.list))
	if n == 0 {
		return nil
	}
	if v.queue.Len() >= queueBatches {
		v.held += n
		v.list = v.list[:0]
		return nil
	}
	if _, err := v.queue.Add(telemetrypb.Lane_LANE_TELEMETRY, v.head(telemetrypb.Lane_LANE_TELEMETRY), v.list); err != nil {
		return err
	}
	v.batches, v.samples, v.list = v.batches+1, v.samples+n, v.list[:0]
	v.up.Wake()
	return nil
}

// released counts the batches that the store has confirmed.
func (v *simVehicle) released() uint64 { return v.batches + v.control - uint64(v.queue.Len()) }
