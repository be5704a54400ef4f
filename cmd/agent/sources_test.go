package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A bus that cannot be read is a loss of unknown count, with the time that it lasted, and the agent goes on.
func TestBusThatCannotBeReadStandsInTheLedger(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "agent.yaml": "device: {id: car-1}\ndata_dir: data\n" +
		"can: [{bus: can0, interface: nosuchcan0, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n"})
	s, v, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		if bytes.Contains(line, []byte("alarm=can.can0 ")) { // it was tried
			cancel()
		}
		return len(line), nil
	}), nil))
	if err := runAgent(ctx, s, v, log, newRenewal()); err != nil {
		t.Fatal(err)
	}
	q, err := buffer.Open(filepath.Join(dir, "data", "queue"), buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var found []*telemetrypb.Loss
	for from := uint64(1); ; {
		r, err := q.Next(buffer.Control, from)
		if err != nil {
			break
		}
		from = r.Seq + 1
		view, err := telemetrypb.OpenBatch(r.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		records, err := view.Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records.Records {
			if loss := record.GetLoss(); loss != nil {
				found = append(found, loss)
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("losses %v, want one", found)
	}
	l := found[0]
	if l.Reason != telemetrypb.LossReason_LOSS_BUS_DOWN || l.Source != "can:can0" || !l.CountUnknown || l.LastNs <= l.FirstNs || l.Detail == "" {
		t.Errorf("loss %v", l)
	}
}
