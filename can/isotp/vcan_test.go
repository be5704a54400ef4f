package isotp_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
)

// bus is the interface of the conversations. A kernel with can-isotp and can-utils beside it is needed: test/vm boots one,
// and says so with WAYBILL_VM=1.
const bus = "vcan0"

// patience bounds every wait; nothing here is about time.
const patience = 30 * time.Second

// Messages both ways between a Conn and the kernel's own ISO-TP, driven by isotpsend and isotprecv of can-utils. A
// Reassembler that listens has to put all of them together.
func TestVcanISOTPWithTheKernel(t *testing.T) {
	if _, err := net.InterfaceByName(bus); err == nil {
		_, err = exec.LookPath("isotprecv")
		if err != nil && os.Getenv("WAYBILL_VM") != "1" {
			t.Skip("no isotprecv here; test/vm runs this in a guest kernel")
		}
	} else if os.Getenv("WAYBILL_VM") != "1" {
		t.Skipf("no %s here; test/vm runs this in a guest kernel", bus)
	}
	standard := isotp.ConnOptions{Send: isotp.Address{ID: 0x7E0}, Receive: isotp.Address{ID: 0x7E8}}
	with := func(change func(*isotp.ConnOptions)) isotp.ConnOptions {
		o := standard
		change(&o)
		return o
	}
	both := []string{"-s", "7E8", "-d", "7E0"}
	const escaped = 4500 // more than 12 bits of length can say
	for _, c := range []struct {
		name       string
		conn       isotp.ConnOptions
		both, recv []string // options of both programs, and of isotprecv only
		lengths    []int
	}{
		{"11 bits", standard, both, nil, []int{1, 7, 8, 62, 300, 4095, escaped}},
		{"29 bits", with(func(o *isotp.ConnOptions) {
			o.Send, o.Receive = isotp.Address{ID: 0x18DA10F1, Extended: true}, isotp.Address{ID: 0x18DAF110, Extended: true}
			o.NoPad = true
		}), []string{"-s", "18DAF110", "-d", "18DA10F1"}, nil, []int{1, 7, 8, 300}},
		{"blocks and separation times", with(func(o *isotp.ConnOptions) { o.BlockSize, o.STmin = 3, time.Millisecond }),
			both, []string{"-b", "4", "-m", "2"}, []int{8, 62, 300}},
		{"a microsecond separation time", with(func(o *isotp.ConnOptions) { o.BlockSize, o.STmin = 1, 300*time.Microsecond }),
			both, []string{"-b", "1", "-m", "F5"}, []int{62}},
		{"padding that is checked", with(func(o *isotp.ConnOptions) { o.Padding = 0x55 }),
			append(both, "-p", "AA:55", "-P", "a"), nil, []int{1, 6, 8, 62, 300}},
		{"extended addressing", with(func(o *isotp.ConnOptions) {
			o.Send, o.Receive = isotp.Address{ID: 0x6F1, WithTA: true, TA: 0x12}, isotp.Address{ID: 0x612, WithTA: true, TA: 0xF1}
			o.BlockSize = 8
		}), []string{"-s", "612", "-d", "6F1", "-x", "F1:12"}, []string{"-b", "5"}, []int{1, 6, 7, 62, 300}},
		{"FD", with(func(o *isotp.ConnOptions) { o.FD, o.Padding = true, 0xCC }),
			append(both, "-L", "72:64:0"), nil, []int{1, 7, 8, 62, 63, 300, 4095, escaped}},
		{"FD of 24 bytes, faster", with(func(o *isotp.ConnOptions) { o.FD, o.BRS, o.TxDL, o.BlockSize = true, true, 24, 2 }),
			append(both, "-L", "72:24:1"), []string{"-b", "3"}, []int{8, 22, 23, 300}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.conn.NAs, c.conn.NBs, c.conn.NCr, c.conn.MaxMessage = patience, patience, patience, escaped
			conn, overheard := converse(t, c.conn)
			random := rand.New(rand.NewPCG(15765, 2))
			var want []string
			for _, n := range c.lengths {
				message := make([]byte, n)
				for i := range message {
					message[i] = byte(random.Uint32())
				}
				kernelReceives(t, conn, message, append(append([]string(nil), c.both...), c.recv...))
				kernelSends(t, conn, message, c.both)
				for _, from := range []isotp.Address{c.conn.Send, c.conn.Receive} {
					want = append(want, fmt.Sprintf("%v: %x", from, message))
				}
			}
			listen(t, c.conn, overheard, want)
		})
	}
}

