package can

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/waybill-telematics/waybill/test/deps"
)

// found are the warnings of a severity that hold a text.
func found(db *Database, severity Severity, text string) []Warning {
	return slices.DeleteFunc(slices.Clone(db.Warnings), func(w Warning) bool {
		return w.Severity != severity || !strings.Contains(w.Text, text)
	})
}

// Each file is odd in one way, and what it says beside the oddity is kept.
func TestParseOddities(t *testing.T) {
	const after = "\nBO_ 2 After: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"\" X\n"
	tests := []struct {
		name, text string
		severity   Severity
		warning    string // in line 1 unless line says otherwise
		line       int
	}{
		{"an unknown keyword", "FOO_ 1 2 3;" + after, SeverityWarning, "FOO_", 1},
		{"an unknown keyword without an end", "FOO_ 1 2 3" + after, SeverityWarning, "FOO_", 1},
		{"an unknown keyword with a text", "FOO_ \"BO_ 1 A: 8 X;\" x;" + after, SeverityWarning, "FOO_", 1},
		{"a keyword of relations", "BA_REL_ \"GenSigTimeoutTime\" BU_SG_REL_ N SG_ 1 A 5;" + after, 0, "", 0},
		{"a group of one signal", "SIG_GROUP_ 1 G 1 : A;" + after, 0, "", 0},
		{"a comment without an end", "CM_ \"never closed" + after, SeverityWarning, "no closing quote", 1},
		{"a comment with quotes inside", "CM_ \"the \"so called\" one; it goes on\";" + after, 0, "", 0},
		{"a comment with escaped quotes", `CM_ "the \"so called\" one";` + after, 0, "", 0},
		{"a comment over lines", "CM_ \"one\nBO_ is a keyword\nCM_\n\";" + after, 0, "", 0},
		{"a statement without a semicolon", "CM_ \"text\"" + after, SeverityNote, "semicolon", 1},
		{"an identifier that is none", "BO_ x A: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"\" X" + after, SeverityError, "not an identifier", 1},
		{"an identifier beyond 32 bits", "BO_ 4294967296 A: 8 X" + after, SeverityError, "not an identifier", 1},
		{"an identifier beyond 29 bits", "BO_ 1610612736 A: 8 X" + after, SeverityError, "29 bits", 1},
		{"independent signals", "BO_ 3221225472 VECTOR__INDEPENDENT_SIG_MSG: 0 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"\" X" + after, 0, "", 0},
		{"a length that is none", "BO_ 1 A: eight X" + after, SeverityError, "length", 1},
		{"no sender", "BO_ 1 A: 8" + after, 0, "", 0},
		{"a signal outside of a message", " SG_ A : 0|8@1+ (1,0) [0|0] \"\" X" + after, SeverityError, "outside", 1},
		{"a signal of 65 bits", "BO_ 1 A: 16 X\n SG_ B : 0|65@1+ (1,0) [0|0] \"\" X\n SG_ C : 0|64@1+ (1,0) [0|0] \"\" X" + after, SeverityError, "65 bits", 2},
		{"a signal without an order", "BO_ 1 A: 8 X\n SG_ B : 0|8@ (1,0) [0|0] \"\" X" + after, SeverityError, "byte order", 2},
		{"a signal cut off", "BO_ 1 A: 8 X\n SG_ B : 0|8@1+ (1," + after, SeverityError, "(scale,offset)", 2},
		{"a unit without an end", "BO_ 1 A: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"km/h" + after, SeverityWarning, "closing quote", 2},
		{"a scale of nothing", "BO_ 1 A: 8 X\n SG_ B : 0|8@1+ (0,0) [0|0] \"\" X" + after, SeverityWarning, "scale of 0", 2},
		{"the same signal twice", "BO_ 1 A: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"\" X\n SG_ B : 8|8@1+ (1,0) [0|0] \"\" X" + after, SeverityError, "stands in line 2 already", 3},
		{"the same identifier twice", "BO_ 2 A: 8 X" + after, SeverityWarning, "identifier is that of A", 2},
		{"a value list of nothing", "VAL_ 9 A 0 \"x\" ;" + after, SeverityWarning, "no message 9", 1},
		{"a value without a text", "VAL_ 2 B 0 1 ;" + after, SeverityWarning, "has no text", 1},
		{"a multiplexor that is not there", "SG_MUL_VAL_ 2 B Z 0-1;" + after, SeverityWarning, "\"Z\" is no other signal", 1},
		{"multiplexed by nothing", "BO_ 1 A: 8 X\n SG_ B m0 : 0|8@1+ (1,0) [0|0] \"\" X" + after, SeverityError, "no multiplexor", 2},
		{"a ring of multiplexors", "BO_ 1 A: 8 X\n SG_ B m0M : 0|8@1+ (1,0) [0|0] \"\" X\n SG_ C m0M : 8|8@1+ (1,0) [0|0] \"\" X\nSG_MUL_VAL_ 1 B C 0-0;\nSG_MUL_VAL_ 1 C B 0-0;" + after, SeverityError, "ring", 2},
		{"statements within a comment", "CM_ \"BO_ 1 A: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] X\nVAL_ 1 B 0 1\n\" ;" + after, 0, "", 0},
		{"comments", "// BO_ 1 A: 8 X\n/* BO_ 1 A: 8 X\n*/" + after, 0, "", 0},
		{"carriage returns", strings.ReplaceAll("VERSION \"\"\n"+after, "\n", "\r\n"), 0, "", 0},
		{"a byte order mark", "\uFEFFVERSION \"\"" + after, 0, "", 0},
		{"symbols that are keywords", "NS_ :\n\tCM_\n\tBA_DEF_\n\tVAL_\n\nBS_:\n" + after, 0, "", 0},
		{"nodes over lines", "BU_:\n\tA\n\tB" + after, 0, "", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			db := ParseDBC([]byte(test.text))
			m := db.Message("After")
			if m == nil || m.ID != 2 || len(m.Signals) != 1 || m.Signals[0].Name != "B" || m.Signals[0].Size != 8 {
				t.Errorf("the message behind it was not read: %+v", m)
			}
			loud := slices.DeleteFunc(slices.Clone(db.Warnings), func(w Warning) bool { return w.Severity == SeverityNote })
			if test.warning == "" {
				if len(loud) > 0 {
					t.Errorf("unexpected: %+v", loud)
				}
				return
			}
			got := found(db, test.severity, test.warning)
			if len(got) == 0 || got[0].Line != test.line {
				t.Errorf("want %v in line %d with %q, have %+v", test.severity, test.line, test.warning, db.Warnings)
			}
		})
	}
}

