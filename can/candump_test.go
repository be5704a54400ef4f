package can

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/waybill-telematics/waybill/test/deps"
)

func TestScannerLines(t *testing.T) {
	const second = 1_000_000_000
	at := int64(1620692699_796900_000)
	data := func(b ...byte) (d [MaxLen]byte) { copy(d[:], b); return d }
	tests := []struct {
		line  string
		bus   string
		time  int64 // −1: none
		frame Frame
	}{
		{"(1620692699.796900) can0 123#1122", "can0", at, Frame{ID: 0x123, Len: 2, Data: data(0x11, 0x22)}},
		{"(1620692699.796900) can0 123#1122 T", "can0", at, Frame{ID: 0x123, Len: 2, Data: data(0x11, 0x22)}},
		{"(1620692699.796900) can0 123#", "can0", at, Frame{ID: 0x123}},
		{"(1620692699.7969001239) can0 00000123#aA", "can0", at + 123, Frame{ID: 0x123, Len: 1, Flags: FlagExtended, Data: data(0xAA)}},
		{"(0000000003.5) can0 1FFFFFFF#11.22.33", "can0", 3*second + second/2, Frame{ID: 0x1FFFFFFF, Len: 3, Flags: FlagExtended, Data: data(0x11, 0x22, 0x33)}},
		{"(3) can0 123#1122334455667788_E", "can0", 3 * second, Frame{ID: 0x123, Len: 8, Data: data(0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88)}},
		{"(3.000001) vcan0 123#R", "vcan0", 3*second + 1000, Frame{ID: 0x123, Flags: FlagRemote}},
		{"(3.000001) vcan0 123#R8 R", "vcan0", 3*second + 1000, Frame{ID: 0x123, Len: 8, Flags: FlagRemote}},
		{"(3.000001) vcan0 123##5AABB", "vcan0", 3*second + 1000, Frame{ID: 0x123, Len: 2, Flags: FlagFD | FlagBRS, Data: data(0xAA, 0xBB)}},
		{"(3.000001) vcan0 00000123##2", "vcan0", 3*second + 1000, Frame{ID: 0x123, Flags: FlagFD | FlagESI | FlagExtended}},
		{"(3.000001) vcan0 20000044#0004000000000000", "vcan0", 3*second + 1000, Frame{ID: 0x44, Len: 8, Flags: FlagError, Data: data(0, 4)}},
		{"  can0  123   [3]  11 22 33", "can0", -1, Frame{ID: 0x123, Len: 3, Data: data(0x11, 0x22, 0x33)}},
		{"  can0  123   [3]  41 42 5D   'AB]'", "can0", -1, Frame{ID: 0x123, Len: 3, Data: data(0x41, 0x42, 0x5D)}},
		{" (1620692699.796900)  can0       123   [0] ", "can0", at, Frame{ID: 0x123}},
		{" (003.000001)  can0  RX - -  00000123   [2]  11 22", "can0", 3*second + 1000, Frame{ID: 0x123, Len: 2, Flags: FlagExtended, Data: data(0x11, 0x22)}},
		{" (003.000001)  can0  TX B E  123  [01]  11", "can0", 3*second + 1000, Frame{ID: 0x123, Len: 1, Flags: FlagFD | FlagBRS | FlagESI, Data: data(0x11)}},
		{"  can0  123  [12]  01 02 03 04 05 06 07 08 09 0A 0B 0C", "can0", -1, Frame{ID: 0x123, Len: 12, Flags: FlagFD, Data: data(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)}},
		{"  can0  123   [8]  remote request", "can0", -1, Frame{ID: 0x123, Len: 8, Flags: FlagRemote}},
		{"  can0  20000088   [8]  00 00 00 00 00 00 00 00   ERRORFRAME", "can0", -1, Frame{ID: 0x88, Len: 8, Flags: FlagError}},
		{" (2021-05-11 00:24:59.796900)  can0  123   [1]  11", "can0", at, Frame{ID: 0x123, Len: 1, Data: data(0x11)}},
		{"can0 123#11", "can0", -1, Frame{ID: 0x123, Len: 1, Data: data(0x11)}},
	}
	for _, test := range tests {
		for _, end := range []string{"", "\n", "\r\n"} {
			s := NewScanner(strings.NewReader(test.line + end))
			if !s.Scan() {
				t.Errorf("%q: nothing found, %d rejected", test.line, s.Rejected())
				continue
			}
			f := s.Frame()
			when, ok := s.Time()
			if !ok {
				when = -1
			}
			if s.Bus() != test.bus || when != test.time || f.ID != test.frame.ID || f.Len != test.frame.Len || f.Flags != test.frame.Flags || !bytes.Equal(f.Payload(), test.frame.Payload()) {
				t.Errorf("%q: %s %d %+v", test.line, s.Bus(), when, *f)
			}
			if s.Scan() || s.Err() != nil {
				t.Errorf("%q: more than one frame, %v", test.line, s.Err())
			}
		}
	}
}

