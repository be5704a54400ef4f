package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What a broker's webhook brings is stored, and its vehicle hears the receipts where it is: on the broker.
func TestWebhookAnswersOverTheBroker(t *testing.T) {
	var addresses [2]string
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses[i] = l.Addr().String()
		l.Close()
	}
	var out, errs lockedBuffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- serve(ctx, serveFlags{db: filepath.Join(t.TempDir(), "fleet.db"), embedded: addresses[0], clientID: "x", json: true, every: 20 * time.Millisecond,
			retry: 20 * time.Millisecond, tenant: "nobody", http: httpFlags{address: addresses[1]}}, &out, &errs) // the broker brings it nothing of acme
	}()
	for !strings.Contains(out.String(), `"connected":true`) {
		select {
		case err := <-done:
			t.Fatalf("ended: %v\n%s", err, errs.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	c := newCar(t, addresses[0], "car-1", 5, 10)
	c.mu.Lock()
	var bodies [][]byte
	for k, b := range c.open {
		topic := telemetrypb.Topic("acme", "car-1", telemetrypb.TopicLane(k.Lane))
		bodies = append(bodies, fmt.Appendf(nil, `{"topic":%q,"payload_base64":%q}`, topic, base64.StdEncoding.EncodeToString(telemetrypb.AppendPayload(nil, false, nil, b))))
	}
	c.mu.Unlock()
	for _, body := range bodies {
		resp, err := http.Post("http://"+addresses[1]+"/v1/webhook", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s for %s", resp.Status, body)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		left := len(c.open)
		c.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d batches without a receipt", left)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"payloads":6,"batches":6`) {
		t.Errorf("status %s", out.String())
	}
}