// What was left out is reported where it stands, and not again wherever the file comes back to it.
func TestRejectedIsToldOnce(t *testing.T) {
	for name, text := range map[string]string{
		"signal":  "BO_ 1 A: 16 X\n SG_ B : 0|65@1+ (1,0) [0|0] \"\" X\n SG_ C : 0|8@1+ (1,0) [0|0] \"\" X\nVAL_ 1 B 0 \"x\" ;\nCM_ SG_ 1 B \"y\";\n",
		"message": "BO_ 1610612736 A: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"\" X\nCM_ BO_ 1610612736 \"y\";\nVAL_ 1610612736 B 0 \"x\" ;\n",
	} {
		if db := ParseDBC([]byte(text)); len(db.Warnings) != 1 || db.Warnings[0].Severity != SeverityError {
			t.Errorf("%s: %+v", name, db.Warnings)
		}
	}
}

// Everything that a file says of one signal.
func TestParseEverything(t *testing.T) {
	db := ParseDBC([]byte(`VERSION "7"
BU_: Engine Dash
VAL_TABLE_ OnOff 1 "on" 0 "off" ;
BO_ 2566844926 9Lives+: 64 Engine
 SG_ Mux M : 0|8@1+ (1,0) [0|0] "" Dash
 SG_ -odd.Name+ m1M : 7|16@0- (+.5,-1.E1) [ -3 | +4e2 ] "` + "\xB0" + `C" Dash, Vector__XXX
 SG_ Deep m7 : 64|32@1- (1,0) [0|0] "" Dash
 SG_ Wide : 128|64@1- (1,0) [0|0] "3"" Dash
 SG_ Inch : 200|8@1- (1,0) [0|0] "3\"" Dash
BO_TX_BU_ 2566844926 : Engine,Dash;
CM_ "all";
CM_ BU_ Engine "hot";
CM_ BO_ 2566844926 "nine";
CM_ SG_ 2566844926 Mux "switch";
CM_ SG_ 2566844926 "no name";
CM_ EV_ Something "else";
BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_ BO_ "Gen-Cycle" INT 0 1000;
BA_DEF_ SG_ "SPN" INT 0 1;
BA_DEF_DEF_ "VFrameFormat" "ExtendedCAN";
BA_DEF_DEF_ "Gen-Cycle" 100;
BA_ "VFrameFormat" BO_ 2566844926 3;
BA_ "SPN" SG_ 2566844926 Mux 84;
VAL_ 2566844926 Mux OnOff ;
VAL_ 2566844926 -odd.Name+ -1 "min"us" 1.0 "one" 18446744073709551615 "all ones" ;
VAL_ Something 0 "env" ;
SIG_VALTYPE_ 2566844926 Deep : 1;
SIG_VALTYPE_ 2566844926 Wide 2;
SG_MUL_VAL_ 2566844926 -odd.Name+ Mux 1-1, 3 - 5, 9;
SG_MUL_VAL_ 2566844926 Deep -odd.Name+ 7-7;
`))
	if loud := slices.DeleteFunc(slices.Clone(db.Warnings), func(w Warning) bool { return w.Severity == SeverityNote }); len(loud) > 0 {
		t.Errorf("unexpected: %+v", loud)
	}
	m := db.Message("9Lives+")
	if m == nil {
		t.Fatal("no message")
	}
	if m.ID != 0x18FEF1FE || !m.Extended || !m.J1939 || m.Length != 64 || m.Sender != "Engine" || m.Comment != "no name" || m.Line != 4 || !slices.Equal(m.Senders, []string{"Engine", "Dash"}) {
		t.Errorf("%+v", m)
	}
	if db.Version != "7" || db.Comment != "all" || len(db.Nodes) != 2 || db.Nodes[0].Comment != "hot" {
		t.Errorf("%q %q %+v", db.Version, db.Comment, db.Nodes)
	}
	mux, odd, deep, wide, inch := m.Signal("Mux"), m.Signal("-odd.Name+"), m.Signal("Deep"), m.Signal("Wide"), m.Signal("Inch")
	if odd == nil || deep == nil || wide == nil || inch == nil {
		t.Fatalf("signals %v", m.Signals)
	}
	if !odd.BigEndian || !odd.Signed || odd.Start != 7 || odd.Size != 16 || odd.Scale != 0.5 || odd.Offset != -10 || odd.Min != -3 || odd.Max != 400 || odd.Unit != "°C" {
		t.Errorf("%+v", odd)
	}
	if !slices.Equal(odd.Receivers, []string{"Dash", "Vector__XXX"}) || wide.Unit != `3"` || inch.Unit != `3"` {
		t.Errorf("receivers %q, units %q %q", odd.Receivers, wide.Unit, inch.Unit)
	}
	if odd.Multiplexor != mux || !slices.Equal(odd.Ranges, []MuxRange{{1, 1}, {3, 5}, {9, 9}}) || deep.Multiplexor != odd || !mux.Switch || !odd.Switch || deep.Switch {
		t.Errorf("%+v %+v", odd.Ranges, deep.Multiplexor)
	}
	if deep.Encoding != EncodingFloat32 || wide.Encoding != EncodingFloat64 || mux.Attributes["SPN"].Text != "84" {
		t.Errorf("%v %v %+v", deep.Encoding, wide.Encoding, mux.Attributes)
	}
	if text, _ := mux.Label(1); text != "on" {
		t.Errorf("label %q", text)
	}
	if want := []Label{{-1, `min"us`}, {1, "one"}, {-1, "all ones"}}; !slices.Equal(odd.Labels, want) {
		t.Errorf("labels %+v", odd.Labels)
	}
	if text, own, ok := db.messageAttribute(m, "Gen-Cycle"); text != "100" || own || !ok {
		t.Errorf("%q %t %t", text, own, ok)
	}
}

