package fleetwise

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waybill-telematics/waybill/can"
)

// formula is FleetWise's: bits are gathered one by one from the least significant, which is the start bit, whatever the
// byte order; physical = raw × factor + offset.
func formula(data []byte, c *CANSignal) float64 {
	var raw uint64
	byteAt, bit := int(c.StartBit/8), c.StartBit%8
	for i := range c.Length {
		raw |= uint64(data[byteAt]>>bit&1) << i
		if bit++; bit == 8 {
			bit = 0
			if c.BigEndian {
				byteAt--
			} else {
				byteAt++
			}
		}
	}
	value := float64(raw)
	switch {
	case c.Float && c.Length == 32:
		value = float64(math.Float32frombits(uint32(raw)))
	case c.Float:
		value = math.Float64frombits(raw)
	case c.Signed:
		value = float64(int64(raw<<(64-c.Length)) >> (64 - c.Length))
	}
	return value*c.Factor + c.Offset
}

// A signal at any place decodes by the written DBC file to what FleetWise's formula gives.
func TestWrittenDBCDecodesAsFleetWise(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 9))
	const signals = 3000
	s := Source{}
	for i := range signals {
		c := CANSignal{Name: fmt.Sprintf("Vehicle.M%d.S", i), Interface: "1", Message: uint32(i), Length: 1 + random.Uint32N(64), BigEndian: random.IntN(2) == 0,
			Signed: random.IntN(2) == 0, Factor: math.Round(random.NormFloat64()*1000)/64 + 0.5/64, Offset: float64(random.IntN(2000) - 1000)}
		if random.IntN(8) == 0 {
			c.Float, c.Length = true, 32<<random.IntN(2)
		}
		if i%3 == 0 {
			c.Message |= 0x18000000
		}
		first := random.Uint32N(64 - c.Length + 1) // in the order of significance
		if c.StartBit = first; c.BigEndian {
			last := first + c.Length - 1
			c.StartBit = last/8*8 + 7 - last%8
		}
		s.CAN = append(s.CAN, c)
	}
	result := s.Convert(Options{Device: "car-1"})
	for _, f := range result.Findings {
		if f.Lost {
			t.Error(f.Text)
		}
	}
	db := can.ParseDBC([]byte(result.DBC["can1.dbc"]))
	if len(db.Warnings) > 0 || len(db.Messages) != signals {
		t.Fatalf("%d messages, warnings %v", len(db.Messages), db.Warnings)
	}
	byName := map[string]*CANSignal{}
	for i := range s.CAN {
		byName[fmt.Sprintf("M%d", i)] = &s.CAN[i]
	}
	for _, m := range db.Messages {
		c, signal := byName[m.Name], m.Signals[0]
		if c == nil || m.ID != c.Message || m.Extended != (c.Message > maxStandard) {
			t.Fatalf("message %s %#x", m.Name, m.ID)
		}
		plan := can.Compile([]can.Subscription{{ID: 1, Message: m, Signal: signal}}, can.PlanOptions{})
		for range 4 {
			f := can.Frame{ID: m.ID, Len: 8}
			if m.Extended {
				f.Flags |= can.FlagExtended
			}
			binary.LittleEndian.PutUint64(f.Data[:], random.Uint64())
			samples := plan.Decode(&f, nil)
			want := formula(f.Data[:8], c)
			if len(samples) != 1 {
				t.Fatalf("%+v: %d samples", c, len(samples))
			}
			got := samples[0].Physical(signal.Scale, signal.Offset)
			if got != want && !(math.IsNaN(got) && math.IsNaN(want)) && math.Abs(got-want) > 1e-12*math.Abs(want) {
				t.Fatalf("%+v of %x: %v, want %v", c, f.Data[:8], got, want)
			}
		}
	}
}

func message1(fields ...any) (b []byte) {
	for i := 0; i+1 < len(fields); i += 2 {
		number := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), uint64(v))
		case float64:
			b = protowire.AppendFixed64(protowire.AppendTag(b, number, protowire.Fixed64Type), math.Float64bits(v))
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), v)
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
		}
	}
	return b
}

// The edge agent's messages, with the field numbers of its published .proto files.
func TestProtobuf(t *testing.T) {
	manifest := message1(1, "manifest-1",
		2, message1(1, 11, 2, "1", 3, 0x101, 4, 1, 5, 1, 6, 24, 7, -20.0, 8, 0.5, 9, 16),
		2, message1(1, 12, 2, "1", 3, 0x102, 6, 0, 8, 1.0, 9, 8),
		3, message1(1, 13, 2, "0", 3, 2, 4, 1, 5, 12, 6, 0.25, 9, 2, 11, 8),
		6, message1(1, 14, 2, "LOCATION", 3, "x"))
	compare := func(signal int, operator int, bound float64) []byte {
		return message1(1, message1(1, message1(4, signal), 2, message1(3, bound), 3, operator))
	}
	schemes := message1(1, message1(1, "hard", 2, "manifest-1", 4, 1800000000,
		6, message1(1, 500, 3, message1(1, message1(1, compare(11, 1, 90), 2, compare(11, 2, -5), 3, 7)), 4, 1),
		7, 1000, 9, message1(1, 11, 2, 100, 3, 250), 9, message1(1, 12, 5, 1),
		10, message1(1, "1", 2, 0x7E8), 11, 1, 12, 1, 13, 3, 14, message1(1, 0.5)))
	var s Source
	if err := s.Decoders(manifest); err != nil {
		t.Fatal(err)
	}
	if err := s.Campaign("file", schemes); err != nil {
		t.Fatal(err)
	}
	result := s.Convert(Options{Device: "car-1", Interfaces: map[string]string{"0": "can0", "1": "can0"}})
	for _, want := range []string{
		`- match: "can0.Message_101.Signal11"`, "min_interval: 250ms", "record: [7E8]", `- name: "hard"`, "above: 90\n", "below: -5\n",
		"Signal14 is decoded by the customer's own code", "priority 3", "0.5 of the vehicles", "it ends at a time", "is not met by the bound itself",
	} {
		if !strings.Contains(result.Config, want) {
			t.Errorf("the configuration does not say %q:\n%s", want, result.Config)
		}
	}
	if strings.Contains(result.Config, `"can0.Message_102.Signal12"`) {
		t.Error("what is for a condition only is collected")
	}
	if want := " SG_ Signal11 : 23|16@0- (0.5,-20) "; !strings.Contains(result.DBC["can0.dbc"], want) {
		t.Errorf("the DBC file does not say %q:\n%s", want, result.DBC["can0.dbc"])
	}
}

