package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/internal/alarm"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

const tenant = "guest"

// near is the vehicles' side.
func near(o *options) (*summary, error) {
	child, err := startOther(o)
	if err != nil {
		return nil, err
	}
	out, err := measure(o, child)
	return out, errors.Join(err, child.end())
}

func measure(o *options, child *other) (*summary, error) {
	if err := o.connect(child); err != nil {
		return nil, err
	}
	vehicles := make([]*vehicle, o.pairs)
	for i := range vehicles {
		var err error
		if vehicles[i], err = newVehicle(i, o.batches); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	began := time.Now()
	for i, v := range vehicles {
		tasks.Go(func() { _ = v.up.Run(ctx) }) // always nil
		tasks.Go(func() { pour(ctx, fmt.Sprintf("10.9.%d.2:%d", o.pairs+i, plainPort)) })
	}
	out := &summary{Left: o.batches}
	idle := idleTime()
	var err error
	for _, at := range []float64{o.seconds / 5, o.seconds} {
		time.Sleep(time.Until(began.Add(time.Duration(at * float64(time.Second)))))
		out.Early = out.Late
		if out.Late, err = count(child, o, vehicles); err != nil {
			break
		}
		out.Late.Seconds = time.Since(began).Seconds()
	}
	out.Busy = 1 - (idleTime()-idle).Seconds()/time.Since(began).Seconds()
	for i, v := range vehicles {
		state := v.up.State()
		out.Payload = append(out.Payload, state.PayloadBytes)
		out.Losses, out.Resent = out.Losses+state.Losses, out.Resent+state.BatchesResent
		if err == nil {
			out.Left = min(out.Left, o.batches-out.Late.batches[i])
		}
	}
	cancel()
	tasks.Wait()
	congestion, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	out.Congestion = strings.TrimSpace(string(congestion))
	return out, err
}

// count asks what has arrived.
func count(child *other, o *options, vehicles []*vehicle) (c counted, err error) {
	line, err := child.ask("report")
	if err != nil {
		return c, err
	}
	var report arrived
	if err := json.Unmarshal([]byte(line), &report); err != nil {
		return c, fmt.Errorf("far end: %w", err)
	}
	c.Plain = report.Plain[o.pairs:]
	for _, v := range vehicles {
		n, bytes := report.Batches[v.device], 0
		for _, size := range v.sizes[:n] {
			bytes += size
		}
		c.Uplink, c.batches = append(c.Uplink, bytes), append(c.batches, n)
	}
	return c, nil
}

// idleTime is how long the guest's only processor has had nothing to do (proc_stat(5)).
func idleTime() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	var user, nice, system, idle int64
	_, _ = fmt.Sscanf(string(text), "cpu %d %d %d %d", &user, &nice, &system, &idle)
	return time.Duration(idle) * time.Second / 100 // USER_HZ
}

// pour writes to a connection until ctx ends.
func pour(ctx context.Context, addr string) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b := make([]byte, 64<<10)
	for err == nil {
		_, err = conn.Write(b)
	}
}

// vehicle is an uplink with a backlog.
type vehicle struct {
	device string
	up     *uplink.Uplink
	sizes  []int // of its batches
}

// newVehicle makes vehicle i, which has link i. All that bears upon how fast it drains is a vehicle's default.
func newVehicle(i, batches int) (*vehicle, error) {
	v := &vehicle{device: fmt.Sprintf("vehicle-%07d", i)}
	queue, err := uplinktest.NewQueue(tenant, v.device, uint64(i)+1)
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(uint64(i), 1))
	noise := make([]byte, 16<<10) // half of it to a sample
	for range batches {
		for k := range noise {
			noise[k] = "0123456789abcdef"[random.Uint32()>>28]
		}
		samples := []telemetrypb.Sample{telemetrypb.StringSample(1, 0, string(noise[:8<<10])), telemetrypb.StringSample(1, 1, string(noise[8<<10:]))}
		rec, err := queue.Add(telemetrypb.Lane_LANE_TELEMETRY, telemetrypb.Head{BootID: [16]byte{1}, BootCount: 1, Catalogue: [16]byte{9}}, samples)
		if err != nil {
			return nil, err
		}
		v.sizes = append(v.sizes, len(rec.Bytes))
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	v.up, err = uplink.New(uplink.Options{
		URL: fmt.Sprintf("mqtt://10.9.%d.2:%d", i, brokerPort), Tenant: tenant, Device: v.device, Insecure: true,
		Alarms: alarm.NewBoard(func() int64 { return time.Now().UnixNano() }, log), Log: log,
	}, queue)
	return v, err
}
