package cloudtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const tenant = "acme"

// SampleEvery is between two samples of a batch, CLOCK_BOOTTIME.
const SampleEvery = 10 * time.Millisecond

// Committed is what a vehicle wrote down of a batch once its queue had it on disk.
type Committed struct {
	Device  string
	Epoch   uint64
	Lane    telemetrypb.Lane
	Seq     uint64
	Samples int
	Sum     int64 // of the values
	Ordered int64 // of the values times their places, from 1 on
	Boot    int64 // sum of the times, CLOCK_BOOTTIME
}

// Vehicle is a simulated one: batches of counted samples in a queue on disk, and the uplink that empties it. It is not safe for
// use from several goroutines but for Held and State.
type Vehicle struct {
	Name      string
	Committed []Committed // read them once nothing is added any more

	queue     *buffer.Queue
	named     *uplinktest.Queue
	up        *uplink.Uplink
	catalogue [16]byte
	value     int64
	stop      func()
}

// Vehicle makes one and starts its uplink, whose waits are short, so that a test is. It ends with the test.
func (c *Cloud) Vehicle(name string) *Vehicle {
	c.t.Helper()
	v, err := newVehicle(c.t, name, filepath.Join(c.dir, "queues", name), c.Broker.Addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

func newVehicle(t testing.TB, name, dir, broker string) (*Vehicle, error) {
	quiet := slog.New(slog.DiscardHandler)
	v := &Vehicle{Name: name}
	var err error
	if v.queue, err = buffer.Open(dir, buffer.Options{
		SegmentBytes: 256 << 10, MaxBytes: 64 << 20, Rand: rand.Reader, OnDamage: func(d buffer.Damage) { t.Errorf("%s: damage: %v", name, d) },
	}); err != nil {
		return nil, err
	}
	v.named = uplinktest.Name(v.queue, tenant, name)
	if err := v.announce(); err != nil {
		return nil, errors.Join(err, v.queue.Close())
	}
	if v.up, err = uplink.New(uplink.Options{
		URL: "mqtt://" + broker, Tenant: tenant, Device: name, Insecure: true, PayloadBytes: 8 << 10,
		ReceiptTimeout: 10 * time.Second, ParkedRetry: 5 * time.Second, BackoffBase: 100 * time.Millisecond, BackoffCap: 2 * time.Second, PoisonRetry: time.Second,
		AckTimeout: 10 * time.Second, StopTimeout: time.Second,
		OnRejected: func(l *telemetrypb.Loss) { t.Errorf("%s: rejected: %v", name, l) },
		Alarms:     alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, quiet), Log: quiet,
	}, v.queue); err != nil {
		return nil, errors.Join(err, v.queue.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := v.up.Run(ctx); err != nil {
			t.Errorf("%s: Run: %v", name, err)
		}
	}()
	v.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := v.queue.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	})
	t.Cleanup(v.stop)
	return v, nil
}

// announce puts the catalogue into the control lane, as the agent does.
func (v *Vehicle) announce() error {
	data, hash := telemetrypb.EncodeCatalogue(&telemetrypb.Catalogue{Format: 1, Signals: []*telemetrypb.Signal{
		{Id: 1, Name: "can0.DriveCounter.FrameCounter", Type: telemetrypb.ValueType_VALUE_TYPE_UINT},
	}})
	v.catalogue = [16]byte(hash[:16])
	var records telemetrypb.Records
	for _, p := range telemetrypb.SplitCatalogue(data) {
		records.Records = append(records.Records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	rec := buffer.Record{Lane: buffer.Control, Samples: 1}
	rec.Seq = v.queue.Reserve(rec.Lane)
	h := &telemetrypb.Head{Tenant: tenant, Device: v.Name, Epoch: v.queue.Epoch(), Lane: telemetrypb.Lane_LANE_CONTROL, Seq: rec.Seq, BootID: [16]byte{1}, BootCount: 1}
	var err error
	if rec.Bytes, err = telemetrypb.AppendControl(nil, h, &records); err == nil {
		err = v.queue.Commit([]buffer.Record{rec}, nil)
	}
	if err == nil {
		v.Committed = append(v.Committed, Committed{Device: v.Name, Epoch: v.queue.Epoch(), Lane: telemetrypb.Lane_LANE_CONTROL, Seq: rec.Seq})
	}
	return err
}

// Commit puts a batch of n samples into the queue; it is on disk when Commit returns.
func (v *Vehicle) Commit(lane telemetrypb.Lane, n int) error {
	samples := make([]telemetrypb.Sample, n)
	done := Committed{Device: v.Name, Epoch: v.queue.Epoch(), Lane: lane, Samples: n}
	for i := range samples {
		v.value++
		boot := v.value * int64(SampleEvery)
		samples[i] = telemetrypb.UintSample(1, boot, uint64(v.value))
		done.Sum, done.Ordered, done.Boot = done.Sum+v.value, done.Ordered+int64(i+1)*v.value, done.Boot+boot
	}
	rec, err := v.named.Add(lane, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1, Catalogue: v.catalogue}, samples)
	if err != nil {
		return fmt.Errorf("%s: %w", v.Name, err)
	}
	done.Seq = rec.Seq
	v.Committed = append(v.Committed, done)
	return nil
}

// Drive commits batches at random moments, `every` apart on average, until ctx ends. One in ten is an event.
func (v *Vehicle) Drive(ctx context.Context, rng *mrand.Rand, every time.Duration, most int) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every/2 + time.Duration(rng.Int64N(int64(every)))):
		}
		lane, n := telemetrypb.Lane_LANE_TELEMETRY, 1+rng.IntN(most)
		if rng.IntN(10) == 0 {
			lane, n = telemetrypb.Lane_LANE_EVENT, 1
		}
		if err := v.Commit(lane, n); err != nil {
			return err
		}
	}
}

// Held is how many batches the queue holds: those without a receipt.
func (v *Vehicle) Held() int { return v.named.Len() }

// State is the uplink's.
func (v *Vehicle) State() uplink.State { return v.up.State() }
