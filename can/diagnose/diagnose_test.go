package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	"github.com/waybill-telematics/waybill/can/poll"
)

// pid is one with all its fields, whose signals are numbered from id.
func pid(number uint8, id uint32) PID {
	table, _ := obd.Lookup(number)
	p := PID{Number: number}
	for i := range table.Fields {
		p.Fields = append(p.Fields, Field{Field: &table.Fields[i], ID: id + uint32(i)})
	}
	return p
}

var functional = isotp.Address{ID: 0x7DF}

// Two units have 0C and 0D; only one has 05; nobody has 0A.
var someAnswers = map[string][]string{
	"7DF 0100":   {"7E9/7E1 410000180000", "7E8/7E0 410008180001"},
	"7DF 0120":   {"7E8/7E0 412000000000"},
	"7DF 010C0D": {"7E9/7E1 410C03200D09", "7E8/7E0 410C1AF80D2A"},
	"7DF 0105":   {"7E8/7E0 41057B"},
}

func TestPIDsAreAskedByTheBitmapsAndTheFirstUnitCounts(t *testing.T) {
	o := Options{OBD: &OBD{Request: functional, Groups: []Group{
		{Every: time.Second, PIDs: []PID{pid(0x0C, 1), pid(0x0D, 2), pid(0x0A, 3)}},
		{Every: 10 * time.Second, PIDs: []PID{pid(0x05, 5), {Number: 0x04, Fields: []Field{{ID: 0}}}}},
	}}}
	drive(t, o, someAnswers, func(r *rig) {
		r.run(3900 * time.Millisecond)
		r.want("requests", r.requests(), []string{"7DF 0100", "7DF 0120", "7DF 010C0D", "7DF 0105", "7DF 010C0D", "7DF 010C0D"})
		for _, s := range r.samples {
			// The units answer 5 ms after the request, or after flow control for the 8 bytes of two PIDs.
			if i := slices.IndexFunc(r.sent, func(f can.Frame) bool { return f.Time+5e6-1e6 == s.Time }); i < 0 {
				t.Errorf("sample of %d at %v: that is when no answer came", s.Signal, time.Duration(s.Time))
			}
		}
		r.want("samples", r.take(), []string{"1 6904", "2 42", "5 123", "1 6904", "2 42", "1 6904", "2 42"})
	})
}

func TestCodesFreezeFrameAndVIN(t *testing.T) {
	o := Options{OBD: &OBD{Request: functional, Codes: time.Minute, StoredID: 1, PendingID: 2, PermanentID: 3, FreezeID: 4, VIN: true}}
	answers := map[string][]string{
		"7DF 03":     {"7E8/7E0 430201230420", "7E9/7E1 4300"},
		"7DF 07":     {"7E8/7E0 4701C158"},
		"7DF 0902":   {"7E8/7E0 4902013144344750303052353542313233343536"},
		"7DF 020000": {"7E8/7E0 42000048180000"},
		"7DF 020200": {"7E8/7E0 4202000123"},
		"7DF 020500": {"7E8/7E0 4205007B"},
		"7DF 020C00": {"7E8/7E0 420C001AF8"},
		"7DF 020D00": {"7E8/7E0 420D002A"},
	}
	drive(t, o, answers, func(r *rig) {
		r.run(70 * time.Second)
		got := r.requests()
		want := []string{"7DF 03", "7DF 07", "7DF 0A", "7DF 0902", "7DF 020000", "7DF 020200", "7DF 020500", "7DF 020C00", "7DF 020D00", "7DF 03", "7DF 07", "7DF 0A", "7DF 0A", "7DF 0A"}
		slices.Sort(got)
		slices.Sort(want)
		r.want("requests", got, want)
		r.want("VIN", r.vins, []string{"1D4GP00R55B123456"})
		stored := `1 [{"unit":"7E8","codes":["P0123","P0420"]},{"unit":"7E9","codes":[]}]`
		pending := `2 [{"unit":"7E8","codes":["U0158"]}]`
		frozen := `4 [{"unit":"7E8","code":"P0123","values":{"EngineCoolantTemperature":83,"EngineSpeed":1726,"VehicleSpeed":42}}]`
		samples := r.take()
		slices.Sort(samples)
		r.want("samples", samples, []string{stored, stored, pending, pending, frozen})
		if strings.Contains(r.logged(), "1D4GP") {
			t.Error("the VIN is in the log")
		}
		if s := r.poller.Stats(); s.Failed[Silent] != 4 { // mode 0A
			t.Errorf("%+v", s)
		}

		r.forget()
		r.mu.Lock()
		r.answers["7DF 03"] = []string{"7E8/7E0 4300"}
		r.mu.Unlock()
		r.run(time.Minute)
		r.mu.Lock()
		r.answers["7DF 03"] = []string{"7E8/7E0 43010123"}
		r.mu.Unlock()
		r.run(time.Minute)
		if got := r.requests(); len(got) < 8 || !slices.Contains(got, "7DF 020C00") {
			t.Errorf("the code came again, its freeze frame was not read: %v", got)
		}
	})
}

