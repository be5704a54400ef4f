package dbc

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestGeneratedFiles compares the two on files that nobody has seen: random layouts in all that the language knows, in
// the spellings that are found in the wild. The files are always the same; WAYBILL_DBC_FILES asks for more of them, and
// WAYBILL_DBC_FIRST for others.
func TestGeneratedFiles(t *testing.T) {
	t.Parallel()
	start, count := environment(t, "WAYBILL_DBC_FIRST", 0), environment(t, "WAYBILL_DBC_FILES", 8)
	agent, dir := buildAgent(t), t.TempDir()
	const atOnce = 25
	frames := 0
	for first := start; first < start+count; first += atOnce {
		var files []string
		for seed := first; seed < min(first+atOnce, start+count); seed++ {
			path := filepath.Join(dir, fmt.Sprintf("seed%d.dbc", seed))
			if err := os.WriteFile(path, generate(uint64(seed)), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, path)
		}
		r := compare(t, agent, first, 20, files...)
		for _, why := range r.refused {
			t.Errorf("cantools does not read %s", why)
		}
		if t.Failed() {
			keep(t, files)
			return
		}
		frames += r.vectors
	}
	t.Logf("%d frames of %d files", frames, count)
	if frames < 300*count {
		t.Errorf("only %d frames were compared", frames)
	}
}

// environment is a number that a variable may hold.
func environment(t *testing.T, name string, without int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return without
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a number of files", name, text)
	}
	return n
}

// keep copies files to where they outlive the test.
func keep(t *testing.T, files []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "waybill-dbc-")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the files are kept in %s", dir)
}

// generator writes one file. Signals lie within their message and share no bits with those that hang on the same value:
// cantools decodes no others.
type generator struct {
	*rand.Rand
	strings.Builder
	late []string // statements that stand behind the messages
	odd  bool     // with what cantools has to be helped with
}

// generate makes the DBC file of a seed.
func generate(seed uint64) []byte {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0xDBC))}
	g.odd = g.one(3)
	g.WriteString("VERSION \"" + pick(g, "", "1.0", "HIPBNYYYYYYYYYYYYYYYYYYYYY") + "\"\n\n")
	if !g.one(4) {
		g.WriteString("NS_ :\n\tNS_DESC_\n\tCM_\n\tBA_DEF_\n\tVAL_\n\tSG_MUL_VAL_\n\n")
	}
	g.WriteString("BS_:\n\nBU_: N0 N1 N2\n")
	used := map[uint32]bool{}
	for i := range 30 {
		g.message(i, used)
	}
	g.Shuffle(len(g.late), func(i, j int) { g.late[i], g.late[j] = g.late[j], g.late[i] })
	if g.one(2) { // definitions precede values, else anything goes
		g.WriteString("BA_DEF_ BO_  \"GenMsgCycleTime\" INT 0 65535;\nBA_DEF_ SG_  \"Kind\" ENUM  \"a\",\"b c\";\n" +
			"BA_DEF_DEF_  \"GenMsgCycleTime\" 0;\nBA_DEF_DEF_  \"Kind\" \"a\";\n")
	}
	for _, s := range g.late {
		g.WriteString(s + "\n")
	}
	text := g.String()
	if g.one(3) {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return []byte(text)
}

// one is true once in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) message(number int, used map[uint32]bool) {
	id := uint32(g.IntN(0x800))
	flag := uint32(0)
	if g.one(2) {
		id, flag = uint32(g.IntN(0x20000000)), 1<<31
		if id > 0x7FF && g.odd && g.one(4) {
			flag = 0 // some tools forget it
		}
	}
	if used[id] {
		return
	}
	used[id] = true
	id |= flag
	bytes := g.IntN(9)
	if g.one(4) {
		bytes = pick(g, 12, 16, 20, 24, 32, 48, 64)
	}
	name := fmt.Sprintf("Msg%d", number)
	if g.odd && g.one(6) {
		name = fmt.Sprintf("%dM", number)
	}
	fmt.Fprintf(g, "\n%sBO_ %d %s%s: %d %s\n", g.remark(), id, name, pick(g, "", " "), bytes, pick(g, "N0", "N1", "Vector__XXX"))
	if bytes == 0 {
		return
	}
	m := &layout{generator: g, id: id, bits: 8 * bytes}
	always := m.free()
	switch g.IntN(4) {
	case 0:
		m.switched(always, 1+g.IntN(6))
	case 1:
		m.nested(always)
	}
	for range g.IntN(8) {
		m.signal("", 0, always)
	}
	g.aside(id, name, m.signals)
	if g.one(3) {
		g.late = append(g.late, fmt.Sprintf("CM_ BO_ %d \"%s\";", id, pick(g, "plain", "two\nlines; and BO_ 1 in them", "grün 5 µs")))
	}
	if g.one(5) {
		g.late = append(g.late, fmt.Sprintf("BO_TX_BU_ %d : N1,N2;", id))
	}
}

