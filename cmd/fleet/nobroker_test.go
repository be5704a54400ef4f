package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/fleetdata"
)

// TestHTTPAlone: without any broker what comes by HTTP is stored, and its answer is the receipt.
func TestHTTPAlone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, db := l.Addr().String(), filepath.Join(t.TempDir(), "fleet.db")
	l.Close()
	var out, errs lockedBuffer
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, serveFlags{db: db, json: true, every: 20 * time.Millisecond, retry: time.Second, http: httpFlags{address: address}}, &out, &errs)
	}()
	for !strings.Contains(out.String(), `"connected":true`) {
		select {
		case err := <-done:
			t.Fatalf("ended: %v\n%s", err, errs.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	list, err := fleetdata.Fleet(time.Now(), 15*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	sent, stored := 0, uint64(0)
	for _, v := range list[1:3] {
		for _, m := range v.Messages {
			_, _, rest, err := telemetrypb.ParseTopic(m.Topic)
			lane, isLane := strings.CutPrefix(rest, "up/")
			if err != nil || !isLane || lane == "status" {
				continue
			}
			resp, err := http.Post("http://"+address+"/v1/"+v.Tenant+"/"+v.Device+"/"+lane, "application/x-protobuf", bytes.NewReader(m.Payload))
			if err != nil {
				t.Fatal(err)
			}
			var body bytes.Buffer
			_, err = body.ReadFrom(resp.Body)
			resp.Body.Close()
			receipt := new(telemetrypb.Receipt)
			if err != nil || resp.StatusCode != http.StatusOK || proto.Unmarshal(body.Bytes(), receipt) != nil || len(receipt.Ranges) == 0 {
				t.Fatalf("%s: %s %s %v", m.Topic, resp.Status, &body, err)
			}
			for _, r := range receipt.Ranges {
				if r.Verdict == telemetrypb.Verdict_VERDICT_STORED {
					stored += r.Last - r.First + 1
				}
			}
			sent++
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), db, store.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := s.Totals(); sent == 0 || n.Devices != 2 || uint64(n.Batches) != stored || n.Samples == 0 {
		t.Errorf("%d sent, %d receipted as stored, in the store %+v", sent, stored, n)
	}
	for flags, words := range map[string]string{
		"":                             "--http ADDRESS",
		"--http 127.0.0.1:0 --share g": "needs --broker",
		"--http 127.0.0.1:0 --kafka-brokers 127.0.0.1:1": "receipts over MQTT",
	} {
		args := append([]string{"serve", "--db", db}, strings.Fields(flags)...)
		if text, code := run(args...); code != cli.Usage || !strings.Contains(text, words) {
			t.Errorf("%v: %d %s", args, code, text)
		}
	}
}
