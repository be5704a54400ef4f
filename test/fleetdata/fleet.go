package fleetdata

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/gps"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What the vehicles of the fleet are there for; every other one drives and is well.
const (
	Gap       = "car-02" // 3 batches never came, and its queue is empty
	Late      = "car-03" // likewise 2, and it is offline with 40 batches queued
	Lossy     = "car-04" // has entries in its loss ledger
	Parked    = "car-05" // 2 batches wait for a catalogue
	Undated   = "car-06" // its clock was never set
	Future    = "car-07" // its clock ran a day ahead for a while
	Suspect   = "car-08" // one fix lies 90 km off
	Backwards = "car-09" // what it drove first came last
	Garbled   = "car-10" // something under its name could not be read
	Plain     = "car-01"
	Other     = "van-1" // of tenant Second
	First     = "acme"
	Second    = "borealis"
)

// Hours is how long Plain has driven.
const Hours = 3

// Fleet is the fleet as it is now: twelve cars of one tenant, a van of another. All but Plain have driven for `others`, 15 minutes or more.
func Fleet(now time.Time, others time.Duration) (list []*Vehicle, err error) {
	began := func(device string) time.Time {
		if device == Plain {
			return now.Add(-Hours * time.Hour).Truncate(time.Second)
		}
		return now.Add(-others).Truncate(time.Second)
	}
	for n := 1; n <= 12; n++ {
		device := fmt.Sprintf("car-%02d", n)
		list = append(list, newVehicle(First, device, n, began(device)))
	}
	list = append(list, newVehicle(Second, Other, 99, began(Other)))
	for _, v := range list {
		v.story(now)
		err = errors.Join(err, v.err)
	}
	return list, err
}

// story is what happens to a vehicle.
func (v *Vehicle) story(now time.Time) {
	half := v.booted.Add(now.Sub(v.booted) / 2)
	if v.Device == Undated {
		v.clock = nil
	}
	v.begin()
	v.drive(half)
	v.event("overspeed", half.Add(-5*time.Minute), 131.5)
	switch v.Device {
	case Gap:
		v.lose(3)
	case Late:
		v.lose(2)
	case Lossy:
		v.records(
			&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_KERNEL_DROP, Source: "can:can0",
				Count: 412, Unit: "frames", BootId: v.boot[:], FirstNs: 1, LastNs: 2}}},
			&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_EVICTED, Source: "queue",
				Count: 2, Unit: "batches", Epoch: v.epoch, Lane: telemetrypb.Lane_LANE_TELEMETRY,
				Seqs: []*telemetrypb.SeqRange{{First: v.seq[telemetrypb.Lane_LANE_TELEMETRY] + 1, Last: v.seq[telemetrypb.Lane_LANE_TELEMETRY] + 2}}, Detail: "quota"}}},
			&telemetrypb.Record{Record: &telemetrypb.Record_Loss{Loss: &telemetrypb.Loss{Reason: telemetrypb.LossReason_LOSS_UNCLEAN_STOP, Source: "agent",
				Count: 1000, CountIsBound: true, Unit: "samples"}}})
		v.lose(2)
	case Parked:
		known := v.hash
		v.hash = [32]byte{0xFE, 0xED}
		v.drive(half.Add(2 * time.Minute))
		v.hash = known
	case Suspect:
		f := v.at(20)
		f.Boot, f.Latitude, f.Suspect = f.Boot+int64(time.Second), f.Latitude+gps.NanoDegrees(0.8), 1
		v.samples(telemetrypb.Lane_LANE_TELEMETRY, gps.AppendSamples(nil, v.fix, f))
	}
	v.drive(now.Add(-time.Minute))
	v.event("harsh_braking", v.moment.Add(-5*time.Minute), -4.8)
	switch v.Device {
	case Future:
		v.aheadBy(24 * time.Hour)
	case Backwards:
		telemetry := v.Messages[1:]
		slices.Reverse(telemetry)
	case Garbled:
		v.Messages = append(v.Messages, Message{telemetrypb.Topic(v.Tenant, v.Device, "up/telemetry"), []byte("this is no payload")})
	}
	switch v.Device {
	case Late:
		v.status(false, 40)
	case Undated:
		v.status(true, 2, &telemetrypb.Alarm{Name: "clock", Text: "the time is not known: no GPS fix and no NTP since the boot", Times: 1})
	default:
		v.status(true, 1)
	}
}

// aheadBy begins a boot whose clock is wrong, drives a minute in it, and so publishes positions of the future.
func (v *Vehicle) aheadBy(d time.Duration) {
	boot, booted, moment, clock := v.boot, v.booted, v.moment, v.clock
	v.boot[15], v.booted = 0xFF, v.moment
	v.clock = &telemetrypb.ClockRecord{BootId: append([]byte(nil), v.boot[:]...), BootCount: 7, Revision: 1, Anchors: []*telemetrypb.Anchor{
		{BootNs: 0, UnixNs: v.booted.Add(d).UnixNano(), UncertaintyNs: 2_000_000, Source: telemetrypb.TimeSource_TIME_SOURCE_SYSTEM}}}
	v.drive(v.moment.Add(time.Minute))
	v.boot, v.booted, v.moment, v.clock = boot, booted, moment, clock
}

// More publishes what every car has driven since, for what is to be seen live.
func (v *Vehicle) More(d time.Duration) []Message {
	before := len(v.Messages)
	v.drive(v.moment.Add(d))
	return v.Messages[before:]
}