func TestParseUTF16(t *testing.T) {
	units := utf16.Encode([]rune("\uFEFFBO_ 1 A: 8 X\n SG_ B : 0|8@1+ (1,0) [0|0] \"°\" X\n"))
	var file []byte
	for _, u := range units {
		file = append(file, byte(u), byte(u>>8))
	}
	if m := ParseDBC(file).Message("A"); m == nil || m.Signals[0].Unit != "°" {
		t.Errorf("%+v", m)
	}
}

// Which messages count as J1939 is decided by attributes.
func TestJ1939Attributes(t *testing.T) {
	files := map[string]bool{"CSS-Electronics-SAE-J1939-DEMO.dbc": true, "tp_j1939.dbc": true, "tp_nmea.dbc": true, "tp_uds.dbc": false}
	for name, want := range files {
		db := ParseDBC(readFile(t, deps.Testdata(t, "can", name)))
		for _, m := range db.Messages {
			if m.J1939 != want {
				t.Errorf("%s: %s J1939: %t", name, m.Name, m.J1939)
			}
		}
	}
	const plain = "BO_ 2566844926 A: 8 X\nBO_ 2 B: 8 X\n"
	const format = `BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";` + "\n"
	for text, want := range map[string]bool{
		"": false,
		`BA_DEF_ "ProtocolType" STRING ;` + "\n" + `BA_ "ProtocolType" "J1939";`: true,
		`BA_ "BusType" "J1939";`:                                                              true,
		format + `BA_DEF_DEF_ "VFrameFormat" "J1939PG";`:                                      true,
		format + `BA_ "VFrameFormat" BO_ 2566844926 "ExtendedCAN";`:                           false,
		`BA_DEF_ BO_ "VFrameFormat" INT 0 3;` + "\n" + `BA_ "VFrameFormat" BO_ 2566844926 3;`: true,
	} {
		db := ParseDBC([]byte(plain + text))
		if got := db.Message("A").J1939; got != want {
			t.Errorf("%q: J1939 %t", text, got)
		}
		if db.Message("B").J1939 {
			t.Errorf("%q: a standard identifier is J1939", text)
		}
	}
}

