package can

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// longPlan subscribes PGN 65251 (J1939), 54016 (J1939, addressed), 65226 (DM1), 129029 (fast packet) and 126208 (fast
// packet, addressed).
func longPlan() *Plan {
	var subscriptions []Subscription
	for i, group := range []uint32{65251, 54016, 65226, 129029, 126208} {
		m := &Message{Name: fmt.Sprint(group), ID: 6<<26 | group<<8 | 0xFE, Extended: true, J1939: true, Length: maxTransport}
		s := &Signal{Name: "First", Size: 8, Scale: 1}
		subscriptions = append(subscriptions, Subscription{ID: uint32(i + 1), Message: m, Signal: s})
	}
	return Compile(subscriptions, PlanOptions{})
}

// take runs a candump log through a Reassembler and writes down what it says: "(time) id bytes" for each message, then
// each reason with its count.
func take(t *testing.T, log string) string {
	t.Helper()
	r := NewReassembler(longPlan(), ReassemblerOptions{})
	var said strings.Builder
	lines := NewScanner(strings.NewReader(log))
	lines.OnReject = func(e *LineError) { t.Fatal(e) }
	for lines.Scan() {
		f := lines.Frame()
		f.Time, _ = lines.Time()
		if m := r.Take(f); m != nil {
			fmt.Fprintf(&said, "(%.2f) %d %08X %X\n", float64(m.Time)/1e9, m.Bus, m.ID, m.Data)
		}
	}
	r.Incomplete.Drain(func(why Reason, n uint64) { fmt.Fprintf(&said, "%d: %s\n", n, why) })
	if open := len(r.sessions.slots) - len(r.sessions.free); open > 0 {
		r.End()
		r.Incomplete.Drain(func(why Reason, n uint64) { fmt.Fprintf(&said, "%d: %s\n", n, why) })
	}
	if len(r.sessions.free) != len(r.sessions.slots) {
		t.Errorf("%d sessions are left", len(r.sessions.slots)-len(r.sessions.free))
	}
	return said.String()
}