func TestInvalidVINIsNotTaken(t *testing.T) {
	o := Options{OBD: &OBD{Request: functional, VIN: true}}
	drive(t, o, map[string][]string{"7DF 0902": {"7E8/7E0 490201FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"}}, func(r *rig) {
		r.run(5 * time.Minute)
		r.want("requests", r.requests(), []string{"7DF 0902"})
		if len(r.vins) != 0 {
			t.Errorf("%q", r.vins)
		}
	})
}

func TestUnits(t *testing.T) {
	bms := Unit{Name: "bms", Request: isotp.Address{ID: 0x7E4}, Response: isotp.Address{ID: 0x7EC},
		Identifiers: []Identifier{
			{ID: 0xF190, Every: time.Hour, Values: []Value{{ID: 1, Type: ASCII}}},
			{ID: 0x0101, Every: 10 * time.Second, Values: []Value{{ID: 2, Start: 8, Bits: 16}, {ID: 3, Type: Int, Start: 24, Bits: 8}, {ID: 0, Start: 0, Bits: 8},
				{ID: 4, Type: Float, Start: 32, Bits: 32}, {ID: 5, Type: Hex, Start: 8, Bits: 16}, {ID: 6, Start: 4, Bits: 4}}},
			{ID: 0x0102, Every: 10 * time.Second, Values: []Value{{ID: 0, Bits: 8}}}, // not collected: not asked for
			{ID: 0x0103, Every: 10 * time.Second, Values: []Value{{ID: 7, Bits: 8}}}, // the unit does not know it
			{ID: 0x0104, Every: 10 * time.Second, Values: []Value{{ID: 8, Bits: 8}, {ID: 9, Start: 8, Bits: 8}}},
		},
		DTCs: &DTCs{ID: 10, Every: 30 * time.Second, Mask: 0x08, Snapshots: true}}
	gateway := Unit{Name: "gateway", Request: isotp.Address{ID: 0x18DA40F1, Extended: true}, Response: isotp.Address{ID: 0x18DAF140, Extended: true},
		Identifiers: []Identifier{{ID: 0xF18C, Every: time.Minute, Values: []Value{{ID: 11, Type: ASCII}}}}}
	answers := map[string][]string{
		"7E4 22F190":       {"7EC/7E4 62F1903144344750303052353542313233343536"},
		"7E4 220101":       {"7EC/7E4 6201010A02EEFB41480000"},
		"7E4 220103":       {"7EC/7E4 7F2231"},
		"7E4 220104":       {"7EC/7E4 62010455"},
		"7E4 190208":       {"7EC/7E4 59022901230029C4567808"},
		"7E4 1904C45678FF": {"7EC/7E4 7F1931"},
		"7E4 1904012300FF": {"7EC/7E4 59040123002901020101AA55010203"},
		"18DA40F1 22F18C":  {"18DAF140/18DA40F1 62F18C5365726961"},
	}
	drive(t, Options{Units: []Unit{bms, gateway}}, answers, func(r *rig) {
		r.run(65 * time.Second)
		counts := map[string]int{}
		for _, request := range r.requests() {
			counts[request]++
		}
		if got, want := fmt.Sprint(counts), fmt.Sprint(map[string]int{"7E4 22F190": 1, "7E4 220101": 7, "7E4 220103": 1, "7E4 220104": 7, "7E4 190208": 3,
			"7E4 1904012300FF": 1, "7E4 1904C45678FF": 1, "18DA40F1 22F18C": 2}); got != want {
			t.Errorf("requests %s, want %s\n%s", got, want, r.logged())
		}
		seen := map[string]int{}
		for _, s := range r.take() {
			seen[s]++
		}
		dtcs := `10 [{"code":"P0123-00","dtc":"012300","status":"29","bits":["testFailed","confirmedDTC","testFailedSinceLastClear"],"snapshots":"01020101AA55010203"},` +
			`{"code":"U0456-78","dtc":"C45678","status":"08","bits":["confirmedDTC"]}]`
		want := map[string]int{"1 1D4GP00R55B123456": 1, "2 750": 7, "3 -5": 7, "4 12.5": 7, "5 02EE": 7, "6 10": 7, "8 85": 7, dtcs: 3, "11 Seria": 2}
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("samples %v\nwant %v\n%s", seen, want, r.logged())
		}
		before := len(r.requests())
		r.mu.Lock()
		r.answers["7E4 190208"] = []string{"7EC/7E4 59022901230028C4567808"}
		r.mu.Unlock()
		r.run(30 * time.Second)
		again := map[string]int{}
		for _, request := range r.requests()[before:] {
			again[request]++
		}
		if again["7E4 1904012300FF"] != 1 || again["7E4 1904C45678FF"] != 0 {
			t.Errorf("one status changed: %v", again)
		}
		if s := r.poller.Stats(); s.Failed[Refused] != 1 || s.Failed[Malformed] != 10 || s.Pause != poll.Send {
			t.Errorf("%+v", s)
		}
	})
}

