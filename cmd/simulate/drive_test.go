package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/drive"
)

// run executes a command line in this process.
func run(t *testing.T, args ...string) (stdout string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	code = cli.Execute(root, args, &errs)
	if code != cli.OK {
		return errs.String(), code
	}
	return out.String(), code
}

func lastSummary(t *testing.T, stdout string) (s summary) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || !s.Summary {
		t.Fatalf("last line %q: %v", lines[len(lines)-1], err)
	}
	return s
}

func TestDriveIntoFiles(t *testing.T) {
	dir := t.TempDir()
	log, nmea, dbc := filepath.Join(dir, "drive.log"), filepath.Join(dir, "drive.nmea"), filepath.Join(dir, "car.dbc")
	out, code := run(t, "drive", "--can", log, "--gps", nmea, "--dbc-out", dbc, "--speed", "0", "--duration", "20s", "--start", "2021-06-01T12:00:00Z", "--bus", "can3", "--json")
	if code != cli.OK {
		t.Fatal(out)
	}
	s := lastSummary(t, out)
	if phases := strings.Count(out, `"phase"`); phases < 6 || !strings.Contains(out, `"phase":"tunnel"`) {
		t.Errorf("%d phase lines: %s", phases, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	scanner := can.NewScanner(f)
	frames := uint64(0)
	var first, last int64
	for scanner.Scan() {
		at, ok := scanner.Time()
		if !ok || scanner.Bus() != "can3" {
			t.Fatalf("line %d: bus %q, stamped %v", scanner.Line(), scanner.Bus(), ok)
		}
		if frames == 0 {
			first = at
		}
		last = at
		frames++
	}
	if scanner.Err() != nil || scanner.Rejected() != 0 || frames != s.Frames || s.CounterFirst != 1 || s.CounterLast != 2000 {
		t.Errorf("%d frames, %d rejected, %v; summary %+v", frames, scanner.Rejected(), scanner.Err(), s)
	}
	start := time.Date(2021, 6, 1, 12, 0, 0, 0, time.UTC)
	if first != start.UnixNano() || last < start.Add(19*time.Second).UnixNano() || last > start.Add(20*time.Second).UnixNano() {
		t.Errorf("stamps from %v to %v", time.Unix(0, first).UTC(), time.Unix(0, last).UTC())
	}
	text, err := os.ReadFile(nmea)
	if err != nil || !strings.HasPrefix(string(text), "# Date: 2021-06-01\n$G") || uint64(strings.Count(string(text), "\r\n")) != s.Sentences {
		t.Errorf("NMEA: %v, %d sentences of %d", err, strings.Count(string(text), "\r\n"), s.Sentences)
	}
	if got, err := os.ReadFile(dbc); err != nil || !bytes.Equal(got, drive.DBC()) {
		t.Errorf("DBC: %v", err)
	}
	if printed, _ := run(t, "dbc"); printed != string(drive.DBC()) {
		t.Error("the command dbc prints something else")
	}
}

// readPTY opens a pseudo-terminal as a receiver's reader would and sends its lines.
func readPTY(t *testing.T, ctx context.Context, link string) <-chan string {
	t.Helper()
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		var f *os.File
		for f == nil {
			if ctx.Err() != nil {
				return
			}
			f, _ = os.OpenFile(link, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
			time.Sleep(time.Millisecond)
		}
		defer f.Close()
		stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Now()) })
		defer stop()
		r := bufio.NewReader(f)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			lines <- line
		}
	}()
	return lines
}

func TestDriveOntoAPTY(t *testing.T) {
	dir := t.TempDir()
	link, log := filepath.Join(dir, "gps0"), filepath.Join(dir, "drive.log")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines := readPTY(t, ctx, link)
	var out bytes.Buffer
	if err := simulate(ctx, driveFlags{can: log, gps: "pty:" + link, bus: "can0", duration: 10 * time.Second, speed: 20, seed: 5}, strings.NewReader(""), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		t.Errorf("the link is left behind: %v", err)
	}
	s := lastSummary(t, out.String())
	cancel()
	n := uint64(0)
	for line := range lines {
		if !strings.HasPrefix(line, "$GN") || !strings.HasSuffix(line, "\r\n") {
			t.Errorf("line %q: changed on its way", line)
		}
		n++
	}
	// The last epoch may have gone with the terminal.
	if n+s.Unread+3 < s.Sentences || s.Sentences != 30 {
		t.Errorf("%d of %d sentences read, %d unread", n, s.Sentences, s.Unread)
	}
}

func TestUnreadSentencesGoStale(t *testing.T) {
	link := filepath.Join(t.TempDir(), "gps0")
	p, err := openPTY(link)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	epoch := []byte(strings.Repeat("x", 98) + "\r\n" + strings.Repeat("y", 98) + "\r\n")
	for range 1000 { // 200 KB: far beyond what a terminal holds; it must not wait
		if err := p.Send(epoch); err != nil {
			t.Fatal(err)
		}
	}
	if p.Unread() == 0 {
		t.Error("nothing was counted as unread")
	}
	if err := p.flushStale(); err != nil { // what was on its way has settled
		t.Fatal(err)
	}
	for range 100 {
		if err := p.Send(epoch); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Microsecond) // the kernel's worker moves it to where a reader would find it
	}
	f, err := os.OpenFile(link, os.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Read(make([]byte, 8192)); n > staleBytes+len(epoch) {
		t.Errorf("a late reader hears %d bytes of the past, %v", n, err)
	}
}

