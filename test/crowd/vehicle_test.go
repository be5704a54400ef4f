//go:build system

package crowd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const (
	tenant       = "crowd"
	batchSamples = 20
)

// vehicle is one of the crowd: the real uplink over a queue in memory.
type vehicle struct {
	queue *uplinktest.Queue
	up    *uplink.Uplink
	short [16]byte // of its catalogue
	added uint64   // batches of telemetry

	mu     sync.Mutex // guards what follows
	tries  []try
	losses []time.Time // when connections were seen to end
}

// try is one try to connect, as the vehicle saw it.
type try struct {
	at    time.Time // when it dialled
	ended time.Time
	err   error // nil: CONNACK with code 0
}

// newVehicle makes vehicle number i, with its catalogue and some batches in the queue. All options that decide when it
// connects are the defaults of a vehicle on the road; receipts alone are missed sooner.
func newVehicle(t testing.TB, i int, addr string, catalogue []byte, short [16]byte, log *slog.Logger) *vehicle {
	t.Helper()
	device := fmt.Sprintf("vehicle-%07d", i)
	queue, err := uplinktest.NewQueue(tenant, device, uint64(i)+1)
	if err != nil {
		t.Fatal(err)
	}
	v := &vehicle{queue: queue, short: short}
	v.announce(t, device, catalogue)
	// An address of its own for each 200 vehicles, so that ports do not run out.
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1+byte(i/200/250), 1+byte(i/200%250))}, Control: uplink.Control(30 * time.Second)}
	v.up, err = uplink.New(uplink.Options{
		URL: "mqtt://" + addr, Tenant: tenant, Device: device, Insecure: true,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			v.mu.Lock()
			v.tries = append(v.tries, try{at: time.Now()})
			v.mu.Unlock()
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &watched{conn, v}, nil
		},
		OnConnect: func(err error) {
			v.mu.Lock()
			defer v.mu.Unlock()
			last := &v.tries[len(v.tries)-1]
			last.ended, last.err = time.Now(), err
		},
		ReceiptTimeout: 15 * time.Second,
		Alarms:         alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, log), Log: log,
	}, queue)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// announce puts the catalogue into the control lane, as the agent does.
func (v *vehicle) announce(t testing.TB, device string, catalogue []byte) {
	t.Helper()
	var records []*telemetrypb.Record
	for _, p := range telemetrypb.SplitCatalogue(catalogue) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	rec := buffer.Record{Lane: buffer.Lane(telemetrypb.Lane_LANE_CONTROL), Samples: 1}
	rec.Seq = v.queue.Reserve(rec.Lane)
	var err error
	rec.Bytes, err = telemetrypb.AppendControl(nil, &telemetrypb.Head{
		Tenant: tenant, Device: device, Epoch: v.queue.Epoch(), Lane: telemetrypb.Lane_LANE_CONTROL, Seq: rec.Seq, BootID: [16]byte{1}, BootCount: 1,
	}, &telemetrypb.Records{Records: records})
	if err == nil {
		err = v.queue.Commit([]buffer.Record{rec}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// add puts n batches of telemetry into the queue.
func (v *vehicle) add(n int) error {
	samples := make([]telemetrypb.Sample, batchSamples)
	for range n {
		for i := range samples {
			samples[i] = telemetrypb.UintSample(1, int64(v.added)*1e9+int64(i)*1e7, v.added+uint64(i))
		}
		if _, err := v.queue.Add(telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1, Catalogue: v.short}, samples); err != nil {
			return err
		}
		v.added++
	}
	return nil
}

// since are the tries that began at or after a moment.
func (v *vehicle) since(from time.Time) []try {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, one := range v.tries {
		if !one.at.Before(from) {
			return append([]try(nil), v.tries[i:]...)
		}
	}
	return nil
}

// lost is when the vehicle saw its connection end, the first time since a moment.
func (v *vehicle) lost(from time.Time) time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, at := range v.losses {
		if !at.Before(from) {
			return at
		}
	}
	return time.Time{}
}

// watched is a vehicle's connection.
type watched struct {
	net.Conn
	vehicle *vehicle
}

// Read notes the end of the connection.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.vehicle.mu.Lock()
		w.vehicle.losses = append(w.vehicle.losses, time.Now())
		w.vehicle.mu.Unlock()
	}
	return n, err
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