// oneUnit is asked every second, and answers.
func oneUnit() (Options, map[string][]string) {
	return Options{Units: []Unit{{Name: "bms", Request: isotp.Address{ID: 0x740}, Response: isotp.Address{ID: 0x748},
			Identifiers: []Identifier{{ID: 0x0101, Every: time.Second, Values: []Value{{ID: 1, Bits: 8}}}}}}},
		map[string][]string{"740 220101": {"748/740 6201012A"}}
}

func TestSilentUntilTheIgnitionIsHeardOf(t *testing.T) {
	o, answers := oneUnit()
	drive(t, o, answers, func(r *rig) {
		silent := func(why poll.Verdict, d time.Duration) {
			t.Helper()
			time.Sleep(1100 * time.Millisecond)
			r.forget()
			time.Sleep(d)
			if got := r.requests(); len(got) != 0 || r.pause() != why {
				t.Errorf("%v; %v, want none for %v", got, r.pause(), why)
			}
		}
		silent(poll.IgnitionOff, time.Hour)
		r.poller.Voltage(14)
		silent(poll.IgnitionOff, 10*time.Second)
		r.poller.Ignition(false)
		silent(poll.IgnitionOff, 10*time.Second)
		r.run(10 * time.Second)
		if got := r.requests(); len(got) < 9 {
			t.Errorf("%v", got)
		}
		r.poller.Ignition(false)
		silent(poll.IgnitionOff, 10*time.Second)
		r.run(2 * time.Second)
		r.poller.Voltage(11.5)
		silent(poll.LowVoltage, 10*time.Second)
		r.run(2 * time.Second)
		time.Sleep(time.Minute) // nothing is heard of the ignition
		silent(poll.IgnitionOff, 10*time.Second)
		for range 70 {
			r.poller.Ignition(true)
			time.Sleep(time.Second)
		}
		silent(poll.LowVoltage, 10*time.Second)
		log := r.logged()
		for _, c := range []struct {
			text string
			n    int
		}{{"the ignition is off", 3}, {"the supply voltage", 2}, {"diagnostics go on", 3}} {
			if got := strings.Count(log, c.text); got < c.n || got > c.n+1 {
				t.Errorf("%q is said %d times, want %d:\n%s", c.text, got, c.n, log)
			}
		}
	})
}

