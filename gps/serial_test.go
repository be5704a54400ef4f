package gps_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/gps/gpstest"
)

// patience bounds every wait of these tests; none of them measures time.
const patience = 30 * time.Second

// stepClock is a clock that tests set.
type stepClock struct{ boot atomic.Int64 }

func (c *stepClock) Boot() int64     { return c.boot.Load() }
func (c *stepClock) Wall() time.Time { return time.Unix(0, 0) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// drive is a fix of a moving vehicle at a second.
func drive(second int) gps.Fix {
	return gps.Fix{
		Time: time.Date(2026, 11, 22, 12, 0, second, 0, time.UTC).UnixNano(), Latitude: 48117300000 + int64(second)*1000,
		Longitude: 11516666600, Altitude: 545, Separation: 46.9, Speed: 10, Track: 90, PDOP: 1.8, HDOP: 0.9, VDOP: 1.6,
		Satellites: 8, Mode: gps.Mode3D, Quality: gps.QualityGNSS,
		Fields: gps.HasTime | gps.HasPosition | gps.HasAltitude | gps.HasSeparation | gps.HasSpeed | gps.HasTrack |
			gps.HasPDOP | gps.HasHDOP | gps.HasVDOP | gps.HasSatellites | gps.HasQuality,
	}
}

func newReceiver(t *testing.T) *gpstest.Receiver {
	t.Helper()
	r, err := gpstest.NewReceiver(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// running is a source under test.
type running struct {
	fixes  chan gps.Fix
	states chan error
	stop   context.CancelFunc
	done   chan error
}

func start(t *testing.T, o gps.SerialOptions) *running {
	t.Helper()
	r := &running{fixes: make(chan gps.Fix, 1000), states: make(chan error, 1000), done: make(chan error, 1)}
	o.OnState = func(err error) { r.states <- err }
	o.Log, o.RetryMin = quiet(), 10*time.Millisecond
	source, err := gps.NewSerial(o)
	if err != nil {
		t.Fatal(err)
	}
	r.run(t, source.Run)
	return r
}

// run runs a source until the end of the test.
func (r *running) run(t *testing.T, source func(context.Context, func(gps.Fix)) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.done <- source(ctx, func(f gps.Fix) { r.fixes <- f }) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.done:
		case <-time.After(patience):
			t.Error("the source does not end")
		}
	})
}

func (r *running) waitState(t *testing.T, up bool) error {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case err := <-r.states:
			if (err == nil) == up {
				return err
			}
		case <-deadline:
			t.Fatalf("the source never got up=%v", up)
		}
	}
}

func (r *running) waitFix(t *testing.T, want gps.Fix) gps.Fix {
	t.Helper()
	select {
	case got := <-r.fixes:
		if got.Time != want.Time || got.Latitude != want.Latitude {
			t.Fatalf("got the fix of %s, want %s", time.Unix(0, got.Time).UTC(), time.Unix(0, want.Time).UTC())
		}
		return got
	case <-time.After(patience):
		t.Fatalf("no fix of %s", time.Unix(0, want.Time).UTC())
	}
	panic("not reached")
}

func TestSerialEpochsAreStampedAndNotHeldBack(t *testing.T) {
	receiver := newReceiver(t)
	clock := &stepClock{}
	r := start(t, gps.SerialOptions{Device: receiver.Path(), Baud: 115200, Clock: clock})
	r.waitState(t, true)
	for second := range 4 {
		clock.boot.Store(int64(second+1) * 1e9)
		if err := receiver.Send(drive(second)); err != nil {
			t.Fatal(err)
		}
		// No further epoch is needed to get this one.
		if got := r.waitFix(t, drive(second)); got.Boot != int64(second+1)*1e9 {
			t.Errorf("epoch %d is stamped %d", second, got.Boot)
		}
	}
}

