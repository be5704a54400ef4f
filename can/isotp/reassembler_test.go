package isotp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// frame makes a frame of identifier and hexadecimal data at a time in ms; more than 8 bytes are FD.
func frame(t testing.TB, ms int64, id uint32, data string) can.Frame {
	t.Helper()
	b, err := hex.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	f := can.Frame{ID: id, Time: ms * 1e6, Len: uint8(len(b))}
	if len(b) > can.MaxClassicLen {
		f.Flags = can.FlagFD
	}
	copy(f.Data[:], b)
	return f
}

// Written by hand from ISO 15765-2:2016: the frames, the messages that come whole, and what is counted.
func TestReassemblerByClause(t *testing.T) {
	type step struct {
		ms   int64
		id   uint32
		data string
	}
	const first, second = "1014000102030405", "21060708090A0B0C" // of 20 bytes
	const third = "220D0E0F10111213"
	whole := "000102030405060708090a0b0c0d0e0f10111213"
	for _, c := range []struct {
		name  string
		steps []step
		want  []string
		lost  map[Reason]uint64
	}{
		{"single frame, padded (§9.6.2)", []step{{0, 0x7E8, "03410C1AAAAAAAAA"}}, []string{"410c1a"}, nil},
		{"single frame of its own length", []step{{0, 0x7E8, "0241FF"}}, []string{"41ff"}, nil},
		{"SF_DL 0 is reserved", []step{{0, 0x7E8, "0041FFFFFFFFFFFF"}}, nil, map[Reason]uint64{Malformed: 1}},
		{"SF_DL beyond the frame", []step{{0, 0x7E8, "0341FF"}, {0, 0x7E8, "08FFFFFFFFFFFFFF"}}, nil, map[Reason]uint64{Malformed: 2}},
		{"FD single frame with escape", []step{{0, 0x7E8, "000A0102030405060708090A"}}, []string{"0102030405060708090a"}, nil},
		{"FD single frame without escape", []step{{0, 0x7E8, "070102030405060708090A0B"}}, nil, map[Reason]uint64{Malformed: 1}},
		{"three frames", []step{{0, 0x7E8, first}, {1, 0x7E0, "300000"}, {2, 0x7E8, second}, {3, 0x7E8, third}}, []string{whole}, nil},
		{"last frame short", []step{{0, 0x7E8, "100A010203040506"}, {2, 0x7E8, "210708090A"}}, []string{"0102030405060708090a"}, nil},
		{"last frame too short", []step{{0, 0x7E8, "100A010203040506"}, {2, 0x7E8, "21070809"}}, nil, map[Reason]uint64{Malformed: 1}},
		{"short frame in the midst", []step{{0, 0x7E8, first}, {2, 0x7E8, "2106070809"}, {3, 0x7E8, third}}, nil, map[Reason]uint64{Malformed: 1, Unexpected: 1}},
		{"FF_DL that fits a single frame (§9.6.3.1)", []step{{0, 0x7E8, "1007010203040506"}}, nil, map[Reason]uint64{Malformed: 1}},
		{"first frame of less than 8 bytes", []step{{0, 0x7E8, "10140102030405"}}, nil, map[Reason]uint64{Malformed: 1}},
		{"escape for a short length", []step{{0, 0x7E8, "1000000000140102"}}, nil, map[Reason]uint64{Malformed: 1}},
		{"escape beyond what is kept", []step{{0, 0x7E8, "1000FFFFFFFF0102"}}, nil, map[Reason]uint64{TooLong: 1}},
		{"a frame is missing", []step{{0, 0x7E8, first}, {2, 0x7E8, third}, {3, 0x7E8, second}}, nil, map[Reason]uint64{Sequence: 1, Unexpected: 1}},
		{"a frame comes twice", []step{{0, 0x7E8, first}, {2, 0x7E8, second}, {3, 0x7E8, second}}, nil, map[Reason]uint64{Sequence: 1}},
		{"another message in the midst (§9.8.3)", []step{{0, 0x7E8, first}, {1, 0x7E8, first}, {2, 0x7E8, second}, {3, 0x7E8, third}}, []string{whole}, map[Reason]uint64{Interrupted: 1}},
		{"a single frame in the midst", []step{{0, 0x7E8, first}, {1, 0x7E8, "0141"}, {2, 0x7E8, second}}, []string{"41"}, map[Reason]uint64{Interrupted: 1, Unexpected: 1}},
		{"N_Cr just kept", []step{{0, 0x7E8, first}, {1000, 0x7E8, second}, {2000, 0x7E8, third}}, []string{whole}, nil},
		{"N_Cr not kept", []step{{0, 0x7E8, first}, {1001, 0x7E8, second}}, nil, map[Reason]uint64{Timeout: 1, Unexpected: 1}},
		{"flow control asks to wait", []step{{0, 0x7E8, first}, {900, 0x7E0, "31"}, {900, 0x7E0, "310000"}, {1800, 0x7E8, second}, {1801, 0x7E8, third}}, []string{whole}, map[Reason]uint64{Malformed: 1}},
		{"flow control refuses", []step{{0, 0x7E8, first}, {1, 0x7E0, "320000"}, {2, 0x7E8, second}}, nil, map[Reason]uint64{Refused: 1, Unexpected: 1}},
		{"a frame out of nowhere", []step{{0, 0x7E8, second}}, nil, map[Reason]uint64{Unexpected: 1}},
		{"two units at once", []step{{0, 0x7E8, first}, {0, 0x7E9, first}, {1, 0x7E8, second}, {1, 0x7E9, second}, {2, 0x7E9, third}, {2, 0x7E8, third}}, []string{whole, whole}, nil},
		{"no identifier of ours", []step{{0, 0x123, "0141"}, {0, 0x7F0, first}}, nil, nil},
		{"never ended", []step{{0, 0x7E8, first}}, nil, map[Reason]uint64{Timeout: 1}},
		{"reserved control byte", []step{{0, 0x7E8, "4141"}, {0, 0x7E8, ""}}, nil, map[Reason]uint64{Malformed: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReassembler(ReassemblerOptions{Streams: StandardStreams(0)})
			var got []string
			for _, s := range c.steps {
				f := frame(t, s.ms, s.id, s.data)
				if m, ok := r.Frame(&f); ok {
					got = append(got, hex.EncodeToString(m.Data))
				}
			}
			r.Finish()
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			var lost [reasons]uint64
			for why, n := range c.lost {
				lost[why] = n
			}
			if stats := r.Stats(); stats.Lost != lost || stats.Messages != uint64(len(c.want)) {
				t.Errorf("lost %v, want %v; %d messages", stats.Lost, lost, stats.Messages)
			}
		})
	}
}

