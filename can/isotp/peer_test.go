package isotp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/test/deps"
)

// peer is another ISO-TP stack (testdata/peer.py) that answers each message with its bytes in reverse order.
type peer struct {
	*Tap
	in io.WriteCloser

	mu     sync.Mutex // guards what follows
	said   []string   // errors that the stack reported
	frames []can.Frame
}

// Send implements Sender.
func (p *peer) Send(_ context.Context, f *can.Frame) error {
	p.note(f)
	_, err := p.in.Write(can.AppendLog(nil, 0, "can0", f))
	return err
}

func (p *peer) note(f *can.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames = append(p.frames, *f)
}

// patience is for a loaded machine: these tests are not about time.
const patience = 30 * time.Second

func startPeer(t *testing.T, options map[string]any) *peer {
	t.Helper()
	text, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	cmd := deps.Python(t, "testdata/peer.py", string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("peer.py said %q\n%s", lines.Text(), stderr.String())
	}
	p := &peer{in: in}
	p.Tap = NewTap(nil, 4096, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines.Scan() {
			if line := lines.Text(); strings.HasPrefix(line, "!") {
				p.mu.Lock()
				p.said = append(p.said, line)
				p.mu.Unlock()
				continue
			}
			scanner := can.NewScanner(strings.NewReader(lines.Text()))
			if scanner.Scan() {
				p.note(scanner.Frame())
				p.Offer(scanner.Frame())
			}
		}
		p.Close(io.EOF)
	}()
	t.Cleanup(func() {
		in.Close()
		<-done
		if err := cmd.Wait(); err != nil {
			t.Errorf("peer.py: %v\n%s", err, stderr.String())
		}
	})
	return p
}

func TestConversationsWithAnotherStack(t *testing.T) {
	ordinary := ConnOptions{Send: Address{ID: 0x7E0}, Receive: Address{ID: 0x7E8}}
	with := func(change func(*ConnOptions)) ConnOptions {
		o := ordinary
		change(&o)
		return o
	}
	ids := map[string]any{"rxid": 0x7E0, "txid": 0x7E8}
	peerWith := func(more map[string]any) map[string]any {
		m := map[string]any{"rxid": 0x7E0, "txid": 0x7E8}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	lengths := []int{1, 7, 8, 13, 14, 62, 63, 100, 1000, 4095}
	for _, c := range []struct {
		name    string
		peer    map[string]any
		conn    ConnOptions
		lengths []int
	}{
		{"no flow control within", peerWith(map[string]any{"params": map[string]any{"blocksize": 0, "tx_padding": 0}}), ordinary, lengths},
		{"blocks both ways", ids, with(func(o *ConnOptions) { o.BlockSize = 3 }), lengths},
		{"separation times", peerWith(map[string]any{"params": map[string]any{"stmin": 0xF3, "blocksize": 4}}),
			with(func(o *ConnOptions) { o.STmin = 500 * time.Microsecond; o.NoPad = true }), []int{7, 8, 100, 300}},
		{"29 bits", map[string]any{"mode": "NormalFixed_29bits", "target": 0xF1, "source": 0x10},
			with(func(o *ConnOptions) {
				o.Send = Address{ID: 0x18DA10F1, Extended: true}
				o.Receive = Address{ID: 0x18DAF110, Extended: true}
			}), lengths},
		{"extended addressing", peerWith(map[string]any{"mode": "Extended_11bits", "target": 0xF1, "source": 0x12}),
			with(func(o *ConnOptions) {
				o.Send = Address{ID: 0x7E0, WithTA: true, TA: 0x12}
				o.Receive = Address{ID: 0x7E8, WithTA: true, TA: 0xF1}
				o.BlockSize = 5
			}), []int{1, 6, 7, 12, 13, 4095}},
		{"FD", peerWith(map[string]any{"params": map[string]any{"can_fd": true, "tx_data_length": 64, "max_frame_size": 20000}}),
			with(func(o *ConnOptions) { o.FD = true; o.MaxMessage = 20000 }), append(slices.Clone(lengths), 4096, 20000)},
		{"FD of 24", peerWith(map[string]any{"params": map[string]any{"can_fd": true, "tx_data_length": 16}}),
			with(func(o *ConnOptions) { o.FD, o.BRS, o.TxDL, o.BlockSize, o.Padding = true, true, 24, 1, 0xCC }), []int{1, 7, 8, 14, 15, 22, 23, 700}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, c.peer)
			c.conn.NBs, c.conn.NCr = patience, patience
			conn, err := NewConn(p, c.conn)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			random := rand.New(rand.NewPCG(1, 2))
			overheard := 0
			for _, n := range c.lengths {
				message := make([]byte, n)
				for i := range message {
					message[i] = byte(random.Uint32())
				}
				got, err := conn.Request(ctx, message)
				if err != nil {
					t.Fatalf("%d bytes: %v; the other stack said %v", n, err, p.said)
				}
				slices.Reverse(message)
				if !slices.Equal(got.Data, message) || got.From != c.conn.Receive {
					t.Fatalf("%d bytes came back from %v as % x", n, got.From, got.Data)
				}
				overheard += 2
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.said) != 0 {
				t.Errorf("the other stack said %v", p.said)
			}
			listen(t, p.frames, c.conn, overheard)
		})
	}
}

// listen has a Reassembler listen to the whole conversation.
func listen(t *testing.T, frames []can.Frame, o ConnOptions, messages int) {
	t.Helper()
	r := NewReassembler(ReassemblerOptions{MaxMessage: o.MaxMessage,
		Streams: []Stream{{Data: o.Send, Flow: o.Receive}, {Data: o.Receive, Flow: o.Send}}})
	n := 0
	for i := range frames {
		if _, ok := r.Frame(&frames[i]); ok {
			n++
		}
	}
	if n != messages || r.Stats().Lost != [reasons]uint64{} {
		t.Errorf("overheard %d messages of %d, lost %v", n, messages, r.Stats().Lost)
	}
}

// The other stack refuses what is longer than it takes.
func TestAnotherStackRefuses(t *testing.T) {
	p := startPeer(t, map[string]any{"rxid": 0x7E0, "txid": 0x7E8, "params": map[string]any{"max_frame_size": 50}})
	conn, err := NewConn(p, ConnOptions{Send: Address{ID: 0x7E0}, Receive: Address{ID: 0x7E8}, NBs: patience})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := conn.Send(ctx, make([]byte, 51)); !errors.Is(err, ErrRefused) {
		t.Errorf("51 bytes: %v", err)
	}
	if m, err := conn.Request(ctx, make([]byte, 50)); err != nil || len(m.Data) != 50 {
		t.Errorf("50 bytes after that: %v", err)
	}
}