func TestReassemble(t *testing.T) {
	const (
		bam = "(1.00) a 1CECFF21#200A0002FFE3FE00\n" // 10 bytes, 2 packets, PGN 65251
		rts = "(1.00) a 18EC4221#100A0002FF00D300\n" // PGN 54016, to 0x42
		cts = "(1.10) a 1CEC2142#110201FFFF00D300\n" // both packets, from 1 on
		ack = "(1.50) a 1CEC2142#130A0002FF00D300\n"
	)
	for _, test := range []struct{ name, log, want string }{
		{"broadcast", bam + "(1.10) a 1CEBFF21#0101020304050607\n(1.20) a 1CEBFF21#0208090AFFFFFFFF\n", "(1.20) 0 1CFEE321 0102030405060708090A\n"},
		{"broadcast, last packet cut to what is needed", bam + "(1.10) a 1CEBFF21#0101020304050607\n(1.20) a 1CEBFF21#0208090A\n", "(1.20) 0 1CFEE321 0102030405060708090A\n"},
		{"packet cut short", bam + "(1.10) a 1CEBFF21#01010203040506\n(1.20) a 1CEBFF21#0208090A\n", "1: malformed\n"},
		{"two senders and two buses at once", bam + "(1.01) b 1CECFF21#200A0002FFE3FE00\n(1.02) a 1CECFF22#200A0002FFE3FE00\n" +
			"(1.10) b 1CEBFF21#0111111111111111\n(1.10) a 1CEBFF21#0122222222222222\n(1.10) a 1CEBFF22#0133333333333333\n" +
			"(1.20) a 1CEBFF21#02222222FFFFFFFF\n(1.20) a 1CEBFF22#02333333FFFFFFFF\n(1.20) b 1CEBFF21#02111111FFFFFFFF\n",
			"(1.20) 0 1CFEE321 22222222222222222222\n(1.20) 0 1CFEE322 33333333333333333333\n(1.20) 1 1CFEE321 11111111111111111111\n"},
		{"T1: 750 ms between packets", bam + "(1.10) a 1CEBFF21#0101020304050607\n(1.84) a 1CEBFF21#0208090AFFFFFFFF\n", "(1.84) 0 1CFEE321 0102030405060708090A\n"},
		{"T1 passed", bam + "(1.10) a 1CEBFF21#0101020304050607\n(1.86) a 1CEBFF21#0208090AFFFFFFFF\n", "1: the next frame did not come in time\n"},
		{"no times at all", " a  1CECFF21   [8]  20 0A 00 02 FF E3 FE 00\n a  1CEBFF21   [8]  01 01 02 03 04 05 06 07\n a  1CEBFF21   [4]  02 08 09 0A\n", "(0.00) 0 1CFEE321 0102030405060708090A\n"},
		{"packet missing", bam + "(1.20) a 1CEBFF21#0208090AFFFFFFFF\n", "1: a frame is missing\n"},
		{"packet twice", bam + "(1.10) a 1CEBFF21#0101020304050607\n(1.11) a 1CEBFF21#0101020304050607\n(1.20) a 1CEBFF21#0208090AFFFFFFFF\n", "1: a frame came out of order\n"},
		{"packet 0", bam + "(1.10) a 1CEBFF21#0001020304050607\n", "1: a frame came out of order\n"},
		{"a new broadcast replaces the old one", bam + "(1.10) a 1CEBFF21#0101020304050607\n" + bam + "(1.10) a 1CEBFF21#0111111111111111\n(1.20) a 1CEBFF21#02111111FFFFFFFF\n",
			"(1.20) 0 1CFEE321 11111111111111111111\n1: replaced by another one of its sender\n"},
		{"so does one that is not subscribed", bam + "(1.01) a 1CECFF21#200A0002FFECFE00\n(1.10) a 1CEBFF21#0101020304050607\n(1.20) a 1CEBFF21#0208090AFFFFFFFF\n", "1: replaced by another one of its sender\n"},
		{"not subscribed", "(1.01) a 1CECFF21#200A0002FFECFE00\n(1.10) a 1CEBFF21#0101020304050607\n(1.20) a 1CEBFF21#0208090AFFFFFFFF\n", ""},
		{"8 bytes are no long message", "(1.00) a 1CECFF21#20080002FFE3FE00\n", "1: malformed\n"},
		{"packets that do not fit the bytes", "(1.00) a 1CECFF21#200A0003FFE3FE00\n", "1: malformed\n"},
		{"a broadcast to one, a request to all", "(1.00) a 1CEC4221#200A0002FFE3FE00\n(1.00) a 18ECFF21#100A0002FFE3FE00\n", ""},
		{"end of the log", bam, "1: the reading ended in it\n"},
		{"the clock set back", "(9.00) a 1CECFF21#200A0002FFE3FE00\n(1.10) a 1CEBFF21#0101020304050607\n", "1: the next frame did not come in time\n"},

		{"between two", rts + cts + "(1.20) a 1CEB4221#0101020304050607\n(1.30) a 1CEB4221#0208090AFFFFFFFF\n" + ack, "(1.30) 0 18D34221 0102030405060708090A\n"},
		{"between two, a group without a destination", strings.ReplaceAll(rts+cts, "00D300", "E3FE00") + "(1.20) a 1CEB4221#0101020304050607\n(1.30) a 1CEB4221#0208090AFFFFFFFF\n",
			"(1.30) 0 18FEE321 0102030405060708090A\n"},
		{"a packet asked for again", rts + cts + "(1.20) a 1CEB4221#0101020304050607\n(1.25) a 1CEC2142#110201FFFF00D300\n(1.26) a 1CEB4221#0101020304050607\n(1.30) a 1CEB4221#0208090AFFFFFFFF\n" + ack,
			"(1.30) 0 18D34221 0102030405060708090A\n"},
		{"a packet asked for again that had come here", rts + cts + "(1.20) a 1CEB4221#0101020304050607\n(1.30) a 1CEB4221#0208090AFFFFFFFF\n(1.40) a 1CEC2142#110102FFFF00D300\n(1.45) a 1CEB4221#0208090AFFFFFFFF\n" + ack,
			"(1.30) 0 18D34221 0102030405060708090A\n"},
		{"T3: 1250 ms for the answer", rts + strings.ReplaceAll(cts, "1.10", "2.24") + "(2.30) a 1CEB4221#0101020304050607\n(2.40) a 1CEB4221#0208090AFFFFFFFF\n", "(2.40) 0 18D34221 0102030405060708090A\n"},
		{"T3 passed", rts + "(2.26) a 1CEB4221#0101020304050607\n", "1: the next frame did not come in time\n"},
		{"T2 passed", rts + cts + "(2.36) a 1CEB4221#0101020304050607\n", "1: the next frame did not come in time\n"},
		{"told to wait, T4 passed", rts + "(1.10) a 1CEC2142#1100FFFFFF00D300\n(2.16) a 1CEC2142#110201FFFF00D300\n(2.20) a 1CEB4221#0101020304050607\n", "1: the next frame did not come in time\n"},
		{"told to wait", rts + "(1.10) a 1CEC2142#1100FFFFFF00D300\n(2.14) a 1CEC2142#110201FFFF00D300\n(2.20) a 1CEB4221#0101020304050607\n(2.30) a 1CEB4221#0208090AFFFFFFFF\n", "(2.30) 0 18D34221 0102030405060708090A\n"},
		{"one packet at a time, T3 between", rts + "(1.10) a 1CEC2142#110101FFFF00D300\n(1.20) a 1CEB4221#0101020304050607\n(2.40) a 1CEC2142#110102FFFF00D300\n(2.50) a 1CEB4221#0208090AFFFFFFFF\n",
			"(2.50) 0 18D34221 0102030405060708090A\n"},
		{"the receiver has more than came here", rts + "(1.10) a 1CEC2142#110102FFFF00D300\n", "1: a frame is missing\n"},
		{"the receiver has all, this listener has not", rts + cts + "(1.20) a 1CEB4221#0101020304050607\n" + ack, "1: a frame is missing\n"},
		{"asked for a packet that is none", rts + "(1.10) a 1CEC2142#110103FFFF00D300\n", "1: malformed\n"},
		{"aborted by the receiver", rts + cts + "(1.20) a 1CEC2142#FF03FFFFFF00D300\n(1.30) a 1CEB4221#0101020304050607\n", "1: aborted on the bus\n"},
		{"aborted by the sender", rts + cts + "(1.20) a 1CEC4221#FF03FFFFFF00D300\n", "1: aborted on the bus\n"},
		{"another message is aborted", rts + cts + "(1.15) a 1CEC2142#FF03FFFFFFE3FE00\n(1.20) a 1CEB4221#0101020304050607\n(1.30) a 1CEB4221#0208090AFFFFFFFF\n", "(1.30) 0 18D34221 0102030405060708090A\n"},
		{"both ways at once", rts + "(1.00) a 18EC2142#100A0002FF00D300\n(1.20) a 1CEB4221#0101020304050607\n(1.20) a 1CEB2142#0111111111111111\n(1.30) a 1CEB4221#0208090AFFFFFFFF\n(1.30) a 1CEB2142#02111111FFFFFFFF\n",
			"(1.30) 0 18D34221 0102030405060708090A\n(1.30) 0 18D32142 11111111111111111111\n"},

		{"fast packet", "(1.00) a 0DF80503#A00A010203040506\n(1.10) a 0DF80503#A10708090AFFFFFF\n", "(1.10) 0 0DF80503 0102030405060708090A\n"},
		{"fast packet of one frame", "(1.00) a 0DF80503#A002010203040506\n", "(1.00) 0 0DF80503 0102\n"},
		{"interleaved by sequence, source and destination", "(1.00) a 0DF80503#A00A010203040506\n(1.00) a 0DF80503#C00A111111111111\n(1.00) a 0DF80504#A00A222222222222\n" +
			"(1.00) a 0DED0103#A007333333333333\n(1.00) a 0DED0203#A007444444444444\n(1.10) a 0DED0103#A133\n(1.10) a 0DED0203#A144\n" +
			"(1.10) a 0DF80504#A122222222FFFFFF\n(1.10) a 0DF80503#C111111111FFFFFF\n(1.10) a 0DF80503#A10708090AFFFFFF\n",
			"(1.10) 0 0DED0103 33333333333333\n(1.10) 0 0DED0203 44444444444444\n(1.10) 0 0DF80504 22222222222222222222\n(1.10) 0 0DF80503 11111111111111111111\n(1.10) 0 0DF80503 0102030405060708090A\n"},
		{"fast packet, not in time", "(1.00) a 0DF80503#A00A010203040506\n(1.76) a 0DF80503#A10708090AFFFFFF\n", "1: the next frame did not come in time\n"},
		{"fast packet without its first frame counts once", "(1.00) a 0DF80503#A10708090AFFFFFF\n(1.01) a 0DF80503#A2\n(1.02) a 0DF80503#A3\n", "1: the first frame is missing\n"},
		{"and again when the counter begins anew", "(1.00) a 0DF80503#A1\n(1.01) a 0DF80503#A2\n(1.02) a 0DF80503#A1\n(1.03) a 0DF80503#A2\n", "2: the first frame is missing\n"},
		{"fast packet with a frame missing counts once", "(1.00) a 0DF80503#A01F010203040506\n(1.01) a 0DF80503#A200000000000000\n(1.02) a 0DF80503#A300000000000000\n(1.03) a 0DF80503#A400000000000000\n", "1: a frame is missing\n"},
		{"fast packet with a frame twice", "(1.00) a 0DF80503#A01F010203040506\n(1.01) a 0DF80503#A100000000000000\n(1.02) a 0DF80503#A100000000000000\n(1.03) a 0DF80503#A200000000000000\n", "1: a frame came out of order\n"},
		{"fast packet begun anew", "(1.00) a 0DF80503#A00A010203040506\n(1.00) a 0DF80503#A00A010203040506\n(1.10) a 0DF80503#A10708090AFFFFFF\n", "(1.10) 0 0DF80503 0102030405060708090A\n1: replaced by another one of its sender\n"},
		{"fast packet of no bytes, of too many, cut short", "(1.00) a 0DF80503#2000\n(1.00) a 0DF80503#40E0000000000000\n(1.00) a 0DF80503#600A0102\n(1.00) a 0DF80503#80\n", "4: malformed\n"},
		{"an empty frame, a remote one, a standard one, FD", "(1.00) a 0DF80503#\n(1.00) a 0DF80503#R8\n(1.00) a 503#A10708090AFFFFFF\n(1.00) a 0DF80503##1A10708090AFFFFFF\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := take(t, test.log); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

// What two nodes of another implementation said to each other, up to the longest message there is.
func TestReassembleSessions(t *testing.T) {
	log := readFile(t, filepath.Join("testdata", "tp_sessions.log"))
	r := NewReassembler(longPlan(), ReassemblerOptions{})
	lines := NewScanner(bytes.NewReader(log))
	got := map[string]int{}
	for lines.Scan() {
		f := lines.Frame()
		f.Time, _ = lines.Time()
		m := r.Take(f)
		if m == nil {
			continue
		}
		got[fmt.Sprintf("%08X of %d", m.ID, len(m.Data))]++
		for i, b := range m.Data {
			if b != byte(7*i+i/256) {
				t.Fatalf("%08X: byte %d of %d is %#x", m.ID, i, len(m.Data), b)
			}
		}
	}
	r.Incomplete.Drain(func(why Reason, n uint64) { t.Errorf("%d: %s", n, why) })
	want := map[string]int{"18D34221 of 100": 1, "18D34221 of 1785": 1, "18FEE321 of 28": 1, "18FECA42 of 1785": 1}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Who wants to know which messages were not whole hears their identifiers, and counts for himself.
func TestReassembleOnIncomplete(t *testing.T) {
	var heard []string
	r := NewReassembler(longPlan(), ReassemblerOptions{OnIncomplete: func(id uint32, why Reason) { heard = append(heard, fmt.Sprintf("%08X %v", id, why)) }})
	lines := NewScanner(strings.NewReader("(1.0) a 1CECFF21#200A0002FFE3FE00\n(1.0) a 1CECFF22#200A0009FFCAFE00\n" +
		"(1.0) a 18EC4221#100A0002FF00D300\n(1.1) a 1CEC2142#FF03FFFFFF00D300\n(1.2) a 0DF80503#A10708090AFFFFFF\n(1.2) a 0DED0203#A007444444444444\n"))
	for lines.Scan() {
		f := lines.Frame()
		f.Time, _ = lines.Time()
		r.Take(f)
	}
	r.End()
	slices.Sort(heard)
	want := []string{"0DED0203 the reading ended in it", "0DF80503 the first frame is missing", "18D34221 aborted on the bus",
		"1CFECA22 malformed", "1CFEE321 the reading ended in it"}
	if !slices.Equal(heard, want) {
		t.Errorf("got %q, want %q", heard, want)
	}
	r.Incomplete.Drain(func(why Reason, n uint64) { t.Errorf("counted as well: %d: %s", n, why) })
}

// With all sessions taken the one that waited longest gives way, one that is given up before the others.
func TestReassembleCrowded(t *testing.T) {
	r := NewReassembler(longPlan(), ReassemblerOptions{Sessions: 3})
	frame := func(at int64, source uint32, data ...byte) *Assembled {
		f := Frame{ID: 0x0DF80500 | source, Flags: FlagExtended, Time: at, Len: 8}
		copy(f.Data[:], data)
		return r.Take(&f)
	}
	frame(1, 1, 0, 8)
	frame(2, 2, 0, 8)
	frame(3, 3, 5) // given up
	frame(4, 4, 0, 8)
	if n := r.Incomplete[ReasonCrowded].Load(); n != 0 {
		t.Errorf("%d crowded out", n)
	}
	frame(5, 5, 0, 8)
	if n := r.Incomplete[ReasonCrowded].Load(); n != 1 {
		t.Errorf("%d crowded out", n)
	}
	for source, want := range map[uint32]bool{2: true, 4: true, 5: true} {
		if got := frame(6, source, 1) != nil; got != want {
			t.Errorf("the message of %d is whole: %t", source, got)
		}
	}
}

func TestSessionTable(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	table := newSessionTable(50)
	want := map[uint64]*session{}
	for range 200000 {
		key := sessionKey(keyFast, 0, random.Uint32N(100)<<3)
		s := table.get(key)
		switch {
		case s != want[key]:
			t.Fatalf("key %d: %p, want %p", key, s, want[key])
		case s != nil:
			table.remove(s)
			delete(want, key)
		case len(want) == 50:
			if table.put(key) != nil {
				t.Fatal("a session too many")
			}
		default:
			want[key] = table.put(key)
		}
	}
}

// Places all over a message of 300 bytes, in both byte orders.
func TestDecodeAssembledEveryPlace(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	a := Assembled{ID: 0x18FEE321, Time: 7, Data: make([]byte, 300)}
	for i := range a.Data {
		a.Data[i] = byte(random.Uint32())
	}
	m := &Message{Name: "M", ID: 0x18FEE3FE, Extended: true, J1939: true, Length: 300}
	for start := 0; start < 8*301; start += 3 { // an odd step still meets every bit of a byte
		for _, size := range []int{1, 7, 8, 13, 32, 57, 58, 61, 63, 64} {
			for kind := range 4 {
				s := &Signal{Name: "S", Start: start, Size: size, BigEndian: kind&1 != 0, Signed: kind&2 != 0, Scale: 1}
				got := planOf(m, s).DecodeAssembled(&a, nil)
				if s.lastByte() > len(a.Data) {
					if len(got) != 0 {
						t.Fatalf("%+v lies beyond the message and gives %v", s, got)
					}
					continue
				}
				if want := bitByBit(s, a.Data); len(got) != 1 || got[0].Bits != want || got[0].Time != 7 {
					t.Fatalf("%+v gives %+v, want %#x", s, got, want)
				}
			}
		}
	}
}

// A frame that is a part of a message has no samples of its own; a single frame of a group of data page 0, and a CAN FD
// frame, are whole messages. Only frames that are too short where no other length is allowed count as such.
func TestDecodeParts(t *testing.T) {
	plan := longPlan()
	for name, want := range map[string]struct {
		frame   Frame
		samples int
	}{
		"fast packet": {Frame{ID: 0x0DF80503, Len: 8, Flags: FlagExtended}, 0},
		"DM1":         {Frame{ID: 0x18FECA03, Len: 8, Flags: FlagExtended}, 1},
		"FD":          {Frame{ID: 0x0DF80503, Len: 64, Flags: FlagExtended | FlagFD}, 1},
		"short FD":    {Frame{ID: 0x0DF80503, Len: 8, Flags: FlagExtended | FlagFD}, 1},
	} {
		if got := plan.Decode(&want.frame, nil); len(got) != want.samples {
			t.Errorf("%s: %v", name, got)
		}
		if got := plan.Match(&want.frame) != nil; got != (want.samples > 0) {
			t.Errorf("%s: matched %t", name, got)
		}
	}
	if n := plan.Counters.Short.Load(); n != 0 {
		t.Errorf("%d frames count as too short", n)
	}
}

// The filters let the transport protocol pass exactly when a message may come by it.
func TestFiltersOfTransport(t *testing.T) {
	passes := func(p *Plan, id uint32) bool {
		f := Frame{ID: id, Flags: FlagExtended}
		for _, filter := range p.Filters() {
			if filter.Pass(&f) {
				return true
			}
		}
		return false
	}
	short := &Message{Name: "M", ID: 0x18FEF1FE, Extended: true, J1939: true, Length: 8}
	plain := &Message{Name: "N", ID: 0x12333, Extended: true, Length: 64}
	for _, id := range []uint32{0x1CECFF21, 0x18EC4221, 0x1CEBFF21, 0x1CEB2142} {
		if !passes(longPlan(), id) {
			t.Errorf("%#x does not pass", id)
		}
		if passes(Compile([]Subscription{{Message: short}, {Message: plain}}, PlanOptions{}), id) {
			t.Errorf("%#x passes for nothing", id)
		}
	}
	if passes(longPlan(), 0x1DECFF21) {
		t.Error("data page 1 has no transport protocol")
	}
}

func TestReassembleAllocatesNothing(t *testing.T) {
	frames := readFrames(t, filepath.Join("testdata", "tp_sessions.log"))
	for i := range 40 { // and fast packets of 223 bytes, of 40 sources at once
		for counter := range 32 {
			f := Frame{ID: 0x0DF80500 | uint32(i), Flags: FlagExtended, Len: 8, Time: int64(counter), Data: [64]byte{byte(counter), maxFast}}
			frames = append(frames, f)
		}
	}
	plan := longPlan()
	r := NewReassembler(plan, ReassemblerOptions{})
	samples := make([]telemetrypb.Sample, 0, 8)
	messages := 0
	run := func() {
		messages = 0
		for i := range frames {
			samples = plan.Decode(&frames[i], samples[:0])
			if m := r.Take(&frames[i]); m != nil {
				samples = plan.DecodeAssembled(m, samples)
				messages++
			}
		}
	}
	if n := testing.AllocsPerRun(20, run); n != 0 || messages != 44 {
		t.Errorf("%v allocations, %d messages", n, messages)
	}
}

func readFrames(t testing.TB, log string) []Frame {
	t.Helper()
	var frames []Frame
	lines := NewScanner(bytes.NewReader(readFile(t, log)))
	for lines.Scan() {
		f := *lines.Frame()
		f.Time, _ = lines.Time()
		frames = append(frames, f)
	}
	return frames
}

// Any frames whatever: no panic, every message as long as its first frame announced it, no more memory than the sessions
// have, and every session accounted for.
func FuzzReassemble(f *testing.F) {
	pack := func(frames []Frame) (packed []byte) {
		for _, frame := range frames {
			kind := byte(0)
			switch frame.ID >> 16 & 0xFF {
			case formatControl:
				kind = 1
			case formatPacket:
				kind = 2
			}
			packed = append(packed, kind, byte(frame.ID>>8), byte(frame.ID), 1, frame.Len)
			packed = append(packed, frame.Data[:8]...)
		}
		return packed
	}
	sessions := readFrames(f, filepath.Join("testdata", "tp_sessions.log"))
	if len(sessions) < 800 {
		f.Fatal("the seeds are gone")
	}
	f.Add(pack(sessions[:60]))
	f.Add(pack([]Frame{{ID: 0x0DF80503, Len: 8, Data: [64]byte{0, 10}}, {ID: 0x0DF80503, Len: 8, Data: [64]byte{1}}}))
	f.Fuzz(func(t *testing.T, packed []byte) {
		plan := longPlan()
		r := NewReassembler(plan, ReassemblerOptions{Sessions: 4})
		now := int64(0)
		announced := map[uint64]int{} // bytes, by sender, and by receiver or number of the message
		var samples []telemetrypb.Sample
		for ; len(packed) >= 13; packed = packed[13:] {
			now += int64(int8(packed[3])) * 10e6
			frame := Frame{ID: uint32(packed[1])<<8 | uint32(packed[2]), Time: now, Len: packed[4] % 9, Flags: FlagExtended}
			switch packed[0] % 4 {
			case 0:
				frame.ID = 0x0DF80500 | uint32(packed[2])
			case 1:
				frame.ID |= 0x1CEC0000
			case 2:
				frame.ID |= 0x1CEB0000
			case 3:
				frame.ID |= 0x0DED0000
			}
			copy(frame.Data[:], packed[5:13])
			group, fast := frame.ID>>16, uint64(frame.ID)<<8|uint64(frame.Data[0]>>5)
			switch transport := uint64(frame.ID) & 0xFFFF; {
			case group == 0x1CEC && (frame.Data[0] == controlRTS || frame.Data[0] == controlBAM):
				announced[transport] = int(frame.Data[1]) | int(frame.Data[2])<<8
			case group == 0x1CEB:
				fast = transport
			case (group == 0x0DF8 || group == 0x0DED) && frame.Data[0]&fastCounter == 0:
				announced[fast] = int(frame.Data[1])
			}
			m := r.Take(&frame)
			for i := range r.sessions.slots {
				if n := cap(r.sessions.slots[i].data); n > maxTransport {
					t.Fatalf("session %d holds %d bytes", i, n)
				}
			}
			if m == nil {
				continue
			}
			if want := announced[fast]; len(m.Data) != want {
				t.Fatalf("%d bytes, where %d were announced", len(m.Data), want)
			}
			if len(m.Data) == 0 || len(m.Data) > maxTransport || m.Time != now || plan.MatchAssembled(m) == nil {
				t.Fatalf("%+v", m)
			}
			if samples = plan.DecodeAssembled(m, samples[:0]); len(samples) != 1 || samples[0].Bits != uint64(m.Data[0]) {
				t.Fatalf("%+v gives %+v", m, samples)
			}
		}
		r.End()
		if len(r.sessions.free) != len(r.sessions.slots) {
			t.Errorf("%d sessions are left", len(r.sessions.slots)-len(r.sessions.free))
		}
		for i, n := range r.sessions.index {
			if n != 0 {
				t.Errorf("index %d still leads to session %d", i, n-1)
			}
		}
	})
}