func TestConditions(t *testing.T) {
	number := func(p *float64) string {
		if p == nil {
			return "-"
		}
		return fmt.Sprint(*p)
	}
	for text, want := range map[string]string{
		"$variable.`A.B` > 7000":                           "A.B 7000 - false",
		"( $variable.`A.B` <= -1.5e1 )":                    "A.B - -15 true",
		"5 < $variable.`A.B`":                              "A.B 5 - false",
		"$variable.`A.B` > 9 || $variable.`A.B` < 2":       "A.B 9 2 false",
		"$variable.`A.B` > 9 || $variable.`C` < 2":         "no",
		"$variable.`A.B` > 9 && $variable.`A.B` < 12":      "no",
		"$variable.`A.B` == 9":                             "no",
		"!($variable.`A.B` > 9)":                           "no",
		"custom_function('pow', $variable.`A`, (2)) > 100": "no",
		"isNull($variable.`A`) == false":                   "no",
		"$variable.`A` * 2 > 100":                          "no",
		"$variable.`A > 1":                                 "error",
		"":                                                 "error",
		"(":                                                "error",
		"1 2":                                              "error",
		strings.Repeat("(", 1000) + "1":                    "error",
	} {
		n, err := parseExpression(text)
		got := "error"
		if err == nil {
			got = "no"
			if b, ok := n.bounds(); ok {
				got = fmt.Sprint(b.Signal, " ", number(b.Above), " ", number(b.Below), " ", b.Inclusive)
			}
		}
		if got != want {
			t.Errorf("%.60s: %s, want %s (%v)", text, got, want, err)
		}
	}
}

func TestWhatHasNoPlaceIsNamed(t *testing.T) {
	for name, c := range map[string]CANSignal{
		"no bits":        {Length: 0, Factor: 1},
		"many bits":      {Length: 65, Factor: 1},
		"no identifier":  {Message: 1 << 30, Length: 8, Factor: 1},
		"no factor":      {Length: 8},
		"beyond":         {StartBit: 510, Length: 8, Factor: 1},
		"far beyond":     {StartBit: 1 << 31, Length: 8, Factor: 1},
		"before":         {StartBit: 0, Length: 9, BigEndian: true, Factor: 1},
		"odd float":      {Length: 16, Float: true, Factor: 1},
		"infinite":       {Length: 16, Factor: math.Inf(1)},
		"long and short": {Message: extendedBit | 5, Length: 16, Factor: 1},
	} {
		c.Name = "Vehicle.A." + name
		s := Source{CAN: []CANSignal{c}}
		r := s.Convert(Options{Device: "car-1"})
		if len(r.DBC) != 0 || len(r.Findings) == 0 || !r.Findings[len(r.Findings)-1].Lost && !r.Findings[0].Lost {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Whatever the bytes, what comes out is a DBC file without a warning and a configuration without a control character.
func FuzzImport(f *testing.F) {
	f.Add([]byte(`[{"fullyQualifiedName":"A.B","interfaceId":"1","type":"CAN_SIGNAL","canSignal":{"messageId":"5","length":8,"factor":1}}]`), []byte(`{"collectionScheme":{"conditionBasedCollectionScheme":{"expression":"$variable.`+"`A.B`"+` > 1"}}}`))
	f.Add(message1(2, message1(1, 1, 2, "0", 3, 5, 8, 1.0, 9, 8)), message1(1, message1(9, message1(1, 1))))
	f.Fuzz(func(t *testing.T, manifest, campaign []byte) {
		var s Source
		if s.Decoders(manifest) != nil || s.Campaign("c", campaign) != nil {
			return
		}
		r := s.Convert(Options{Device: "car-1", Ignition: "a.b.c"})
		for name, text := range r.DBC {
			for _, w := range can.ParseDBC([]byte(text)).Warnings {
				if !strings.Contains(w.Text, "overlap") {
					t.Errorf("%s: %v\n%s", name, w, text)
				}
			}
		}
		if strings.ContainsFunc(r.Config, func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("%q", r.Config)
		}
	})
}

// The fields of JSON may be text, as CloudFormation has them.
func TestNumbersAsText(t *testing.T) {
	var f fieldsOf
	if err := json.Unmarshal([]byte(`{"a":"7","b":7.5,"c":"true","d":"x"}`), &f); err != nil {
		t.Fatal(err)
	}
	if a, b, c := f.uint("a"), f.number("b"), f.isTrue("c"); a != 7 || b != 7.5 || !c || f.number("d") != 0 || len(f.rest()) != 1 {
		t.Errorf("%v %v %v, left %v", a, b, c, f.rest())
	}
}