func TestLinkReplacesOnlyLinks(t *testing.T) {
	link := filepath.Join(t.TempDir(), "gps0")
	if err := os.WriteFile(link, []byte("a file of the user's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openPTY(link); err == nil {
		t.Fatal("a file was replaced")
	}
	os.Remove(link)
	if err := os.Symlink("/nowhere", link); err != nil {
		t.Fatal(err)
	}
	p, err := openPTY(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestDriveIntoAFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "bus")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	count := make(chan int)
	go func() {
		f, err := os.Open(fifo)
		if err != nil {
			count <- -1
			return
		}
		defer f.Close()
		text, _ := io.ReadAll(f)
		count <- bytes.Count(text, []byte("\n"))
	}()
	var out bytes.Buffer
	if err := simulate(context.Background(), driveFlags{can: fifo, bus: "can0", duration: 5 * time.Second, seed: 5}, strings.NewReader(""), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if n, s := <-count, lastSummary(t, out.String()); uint64(n) != s.Frames || s.Epochs != 5 {
		t.Errorf("%d lines, summary %+v", n, s)
	}
}

// A drive that is stopped says what it sent, and that is what the file holds.
func TestStoppedDriveCountsWhatItSent(t *testing.T) {
	log := filepath.Join(t.TempDir(), "drive.log")
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	done := make(chan error)
	go func() {
		done <- simulate(ctx, driveFlags{can: log, bus: "can0", duration: time.Hour, speed: 50, seed: 1}, strings.NewReader(""), &out, io.Discard)
	}()
	for {
		if info, err := os.Stat(log); err == nil && info.Size() > 10_000 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if n, s := bytes.Count(text, []byte("\n")), lastSummary(t, out.String()); err != nil || uint64(n) != s.Frames || n == 0 || s.Duration >= 3600 {
		t.Errorf("%d lines, summary %+v, %v", n, s, err)
	}
}

// The bytes are those of struct can_frame and struct canfd_frame, as linux/can.h lays them out.
func TestKernelFrame(t *testing.T) {
	id := func(b [72]byte, id uint32) [72]byte {
		binary.NativeEndian.PutUint32(b[:], id)
		return b
	}
	data := [8]byte{1, 2, 3, 99}
	for name, c := range map[string]struct {
		frame can.Frame
		want  [72]byte
		bytes int
	}{
		"extended": {can.Frame{ID: 0x18FF4A10, Len: 3, Flags: can.FlagExtended}, id([72]byte{4: 3, 8: 1, 9: 2, 10: 3}, 0x98FF4A10), 16}, // CAN_EFF_FLAG
		"remote":   {can.Frame{ID: 0x123, Len: 3, Flags: can.FlagRemote}, id([72]byte{4: 3}, 0x40000123), 16},                           // CAN_RTR_FLAG
		"error":    {can.Frame{ID: 0x40, Len: 3, Flags: can.FlagError}, id([72]byte{4: 3, 8: 1, 9: 2, 10: 3}, 0x20000040), 16},          // CAN_ERR_FLAG
		"FD":       {can.Frame{ID: 0x123, Len: 3, Flags: can.FlagFD | can.FlagBRS}, id([72]byte{4: 3, 5: 5, 8: 1, 9: 2, 10: 3}, 0x123), 72},
	} {
		copy(c.frame.Data[:], data[:])
		var buffer [72]byte
		for i := range buffer {
			buffer[i] = 0xEE // of the frame before
		}
		if got := kernelFrame(&buffer, &c.frame); !bytes.Equal(got, c.want[:c.bytes]) {
			t.Errorf("%s: % x, want % x", name, got, c.want[:c.bytes])
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"drive"}, {"drive", "--can", "a", "--duration", "1ms"}, {"drive", "--can", "vcan0", "--speed", "0"}, {"drive", "--can", "x", "--start", "today"},
		{"drive", "extra"}, {"nonsense"}, {"drive", "--nonsense"}, {"drive", "--gps", "pty:x", "--speed", "0"}, {"drive", "--can", "a", "--speed", "NaN"},
		{"drive", "--can", "a", "--start", "0001-01-01T00:00:00Z"},
		{"drive", "--can", "a", "--scenario", "moon"}, {"drive", "--can", "a", "--fault", "bus-off 5s"}, {"drive", "--can", "a", "--fault", "5s flood 5s"},
		{"replay"}, {"replay", "x", "--onto", "can0"}, {"replay", "x", "--speed", "-1"}, {"replay", "-", "--loops", "0"},
		{"fleet"}, {"fleet", "--broker", "mqtt://192.0.2.1:1883"}, {"fleet", "--broker", "mqtt://127.0.0.1:1", "--vehicles", "0"},
	} {
		if text, code := run(t, args...); code != cli.Usage {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, cli.Usage, text)
		}
	}
	if text, code := run(t, "drive", "--can", "socketcan:nocan9"); code != cli.Failed || !strings.Contains(text, "ip link add") {
		t.Errorf("an interface that is not there: %d %s", code, text)
	}
}
