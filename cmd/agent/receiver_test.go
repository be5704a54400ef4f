package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/gps/gpstest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// telemetry are the samples in an agent's queue, by signal, in the order of their numbers.
func telemetry(t *testing.T, dataDir string, v *vehicle) map[string][]float64 {
	t.Helper()
	q, err := buffer.Open(filepath.Join(dataDir, "queue"), buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	signals := map[uint32]*telemetrypb.Signal{}
	for _, s := range v.selection.Catalogue().Signals {
		signals[s.Id] = s
	}
	got := map[string][]float64{}
	for _, lane := range []buffer.Lane{buffer.Telemetry, buffer.Event} {
		for from := uint64(1); ; {
			r, err := q.Next(lane, from)
			if err != nil {
				break
			}
			from = r.Seq + 1
			view, err := telemetrypb.OpenBatch(r.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			samples, err := view.Samples(nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range samples {
				signal := signals[s.Signal]
				if signal.Type != telemetrypb.ValueType_VALUE_TYPE_STRING {
					got[signal.Name] = append(got[signal.Name], s.Physical(signal.Scale, signal.Offset))
				}
			}
		}
	}
	return got
}

// A receiver behind a router, with its position on a grid: what reaches the queue is never precise, and when the
// connection is lost the last fix does not stand: the mode says so.
func TestReceiverByTCPThatIsLost(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = listener.Close()
		for s := range 4 {
			f := secondFix(s)
			f.Time = time.Date(2026, 5, 1, 12, 0, s, 0, time.UTC).UnixNano()
			_, _ = conn.Write(gpstest.Epoch(nil, f))
		}
		_ = conn.Close()
	}()
	dir := writeFiles(t, map[string]string{"agent.yaml": fmt.Sprintf("device: {id: car-1}\ndata_dir: data\n"+
		"gps: [{name: gps0, tcp: '%s', position: grid, grid: 1000}]\ncollect: {signals: [{match: '*', sample: every}]}\n", listener.Addr())})
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		if bytes.Contains(line, []byte("retry_in")) { // the loss has been told
			cancel()
		}
		return len(line), nil
	}), nil))
	if err := runAgent(ctx, s, v, log, newRenewal()); err != nil {
		t.Fatal(err)
	}
	got := telemetry(t, filepath.Join(dir, "data"), v)
	if modes := got["gps0.fix.mode"]; len(modes) < 2 || modes[0] != 3 || modes[len(modes)-1] != 1 {
		t.Errorf("modes %v, want 3 at first and 1 in the end", modes)
	}
	first := secondFix(0)
	lat, lon := first.Degrees()
	cell := first
	gps.Privacy{Grid: 1000}.Apply(&cell)
	cellLat, cellLon := cell.Degrees()
	for i, v := range got["gps0.fix.latitude"] {
		if math.Abs(v-cellLat) > 1e-8 || math.Abs(got["gps0.fix.longitude"][i]-cellLon) > 1e-8 || v == lat {
			t.Errorf("position %v %v; the cell's middle is %v %v", v, got["gps0.fix.longitude"][i], cellLat, cellLon)
		}
	}
	if len(got["gps0.fix.latitude"]) == 0 || len(got["gps0.fix.altitude"]) > 0 || len(got["gps0.fix.speed"]) == 0 {
		t.Errorf("%v", got)
	}
	for name, values := range got {
		for _, v := range values {
			if math.Abs(v-lat) < 1e-4 || math.Abs(v-lon) < 1e-4 || math.Abs(v-first.Altitude) < 1e-3 {
				t.Errorf("%s tells %v", name, v)
			}
		}
	}
}