func TestSilentWhileAnotherTesterIsOnTheBus(t *testing.T) {
	o, answers := oneUnit()
	o.Governor.BackOff = 20 * time.Second
	for _, id := range []uint32{0x7DF, 0x7E0, 0x740} {
		drive(t, o, answers, func(r *rig) {
			r.run(5 * time.Second)
			if got := r.requests(); len(got) < 4 || r.pause() != poll.Send {
				t.Fatalf("%v %v: our own frames silence us", got, r.pause())
			}
			r.put(can.Frame{ID: id, Len: 8, Data: [64]byte{2, 0x3E, 0x80}})
			r.forget()
			r.run(19 * time.Second)
			if got := r.requests(); len(got) != 0 || r.pause() != poll.OtherTester {
				t.Errorf("%v %v", got, r.pause())
			}
			r.run(5 * time.Second)
			if got := r.requests(); len(got) == 0 || r.pause() != poll.Send {
				t.Errorf("%v %v", got, r.pause())
			}
			if strings.Count(r.logged(), "another tester is on the bus") != 1 {
				t.Error(r.logged())
			}
		})
	}
}

// Many jobs that are due all the time get no more than the rate.
func TestRateAndLoad(t *testing.T) {
	var ids []Identifier
	answers := map[string][]string{}
	for i := range 40 {
		ids = append(ids, Identifier{ID: uint16(i), Every: 100 * time.Millisecond, Values: []Value{{ID: uint32(i + 1), Type: Hex}}})
		answers[fmt.Sprintf("7E4 22%04X", i)] = []string{fmt.Sprintf("7EC/7E4 62%04X0102030405060708", i)} // needs flow control
	}
	o := Options{Units: []Unit{{Name: "u", Request: isotp.Address{ID: 0x7E4}, Response: isotp.Address{ID: 0x7EC}, Identifiers: ids}}}
	o.Governor.FrameRate, o.Governor.Burst = 8, 4
	drive(t, o, answers, func(r *rig) {
		r.run(30 * time.Second)
		for i, f := range r.sent {
			n := 0
			for _, g := range r.sent[i:] {
				if g.Time < f.Time+10e9 {
					n++
				}
			}
			if n > 8*10+4 {
				t.Fatalf("%d frames in 10 s", n)
			}
		}
		for i, f := range r.sent {
			// There was room for it before the request was sent: a unit does not wait long.
			if f.Data[0] == 0x30 && f.Time-r.sent[i-1].Time > int64(20*time.Millisecond) {
				t.Fatalf("flow control %v after the request", time.Duration(f.Time-r.sent[i-1].Time))
			}
		}
		if n := len(r.sent); n < 8*27 {
			t.Errorf("%d frames in 30 s: the rate is not used", n)
		}
		seen := map[string]bool{}
		for _, s := range r.take() {
			seen[s] = true
		}
		if s := r.poller.Stats(); len(seen) != 40 || s.Failed != [failures]uint64{} {
			t.Errorf("%d of 40 identifiers; %+v", len(seen), s)
		}
	})
	o.Governor = poll.Options{FrameRate: 1000, Burst: 1000, Share: 0.002} // of 500 kbit/s: 1000 bit/s, and frames of 135
	drive(t, o, answers, func(r *rig) {
		r.run(30 * time.Second)
		if n := len(r.sent); n < 200 || n > 1000*31/135+1 {
			t.Errorf("%d frames in 30 s", n)
		}
	})
}

func TestUnitsThatDoNotAnswerAreAskedLess(t *testing.T) {
	o, _ := oneUnit()
	drive(t, o, nil, func(r *rig) {
		r.run(10 * time.Minute)
		n := len(r.requests())
		if n > 20 || n < 8 {
			t.Errorf("%d requests in 10 minutes to a unit that is not there", n)
		}
		r.mu.Lock()
		r.answers = map[string][]string{"740 220101": {"748/740 6201012A"}}
		r.mu.Unlock()
		r.run(3 * time.Minute) // it comes back
		if got := r.take(); len(got) < 50 {
			t.Errorf("%d samples", len(got))
		}
		r.mu.Lock()
		r.answers = nil
		r.mu.Unlock()
		r.run(10 * time.Minute)
		r.forget()
		r.poller.Ignition(false)
		time.Sleep(5 * time.Second)
		r.run(3 * time.Second)
		if n := len(r.requests()); n < 2 {
			t.Errorf("%d requests after the ignition went on again", n)
		}
	})
}

