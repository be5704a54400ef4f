package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
)

// Everything that a fleet made is in the store, once, with names, times and positions; and without a store it says what is left.
func TestFleet(t *testing.T) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	broker := mqtt.New(&mqtt.Options{Logger: quiet})
	listener := listeners.NewTCP(listeners.Config{ID: "a", Address: "127.0.0.1:0"})
	if err := broker.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.AddListener(listener); err != nil {
		t.Fatal(err)
	}
	if err := broker.Serve(); err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	url := "mqtt://" + listener.Address()
	fleet := func(f fleetFlags) (sum fleetSummary, err error) {
		t.Helper()
		var out bytes.Buffer
		err = runFleet(t.Context(), f, &out, io.Discard)
		if err := json.Unmarshal(out.Bytes(), &sum); err != nil {
			t.Fatalf("%q: %v", out.String(), err)
		}
		return sum, err
	}
	flags := fleetFlags{broker: url, tenant: "lonely", prefix: "car-", vehicles: 2, duration: 2 * time.Second, seal: time.Second}
	if sum, err := fleet(flags); err == nil || sum.Left == 0 || sum.Batches == 0 {
		t.Errorf("without a store: %+v, %v", sum, err)
	}

	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	receiver, err := ingest.NewReceiver(ingest.ReceiverOptions{Broker: "tcp://" + listener.Address(), ClientID: "store"}, ingest.New(ingest.Options{}, db))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- receiver.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for end := time.Now().Add(time.Minute); !receiver.Connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the store is not attached")
		}
	}
	flags = fleetFlags{broker: url, tenant: "bench", prefix: "sim-", vehicles: 20, duration: 3 * time.Second, seal: time.Second, ramp: time.Second, drain: 2 * time.Minute, seed: 9}
	sum, err := fleet(flags)
	if err != nil || sum.Left != 0 || sum.Held != 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	total := db.Totals() // the two without a store have left their retained statuses
	if uint64(total.Samples) != sum.Samples || uint64(total.Batches) != sum.Batches+20 || total.Devices != 22 || total.Gaps != 0 || total.Parked != 0 || total.Rejected != 0 {
		t.Errorf("made: %+v; the store: %+v", sum, total)
	}
	if sum.Samples < 20*35*2 {
		t.Errorf("%d samples of twenty vehicles in three seconds", sum.Samples)
	}
	speeds, places := 0, 0
	err = db.Samples(t.Context(), store.Query{Device: "sim-00003"}, func(r *store.Reading) error {
		switch r.Signal {
		case "can0.DriveCounter.VehicleSpeed":
			speeds++
		case "gps0.fix.latitude":
			places++
		}
		if age := time.Since(time.Unix(0, r.Time.UnixNS)); age < 0 || age > 10*time.Minute {
			t.Errorf("%+v: the time is wrong", r)
		}
		return nil
	})
	if err != nil || speeds < 2 || places < 2 {
		t.Errorf("%d speeds, %d positions, %v", speeds, places, err)
	}
}
