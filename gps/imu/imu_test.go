package imu

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const patience = 30 * time.Second

// chip is a made-up tree of sysfs with a FIFO for the character device: acceleration of 12 bits, big-endian and shifted,
// as an LIS3DH has it; rates of 16 bits, little-endian, with an offset; a temperature between them that nobody wants.
func chip(t testing.TB) (sys, dev string) {
	t.Helper()
	sys, dev = t.TempDir(), t.TempDir()
	files := map[string]string{
		"iio:device0/name": "adc\n", "trigger0/name": "hrtimer\n",
		"iio:device3/name": "bmi160\n", "iio:device3/current_timestamp_clock": "realtime\n",
		"iio:device3/sampling_frequency": "25\n", "iio:device3/in_accel_scale": "0.009806\n",
		"iio:device3/in_anglvel_scale": "0.001065\n", "iio:device3/in_anglvel_x_offset": "-3\n",
		"iio:device3/buffer/enable": "1\n", "iio:device3/buffer/length": "2\n", "iio:device3/trigger/current_trigger": "\n",
	}
	for i, c := range []struct{ name, layout string }{
		{"in_accel_x", "be:s12/16>>4"}, {"in_accel_z", "be:s12/16>>4"}, {"in_temp", "le:s16/16>>0"}, {"in_anglvel_x", "le:s16/16>>0"},
		{"in_timestamp", "le:s64/64>>0"}, {"in_accel_y", "be:s12/16>>4"},
	} {
		base := "iio:device3/scan_elements/" + c.name
		files[base+"_en"], files[base+"_index"], files[base+"_type"] = "1\n", string('0'+rune(i))+"\n", c.layout+"\n"
	}
	for name, text := range files {
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dev, "iio:device3"), 0o600); err != nil {
		t.Fatal(err)
	}
	return sys, dev
}

// collected numbers accel.x, accel.z and gyro.x.
func collected() IDs {
	return ChooseIDs("imu0", func(name string) (uint32, bool) {
		id := map[string]uint32{"imu0.accel.x": 11, "imu0.accel.z": 13, "imu0.gyro.x": 14}[name]
		return id, id != 0
	})
}

// record is one record with the channels of collected: x, z at 0 and 2, rate at 4, padding, stamp at 8.
func record(x, z, rate int16, boot int64) []byte {
	b := make([]byte, 16)
	b[0], b[1] = byte(uint16(x)<<4>>8), byte(uint16(x)<<4)|0x5 // the low bits are the chip's own business
	b[2], b[3] = byte(uint16(z)<<4>>8), byte(uint16(z)<<4)
	b[4], b[5] = byte(rate), byte(uint16(rate)>>8)
	for i := range 8 {
		b[8+i] = byte(uint64(boot) >> (8 * i))
	}
	return b
}

