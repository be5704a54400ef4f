// Package fleetdata makes up a small fleet: what its vehicles publish in three hours, with all that can go wrong on the way,
// sealed as an agent seals it. Tests put it through a real receiver into a real store. Everything of it is known, so that
// what a reader says can be compared.
package fleetdata

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/gps"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Message is one publish.
type Message struct {
	Topic   string
	Payload []byte
}

// Vehicle is one vehicle that drives and publishes. It is not safe for use from several goroutines.
type Vehicle struct {
	Tenant, Device string
	Messages       []Message // in order

	epoch     uint64
	boot      [16]byte
	booted    time.Time // CLOCK_BOOTTIME 0
	seq       map[telemetrypb.Lane]uint64
	ids       map[string]uint32
	fix       gps.IDs
	data      []byte
	hash      [32]byte
	clock     *telemetrypb.ClockRecord
	odd       float64 // makes vehicles differ
	latitude  float64
	longitude float64
	heading   float64
	charge    float64
	moment    time.Time
	err       error
}

// Signals of every vehicle beside those of its receiver gps0.
var signals = []*telemetrypb.Signal{
	{Name: "can0.DriveCounter.VehicleSpeed", Unit: "km/h", Scale: 0.01, Type: telemetrypb.ValueType_VALUE_TYPE_UINT, Source: "can:can0"},
	{Name: "can0.MotorState.MotorPower", Unit: "kW", Scale: 0.01, Type: telemetrypb.ValueType_VALUE_TYPE_INT, Source: "can:can0"},
	{Name: "can0.BatteryState.StateOfCharge", Unit: "%", Scale: 0.1, Type: telemetrypb.ValueType_VALUE_TYPE_UINT, Source: "can:can0"},
	{Name: "can0.Pedals.Gear", Scale: 1, Type: telemetrypb.ValueType_VALUE_TYPE_INT, Source: "can:can0",
		Labels: []*telemetrypb.Label{{Value: 0, Text: "P"}, {Value: 3, Text: "D"}}},
	{Name: "agent.note", Type: telemetrypb.ValueType_VALUE_TYPE_STRING, Source: "agent"},
	{Name: "event.overspeed", Unit: "km/h", Scale: 1, Type: telemetrypb.ValueType_VALUE_TYPE_FLOAT, Source: "rule", Comment: "above 120"},
	{Name: "event.harsh_braking", Unit: "m/s2", Scale: 1, Type: telemetrypb.ValueType_VALUE_TYPE_FLOAT, Source: "rule", Comment: "below -4"},
}

// collected is what is taken of the receiver.
var collected = []string{"latitude", "longitude", "speed", "track", "suspect", "mode", "satellites"}

// newVehicle begins a boot. number makes epoch, boot and start differ.
func newVehicle(tenant, device string, number int, booted time.Time) *Vehicle {
	v := &Vehicle{Tenant: tenant, Device: device, epoch: 0x8000_0000_0000_0100 + uint64(number), boot: [16]byte{1, byte(number), byte(number >> 8)}, booted: booted,
		seq: map[telemetrypb.Lane]uint64{}, ids: map[string]uint32{}, odd: float64(number), charge: 0.9 - 0.02*float64(number%20), moment: booted,
		latitude: 47.70 + 0.09*math.Sin(float64(number)*2.4), longitude: 9.20 + 0.16*math.Cos(float64(number)*2.4), heading: float64(number * 67 % 360)}
	var list []*telemetrypb.Signal
	for _, s := range gps.Signals("gps0") {
		if _, name, _ := strings.Cut(s.Name, ".fix."); slices.Contains(collected, name) {
			list = append(list, s)
		}
	}
	for _, s := range signals {
		list = append(list, proto.CloneOf(s))
	}
	for i, s := range list {
		s.Id = uint32(i + 1)
		v.ids[s.Name] = s.Id
	}
	v.fix = gps.ChooseIDs("gps0", func(name string) (uint32, bool) { id, ok := v.ids[name]; return id, ok })
	v.data, v.hash = telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Format: 1, Signals: list})
	v.clock = &telemetrypb.ClockRecord{BootId: v.boot[:], BootCount: 7, Revision: 1, Anchors: []*telemetrypb.Anchor{
		{BootNs: 0, UnixNs: booted.UnixNano(), UncertaintyNs: 2_000_000, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS},
		{BootNs: int64(6 * time.Hour), UnixNs: booted.Add(6 * time.Hour).UnixNano(), UncertaintyNs: 2_000_000, Source: telemetrypb.TimeSource_TIME_SOURCE_GPS}}}
	return v
}