// aside writes a statement that says nothing of any layout, though it may look so.
func (g *generator) aside(id uint32, name string, signals int) {
	switch g.IntN(12) {
	case 0:
		g.WriteString("CM_ \"BO_ 1 A: 8 X\n SG_ none : 0|8@1+ (1,0) [0|0] X\";\n")
	case 1:
		g.WriteString("EV_ Env" + name + ": 0 [0|0] \"\" 0 1 DUMMY_NODE_VECTOR0 Vector__XXX;\nENVVAR_DATA_ Env" + name + ": 10;\n")
	case 2:
		fmt.Fprintf(g, "VAL_TABLE_ Table%s 1 \"one; VAL_ 1 S 0\" 0 \"none\" ;\n", name)
	case 3:
		if signals > 0 && !g.odd {
			fmt.Fprintf(g, "SIG_GROUP_ %d Group%s 1 : S0;\n", id, name)
		}
	case 4:
		fmt.Fprintf(g, "BA_DEF_ BO_ \"A%s\" STRING ;\nBA_DEF_DEF_ \"A%s\" \"VAL_ 1 2;\";\nBA_ \"A%s\" BO_ %d \"SG_ m0M\";\n", name, name, name, id)
	case 5:
		fmt.Fprintf(g, "BA_DEF_REL_ BU_SG_REL_ \"R%s\" INT 0 100;\nBA_DEF_DEF_REL_ \"R%s\" 3;\n", name, name)
	}
}

// remark is a comment line, which only some readers know.
func (g *generator) remark() string {
	if g.odd && g.one(4) {
		return "// SG_ of a line that is none\n"
	}
	return ""
}

// layout is a message that is being written.
type layout struct {
	*generator
	id      uint32
	bits    int // of the message
	signals int
	again   string // the name that the next signal has to take
}

// room says which bits are taken, counted from the top bit of the first byte.
type room []bool

func (m *layout) free() room { return make(room, m.bits) }

// switched writes a multiplexor, and signals that hang on its values.
func (m *layout) switched(always room, values int) {
	_, most, ok := m.signal("M", min(m.bits, 1+m.IntN(16)), always)
	common := m.one(3)
	for ; ok && values > 0; values-- {
		value, here := m.Uint64N(most+1), m.free()
		if common { // under every value, and everywhere another layout
			m.again = "Common"
			m.signal(fmt.Sprintf("m%d", value), 0, here)
			m.again = ""
		}
		for range 1 + m.IntN(3) {
			m.signal(fmt.Sprintf("m%d", value), 0, here)
		}
		ok, most = value > 0, value-1 // no value a second time
	}
}

// nested writes several multiplexors, some of which hang on others; SG_MUL_VAL_ says what hangs on what.
func (m *layout) nested(always room) {
	type above struct {
		name string
		most uint64
		room room // of what hangs on it
	}
	var switches []above
	for range 2 + m.IntN(4) {
		width := min(m.bits, 1+m.IntN(10))
		if len(switches) == 0 || m.one(4) { // one that is always there
			if name, most, ok := m.signal("M", width, always); ok {
				switches = append(switches, above{name, most, m.free()})
			}
			continue
		}
		under := switches[m.IntN(len(switches))]
		first := m.Uint64N(under.most + 1)
		if name, most, ok := m.signal(fmt.Sprintf("m%dM", first), width, under.room); ok {
			m.hang(name, under.name, first, under.most)
			switches = append(switches, above{name, most, m.free()})
		}
	}
	for range 1 + m.IntN(10) {
		if len(switches) == 0 {
			return
		}
		under := switches[m.IntN(len(switches))]
		first := m.Uint64N(under.most + 1)
		if name, _, ok := m.signal(fmt.Sprintf("m%d", first), 0, under.room); ok {
			m.hang(name, under.name, first, under.most)
		}
	}
}

// hang writes the SG_MUL_VAL_ of a signal: one range of values, or several.
func (m *layout) hang(name, under string, first, most uint64) {
	var ranges []string
	for range 1 + m.IntN(3) {
		last := min(first+m.Uint64N(5), most)
		ranges = append(ranges, fmt.Sprintf("%d-%d", first, last))
		if first = last + 2; first > most {
			break
		}
	}
	m.late = append(m.late, fmt.Sprintf("SG_MUL_VAL_ %d %s %s %s;", m.id, name, under, strings.Join(ranges, pick(m.generator, ", ", ","))))
}