func TestScannerRejects(t *testing.T) {
	for _, line := range []string{
		"nonsense", "can0", "(1.0)", "(1.0) can0", "(1.0 can0 123#11", "(x) can0 123#11", "(1.) can0 123#11", "(1.0x) can0 123#11",
		"(99999999999.0) can0 123#11", "(-1.0) can0 123#11", "(1.0) can0 #11", "(1.0) can0 12G#11", "(1.0) can0 800#11", "(1.0) can0 3FFFFFFFF#",
		"(1.0) can0 7FFFFFFF#11", "(1.0) can0 123#1", "(1.0) can0 123#112233445566778899", "(1.0) can0 123#1G", "(1.0) can0 123##", "(1.0) can0 123##G11",
		"(1.0) can0 123#R9", "(1.0) can0 123#R8x", "(1.0) can0 123##1" + strings.Repeat("00", 65), "can0 123 [2] 11", "can0 123 [x] 11", "can0 123 [9] 11",
		"can0 123 [65] 11", "can0 123 2 11 22", "can0 123 [2] 11 2", "can0 123 [12] remote request", strings.Repeat("x", 5000), strings.Repeat("y", 200000),
		"(1.0) can0#1 123#11", "\x00\xff",
	} {
		var rejects []*LineError
		s := NewScanner(strings.NewReader("(1.0) can0 001#11\n" + line + "\n(2.0) can0 002#22\n"))
		s.OnReject = func(e *LineError) { rejects = append(rejects, e) }
		var ids []uint32
		for s.Scan() {
			ids = append(ids, s.Frame().ID)
		}
		if !slices.Equal(ids, []uint32{1, 2}) || s.Rejected() != 1 || len(rejects) != 1 || rejects[0].Line != 2 || s.Line() != 3 || s.Err() != nil {
			t.Errorf("%.60q: frames %v, rejects %v, line %d, %v", line, ids, rejects, s.Line(), s.Err())
		}
	}
}

// What is no frame and no fault: blank lines, comments, and what candump -e says of an error frame.
func TestScannerSilentLines(t *testing.T) {
	s := NewScanner(strings.NewReader("\n# comment\n  can0  20000004   [1]  00   ERRORFRAME\n\tcontroller-problem{}\n\n  can0  001   [0]\n\tcontroller\n"))
	count := 0
	for s.Scan() {
		count++
	}
	if count != 2 || s.Rejected() != 1 {
		t.Errorf("%d frames, %d rejected", count, s.Rejected())
	}
}

func TestScannerEnds(t *testing.T) {
	if s := NewScanner(strings.NewReader("")); s.Scan() || s.Err() != nil {
		t.Errorf("an empty log: %v", s.Err())
	}
	broken := errors.New("unplugged")
	s := NewScanner(io.MultiReader(strings.NewReader("(1.0) can0 001#11\n(2.0) can0 0"), iotest.ErrReader(broken)))
	if !s.Scan() || s.Scan() || !errors.Is(s.Err(), broken) {
		t.Errorf("a log that breaks off: %v", s.Err())
	}
}

// The recorded logs, whose frames somebody else counted, come out as they went in.
func TestScannerRecordedLogs(t *testing.T) {
	for name, frames := range map[string]int{"truck-j1939.log": 1815, "boat-nmea2000.log": 84730, "car-raw-500k.log": 12974} {
		text := readFile(t, deps.Testdata(t, "can", name))
		s := NewScanner(bytes.NewReader(text))
		var out []byte
		count := 0
		for s.Scan() {
			when, _ := s.Time()
			out = AppendLog(out, when, s.Bus(), s.Frame())
			count++
		}
		if count != frames || s.Rejected() != 0 {
			t.Errorf("%s: %d frames, want %d; %d rejected", name, count, frames, s.Rejected())
		}
		if want := bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")); !bytes.Equal(bytes.TrimSpace(out), bytes.TrimSpace(want)) {
			t.Errorf("%s does not come out as it went in", name)
		}
	}
}

func TestScannerAllocatesNothing(t *testing.T) {
	in, err := os.Open(deps.Testdata(t, "can", "car-raw-500k.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s := NewScanner(in)
	s.Scan()
	if n := testing.AllocsPerRun(5000, func() { s.Scan() }); n != 0 {
		t.Errorf("%v allocations a line", n)
	}
}

func TestAppendSeconds(t *testing.T) {
	for ns, want := range map[int64]string{
		0: "0.000000", 1: "0.000000001", 1000: "0.000001", 1_500_000_000: "1.500000", -1_500_000_000: "-1.500000",
		1620692699_796900_001: "1620692699.796900001", -1 << 63: "-9223372036.854775808",
	} {
		if got := string(AppendSeconds(nil, ns)); got != want {
			t.Errorf("%d: %s, want %s", ns, got, want)
		}
	}
}

// Whatever is read is written in a form that reads back equal.
func FuzzCandump(f *testing.F) {
	for _, line := range []string{
		"(1620692699.796900) can0 123#1122334455667788", "(1.5) can1 18FEF100##5112233 T", "(1.5) can1 123#R8",
		" (1.000000001)  can0  RX B -  123  [12]  01 02 03 04 05 06 07 08 09 0A 0B 0C", "can0  20000004   [8]  00 00 00 00 00 00 00 00   ERRORFRAME",
		"(2021-05-11 00:24:59.796900) can0 00000001#", "can0  123   [8]  remote request",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		s := NewScanner(bytes.NewReader(log))
		for s.Scan() {
			when, _ := s.Time()
			line := AppendLog(nil, when, s.Bus(), s.Frame())
			again := NewScanner(bytes.NewReader(line))
			if !again.Scan() {
				t.Fatalf("%q from line %d does not read back", line, s.Line())
			}
			a, b := s.Frame(), again.Frame()
			if got, _ := again.Time(); got != when || again.Bus() != s.Bus() || a.ID != b.ID || a.Len != b.Len || a.Flags != b.Flags || !bytes.Equal(a.Payload(), b.Payload()) {
				t.Fatalf("%q reads back as %+v, was %+v", line, *b, *a)
			}
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
	})
}