func TestSensorIsSetUpAndRead(t *testing.T) {
	sys, dev := chip(t)
	got, states := make(chan telemetrypb.Sample, 100), make(chan error, 100)
	r, err := New(Options{
		Device: "bmi160", Rate: 100, Trigger: "hrtimer", Sys: sys, Dev: dev, IDs: collected(), Log: slog.New(slog.DiscardHandler),
		RetryMin: 5 * time.Millisecond, OnState: func(err error) { states <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(filepath.Join(dev, "iio:device3"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, func(list []telemetrypb.Sample) {
			for _, s := range list {
				got <- s
			}
		})
	}()
	if err := wait(t, states); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"current_timestamp_clock": "boottime", "sampling_frequency": "100", "trigger/current_trigger": "hrtimer", "buffer/enable": "1",
		"buffer/length": "256", "scan_elements/in_accel_x_en": "1", "scan_elements/in_accel_y_en": "0", "scan_elements/in_temp_en": "0",
		"scan_elements/in_anglvel_x_en": "1", "scan_elements/in_timestamp_en": "1",
	} {
		if text, err := read(filepath.Join(sys, "iio:device3"), name); text != want || err != nil {
			t.Errorf("%s is %q, want %q (%v)", name, text, want, err)
		}
	}
	bytes := slices.Concat(record(-1000, 1023, 500, 77), record(2047, -2048, -32768, 78))
	for _, part := range [][]byte{bytes[:5], bytes[5:20], bytes[20:]} {
		if _, err := writer.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	signals := Signals("imu0")
	for _, want := range []struct {
		signal   int
		id       uint32
		boot     int64
		physical float64
	}{
		{0, 11, 77, -1000 * 0.009806}, {2, 13, 77, 1023 * 0.009806}, {3, 14, 77, 497 * 0.001065},
		{0, 11, 78, 2047 * 0.009806}, {2, 13, 78, -2048 * 0.009806}, {3, 14, 78, -32771 * 0.001065},
	} {
		s := wait(t, got)
		signal := signals[want.signal]
		if s.Signal != want.id || s.Time != want.boot || math.Abs(s.Physical(signal.Scale, 0)-want.physical) > signal.Scale/2*1.001 {
			t.Errorf("signal %d at %d is %v, want %s %d at %d %v", s.Signal, s.Time, s.Physical(signal.Scale, 0), signal.Name, want.id, want.boot, want.physical)
		}
	}
	// Unplugged, and back.
	_ = writer.Close()
	if err := wait(t, states); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("reason: %v", err)
	}
	if writer, err = os.OpenFile(filepath.Join(dev, "iio:device3"), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for {
		if _, err := writer.Write(record(1, 2, 3, 99)); err != nil {
			t.Fatal(err)
		}
		if s := wait(t, got); s.Time == 99 {
			break
		}
	}
	stop()
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
	if text, _ := read(filepath.Join(sys, "iio:device3"), "buffer/enable"); text != "0" {
		t.Error("the buffer is left running")
	}
}

func wait[T any](t *testing.T, c chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("not reached")
}

func TestSensorsThatCannotBeReadSaySo(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		spoil func(dir string) error
		ids   IDs
		want  string
	}{
		"no such chip":      {func(dir string) error { return os.Remove(filepath.Join(dir, "name")) }, collected(), "no device bmi160"},
		"an old kernel":     {func(dir string) error { return os.Remove(filepath.Join(dir, "current_timestamp_clock")) }, collected(), "CLOCK_BOOTTIME"},
		"no buffer":         {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "buffer")) }, collected(), "buffer/enable"},
		"no stamps":         {func(dir string) error { return os.Remove(filepath.Join(dir, "scan_elements/in_timestamp_en")) }, collected(), "in_timestamp"},
		"no z axis":         {func(dir string) error { return os.Remove(filepath.Join(dir, "scan_elements/in_accel_z_en")) }, collected(), "2 of the 3"},
		"nothing collected": {func(string) error { return nil }, IDs{}, "collect:"},
		"an odd layout": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "scan_elements/in_accel_x_type"), []byte("le:s16/24>>0"), 0o600)
		}, collected(), "in_accel_x_type"},
		"an odd scale": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "in_accel_scale"), []byte("NaN"), 0o600)
		}, collected(), "in_accel_scale"},
	} {
		sys, dev := chip(t)
		if err := c.spoil(filepath.Join(sys, "iio:device3")); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(context.Background(), patience)
		var got error
		r, err := New(Options{Device: "bmi160", Sys: sys, Dev: dev, IDs: c.ids, Log: log, OnState: func(err error) { got = err; stop() }})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(ctx, nil); err != nil || got == nil || !strings.Contains(got.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, got, c.want)
		}
	}
	if _, err := New(Options{Device: "../x", Log: log}); err == nil {
		t.Error("a device outside of sysfs")
	}
}

func TestRecordsAllocateNothing(t *testing.T) {
	sys, _ := chip(t)
	l, err := newLayout(filepath.Join(sys, "iio:device3"), collected())
	if err != nil {
		t.Fatal(err)
	}
	one, buf := record(1, 2, 3, 4), make([]telemetrypb.Sample, 0, 8)
	if n := testing.AllocsPerRun(100, func() { buf = l.samples(one, buf[:0]) }); n != 0 || len(buf) != 3 {
		t.Errorf("%v allocations, %d samples", n, len(buf))
	}
}

// FuzzType: a layout that is taken reads any record without a panic, and within its bits.
func FuzzType(f *testing.F) {
	for _, seed := range []string{"be:s12/16>>4", "le:u64/64>>0", "le:s8/8>>0", "be:s24/32>>8", "le:s16/16X2>>0", "le:s0/16>>0", "xe:s16/16>>0"} {
		f.Add(seed, []byte("\xff\x80\x00\x7f\x01\x02\x03\x04"))
	}
	f.Fuzz(func(t *testing.T, text string, data []byte) {
		e, err := parseType(text)
		if err != nil || len(data) < e.bytes {
			return
		}
		v := e.value(data)
		if e.signed && e.bits < 64 && (v >= 1<<(e.bits-1) || v < -(1<<(e.bits-1))) || !e.signed && e.bits < 64 && (v < 0 || v >= 1<<e.bits) {
			t.Errorf("%s: %d", text, v)
		}
	})
}