// signal writes a signal somewhere in the room, of so many bits (0: any). It returns its name and, for a multiplexor, the
// largest value. There may be no room for it.
func (m *layout) signal(mark string, bits int, here room) (name string, most uint64, ok bool) {
	g := m.generator
	multiplexor := bits != 0
	encoding := 0
	if !multiplexor {
		switch {
		case m.again == "" && m.bits >= 32 && g.one(8):
			bits, encoding = 32, 1
		case m.again == "" && m.bits >= 64 && g.one(8):
			bits, encoding = 64, 2
		default:
			bits = min(m.bits, pick(g, 1, 1+g.IntN(64), 1+g.IntN(12), 8, 16, 32, 57+g.IntN(8)))
		}
	}
	at, order, ok := m.place(bits, here)
	if !ok {
		return "", 0, false
	}
	name = fmt.Sprintf("%s%d", pick(g, "S", "Signal_", "s_"), m.signals)
	if g.odd && g.one(8) {
		name = fmt.Sprintf("%dS", m.signals)
	}
	m.signals++
	if m.again != "" {
		name = m.again
	}
	sign := "+"
	if !multiplexor && g.one(2) {
		sign = "-"
	}
	if mark != "" {
		mark = " " + mark
	}
	form := pick(g, "%sSG_ %s%s%s: %d|%d@%d%s %s(%s,%s) [%s|%s] \"%s\" %s\n", "%sSG_ %s%s%s:%d|%d@%d%s%s(%s,%s)[%s|%s]\"%s\" %s\n",
		"%sSG_  %s%s%s : %d | %d @%d%s %s( %s , %s )  [ %s | %s ]\t\"%s\"  %s \n\n")
	fmt.Fprintf(g, form, pick(g, " ", "\t", "   "), name, mark, pick(g, " ", ""), at, bits, order, sign, pick(g, "", " "),
		g.scale(), g.offset(), g.offset(), g.offset(),
		pick(g, "", "km/h", "%", "°C", "µs", "1/min"), pick(g, "N1", "N1,N2", "N0, N1", "Vector__XXX"))
	if encoding != 0 {
		m.late = append(m.late, fmt.Sprintf("SIG_VALTYPE_ %d %s %s %d;", m.id, name, pick(g, ":", " :"), encoding))
	}
	if g.one(6) {
		m.late = append(m.late, fmt.Sprintf(`VAL_ %d %s %d "on; BO_ 3" 0 "off" ;`, m.id, name, 1+g.IntN(3)))
	}
	if g.one(8) {
		m.late = append(m.late, fmt.Sprintf(`CM_ SG_ %d %s "%s";`, m.id, name, pick(g, "a", `as \"told\"`, "SG_ in it : 0|8@1+")))
	}
	return name, 1<<bits - 1, true
}

// place takes bits that are free, and returns the start bit and the byte order.
func (m *layout) place(bits int, here room) (start, order int, ok bool) {
	for range 10 {
		first, big := m.IntN(m.bits-bits+1), m.one(2)
		taken := make([]int, bits)
		for i := range taken {
			taken[i] = first + i
			if !big { // counted from the lowest bit of each byte
				taken[i] = mirror(first + i)
			}
		}
		if slices.ContainsFunc(taken, func(i int) bool { return here[i] }) {
			continue
		}
		for _, i := range taken {
			here[i] = true
		}
		if big {
			return mirror(first), 0, true
		}
		return first, 1, true
	}
	return 0, 0, false
}

// mirror counts a bit within its byte from the other end.
func mirror(bit int) int { return bit ^ 7 }

// scale is a factor in one of the spellings of numbers, never 0.
func (g *generator) scale() string {
	if g.odd && g.one(10) {
		return "." + strconv.Itoa(1+g.IntN(99))
	}
	return pick(g, "1", "1", "1.0", "+1", "2", "-1", "0.1", "0.5", "0.0078125", "1E-05", "1e3", "-0.25", "1E+002", "0.0174532925199433",
		strconv.Itoa(1+g.IntN(1_000_000)), strconv.FormatFloat(g.Float64()+1e-9, 'g', 1+g.IntN(15), 64))
}

func (g *generator) offset() string {
	return pick(g, "0", "0", "0.0", "-0", "-40", "+3", "-273.15", "1E4", "-1.6e+03", strconv.Itoa(g.IntN(2_000_000)-1_000_000),
		strconv.FormatFloat(g.NormFloat64()*1000, 'g', 1+g.IntN(12), 64))
}
