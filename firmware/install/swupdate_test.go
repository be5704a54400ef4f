package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a C compiler says of the headers of SWUpdate 2022.12, sizeof and offsetof, on amd64; on 32-bit ARM by the rules of its ABI.
func TestSWUpdateLayout(t *testing.T) {
	for _, test := range []struct {
		bits, size, length, info, end int
	}{{64, 3120, 24, 32, 1064}, {32, 3104, 20, 24, 1052}} {
		l, err := newSWLayout(test.bits)
		if err != nil {
			t.Fatal(err)
		}
		length, info, _, _, _, end := l.request()
		if l.size() != test.size || length != test.length || info != test.info || end != test.end {
			t.Errorf("%d bits: %d %d %d %d", test.bits, l.size(), length, info, end)
		}
		m := l.install("stable", strings.Repeat("m", 300))
		_, _, set, mode, noStore, _ := l.request()
		if string(m[set:set+7]) != "stable\x00" || m[mode+254] != 'm' || m[mode+255] != 0 || m[noStore] != 1 || len(m) != test.size {
			t.Errorf("%d bits: %q", test.bits, m)
		}
	}
	for _, o := range []SWUpdateOptions{{Bits: 16}, {Set: "stable"}, {Mode: "copy1"}, {Set: strings.Repeat("x", 256), Mode: "y"}} {
		if _, err := NewSWUpdate(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// stepMessage is a progress message in memory order.
func stepMessage(size int, s swStep) []byte {
	m := make([]byte, size)
	at := 20
	if size == swPadded {
		at = 24
	}
	for i, v := range map[int]uint32{0: 0x20000, 4: s.status, at: s.steps, at + 4: s.step, at + 8: s.percent} {
		binary.NativeEndian.PutUint32(m[i:], v)
	}
	copy(m[at+12:], s.image)
	copy(m[at+268:], s.handler)
	return m
}

func TestSWUpdateSteps(t *testing.T) {
	steps := []swStep{{2, 4, 1, 0, "boot.img", "raw"}, {8, 4, 1, 50, "boot.img", "raw"}, {8, 4, 4, 100, "rootfs.img", "rawfile"}, {3, 4, 4, 100, "rootfs.img", "rawfile"}}
	greeting := []byte{0, 0, 2, 0, 'A', 'C', 'K', 0}
	for name, test := range map[string]struct {
		size  int
		greet []byte
	}{"2022.12": {swPadded, nil}, "greets": {swPadded, greeting}, "packed": {swPacked, greeting}} {
		stream := bytes.Clone(test.greet)
		for _, s := range steps {
			stream = append(stream, stepMessage(test.size, s)...)
		}
		var got []swStep
		if err := readSteps(bytes.NewReader(stream), func(s swStep) { got = append(got, s) }); !errors.Is(err, io.EOF) || !reflect.DeepEqual(got, steps) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for s, want := range map[swStep]int{{}: 0, {steps: 4}: 0, {steps: 4, step: 1}: 0, {steps: 4, step: 1, percent: 50}: 12, {steps: 4, step: 4, percent: 100}: 100,
		{steps: 4, step: 9, percent: 900}: 100, {steps: 1 << 31, step: 1}: 0, {steps: 1<<32 - 1, step: 1<<32 - 1, percent: 1<<32 - 1}: 0} {
		if got := s.whole(); got != want {
			t.Errorf("%+v: %d %%, want %d", s, got, want)
		}
	}
}

// fakeSWUpdate answers on a control socket as it is told: one answer for each message, then the stream's reader.
type fakeSWUpdate struct {
	t      *testing.T
	layout swLayout

	mu      sync.Mutex
	answers func(kind uint32) []byte // guarded by mu; nil hangs up, an empty answer is none
	stream  func(net.Conn)           // guarded by mu
	all     []net.Conn               // guarded by mu
}

func newFake(t *testing.T) (*fakeSWUpdate, *SWUpdate) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeSWUpdate{t: t}
	s, err := NewSWUpdate(SWUpdateOptions{Control: path, Progress: path + "none", CmdLine: path + "none", Poll: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	f.layout = s.layout
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		for _, c := range f.all {
			c.Close()
		}
		f.mu.Unlock()
		<-done
	})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.all = append(f.all, conn)
			f.mu.Unlock()
			f.serve(conn)
		}
	}()
	return f, s
}

func (f *fakeSWUpdate) serve(conn net.Conn) {
	m := make([]byte, f.layout.size())
	if _, err := io.ReadFull(conn, m); err != nil || binary.NativeEndian.Uint32(m) != swMagic {
		f.t.Errorf("asked %d bytes, %v", len(m), err)
		return
	}
	kind := binary.NativeEndian.Uint32(m[4:])
	f.mu.Lock()
	answer, stream := f.answers(kind), f.stream
	f.mu.Unlock()
	_, _ = conn.Write(answer)
	if kind == swInstall && answer != nil && binary.NativeEndian.Uint32(answer[4:]) == swAck {
		stream(conn)
	}
	if answer != nil && len(answer) == 0 {
		return // neither answers nor hangs up
	}
	conn.Close()
}

func (f *fakeSWUpdate) status(current, last, failed uint32, text string) []byte {
	m := f.layout.message(swAck)
	for i, v := range []uint32{current, last, failed} {
		binary.NativeEndian.PutUint32(m[8+4*i:], v)
	}
	copy(m[swDescOffset:], text)
	return m
}

func (f *fakeSWUpdate) does(stream func(net.Conn), answers ...[]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream = stream
	f.answers = func(kind uint32) []byte {
		if kind == swInstall {
			return f.layout.message(swAck)
		}
		a := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		return a
	}
}

func TestSWUpdateOutcomes(t *testing.T) {
	f, s := newFake(t)
	read := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	busy := f.status(2, swSuccess, 0, "")
	for name, test := range map[string]struct {
		answers [][]byte
		want    error
		text    string
	}{
		"success":          {[][]byte{busy, f.status(1, 0, 0, "began"), busy, f.status(0, 0, 0, "waiting"), f.status(0, swSuccess, 0, "")}, nil, ""},
		"failure":          {[][]byte{f.status(4, 0, 1, "no\x1b[2J room"), f.status(0, swFailure, 0, "")}, ErrFailed, "no [2J room"},
		"an earlier one":   {[][]byte{f.status(0, swSuccess, 0, "waiting"), f.status(2, swSuccess, 0, ""), f.status(0, swFailure, 0, "")}, ErrFailed, "does not say why"},
		"failure, no word": {[][]byte{f.status(0, swFailure, 0, "")}, ErrFailed, "does not say why"},
		"started anew":     {[][]byte{f.status(0, swIdle, 0, "")}, ErrUnreachable, "started anew"},
		"hangs up":         {[][]byte{nil}, ErrUnreachable, "word size"},
		"another language": {[][]byte{[]byte(strings.Repeat("HTTP", 780))}, ErrUnreachable, "not an answer"},
		"many complaints":  {[][]byte{f.status(4, 0, 1, "one"), f.status(4, 0, 1, "two"), f.status(4, 0, 1, "three"), f.status(4, 0, 1, "four"), f.status(4, 0, 1, "five"), f.status(0, swFailure, 0, "")}, ErrFailed, "two; three; four; five"},
	} {
		f.does(read, test.answers...)
		err := s.Install(t.Context(), picture(t, "image"), nil)
		if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A success of earlier does not count for an image that was not read to its end.
	f.does(func(net.Conn) {}, f.status(0, swFailure, 1, ""))
	if err := s.Install(t.Context(), picture(t, strings.Repeat("x", 4<<20)), nil); !errors.Is(err, ErrFailed) {
		t.Errorf("hung up on the image: %v", err)
	}
}

// Nothing blocks for ever: neither a daemon that does not answer nor one that does not read.
func TestSWUpdateHangs(t *testing.T) {
	f, s := newFake(t)
	s.o.Call = 50 * time.Millisecond
	f.does(nil, []byte{})
	if _, err := s.Status(t.Context()); !errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrTimeout) {
		t.Errorf("no answer: %v", err)
	}
	gone := make(chan struct{})
	f.does(func(net.Conn) { <-gone }, f.status(0, swSuccess, 0, ""))
	s.o.Timeout = 50 * time.Millisecond
	if err := s.Install(t.Context(), picture(t, strings.Repeat("x", 4<<20)), nil); !errors.Is(err, ErrTimeout) {
		t.Errorf("does not read: %v", err)
	}
	close(gone)
}

func FuzzSWUpdate(f *testing.F) {
	l := swLayout{8}
	f.Add(l.message(swAck))
	f.Add(append([]byte{0, 0, 2, 0, 'A', 'C', 'K', 0}, bytes.Repeat(stepMessage(swPacked, swStep{8, 4, 2, 50, "a", "b"}), 2)...))
	f.Add(stepMessage(swPadded, swStep{8, 4, 2, 50, "a", "b"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := l.parse(data); err == nil && (a.kind != swAck && a.kind != swNack || len(a.text) > maxText+8 || strings.ContainsAny(a.text, "\n\x1b\x00")) {
			t.Errorf("%+v", a)
		}
		report := &swReport{to: func(percent int, text string) {
			if percent < 0 || percent > 100 || len(text) > 2*maxText || strings.ContainsAny(text, "\n\x1b\x00") {
				t.Errorf("%d %q", percent, text)
			}
		}}
		_ = readSteps(bytes.NewReader(data), report.step)
	})
}