// A PID that a unit refuses, or does not have, is asked for again with the next start of the ignition.
func TestAStartOfTheIgnitionAsksAnew(t *testing.T) {
	o := Options{OBD: &OBD{Request: functional, VIN: true, Groups: []Group{{Every: time.Second, PIDs: []PID{pid(0x0A, 1)}}}}}
	drive(t, o, map[string][]string{"7DF 0100": {"7E8/7E0 410000180000"}}, func(r *rig) {
		r.run(10 * time.Second)
		r.want("requests", r.requests(), []string{"7DF 0100", "7DF 0902"})
		r.forget()
		time.Sleep(61 * time.Second) // the ignition is not heard of: that is the end of it too
		r.forget()
		r.run(2500 * time.Millisecond)
		if got := r.requests(); !slices.Contains(got, "7DF 0100") {
			t.Errorf("the bitmaps are not asked for again: %v", got)
		}
		r.forget()
		r.mu.Lock()
		r.answers["7DF 0100"] = []string{"7E8/7E0 410000580000"}
		r.answers["7DF 010A"] = []string{"7E8/7E0 410A11"}
		r.mu.Unlock()
		r.poller.Ignition(false)
		time.Sleep(2 * time.Second)
		r.run(1500 * time.Millisecond)
		got := r.requests()
		if len(got) < 3 || !slices.Contains(got, "7DF 0100") || !slices.Contains(got, "7DF 010A") {
			t.Errorf("%v\n%s", got, r.logged())
		}
		if !slices.Contains(r.take(), "1 17") {
			t.Error("no sample")
		}
	})
}

func TestAnInterfaceThatIsDownIsWaitedFor(t *testing.T) {
	o, answers := oneUnit()
	for i := range uint16(5) {
		o.Units[0].Identifiers = append(o.Units[0].Identifiers, Identifier{ID: i, Every: time.Second, Values: []Value{{ID: 1, Bits: 8}}})
	}
	drive(t, o, answers, func(r *rig) {
		r.down = can.ErrDown
		r.run(30 * time.Second)
		s := r.poller.Stats()
		if n := s.Failed[Unsent]; n < 10 || n > 31 {
			t.Errorf("%+v: not once a second", s)
		}
		r.mu.Lock()
		r.down = nil
		r.mu.Unlock()
		r.run(5 * time.Second)
		if got := r.take(); len(got) < 3 {
			t.Errorf("%v", got)
		}
	})
}

