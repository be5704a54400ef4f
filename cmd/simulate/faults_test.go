package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/drive"
)

// What a drive sends live is what it records, and a record is not written over.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	live, into := filepath.Join(dir, "live.log"), filepath.Join(dir, "kept")
	args := []string{"drive", "--can", live, "--record", into, "--speed", "0", "--duration", "20s", "--start", "2021-06-01T12:00:00Z", "--scenario", "motorway", "--fault", "2s bus-off 1s"}
	out, code := run(t, args...)
	if code != cli.OK {
		t.Fatal(out)
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if log := read(filepath.Join(into, "drive.log")); log != read(live) || !strings.Contains(log, " 20000040#") || !strings.Contains(log, " 20000100#") {
		t.Error("the record is not what was sent")
	}
	if nmea := read(filepath.Join(into, "drive.nmea")); strings.Count(nmea, "$GNRMC") != 20 {
		t.Errorf("%d epochs recorded", strings.Count(nmea, "$GNRMC"))
	}
	if read(filepath.Join(into, "car.dbc")) != string(drive.DBC()) || !strings.Contains(read(filepath.Join(into, "summary.json")), `"frames"`) {
		t.Error("the DBC file or the summary is not there")
	}
	if out, code := run(t, args...); code != cli.Failed || !strings.Contains(out, "there already") {
		t.Errorf("a second time: %d %s", code, out)
	}
}

// A fault that comes while it drives happens; what is none is said, and the drive goes on.
func TestFaultsOnCommand(t *testing.T) {
	log := filepath.Join(t.TempDir(), "drive.log")
	in, commands := io.Pipe()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error)
	go func() {
		done <- simulate(ctx, driveFlags{can: log, bus: "can0", duration: time.Hour, speed: 20, seed: 1, control: "-"}, in, &out, &errs)
	}()
	io.WriteString(commands, "# a remark\nexplode 3s\nbus-off 2s\n") // taken when it has been read
	holds := func(text string) bool {
		all, err := os.ReadFile(log)
		return err == nil && bytes.Contains(all, []byte(text))
	}
	for end := time.Now().Add(time.Minute); !holds(" 20000100#"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: the bus went off and came back")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(errs.String(), `"explode 3s"`) {
		t.Errorf("said: %s", errs.String())
	}
}

// The link passes bytes, but in a dead zone, and then all of them.
func TestLink(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go io.Copy(conn, conn)
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	l, err := openLink(address + "=" + echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(wait time.Duration) error {
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	conn.Write([]byte("a"))
	if err := ask(time.Minute); err != nil {
		t.Fatal(err)
	}
	l.dead(true)
	conn.Write([]byte("b"))
	if err := ask(100 * time.Millisecond); err == nil {
		t.Fatal("something came through a dead link")
	}
	l.dead(false)
	if err := ask(time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"x", "127.0.0.1:0", "0.0.0.0:0=" + echo.Addr().String(), "192.0.2.1:0=x:1"} {
		if l, err := openLink(text); err == nil {
			l.Close()
			t.Errorf("%q is a link", text)
		}
	}
}

// What a replay writes is what the log has, bus by bus, with the log's stamps.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	log, one, two := filepath.Join(dir, "in.log"), filepath.Join(dir, "one.log"), filepath.Join(dir, "two.log")
	const text = `(1620692699.100000) can0 123#11
(1620692699.200000) can1 18FEF100##1112233
(1620692699.150000) can0 123#22
no frame
(1620692699.300000) can0 20000040#0000000000000000
(1620692699.300000) can1 7DF#R8
`
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := run(t, "replay", log, "--onto", "can0="+one, "--onto", "can1="+two, "--speed", "0", "--loops", "2")
	if code != cli.OK || !strings.Contains(out, `"frames":{"can0":6,"can1":4},"left_out":0,"rejected":2`) {
		t.Fatalf("%d %s", code, out)
	}
	for path, bus := range map[string]string{one: "can0", two: "can1"} {
		var want []string
		for range 2 {
			for line := range strings.Lines(text) {
				if strings.Contains(line, bus) {
					want = append(want, line)
				}
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != strings.Join(want, "") {
			t.Errorf("%s: %v\n%s", bus, err, got)
		}
	}
	if out, code := run(t, "replay", log); code != cli.Failed || !strings.Contains(out, "--onto can0=") {
		t.Errorf("without a bus: %d %s", code, out)
	}
}

// What is due in the future waits: ten seconds of a log at a hundred times its speed take a tenth.
func TestReplayKeepsTime(t *testing.T) {
	var text []byte
	for i := range 11 {
		text = can.AppendLog(text, int64(i+1)*1e9, "can0", &can.Frame{ID: 1, Len: 1})
	}
	var out bytes.Buffer
	began := time.Now()
	err := replay(context.Background(), "-", replayFlags{onto: []string{"can0=" + filepath.Join(t.TempDir(), "out.log")}, speed: 100, loops: 1}, bytes.NewReader(text), &out, io.Discard)
	if took := time.Since(began); err != nil || took < 95*time.Millisecond {
		t.Errorf("it took %v, %v", took, err)
	}
}
