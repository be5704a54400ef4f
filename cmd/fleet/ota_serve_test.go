package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/firmware/delivery"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// TestOTAServe: two processes answer one vehicle's requests from a folder, each request once, and say what they did.
func TestOTAServe(t *testing.T) {
	broker := testBroker(t)
	public := t.TempDir()
	image := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	sum := sha256.Sum256(image)
	folder := filepath.Join(public, "image", "targets", "linux-arm64")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, hex.EncodeToString(sum[:])+".agent-1.0"), image, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	outs, done := [2]*lockedBuffer{{}, {}}, make(chan int, 2)
	for _, out := range outs {
		go func() {
			root := rootCommand()
			root.SetOut(out)
			root.SetErr(out)
			root.SetContext(ctx)
			done <- cli.Execute(root, []string{"ota", "serve", "--broker", "tcp://" + broker, "--public", public, "--json", "--every", "10ms", "--chunk-bytes", "8192"}, out)
		}()
	}
	for end := time.Now().Add(30 * time.Second); !strings.Contains(outs[0].String(), `"connected":true`) || !strings.Contains(outs[1].String(), `"connected":true`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not connected:\n%s\n%s", outs[0], outs[1])
		}
	}
	chunks := make(chan []byte, 100)
	car := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + broker).SetClientID("car-1"))
	wait(t, car.Connect())
	defer car.Disconnect(0)
	wait(t, car.Subscribe("wb1/acme/car-1/down/chunk", 1, func(_ mqtt.Client, m mqtt.Message) { chunks <- m.Payload() }))
	got := make([]byte, len(image))
	for i := range 10 {
		r := delivery.Request{File: sum, Chunk: 16 << 10, Ranges: []delivery.Range{{Offset: int64(i) * 8000, Length: 8000}}}
		wait(t, car.Publish("wb1/acme/car-1/up/request", 1, false, r.Encode()))
	}
	for bytesLeft := len(image); bytesLeft > 0; {
		select {
		case payload := <-chunks:
			c, err := delivery.DecodeChunk(payload)
			if err != nil || c.File != sum || len(c.Bytes) > 8192 {
				t.Fatalf("a chunk of %d bytes: %v", len(c.Bytes), err)
			}
			copy(got[c.Offset:], c.Bytes)
			bytesLeft -= len(c.Bytes)
		case <-time.After(30 * time.Second):
			t.Fatalf("%d bytes did not come", bytesLeft)
		}
	}
	if !bytes.Equal(got, image) {
		t.Error("another file came")
	}
	cancel()
	requests := uint64(0)
	for range outs {
		if code := <-done; code != cli.OK {
			t.Errorf("exit code %d", code)
		}
	}
	for _, out := range outs {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		var last chunkStatus
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Files != 1 {
			t.Fatalf("%v: %s", err, lines[len(lines)-1])
		}
		requests += last.Requests
	}
	if requests != 10 {
		t.Errorf("%d requests were answered, want each of 10 once", requests)
	}
	for _, args := range [][]string{
		{}, {"--broker", "tcp://mqtt.example:1883"}, {"--broker", "tcp://" + broker, "--chunk-bytes", "100000"}, {"--broker", "tcp://" + broker, "--public", public, "--vehicle-rate", "-1"},
		{"--broker", "tcp://" + broker, "--share", "a/b"}, {"--broker", "tcp://" + broker, "--metrics", "0.0.0.0:9464"}, {"--broker", "tcp://" + broker, "--tenant", "a/b", "--public", public},
	} {
		if text, code := runOTA(t, append([]string{"ota", "serve", "--public", public}, args...)...); code != cli.Usage {
			t.Errorf("%v: exit code %d: %s", args, code, text)
		}
	}
	if text, code := runOTA(t, "ota", "serve", "--broker", "tcp://"+broker, "--public", t.TempDir()); code == cli.OK || !strings.Contains(text, "--public") {
		t.Errorf("a folder that is none of a repository: exit code %d: %s", code, text)
	}
}