// The sequence number wraps from 15 to 0 (§9.6.4.3), and addresses of extended addressing do not mix.
func TestReassemblerExtendedAddressing(t *testing.T) {
	r := NewReassembler(ReassemblerOptions{Streams: []Stream{{Data: Address{ID: 0x6F1, WithTA: true}}}})
	message := make([]byte, 200)
	for i := range message {
		message[i] = byte(i)
	}
	send := func(ta byte, b ...byte) (Message, bool) {
		f := can.Frame{ID: 0x6F1}
		f.Len = uint8(copy(f.Data[:], append([]byte{ta}, b...)))
		return r.Frame(&f)
	}
	for _, ta := range []byte{0x12, 0x40} {
		send(ta, append([]byte{0x10, 200}, message[:5]...)...)
	}
	rest, whole := message[5:], 0
	for seq := byte(1); len(rest) > 0; seq++ {
		n := min(6, len(rest))
		for _, ta := range []byte{0x12, 0x40} {
			m, ok := send(ta, append([]byte{0x20 | seq&15}, rest[:n]...)...)
			if !ok {
				continue
			}
			whole++
			if want := (Address{ID: 0x6F1, WithTA: true, TA: ta}); m.From != want || !bytes.Equal(m.Data, message) {
				t.Errorf("from %v: % x", m.From, m.Data)
			}
		}
		rest = rest[n:]
	}
	if whole != 2 || r.Stats().Lost != [reasons]uint64{} {
		t.Errorf("%d messages, lost %v", whole, r.Stats().Lost)
	}
}

func TestReassemblerIsBounded(t *testing.T) {
	var streams []Stream
	for id := range uint32(100) {
		streams = append(streams, Stream{Data: Address{ID: id + 1}})
	}
	r := NewReassembler(ReassemblerOptions{Streams: streams, MaxSessions: 4, Learn: true})
	for id := range uint32(200) {
		f := frame(t, int64(id), id+1, "1014000102030405")
		r.Frame(&f)
	}
	if got := r.Stats().Lost[Evicted]; got != 96 || r.Open() != 4 || len(r.sessions) != 4 || len(r.index) != 4 {
		t.Errorf("%d evicted, %d open, %d sessions, %d in the index", got, r.Open(), len(r.sessions), len(r.index))
	}
	for id := range uint32(4) { // the youngest are kept
		f := frame(t, 200, 97+id, "21060708090A0B0C")
		r.Frame(&f)
	}
	if lost := r.Stats().Lost; lost[Unexpected] != 0 {
		t.Errorf("%v", lost)
	}
}