// Err is what went wrong while the vehicle was made.
func (v *Vehicle) Err() error { return v.err }

func (v *Vehicle) head(lane telemetrypb.Lane) *telemetrypb.Head {
	v.seq[lane]++
	h := &telemetrypb.Head{Tenant: v.Tenant, Device: v.Device, Epoch: v.epoch, Lane: lane, Seq: v.seq[lane], BootID: v.boot, BootCount: 7}
	if lane != telemetrypb.Lane_LANE_CONTROL {
		copy(h.Catalogue[:], v.hash[:])
	}
	return h
}

func (v *Vehicle) publish(lane telemetrypb.Lane, batch []byte, err error) {
	if err != nil {
		v.err = fmt.Errorf("%s: %w", v.Device, err)
		return
	}
	var clocks []*telemetrypb.ClockRecord
	if v.clock != nil {
		clocks = append(clocks, v.clock)
	}
	v.Messages = append(v.Messages, Message{telemetrypb.Topic(v.Tenant, v.Device, telemetrypb.TopicLane(lane)), telemetrypb.AppendPayload(nil, false, clocks, batch)})
}

func (v *Vehicle) records(list ...*telemetrypb.Record) {
	batch, err := telemetrypb.AppendControl(nil, v.head(telemetrypb.Lane_LANE_CONTROL), &telemetrypb.Records{Records: list})
	v.publish(telemetrypb.Lane_LANE_CONTROL, batch, err)
}