func TestSerialGoesOnAfterReplug(t *testing.T) {
	receiver := newReceiver(t)
	r := start(t, gps.SerialOptions{Device: receiver.Path(), Baud: 57600, Clock: &stepClock{}})
	for round := range 3 {
		r.waitState(t, true)
		terminal, err := receiver.Terminal()
		if err != nil {
			t.Fatal(err)
		}
		if terminal.Cflag&unix.CBAUD != unix.B57600 || terminal.Lflag&unix.ICANON != 0 || terminal.Cc[unix.VMIN] != 0 || terminal.Cc[unix.VTIME] == 0 {
			t.Errorf("round %d: the terminal is not set up: %+v", round, terminal)
		}
		for second := range 2 {
			at := drive(10*round + second)
			if err := receiver.Send(at); err != nil {
				t.Fatal(err)
			}
			r.waitFix(t, at)
		}
		if _, err := receiver.Write([]byte("$GNRMC,1200")); err != nil { // cut off by the plug
			t.Fatal(err)
		}
		if err := receiver.HangUp(); err != nil {
			t.Fatal(err)
		}
		if err := r.waitState(t, false); !strings.Contains(err.Error(), receiver.Path()) {
			t.Errorf("the reason does not name the device: %v", err)
		}
		if err := receiver.Plug(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSerialSilenceIsNoHangUp(t *testing.T) {
	receiver := newReceiver(t)
	r := start(t, gps.SerialOptions{Device: receiver.Path(), Clock: &stepClock{}})
	r.waitState(t, true)
	if err := receiver.Send(drive(0)); err != nil {
		t.Fatal(err)
	}
	r.waitFix(t, drive(0)) // after seconds of silence: nothing else ends a first epoch
	select {
	case err := <-r.states:
		t.Errorf("left the line: %v", err)
	default:
	}
}

func TestSerialWaitsForADeviceThatIsNotThereYet(t *testing.T) {
	receiver := newReceiver(t)
	if err := receiver.HangUp(); err != nil {
		t.Fatal(err)
	}
	r := start(t, gps.SerialOptions{Device: receiver.Path(), Clock: &stepClock{}})
	if err := r.waitState(t, false); !strings.Contains(err.Error(), "no such file") {
		t.Errorf("reason: %v", err)
	}
	if err := receiver.Plug(); err != nil {
		t.Fatal(err)
	}
	r.waitState(t, true)
}

// No goroutine and no file descriptor stays behind, whenever the source is stopped.
func TestSerialLeaksNothing(t *testing.T) {
	receiver := newReceiver(t)
	round := func(t *testing.T, hangUp bool) {
		r := start(t, gps.SerialOptions{Device: receiver.Path(), Clock: &stepClock{}})
		r.waitState(t, true)
		for second := range 2 {
			if err := receiver.Send(drive(second)); err != nil {
				t.Fatal(err)
			}
		}
		r.waitFix(t, drive(0))
		if hangUp {
			if err := receiver.HangUp(); err != nil {
				t.Fatal(err)
			}
			r.waitState(t, false)
			if err := receiver.Plug(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("warm up", func(t *testing.T) { round(t, true) })
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	for i := range 6 {
		t.Run("round", func(t *testing.T) { round(t, i%2 == 0) })
	}
	nothingLeaked(t, goroutines, files)
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func nothingLeaked(t *testing.T, goroutines, files int) {
	t.Helper()
	if n := descriptors(t); n > files {
		t.Errorf("%d descriptors, %d before", n, files)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
	}
}

func TestSerialOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]gps.SerialOptions{
		"no device": {Clock: &stepClock{}, Log: quiet()},
		"no clock":  {Device: "/dev/null", Log: quiet()},
		"no logger": {Device: "/dev/null", Clock: &stepClock{}},
	} {
		if _, err := gps.NewSerial(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func replay(t *testing.T, ctx context.Context, o gps.ReplayOptions) ([]gps.Fix, *gps.Replay) {
	t.Helper()
	source, err := gps.NewReplay(o)
	if err != nil {
		t.Fatal(err)
	}
	var fixes []gps.Fix
	if err := source.Run(ctx, func(f gps.Fix) { fixes = append(fixes, f) }); err != nil {
		t.Fatal(err)
	}
	return fixes, source
}

func logFile(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive.nmea")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The log's own time is the clock: its header settles the century, each epoch is stamped by its time.
func TestReplayByTheLogsTime(t *testing.T) {
	text := []byte("# Date: 1999-06-01\n")
	text = append(text, "$GPGSA,A,1,,,,,,,,,,,,,,,*1E\n"...) // an epoch before the date is known
	for second := range 3 {
		f := drive(second)
		f.Time = time.Date(1999, 6, 1, 12, 0, second, 0, time.UTC).UnixNano()
		text = gpstest.Epoch(text, f)
	}
	first := time.Date(1999, 6, 1, 12, 0, 0, 0, time.UTC).UnixNano()
	fixes, source := replay(t, context.Background(), gps.ReplayOptions{
		Path: logFile(t, text), Stamp: func(unixNS int64) int64 { return unixNS - first + 7 },
	})
	if len(fixes) != 3 {
		t.Fatalf("%d fixes, want 3", len(fixes))
	}
	for i, f := range fixes {
		if f.Boot != int64(i)*1e9+7 {
			t.Errorf("epoch %d stamped %d", i, f.Boot)
		}
	}
	if source.Undated() > 1 || source.Counters().Fixes != 3+source.Undated() {
		t.Errorf("undated %d, counters %+v", source.Undated(), source.Counters())
	}
}

func TestReplayStampsReceipt(t *testing.T) {
	clock := &stepClock{}
	clock.boot.Store(42)
	fixes, _ := replay(t, context.Background(), gps.ReplayOptions{
		Path: logFile(t, gpstest.Epoch(gpstest.Epoch(nil, drive(0)), drive(1))), Clock: clock, Speed: 1000,
	})
	if len(fixes) != 2 || fixes[0].Boot != 42 || fixes[1].Boot != 42 {
		t.Errorf("%+v", fixes)
	}
}

// A paced replay that is told to stop does not wait for the epoch's turn.
func TestReplayStops(t *testing.T) {
	var text []byte
	for second := range 3 {
		text = gpstest.Epoch(text, drive(5*second))
	}
	source, err := gps.NewReplay(gps.ReplayOptions{Path: logFile(t, text), Clock: &stepClock{}, Speed: 0.001})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, func(gps.Fix) { stop() }) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("does not stop")
	}
}

// A FIFO without a writer is not at its end, and a quiet one does not hold an epoch back.
func TestReplayOfAFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := gps.NewReplay(gps.ReplayOptions{Path: path, Clock: &stepClock{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	fixes, done := make(chan gps.Fix, 10), make(chan error, 1)
	go func() { done <- source.Run(ctx, func(f gps.Fix) { fixes <- f }) }()
	for writer := range 2 {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for second := range 2 {
			if _, err := file.Write(gpstest.Epoch(nil, drive(10*writer+second))); err != nil {
				t.Fatal(err)
			}
		}
		for second := range 2 {
			select {
			case f := <-fixes:
				if f.Time != drive(10*writer+second).Time {
					t.Errorf("got the fix of %s", time.Unix(0, f.Time).UTC())
				}
			case <-time.After(patience):
				t.Fatalf("writer %d, second %d: no fix", writer, second)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("does not stop")
	}
}

func TestReplayOfAMissingFileSaysSo(t *testing.T) {
	source, err := gps.NewReplay(gps.ReplayOptions{Path: filepath.Join(t.TempDir(), "none"), Clock: &stepClock{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Run(context.Background(), nil); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}
