package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/gps/gpstest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// told takes what the agent tells systemd.
func told(t *testing.T) (want func(words ...string) string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func(words ...string) string {
		t.Helper()
		buf := make([]byte, 4096)
		if err := socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("systemd is not told %v: %v", words, err)
		}
		for _, w := range words {
			if !strings.Contains(string(buf[:n]), w) {
				t.Fatalf("systemd is told %q, want %v", buf[:n], words)
			}
		}
		return string(buf[:n])
	}
}

// receiver is one that anybody may connect to, and that speaks once a second.
func receiverForAll(t *testing.T) net.Addr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for s := range 600 {
					if _, err := conn.Write(gpstest.Epoch(nil, secondFix(s%60))); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
		}
	}()
	return listener.Addr()
}

func TestReload(t *testing.T) {
	want := told(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := fmt.Sprintf("device: {id: car-1}\ndata_dir: data\ngps: [{name: gps0, tcp: '%s'}]\ncollect: {signals: [{match: '*'}]}\n", receiverForAll(t))
	dir := writeFiles(t, map[string]string{"agent.yaml": good})
	file := filepath.Join(dir, "agent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stderr, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hangup := make(chan os.Signal, 1)
	ended := make(chan error, 1)
	go func() { ended <- runAgain(ctx, file, hangup, stderr) }()

	want("READY=1")
	write(good + "queue: {commit_evry: 1s}\n")
	hangup <- syscall.SIGHUP
	want("RELOADING=1", "MONOTONIC_USEC=")
	want("READY=1", "STATUS=", "refused")

	write(good + "queue: {seal_every: 1s}\n")
	hangup <- syscall.SIGHUP
	want("RELOADING=1")
	want("READY=1") // and nothing of stopping in between

	write(good + fmt.Sprintf("metrics: {listen: '%s'}\n", taken.Addr()))
	hangup <- syscall.SIGHUP
	want("RELOADING=1")
	want("READY=1") // the one before

	cancel()
	want("STOPPING=1")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{`agent.yaml:5: unknown key`, "nothing has changed", "the one before goes on", "address already in use"} {
		if !strings.Contains(string(text), w) {
			t.Errorf("the log does not say %q:\n%s", w, text)
		}
	}

	var gaps int
	for _, loss := range losses(t, filepath.Join(dir, "data")) {
		switch {
		case loss.Reason == telemetrypb.LossReason_LOSS_BUS_DOWN && loss.Source == "gps:gps0":
			gaps++
			if loss.FirstNs >= loss.LastNs || loss.FirstNs <= 0 || !loss.CountUnknown {
				t.Errorf("the receiver was not read: %v", loss)
			}
			t.Logf("not read for %v", time.Duration(loss.LastNs-loss.FirstNs))
		case loss.Reason == telemetrypb.LossReason_LOSS_UNCLEAN_STOP:
			t.Errorf("a run did not end in order: %v", loss)
		}
	}
	if gaps < 2 {
		t.Errorf("%d times nothing was read, want one for each new beginning", gaps)
	}
}

// losses are the loss records of an agent's queue.
func losses(t *testing.T, dataDir string) (found []*telemetrypb.Loss) {
	t.Helper()
	q, err := buffer.Open(filepath.Join(dataDir, "queue"), buffer.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for from := uint64(1); ; {
		r, err := q.Next(buffer.Control, from)
		if err != nil {
			return found
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
}

func TestReloadRefusesToReadARecordingTwice(t *testing.T) {
	want := told(t)
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": "(1.0) can0 100#0102030405060708\n(100000.0) can0 100#01\n",
		"agent.yaml": "device: {id: car-1}\ndata_dir: data\ncan: [{bus: can0, replay: a.log, dbc: [a.dbc]}]\ncollect: {signals: [{match: '*'}]}\n"})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hangup := make(chan os.Signal, 1)
	ended := make(chan error, 1)
	go func() { ended <- runAgain(ctx, filepath.Join(dir, "agent.yaml"), hangup, os.Stderr) }()
	want("READY=1")
	hangup <- syscall.SIGHUP
	want("RELOADING=1")
	want("READY=1", "refused")
	cancel()
	want("STOPPING=1")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// What a configuration named may be gone when it has to begin again.
func TestSetupAfreshNeedsNoFiles(t *testing.T) {
	file, s, v, err := loadText(t, goodDiagnose)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(file), "a.dbc")); err != nil {
		t.Fatal(err)
	}
	again, err := (&setup{s, v}).afresh()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.vehicle.selection.Hash(), v.selection.Hash(); got != want || again.vehicle == v {
		t.Errorf("catalogue %x, want %x", got, want)
	}
}