// begin publishes the catalogue and what the vehicle is.
func (v *Vehicle) begin() {
	var list []*telemetrypb.Record
	for _, p := range telemetrypb.SplitCatalogue(v.data) {
		list = append(list, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	list = append(list, &telemetrypb.Record{Record: &telemetrypb.Record_Device{Device: &telemetrypb.DeviceInfo{
		BootNs: 1, Vin: "WBYTEST0000000" + fmt.Sprintf("%03.0f", v.odd), Mode: "normal", Versions: map[string]string{"agent": "1.4.0"}}}})
	v.records(list...)
}

func (v *Vehicle) samples(lane telemetrypb.Lane, list []telemetrypb.Sample) {
	batch, err := telemetrypb.AppendBatch(nil, v.head(lane), list)
	v.publish(lane, batch, err)
}

// event publishes one sample on the event lane.
func (v *Vehicle) event(name string, at time.Time, value float64) {
	v.samples(telemetrypb.Lane_LANE_EVENT, []telemetrypb.Sample{telemetrypb.FloatSample(v.ids["event."+name], int64(at.Sub(v.booted)), value)})
}

// lose takes the next batches of telemetry for itself: they never come.
func (v *Vehicle) lose(batches uint64) { v.seq[telemetrypb.Lane_LANE_TELEMETRY] += batches }

func (v *Vehicle) status(online bool, queued uint64, alarms ...*telemetrypb.Alarm) {
	s := &telemetrypb.Status{Online: online, Device: v.Device, Tenant: v.Tenant, Version: "1.4.0", Hardware: "linux/arm64", Epoch: v.epoch, BootId: v.boot[:], BootCount: 7,
		TimeUnixNs: v.moment.UnixNano(), TimeSource: telemetrypb.TimeSource_TIME_SOURCE_GPS, Power: "on", Alarms: alarms}
	for lane, seq := range v.seq {
		d := &telemetrypb.LaneDepth{Lane: lane, NextSeq: seq + 1}
		if lane == telemetrypb.Lane_LANE_TELEMETRY {
			d.Batches, d.Bytes = queued, queued*9100
		}
		s.Queue = append(s.Queue, d)
	}
	if !online {
		s.Reason, s.Power = "parked", "quiet"
	}
	text, err := proto.Marshal(s)
	if err != nil {
		v.err = err
		return
	}
	v.Messages = append(v.Messages, Message{telemetrypb.Topic(v.Tenant, v.Device, telemetrypb.TopicStatus), text})
}

// Speed is how fast every vehicle drives after `since` its boot, m/s: 25 minutes of driving, 15 minutes of standing, over and over.
func Speed(since time.Duration, odd float64) float64 {
	in := math.Mod(since.Seconds(), 2400)
	if in >= 1500 {
		return 0
	}
	ramp := min(in/30, (1500-in)/30, 1)
	return ramp * (14 + 9*math.Sin(in/170+odd) + 2*math.Sin(in/23))
}

// drive publishes what happens until a moment, a batch each minute: a fix each 30 s, as the drive goes.
func (v *Vehicle) drive(until time.Time) {
	for v.moment.Before(until) {
		var list []telemetrypb.Sample
		for range 2 {
			list = v.tick(list, 30*time.Second)
		}
		v.samples(telemetrypb.Lane_LANE_TELEMETRY, list)
	}
}

// tick moves the vehicle.
func (v *Vehicle) tick(list []telemetrypb.Sample, step time.Duration) []telemetrypb.Sample {
	v.moment = v.moment.Add(step)
	since := v.moment.Sub(v.booted)
	speed := Speed(since, v.odd)
	v.heading = math.Mod(v.heading+step.Seconds()*(0.9*math.Sin(since.Seconds()/90+v.odd)+0.35*math.Sin(since.Seconds()/400+2*v.odd))*min(speed/8, 1)+360, 360)
	metres := speed * step.Seconds()
	sin, cos := math.Sincos(v.heading * math.Pi / 180)
	v.latitude += metres * cos / 111_320
	v.longitude += metres * sin / (111_320 * math.Cos(v.latitude*math.Pi/180))
	v.charge -= metres * 2.4e-6
	list = gps.AppendSamples(list, v.fix, v.at(speed))
	boot, gear := int64(since), int64(0)
	if speed > 0 {
		gear = 3
	}
	return append(list,
		telemetrypb.UintSample(v.ids["can0.DriveCounter.VehicleSpeed"], boot, uint64(math.Round(speed*360))),
		telemetrypb.IntSample(v.ids["can0.MotorState.MotorPower"], boot, int64(math.Round(100*(0.6+speed*0.9+6*math.Sin(since.Seconds()/23))))),
		telemetrypb.UintSample(v.ids["can0.BatteryState.StateOfCharge"], boot, uint64(math.Round(v.charge*1000))),
		telemetrypb.IntSample(v.ids["can0.Pedals.Gear"], boot, gear))
}

// at is the fix of this moment.
func (v *Vehicle) at(speed float64) gps.Fix {
	return gps.Fix{Boot: int64(v.moment.Sub(v.booted)), Time: v.moment.UnixNano(), Latitude: gps.NanoDegrees(v.latitude), Longitude: gps.NanoDegrees(v.longitude),
		Speed: speed, Track: v.heading, Satellites: 11, HDOP: 0.9, Mode: gps.Mode3D, Quality: gps.QualityGNSS,
		Fields: gps.HasTime | gps.HasPosition | gps.HasSpeed | gps.HasTrack | gps.HasSatellites | gps.HasHDOP | gps.HasQuality}
}

// Position is where the vehicle is, in degrees.
func (v *Vehicle) Position() (latitude, longitude float64) { return v.latitude, v.longitude }

// Moment is up to when it has published.
func (v *Vehicle) Moment() time.Time { return v.moment }