func TestPhysicalAnd29Bits(t *testing.T) {
	for _, c := range []struct {
		request isotp.Address
		answers map[string][]string
	}{
		{isotp.Address{ID: 0x7E1}, map[string][]string{"7E1 0100": {"7E9/7E1 410000100000", "7E8/7E0 410000100000"}, "7E1 010C": {"7E9/7E1 410C1AF8", "7E8/7E0 410C0000"}}},
		{isotp.Address{ID: 0x18DA10F1, Extended: true}, map[string][]string{"18DA10F1 0100": {"18DAF110/18DA10F1 410000100000"}, "18DA10F1 010C": {"18DAF110/18DA10F1 410C1AF8"}}},
		{isotp.Address{ID: 0x18DB33F1, Extended: true}, map[string][]string{"18DB33F1 0100": {"18DAF118/18DA18F1 410000100000", "18DAF110/18DA10F1 410000100000"},
			"18DB33F1 010C": {"18DAF118/18DA18F1 410C0000", "18DAF110/18DA10F1 410C1AF8"}}},
	} {
		drive(t, Options{OBD: &OBD{Request: c.request, Groups: []Group{{Every: time.Second, PIDs: []PID{pid(0x0C, 1)}}}}}, c.answers, func(r *rig) {
			r.run(1900 * time.Millisecond)
			r.want(c.request.String(), r.take(), []string{"1 6904"})
		})
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	good := isotp.Address{ID: 0x7E0}
	for _, o := range []Options{
		{OBD: &OBD{Request: good}},
		{OBD: &OBD{Request: isotp.Address{ID: 0x700}}, Governor: poll.Options{BitRate: 500_000}},
		{Units: []Unit{{Request: good, Response: good}}, Governor: poll.Options{BitRate: 500_000}},
		{Units: []Unit{{Request: functional, Response: good}}, Governor: poll.Options{BitRate: 500_000}},
	} {
		o.Emit, o.VIN, o.Log = nil, nil, nil
		if _, err := New(o, nil); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestBackOff(t *testing.T) {
	for _, c := range []struct {
		every  time.Duration
		silent int
		want   time.Duration
	}{
		{time.Second, 1, time.Second}, {time.Second, 2, time.Second}, {time.Second, 3, 2 * time.Second}, {time.Second, 5, 8 * time.Second},
		{time.Second, 100, 2 * time.Minute}, {time.Hour, 1, 10 * time.Second}, {time.Hour, 3, 20 * time.Second}, {time.Hour, 1 << 30, time.Hour},
	} {
		if got := backOff(c.every, c.silent); got != c.want {
			t.Errorf("every %v, %d silences: %v, want %v", c.every, c.silent, got, c.want)
		}
	}
}

// FuzzAnswers lets arbitrary answers come to whatever is asked; whatever they are, the units are asked on, and nothing
// is sent that may not be.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0x41, 0x0C, 0x1A, 0xF8}, []byte{0x62, 0x01, 0x01, 0, 2, 0xEE, 0xFB}, []byte{0x59, 0x02, 0xFF, 1, 0x23, 0x1C, 0x2F})
	f.Add([]byte{0x41, 0x00, 0xFF, 0xFF, 0xFF, 0xFF}, []byte{0x7F, 0x22, 0x78}, []byte{0x59, 0x04, 1, 0x23, 0x1C, 0x2F, 1, 2, 3})
	f.Add([]byte{0x42, 0x02, 0x00, 0x01, 0x43}, []byte{0x10, 0xFF}, []byte{})
	f.Add([]byte{0x43, 0x01, 0x01, 0x23}, []byte{0x49, 2, 1, '1', 'D', '4', 'G', 'P', '0', '0', 'R', '5', '5', 'B', '1', '2', '3', '4', '5', '6'}, []byte{0x21, 1, 2})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		answers := map[string][]string{}
		for i, request := range []string{"7DF 0100", "7DF 010C", "7DF 03", "7DF 020000", "7DF 020200", "7DF 0902", "7E4 220101", "7E4 190208", "7E4 190401231CFF"} {
			for j, data := range [][]byte{a, b, c} {
				if len(data) > 0 && len(data) < 60 && (i+j)%2 == 0 {
					answers[request] = append(answers[request], fmt.Sprintf("%X/%X %X", 0x7E8+4*(i/6), 0x7E0+4*(i/6), data))
				}
			}
		}
		o := Options{
			OBD: &OBD{Request: functional, Groups: []Group{{Every: time.Second, PIDs: []PID{pid(0x0C, 1)}}}, Codes: time.Second, StoredID: 2, FreezeID: 3, VIN: true},
			Units: []Unit{{Name: "u", Request: isotp.Address{ID: 0x7E4}, Response: isotp.Address{ID: 0x7EC}, DTCs: &DTCs{ID: 4, Every: time.Second, Mask: 8, Snapshots: true},
				Identifiers: []Identifier{{ID: 0x0101, Every: time.Second, Values: []Value{{ID: 5, Bits: 64}, {ID: 6, Type: ASCII, Start: 8}, {ID: 7, Type: Float, Bits: 32}}}}}},
		}
		drive(t, o, answers, func(r *rig) {
			r.run(3 * time.Second)
			if len(r.requests()) == 0 {
				t.Error("nothing was asked")
			}
		})
	})
}
