package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/waybill-telematics/waybill/gps/imu"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

type imuConfig struct {
	Name    string `yaml:"name"`
	Device  string `yaml:"device"`
	Rate    int    `yaml:"rate"`
	Trigger string `yaml:"trigger"`
}

// sensors checks the imu section; names are those of buses and receivers.
func (c *checker) sensors(s *settings, names map[string]bool) (live bool) {
	for i, r := range c.d.config.IMU {
		at := func(key string) []any { return []any{"imu", i, key} }
		r.Name = orDefault(r.Name, "imu"+strconv.Itoa(i))
		if err := telemetrypb.CheckName("sensor name", r.Name); err != nil {
			c.fail(err.Error(), at("name")...)
		} else if names[r.Name] {
			c.fail(fmt.Sprintf("%q is named twice", r.Name), at("name")...)
		}
		names[r.Name] = true
		if r.Device == "" {
			c.fail("want iio:deviceN or the name of a chip; `cat /sys/bus/iio/devices/*/name` shows those that are there", at("device")...)
		}
		if r.Rate < 0 || r.Rate > 10_000 {
			c.fail(fmt.Sprintf("must be between 0 (as it is) and 10000 Hz, got %d", r.Rate), at("rate")...)
		}
		s.IMU = append(s.IMU, r)
	}
	return len(s.IMU) > 0
}

// imuSource reads one inertial sensor.
type imuSource struct {
	*agent
	imuConfig
	ids    imu.IDs
	source *pipeline.Source
	pulse  *pulse
}

func (m *imuSource) run(ctx context.Context) error {
	if m.ids == (imu.IDs{}) {
		<-ctx.Done() // nothing of it is collected
		return nil
	}
	alarmName := "imu." + m.Name
	reader, err := imu.New(imu.Options{
		Device: m.Device, Rate: m.Rate, Trigger: m.Trigger, IDs: m.ids, Log: m.log,
		OnState: func(err error) {
			if err == nil {
				m.alarms.Clear(alarmName)
				return
			}
			m.alarms.Raise(alarmName, fmt.Sprintf("sensor %s cannot be read: %v; is it there, and may the agent's user write /sys/bus/iio/devices/… and read /dev/iio:device…?", m.Device, err))
		},
	})
	if err != nil {
		return err
	}
	return reader.Run(ctx, func(samples []telemetrypb.Sample) {
		m.pulse.work()
		defer m.pulse.rest()
		chunk := m.source.Chunk()
		chunk.Samples = append(chunk.Samples, samples...)
		m.source.Offer(chunk)
	})
}
