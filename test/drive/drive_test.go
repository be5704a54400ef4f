package drive

import (
	"bytes"
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// compile makes a plan of every signal of the demo DBC; ids are places in names.
func compile(t *testing.T) (*can.Database, *can.Plan, []*can.Signal) {
	t.Helper()
	db := can.ParseDBC(DBC())
	for _, w := range db.Warnings {
		t.Errorf("demo.dbc:%d: %v: %s", w.Line, w.Severity, w.Text)
	}
	var subscriptions []can.Subscription
	var signals []*can.Signal
	for _, m := range db.Messages {
		for _, s := range m.Signals {
			subscriptions = append(subscriptions, can.Subscription{ID: uint32(len(signals)), Message: m, Signal: s})
			signals = append(signals, s)
		}
	}
	return db, can.Compile(subscriptions, can.PlanOptions{}), signals
}

// What Pack packed, the decode plans, which were tried against other people's vectors, must read back: random values
// and the ends of every field, other bits around them set and clear.
func TestPackIsTheInverseOfDecode(t *testing.T) {
	db, plan, signals := compile(t)
	if len(signals) != 35 || len(db.Messages) != 8 {
		t.Errorf("%d signals in %d messages, want 35 in 8", len(signals), len(db.Messages))
	}
	kinds := map[string]bool{}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, m := range db.Messages {
		for round := range 200 {
			f := can.Frame{ID: m.ID, Len: uint8(m.Length)}
			if m.Extended {
				f.Flags, kinds["extended"] = can.FlagExtended, true
			}
			for i := range f.Data[:f.Len] {
				f.Data[i] = byte(rng.Uint32())
			}
			group := uint64(rng.IntN(2))
			want := map[string]uint64{}
			for _, s := range m.Signals {
				if s.Multiplexor != nil && !within(group, s.Ranges) {
					continue
				}
				kinds[map[bool]string{true: "big endian", false: "little endian"}[s.BigEndian]] = true
				kinds["signed"] = kinds["signed"] || s.Signed
				kinds["multiplexed"] = kinds["multiplexed"] || s.Multiplexor != nil
				kinds["labels"] = kinds["labels"] || len(s.Labels) > 0
				mask := uint64(1)<<s.Size - 1
				raw := [...]uint64{rng.Uint64() & mask, 0, mask, mask >> 1, mask>>1 + 1}[round%5]
				if s.Switch {
					raw = group
				}
				Pack(f.Data[:f.Len], s, raw)
				if s.Signed && raw>>(s.Size-1) != 0 {
					raw |= ^mask
				}
				want[s.Name] = raw
			}
			got := plan.Decode(&f, nil)
			if len(got) != len(want) {
				t.Fatalf("%s: %d signals decoded, %d packed", m.Name, len(got), len(want))
			}
			for _, sample := range got {
				s := signals[sample.Signal]
				if sample.Bits != want[s.Name] {
					t.Fatalf("%s.%s: decoded %#x, packed %#x", m.Name, s.Name, sample.Bits, want[s.Name])
				}
				if sample.Kind == telemetrypb.KindInt != s.Signed {
					t.Errorf("%s.%s: kind %v", m.Name, s.Name, sample.Kind)
				}
			}
		}
	}
	for _, kind := range []string{"extended", "big endian", "little endian", "signed", "multiplexed", "labels"} {
		if !kinds[kind] {
			t.Errorf("the demo car has nothing that is %s", kind)
		}
	}
}

// The physical value that Raw was asked for comes back, to half a step, and stops at the ends of the field.
func TestRawIsTheNearestValue(t *testing.T) {
	_, _, signals := compile(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, s := range signals {
		for range 100 {
			physical := s.Min + (s.Max-s.Min)*rng.Float64()
			raw := Raw(s, physical)
			sample := telemetrypb.UintSample(0, 0, raw)
			if s.Signed {
				sample = telemetrypb.IntSample(0, 0, int64(raw))
			}
			if back := sample.Physical(s.Scale, s.Offset); math.Abs(back-physical) > s.Scale/2*(1+1e-9) {
				t.Fatalf("%s: asked for %v, got %v", s.Name, physical, back)
			}
		}
		if high := Raw(s, 1e18); !s.Signed && high != 1<<s.Size-1 || s.Signed && high != 1<<(s.Size-1)-1 {
			t.Errorf("%s: above its range it sends %#x", s.Name, high)
		}
	}
}

// whole is a drive in one digest, with what it said of itself and what was seen of it.
func whole(t *testing.T, o Options, see func(Event)) ([32]byte, Summary) {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	last := time.Duration(-1)
	for {
		e, ok := d.Next()
		if !ok {
			break
		}
		if e.At < last {
			t.Fatalf("%v comes after %v", e.At, last)
		}
		last = e.At
		if e.Frame != nil {
			h.Write(can.AppendLog(nil, o.Start.Add(e.At).UnixNano(), "can0", e.Frame))
		}
		h.Write(e.Sentences)
		d.Sent(&e)
		if see != nil {
			see(e)
		}
	}
	return [32]byte(h.Sum(nil)), d.Summary()
}

func TestSameSeedSameDrive(t *testing.T) {
	o := Options{Seed: 7, Start: start, Duration: 30 * time.Second}
	one, _ := whole(t, o, nil)
	two, _ := whole(t, o, nil)
	if one != two {
		t.Error("the same seed made two drives")
	}
	o.Seed = 8
	if three, _ := whole(t, o, nil); one == three {
		t.Error("another seed made the same drive")
	}
}

func TestDriveIsComplete(t *testing.T) {
	_, plan, signals := compile(t)
	var counter, frames, sentences, fixes, inTunnel uint64
	extremes := map[string][2]float64{}
	phases := map[string]int{}
	phase := ""
	odometer := 0.0
	var network []string
	_, s := whole(t, Options{Seed: 3, Start: start, Duration: 2 * time.Minute}, func(e Event) {
		switch {
		case e.Phase != "":
			phase = e.Phase
			phases[phase]++
		case e.Frame != nil:
			frames++
			for _, sample := range plan.Decode(e.Frame, nil) {
				signal := signals[sample.Signal]
				v := sample.Physical(signal.Scale, signal.Offset)
				x, seen := extremes[signal.Name]
				if !seen {
					x = [2]float64{v, v}
				}
				extremes[signal.Name] = [2]float64{min(x[0], v), max(x[1], v)}
				if signal.Name == "FrameCounter" {
					if counter++; sample.Bits != counter {
						t.Fatalf("counter %d, want %d", sample.Bits, counter)
					}
				}
				if signal.Name == "Odometer" && v < odometer {
					t.Fatalf("the odometer runs back from %v to %v", odometer, v)
				} else if signal.Name == "Odometer" {
					odometer = v
				}
			}
		case e.Network != "":
			network = append(network, e.Network+" in "+phase)
		default:
			sentences += uint64(strings.Count(string(e.Sentences), "\r\n"))
			valid := bytes.Contains(e.Sentences, []byte(",A,47"))
			if valid {
				fixes++
			}
			if phase == "tunnel" {
				inTunnel++
			}
			if valid == (phase == "tunnel") || valid != e.Fix {
				t.Errorf("in phase %s: %s", phase, e.Sentences)
			}
		}
	})
	if s.Frames != frames || s.Sentences != sentences || s.Fixes != fixes || s.Epochs != fixes+inTunnel || s.FirstCounter != 1 || s.LastCounter != 12000 || counter != 12000 {
		t.Errorf("summary %+v; seen: %d frames, counter %d, %d sentences, %d fixes", s, frames, counter, sentences, fixes)
	}
	if phases["tunnel"] != 1 || phases["motorway"] != 2 || phases["city"] != 2 || phases["stop"] != 2 || inTunnel < 15 {
		t.Errorf("phases %v, %d epochs in the tunnel", phases, inTunnel)
	}
	if want := []string{"dead in tunnel", "back in motorway"}; !slices.Equal(network, want) {
		t.Errorf("the network is %q, want %q", network, want)
	}
	for name, want := range map[string][2]float64{ // what a drive must at least span
		"VehicleSpeed": {0, 100}, "MotorTorque": {-50, 100}, "Gear": {0, 3}, "BrakePressure": {0, 1}, "CellGroup": {0, 1}, "Lights": {1, 2},
		"ChargeState": {0, 2}, "CellVoltage4": {4.1, 3.4},
	} {
		if x := extremes[name]; x[0] > want[0] || x[1] < want[1] {
			t.Errorf("%s runs from %v to %v, want at least %v", name, x[0], x[1], want)
		}
	}
	for _, signal := range signals {
		if _, seen := extremes[signal.Name]; !seen {
			t.Errorf("%s was never sent", signal.Name)
		}
	}
}

func TestOptionsThatMakeNoDrive(t *testing.T) {
	for _, o := range []Options{{Start: start, Duration: time.Millisecond}, {Duration: time.Minute}, {Start: start, Duration: time.Minute, Scenario: "moon"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}
