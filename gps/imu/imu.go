// Package imu reads an inertial sensor (acceleration, angular rate) that Linux's industrial I/O subsystem offers: it sets
// up the device's buffer by sysfs, with stamps of CLOCK_BOOTTIME made by the kernel, and turns the records of its
// character device into samples.
//
// It knows nothing of where the sensor is fitted: axes are the chip's own. It writes nothing but the set-up of the
// device it was given.
package imu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// channels are what is read, in the order of Signals and IDs: the name in sysfs, of the signal, its unit and the size of
// a raw value. The sizes are below the resolution of 16-bit sensors at their finest range.
var channels = [...]struct {
	sysfs, scale, offset, name, unit string
	quantum                          float64
}{
	{"in_accel_x", "in_accel_scale", "in_accel_offset", "accel.x", "m/s^2", 1e-4},
	{"in_accel_y", "in_accel_scale", "in_accel_offset", "accel.y", "m/s^2", 1e-4},
	{"in_accel_z", "in_accel_scale", "in_accel_offset", "accel.z", "m/s^2", 1e-4},
	{"in_anglvel_x", "in_anglvel_scale", "in_anglvel_offset", "gyro.x", "rad/s", 1e-5},
	{"in_anglvel_y", "in_anglvel_scale", "in_anglvel_offset", "gyro.y", "rad/s", 1e-5},
	{"in_anglvel_z", "in_anglvel_scale", "in_anglvel_offset", "gyro.z", "rad/s", 1e-5},
}

const timestampChannel = "in_timestamp"

// Signals are what a sensor can be asked for, without ids: SOURCE.accel.x and so on.
func Signals(source string) []*telemetrypb.Signal {
	list := make([]*telemetrypb.Signal, 0, len(channels))
	for _, c := range channels {
		group, _, _ := strings.Cut(c.name, ".")
		list = append(list, &telemetrypb.Signal{
			Name: source + "." + c.name, Unit: c.unit, Scale: c.quantum, Type: telemetrypb.ValueType_VALUE_TYPE_INT,
			Source: "imu:" + source, Message: source + "." + group, Comment: "along or about the chip's own axis",
		})
	}
	return list
}

// IDs are the signal ids under which a sensor's values are collected; 0: not collected.
type IDs [len(channels)]uint32

// ChooseIDs asks for the id of each of a sensor's signals by name.
func ChooseIDs(source string, id func(name string) (uint32, bool)) IDs {
	var ids IDs
	for i, c := range channels {
		ids[i], _ = id(source + "." + c.name)
	}
	return ids
}

// Options is what a Reader needs.
type Options struct {
	Device string // iio:device0, or the name of the chip, such as bmi160: the first device of that name
	Rate   int    // Hz; 0: as it is
	// Trigger is what makes the chip measure, by its name in sysfs; "": whatever is set, or the chip itself.
	Trigger  string
	Sys, Dev string        // "": /sys/bus/iio/devices and /dev
	RetryMin time.Duration // first wait before a lost device is set up again; 0: 1 s
	RetryMax time.Duration // longest such wait, reached by doubling; 0: 30 s
	IDs      IDs
	Log      *slog.Logger
	// OnState, if not nil, is called in Run's goroutine: with nil when the device is read, and with the reason when it was
	// lost or cannot be set up.
	OnState func(error)
}

// Reader reads one sensor. It is run once, by one goroutine.
type Reader struct{ o Options }

// New makes a reader; nothing is touched yet.
func New(o Options) (*Reader, error) {
	if o.Device == "" || strings.ContainsAny(o.Device, "/\x00") {
		return nil, fmt.Errorf("inertial sensor: want iio:deviceN or a chip's name, got %q", o.Device)
	}
	if o.Log == nil {
		return nil, errors.New("inertial sensor: needs a logger")
	}
	if o.Sys == "" {
		o.Sys = "/sys/bus/iio/devices"
	}
	if o.Dev == "" {
		o.Dev = "/dev"
	}
	if o.RetryMin <= 0 {
		o.RetryMin = time.Second
	}
	if o.RetryMax <= 0 {
		o.RetryMax = 30 * time.Second
	}
	return &Reader{o}, nil
}