// A bus full of frames that look like ISO-TP and are none teaches nothing.
func TestReassemblerLearnsOnlyWholeConversations(t *testing.T) {
	r := NewReassembler(ReassemblerOptions{Learn: true, MaxSessions: 8})
	for i, data := range []string{"1014000102030405", "300000", "23060708090A0B0C", "300000", "0141", "1014000102030405", "21060708090A0B0C"} {
		for id := uint32(0x100); id < 0x120; id++ {
			f := frame(t, int64(i), id, data)
			if m, ok := r.Frame(&f); ok {
				t.Fatalf("learned %v", m)
			}
		}
	}
	if r.Stats() != (ReassemblerStats{}) {
		t.Errorf("%+v", r.Stats())
	}
	if len(r.index) > 8 || r.guesses > 8 || r.guesses < 0 {
		t.Errorf("%d in the index, %d guesses", len(r.index), r.guesses)
	}
}

func TestReassemblerAllocatesNothing(t *testing.T) {
	r := NewReassembler(ReassemblerOptions{Streams: StandardStreams(0), Learn: true})
	frames := []can.Frame{frame(t, 0, 0x7E8, "1014000102030405"), frame(t, 1, 0x7E0, "300000"), frame(t, 2, 0x7E8, "21060708090A0B0C"),
		frame(t, 3, 0x7E8, "220D0E0F10111213"), frame(t, 4, 0x7E0, "0141"), frame(t, 5, 0x123, "1122334455667788"), frame(t, 5, 0x124, "2022334455667788")}
	run := func() {
		for i := range frames {
			r.Frame(&frames[i])
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
}

func BenchmarkReassembler(b *testing.B) {
	r := NewReassembler(ReassemblerOptions{Streams: StandardStreams(0)})
	frames := []can.Frame{frame(b, 0, 0x7E8, "1014000102030405"), frame(b, 2, 0x7E8, "21060708090A0B0C"), frame(b, 3, 0x7E8, "220D0E0F10111213"),
		frame(b, 3, 0x123, "220D0E0F10111213")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Frame(&frames[i%len(frames)])
	}
}

func TestSTmin(t *testing.T) {
	for code, want := range map[uint8]time.Duration{0: 0, 1: time.Millisecond, 0x7F: 127 * time.Millisecond, 0x80: 127 * time.Millisecond,
		0xF0: 127 * time.Millisecond, 0xF1: 100 * time.Microsecond, 0xF9: 900 * time.Microsecond, 0xFA: 127 * time.Millisecond, 0xFF: 127 * time.Millisecond} {
		if got := DecodeSTmin(code); got != want {
			t.Errorf("%#x is %v, want %v", code, got, want)
		}
	}
	for d := time.Duration(0); d < 140*time.Millisecond; d += 50 * time.Microsecond {
		got := DecodeSTmin(EncodeSTmin(d))
		if got < min(d, 127*time.Millisecond) || got > d+time.Millisecond {
			t.Errorf("%v became %v", d, got)
		}
	}
}

// FuzzReassembler feeds arbitrary frames on a few identifiers. What comes whole has to be no longer than allowed, and the
// counts have to agree with it.
func FuzzReassembler(f *testing.F) {
	f.Add([]byte("\x00\x10\x14\x00\x01\x02\x03\x04\x05\x00\x21\x06\x07\x08\x09\x0A\x0B\x0C\x00\x22\x0D\x0E\x0F\x10\x11\x12\x13"), uint8(8))
	f.Add([]byte("\x02\x10\x14\x00\x01\x02\x03\x04\x05\x03\x30\x00\x00\x00\x00\x00\x00\x00\x02\x21\x06\x07\x08\x09\x0A\x0B\x0C"), uint8(8))
	f.Add([]byte("\x01\x00\x0A0123456789\x01\x100123456789"), uint8(12))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		const longest = 300
		n := int(size%can.MaxLen) + 1
		r := NewReassembler(ReassemblerOptions{Learn: true, MaxMessage: longest, MaxSessions: 3,
			Streams: []Stream{{Data: Address{ID: 0}, Flow: Address{ID: 1}}, {Data: Address{ID: 1, WithTA: true}}}})
		messages, frames := uint64(0), int64(0)
		for len(data) > n {
			f := can.Frame{ID: uint32(data[0] & 7), Len: uint8(n), Time: frames * int64(data[0]>>3) * 1e7}
			copy(f.Data[:], data[1:1+n])
			data = data[1+n:]
			frames++
			m, ok := r.Frame(&f)
			if !ok {
				continue
			}
			messages++
			if len(m.Data) == 0 || len(m.Data) > longest || m.From.ID != f.ID {
				t.Fatalf("%+v", m)
			}
		}
		r.Finish()
		if r.Stats().Messages != messages || r.Open() != 0 || r.guesses != 0 || len(r.sessions) > 3 || len(r.index) > 3 {
			t.Fatalf("%d messages, %+v, %d guesses", messages, r.Stats(), r.guesses)
		}
	})
}