// A file cut off anywhere is read up to there and says where.
func TestCutFile(t *testing.T) {
	files := dbcFiles(t)
	for _, name := range []string{"cantools/motohawk.dbc", "cantools/vehicle.dbc", "cantools/multiplex_2_dumped.dbc", "opendbc/ESR.dbc"} {
		whole := readFile(t, files[name])
		messages := len(ParseDBC(whole).Messages)
		cuts := 400
		if testing.Short() {
			cuts = 40
		}
		step := max(len(whole)/cuts, 1)
		for at := 0; at < len(whole); at += step {
			cut := whole[:at]
			db := ParseDBC(cut)
			if len(db.Messages) > messages {
				t.Fatalf("%s cut at %d has %d messages, the whole %d", name, at, len(db.Messages), messages)
			}
			lines := bytes.Count(cut, []byte("\n")) + 1
			for _, w := range db.Warnings {
				if w.Line < 1 || w.Line > lines {
					t.Fatalf("%s cut at %d: %+v of %d lines", name, at, w, lines)
				}
			}
			if last := bytes.TrimRight(cut, " \t\r"); len(last) > 0 && last[len(last)-1] != '\n' && last[len(last)-1] != ';' {
				if !slices.ContainsFunc(db.Warnings, func(w Warning) bool { return w.Severity > SeverityNote }) {
					t.Fatalf("%s cut at %d, behind %q: no warning", name, at, last[max(len(last)-30, 0):])
				}
			}
		}
	}
}

// The collection is read without a loss that is not known.
func TestCorpus(t *testing.T) {
	signals, errors := 0, 0
	for name, path := range dbcFiles(t) {
		file := readFile(t, path)
		db := ParseDBC(file)
		want := 0
		for line := range strings.Lines(string(file)) {
			if strings.HasPrefix(strings.TrimLeft(line, " \t"), "SG_ ") {
				want++
			}
		}
		got := 0
		for _, m := range db.Messages {
			got += len(m.Signals)
			for _, s := range m.Signals {
				if s.Size < 1 || s.Size > 64 || math.IsNaN(s.Scale) || s.Scale == 0 {
					t.Errorf("%s: %+v", name, s)
				}
			}
		}
		signals += got
		errors += len(found(db, SeverityError, ""))
		if missing := want - got; missing > 0 && len(found(db, SeverityError, "")) == 0 && !bytes.Contains(file, []byte(independentSignals)) {
			t.Errorf("%s: %d SG_ lines, %d signals, and nobody says why", name, want, got)
		}
	}
	t.Logf("%d signals, %d errors", signals, errors)
}

func TestMaximalWarnings(t *testing.T) {
	db := ParseDBC([]byte(strings.Repeat("BO_ x\n", 3*maxWarnings)))
	if len(db.Warnings) != maxWarnings+1 || !strings.Contains(fmt.Sprint(db.Warnings), "further findings") {
		t.Errorf("%d warnings", len(db.Warnings))
	}
}

func FuzzDBC(f *testing.F) {
	f.Add([]byte("BO_ 1 A: 8 X\n SG_ B m0M : 0|8@1+ (1,0) [0|0] \"u\" X\nVAL_ 1 B 0 \"x\" ;\nSG_MUL_VAL_ 1 B B 0-1;"))
	f.Add([]byte("CM_ \"a \"b\" c\nBA_DEF_ BO_ \"n\" ENUM \"a\",\"b\";\nBA_ \"n\" BO_ 1 1;\nNS_ :\n CM_\n\nBS_:\nBU_: A"))
	f.Add([]byte("SIG_VALTYPE_ 1 B : 1;\nVAL_TABLE_ T 0 \"x\";VAL_ 1 B T;\nBO_TX_BU_ 1 : A,B;\nVERSION \"1"))
	f.Fuzz(func(t *testing.T, file []byte) {
		db := ParseDBC(file)
		var subscriptions []Subscription
		for _, m := range db.Messages {
			if m.ID > MaxExtendedID || !m.Extended && m.ID > MaxStandardID {
				t.Fatalf("identifier %#x", m.ID)
			}
			for _, s := range m.Signals {
				subscriptions = append(subscriptions, Subscription{ID: uint32(len(subscriptions) + 1), Message: m, Signal: s})
				db.CatalogueSignal(m, s)
			}
		}
		plan := Compile(subscriptions, PlanOptions{J1939: true})
		plan.Filters()
		for _, m := range db.Messages {
			frame := Frame{ID: m.ID, Len: uint8(min(m.Length, MaxLen))}
			if m.Extended {
				frame.Flags = FlagExtended
			}
			for range plan.Decode(&frame, nil) {
			}
		}
	})
}