// converse opens the bus for a Conn, and for one who listens to all of it.
func converse(t *testing.T, o isotp.ConnOptions) (*isotp.Conn, *isotp.Tap) {
	t.Helper()
	reader, err := can.Open(bus, can.ReaderOptions{ReceiveBuffer: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	writer, err := can.NewWriter(bus)
	if err != nil {
		t.Fatal(err)
	}
	tap, overheard := isotp.NewTap(writer, 4096, o.Receive.Matches), isotp.NewTap(nil, 1<<14, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- isotp.Pump(ctx, reader, tap, overheard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = writer.Close()
		if n := tap.Drops() + overheard.Drops() + reader.Stats().Drops; n > 0 {
			t.Errorf("%d frames were dropped", n)
		}
	})
	conn, err := isotp.NewConn(tap, o)
	if err != nil {
		t.Fatal(err)
	}
	return conn, overheard
}

// kernelReceives has isotprecv print the message that the Conn sends.
func kernelReceives(t *testing.T, conn *isotp.Conn, message []byte, args []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "isotprecv", append(args, bus)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForKernel(t, ctx, true)
	if err := conn.Send(ctx, message); err != nil {
		t.Errorf("sending %d bytes: %v", len(message), err)
		cancel()
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("isotprecv %v of %d bytes: %v; it said %s", args, len(message), err, stderr.String())
	}
	if got := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(out.String()), " ", "")); got != hex.EncodeToString(message) {
		t.Fatalf("isotprecv %v prints %s, sent was %x", args, got, message)
	}
	waitForKernel(t, ctx, false)
}

// kernelSends has isotpsend send a message, which the Conn has to receive.
func kernelSends(t *testing.T, conn *isotp.Conn, message []byte, args []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "isotpsend", append(args, bus)...)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("% x\n", message))
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got, err := conn.Receive(ctx)
	if err != nil || !bytes.Equal(got.Data, message) {
		t.Errorf("received %x, %v; isotpsend %v sent %x", got.Data, err, args, message)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("isotpsend %v of %d bytes: %v; it said %s", args, len(message), err, stderr.String())
	}
	waitForKernel(t, ctx, false)
}

// waitForKernel waits until a socket of the kernel's ISO-TP listens on the bus, or none does: its receivers are listed
// under /proc/net/can.
func waitForKernel(t *testing.T, ctx context.Context, listening bool) {
	t.Helper()
	for {
		found := false
		for _, list := range []string{"rcvlist_sff", "rcvlist_eff", "rcvlist_fil"} {
			text, err := os.ReadFile("/proc/net/can/" + list)
			if err != nil {
				t.Fatal(err)
			}
			found = found || bytes.Contains(text, []byte("isotp"))
		}
		if found == listening {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the kernel's ISO-TP listens: %t, want %t", found, listening)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// listen has a Reassembler put together what was overheard.
func listen(t *testing.T, o isotp.ConnOptions, overheard *isotp.Tap, want []string) {
	t.Helper()
	r := isotp.NewReassembler(isotp.ReassemblerOptions{MaxMessage: o.MaxMessage,
		Streams: []isotp.Stream{{Data: o.Send, Flow: o.Receive}, {Data: o.Receive, Flow: o.Send}}})
	var got []string
	limit := time.After(patience)
	for len(got) < len(want) {
		select {
		case f := <-overheard.Frames():
			if m, ok := r.Frame(&f); ok {
				got = append(got, fmt.Sprintf("%v: %x", m.From, m.Data))
			}
		case <-limit:
			t.Fatalf("overheard %d messages of %d; %+v", len(got), len(want), r.Stats())
		}
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("overheard %s, was %s", got[i], want[i])
		}
	}
	if s := r.Stats(); s.Messages != uint64(len(want)) || s.Lost != (isotp.ReassemblerStats{}).Lost {
		t.Errorf("%+v", s)
	}
}