// Run reads until ctx ends, and then returns nil. take is called in this goroutine with the samples of the records that
// one read gave, which are its own only during the call.
func (r *Reader) Run(ctx context.Context, take func([]telemetrypb.Sample)) error {
	wait := r.o.RetryMin
	for ctx.Err() == nil {
		came, err := r.session(ctx, take)
		if ctx.Err() != nil {
			break
		}
		if came {
			wait = r.o.RetryMin
		}
		r.state(err)
		r.o.Log.Warn("inertial sensor lost", "device", r.o.Device, "error", err, "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
		wait = min(2*wait, r.o.RetryMax)
	}
	return nil
}

func (r *Reader) state(err error) {
	if r.o.OnState != nil {
		r.o.OnState(err)
	}
}

// bufferRecords is how many records the kernel keeps while we do not read, and how many we read at once.
const bufferRecords = 256

// session sets the device up and reads it until it is lost or ctx ends.
func (r *Reader) session(ctx context.Context, take func([]telemetrypb.Sample)) (came bool, err error) {
	dir, err := r.find()
	if err != nil {
		return false, err
	}
	layout, err := r.setUp(dir)
	if err != nil {
		return false, fmt.Errorf("setting up %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, write(dir, "buffer/enable", "0")) }()
	path := filepath.Join(r.o.Dev, filepath.Base(dir))
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		err = errors.Join(err, file.Close())
	}()
	r.state(nil)
	r.o.Log.Info("inertial sensor read", "device", dir, "record", layout.size)
	buf := make([]byte, bufferRecords*layout.size)
	samples := make([]telemetrypb.Sample, 0, bufferRecords*len(channels))
	have := 0
	for ctx.Err() == nil {
		n, err := file.Read(buf[have:])
		have += n
		samples = samples[:0]
		rest := buf[:have]
		for ; len(rest) >= layout.size; rest = rest[layout.size:] {
			samples = layout.samples(rest[:layout.size], samples)
		}
		have = copy(buf, rest)
		if len(samples) > 0 {
			came = true
			take(samples)
		}
		if err != nil && ctx.Err() == nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the device is gone")
			}
			return came, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	return came, nil
}

// find gives the device's folder in sysfs.
func (r *Reader) find() (string, error) {
	entries, err := os.ReadDir(r.o.Sys)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "iio:device") {
			continue
		}
		dir := filepath.Join(r.o.Sys, e.Name())
		name, _ := read(dir, "name")
		if e.Name() == r.o.Device || name == r.o.Device {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no device %s in %s", r.o.Device, r.o.Sys)
}

// setUp stops the buffer, chooses clock, rate and channels, and starts it.
func (r *Reader) setUp(dir string) (*layout, error) {
	if err := write(dir, "buffer/enable", "0"); err != nil {
		return nil, err
	}
	if err := write(dir, "current_timestamp_clock", "boottime"); err != nil {
		return nil, fmt.Errorf("stamps by CLOCK_BOOTTIME, Linux 4.8 or later: %w", err)
	}
	if r.o.Trigger != "" {
		if err := write(dir, "trigger/current_trigger", r.o.Trigger); err != nil {
			return nil, err
		}
	}
	if r.o.Rate > 0 {
		err := write(dir, "sampling_frequency", strconv.Itoa(r.o.Rate))
		for _, group := range []string{"in_accel", "in_anglvel"} { // chips with a rate for each
			if groupErr := write(dir, group+"_sampling_frequency", strconv.Itoa(r.o.Rate)); groupErr == nil {
				err = nil
			}
		}
		if err != nil {
			return nil, err
		}
	}
	l, err := newLayout(dir, r.o.IDs)
	if err != nil {
		return nil, err
	}
	if err := write(dir, "buffer/length", strconv.Itoa(bufferRecords)); err != nil {
		return nil, err
	}
	return l, write(dir, "buffer/enable", "1")
}

func read(dir, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(text)), err
}

// write sets an attribute; one that is not there is an error and is not made.
func write(dir, name, value string) error {
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// element is how a channel lies in a record (Documentation/ABI/testing/sysfs-bus-iio, scan_elements).
type element struct {
	at, bytes int
	order     binary.ByteOrder
	signed    bool
	bits      uint
	shift     uint
}

// value takes the element out of a record, its sign extended.
func (e *element) value(record []byte) int64 {
	b := record[e.at : e.at+e.bytes]
	var v uint64
	switch e.bytes {
	case 1:
		v = uint64(b[0])
	case 2:
		v = uint64(e.order.Uint16(b))
	case 4:
		v = uint64(e.order.Uint32(b))
	default:
		v = e.order.Uint64(b)
	}
	v = v >> e.shift << (64 - e.bits)
	if e.signed {
		return int64(v) >> (64 - e.bits)
	}
	return int64(v >> (64 - e.bits))
}

// measured is a channel that is collected.
type measured struct {
	element
	id            uint32
	factor, shift float64 // signal's raw value = (element + shift) × factor
}

// layout is how a record lies in memory.
type layout struct {
	size   int
	stamp  element
	values []measured
}

// samples appends those of one record. What does not fit an integer is left out: no sensor gives it.
func (l *layout) samples(record []byte, dst []telemetrypb.Sample) []telemetrypb.Sample {
	boot := l.stamp.value(record)
	for i := range l.values {
		m := &l.values[i]
		v := math.Round((float64(m.value(record)) + m.shift) * m.factor)
		if math.Abs(v) < 1<<53 {
			dst = append(dst, telemetrypb.IntSample(m.id, boot, int64(v)))
		}
	}
	return dst
}
