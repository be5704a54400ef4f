package slots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func sample() *state {
	m := metaOf(image("A"))
	return &state{
		Serial: 7, Committed: A, Images: map[Slot]Meta{A: m, B: metaOf(image("B"))},
		Trial:    &Trial{Slot: B, Limits: Limits{Crashes: 5}, Starts: 2, Crashes: 1, Open: true, Boot: "b", PID: 3, Alive: true},
		Rejected: []Rejection{{m, "it reads no CAN"}}, Outcomes: []Outcome{{ID: "1-b", Kind: RolledBack, Image: m}},
	}
}

func framed(version int, body string) []byte {
	return fmt.Appendf(nil, "waybill-slots %d %x\n%s", version, sha256.Sum256([]byte(body)), body)
}

// TestLaterState: a state of a later version, with members that this one does not know, keeps them, and its version.
func TestLaterState(t *testing.T) {
	data, err := sample().encode()
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(data), "\n")
	body = `{"new":{"a":[1,2]},` + body[1:]
	s, err := parseState(framed(9, body))
	if err != nil {
		t.Fatal(err)
	}
	s.Trial.Starts++
	if data, err = s.encode(); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(data, []byte("waybill-slots 9 ")) || !bytes.Contains(data, []byte(`"new":{"a":[1,2]}`)) || !bytes.Contains(data, []byte(`"starts":3`)) {
		t.Errorf("%s", data)
	}
	// One whose trial makes no sense here has none; one without a committed slot is none.
	s, err = parseState(framed(9, `{"serial":1,"committed":"a","trial":{"slot":"c"}}`))
	if err != nil || s.Trial != nil || s.Committed != A {
		t.Errorf("%+v %v", s, err)
	}
	if _, err = parseState(framed(9, `{"serial":1,"committed":"c"}`)); err == nil {
		t.Error("a state that commits slot c is taken")
	}
}

// TestDamagedState flips each bit and cuts at each byte: no such file is a state.
func TestDamagedState(t *testing.T) {
	data, err := sample().encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			// The version is no promise: any number will do.
			if s, err := parseState(bad); err == nil && i != len("waybill-slots ") {
				t.Fatalf("byte %d, bit %d: %+v", i, bit, s)
			}
		}
		if _, err := parseState(data[:i]); err == nil {
			t.Fatalf("%d of %d bytes are taken", i, len(data))
		}
	}
}

// TestBounds: what others bring does not let the state grow without end.
func TestBounds(t *testing.T) {
	v := seeded()
	long := strings.Repeat("\x00\u2028ä\xff", 1000)
	for n := range maxRejected + 3 {
		v.install(image(fmt.Sprint(n)))
		must(v.slots(A).Try(ctx, Limits{}))
		must(v.slots(A).Reject(ctx, fmt.Sprint(n, long)))
	}
	st, err := v.slots("").Status()
	if err != nil || st.Lost != "" || len(st.Rejected) != maxRejected || len(st.Outcomes) != maxOutcomes {
		t.Fatalf("%v %s %d %d", err, st.Lost, len(st.Rejected), len(st.Outcomes))
	}
	if r := st.Rejected[maxRejected-1]; r.SHA256 != metaOf(image("34")).SHA256 || !strings.HasPrefix(r.Reason, "34") || len(r.Reason) > maxText {
		t.Errorf("the newest is %+v", r)
	}
	ids := map[string]bool{}
	for _, o := range st.Outcomes {
		ids[o.ID] = true
	}
	if len(ids) != maxOutcomes {
		t.Errorf("outcomes share ids: %v", ids)
	}
	full := sample()
	text := strings.Repeat("\"", 2*maxText)
	worst := Meta{text, strings.Repeat("f", 64), 1 << 62, text, 1 << 62, text, text}
	for range 2 * maxRejected {
		full.Rejected = append(full.Rejected, Rejection{worst, text})
		full.Outcomes = append(full.Outcomes, Outcome{text, text, text, worst, 1})
	}
	full.bound()
	data, err := full.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = parseState(data); err != nil {
		t.Errorf("a full state of %d bytes: %v", len(data), err)
	}
}

// TestTwoCopies: each of the two is enough.
func TestTwoCopies(t *testing.T) {
	for _, bad := range copies {
		v := seeded()
		armed(v)
		v.d.now[testDir+"/"+bad].data = []byte("garbage")
		if got := v.launch(); !got.Trial || whichImage(got.data) != "B" {
			t.Errorf("without %s: %+v", bad, got.Start)
		}
	}
	v := seeded()
	armed(v)
	for _, name := range copies {
		v.d.now[testDir+"/"+name].data[200] ^= 1
	}
	if got := v.launch(); got.Trial || whichImage(got.data) != "A" {
		t.Errorf("without both: %+v", got.Start)
	}
	st, err := v.slots(A).Status()
	if err != nil || len(st.Outcomes) != 1 || st.Outcomes[0].Kind != StateLost {
		t.Errorf("%v %+v", err, st.Outcomes)
	}
}

// TestPackagedSlot: an executable that a package put into slot a by itself, without a hash file, a link or a state, runs,
// and is learnt when the first update comes.
func TestPackagedSlot(t *testing.T) {
	v := &vehicle{d: newDisk(), boot: 1}
	for _, dir := range []string{testDir, testDir + "/slots", testDir + "/slots/a"} {
		must(v.d.Mkdir(dir))
	}
	v.d.now[testDir+"/slots/a/waybill-agent"] = &inode{mode: 0o755, perm: 0o755, data: imageA, synced: imageA}
	if got := v.launch(); whichImage(got.data) != "A" || got.Trial {
		t.Fatalf("%+v", got.Start)
	}
	armed(v)
	st, err := v.slots(A).Status()
	if err != nil || st.Slots[A].Image == nil || st.Slots[A].Image.SHA256 != metaOf(imageA).SHA256 {
		t.Fatalf("%v %+v", err, st)
	}
	if got := v.launch(); whichImage(got.data) != "B" || !got.Trial {
		t.Fatalf("%+v", got.Start)
	}
}

// TestErased: a vehicle whose data is gone runs the package's copy, and is updated from there.
func TestErased(t *testing.T) {
	v := &vehicle{d: newDisk(), boot: 1}
	must(v.d.Mkdir(testDir))
	v.d.now["/factory"] = &inode{mode: 0o755, perm: 0o755, data: imageA, synced: imageA}
	v.factory = "/factory"
	if got := v.launch(); got.Slot != Factory || got.Path != "/factory" {
		t.Fatalf("%+v", got.Start)
	}
	update := func(name string) {
		_, err := v.slots(Factory).Install(ctx, bytes.NewReader(image(name)), metaOf(image(name)))
		must(err)
		must(v.slots(Factory).Try(ctx, Limits{}))
		if got := v.launch(); !got.Trial || whichImage(got.data) != name {
			t.Fatalf("%+v", got.Start)
		}
	}
	update("B")
	must(v.slots(B).Reject(ctx, "test"))
	if got := v.launch(); got.Slot != Factory {
		t.Fatalf("%+v", got.Start)
	}
	update("C")
	must(v.slots(B).Commit(ctx))
	if got := v.launch(); got.Trial || whichImage(got.data) != "C" {
		t.Fatalf("%+v", got.Start)
	}
}

// TestInstallRefuses: what is not the image that was announced, or does not come back from the disk as it was written, is not in
// the slot afterwards.
func TestInstallRefuses(t *testing.T) {
	b := image("B")
	m := metaOf(b)
	short, long, other, unnamed := m, m, m, m
	short.Length--
	long.Length++
	other.SHA256 = metaOf(imageA).SHA256
	unnamed.SHA256 = "B"
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	for name, c := range map[string]struct {
		do   func(v *vehicle) (Slot, error)
		want string
	}{
		"longer":    {func(v *vehicle) (Slot, error) { return v.slots(A).Install(ctx, bytes.NewReader(b), short) }, "longer than"},
		"shorter":   {func(v *vehicle) (Slot, error) { return v.slots(A).Install(ctx, bytes.NewReader(b), long) }, "bytes instead of"},
		"another":   {func(v *vehicle) (Slot, error) { return v.slots("").Install(ctx, bytes.NewReader(image("C")), m) }, "not the image"},
		"committed": {func(v *vehicle) (Slot, error) { return v.slots(A).Install(ctx, bytes.NewReader(imageA), other) }, "is the committed one"},
		"unnamed":   {func(v *vehicle) (Slot, error) { return v.slots(A).Install(ctx, bytes.NewReader(b), unnamed) }, "named by its SHA-256"},
		"no reader": {func(v *vehicle) (Slot, error) { return v.slots(A).Install(ctx, iotest.ErrReader(io.ErrNoProgress), m) }, "Read calls"},
		"canceled":  {func(v *vehicle) (Slot, error) { return v.slots(A).Install(canceled, bytes.NewReader(b), m) }, "canceled"},
		"runs":      {func(v *vehicle) (Slot, error) { return v.slots(B).Install(ctx, bytes.NewReader(b), m) }, "in use"},
		"locked": {func(v *vehicle) (Slot, error) {
			v.d.locked = true
			return v.slots(A).Install(ctx, bytes.NewReader(b), m)
		}, "another process"},
		"on trial": {func(v *vehicle) (Slot, error) {
			armed(v)
			v.launch()
			return v.slots(A).Install(ctx, bytes.NewReader(image("C")), metaOf(image("C")))
		}, "trial of b goes on"},
		"disk lies": {func(v *vehicle) (Slot, error) {
			// The state is written well: it is not read back, its checksum tells.
			s := v.slots(A)
			return s.Install(ctx, readFunc(func(p []byte) (int, error) {
				v.d.lies = true
				return copy(p, b), io.EOF
			}), m)
		}, "gives back another image"},
	} {
		v := seeded()
		if _, err := c.do(v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		v.d.lies, v.d.locked = false, false
		if name == "on trial" {
			continue
		}
		if err := v.slots(A).Try(ctx, Limits{}); !errors.Is(err, ErrNothing) {
			t.Errorf("%s: it can be tried: %v", name, err)
		}
		if v.d.now[testDir+"/slots/b/waybill-agent"] != nil || v.d.now[testDir+"/slots/b/waybill-agent.new"] != nil {
			t.Errorf("%s: something is left in slot b", name)
		}
		if got := v.launch(); whichImage(got.data) != "A" {
			t.Errorf("%s: %+v", name, got.Start)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestLocked: the launcher does not wait for another process's lock for ever; what is committed starts.
func TestLocked(t *testing.T) {
	v := seeded()
	armed(v)
	v.d.locked = true
	if got := v.launch(); got.Trial || whichImage(got.data) != "A" {
		t.Errorf("%+v", got.Start)
	}
	v.d.locked = false
	if got := v.launch(); !got.Trial || whichImage(got.data) != "B" {
		t.Errorf("%+v", got.Start)
	}
}

// TestOrdinaryStart: with nothing on trial, starts write nothing, and need no lock.
func TestOrdinaryStart(t *testing.T) {
	v := seeded()
	v.d.ops, v.d.locked = 0, true
	if got := v.launch(); got.Slot != A || got.Trial {
		t.Errorf("%+v", got.Start)
	}
	must(v.slots(A).Alive(ctx))
	must(v.slots(A).Stopped(ctx))
	if v.d.ops != 0 {
		t.Errorf("%v", v.d.log)
	}
}

// TestJudge holds each way in which a start may end to the table of docs/OTA.md.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		same, stopped, alive bool
		crashes, dead, cut   int
	}{
		{true, false, false, 2, 1, 1}, {true, false, true, 2, 1, 1},
		{true, true, true, 1, 0, 0}, {false, true, true, 1, 0, 0},
		{true, true, false, 1, 2, 1}, {false, true, false, 1, 2, 1}, {false, false, false, 1, 2, 1},
		{false, false, true, 1, 1, 2},
	} {
		v := seeded()
		st := sample()
		st.Trial = &Trial{Slot: B, Starts: 4, Crashes: 1, Dead: 1, Cut: 1, Open: true, Boot: "boot-00001", Alive: c.alive, Stopped: c.stopped}
		if !c.same {
			st.Trial.Boot = "boot-00000"
		}
		v.slots("").judge(st)
		if tr := st.Trial; tr == nil || tr.Crashes != c.crashes || tr.Dead != c.dead || tr.Cut != c.cut || tr.Open {
			t.Errorf("%+v: %+v", c, tr)
		}
	}
	// A boot id that cannot be read is no boot's.
	v, st := seeded(), sample()
	st.Trial.Boot = ""
	s := v.slots("")
	s.o.BootID = ""
	if s.judge(st); st.Trial.Crashes != 1 {
		t.Errorf("%+v", st.Trial)
	}
}

// TestNoClock: no source of this package or of the launcher asks what time it is, or how old a file is.
func TestNoClock(t *testing.T) {
	files := 0
	for _, dir := range []string{".", "../../cmd/launcher"} {
		packages, err := parser.ParseDir(token.NewFileSet(), dir, func(f os.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // no build tags here
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packages {
			for name, f := range p.Files {
				files++
				ast.Inspect(f, func(n ast.Node) bool {
					if sel, ok := n.(*ast.SelectorExpr); ok {
						x, _ := sel.X.(*ast.Ident)
						switch {
						case x != nil && x.Name == "time" && strings.Contains(" Duration Millisecond Second After ", " "+sel.Sel.Name+" "):
						case x != nil && x.Name == "time", strings.Contains(" ModTime Mtim Ctim Atim ", " "+sel.Sel.Name+" "):
							if x == nil || x.Name != "slog" {
								t.Errorf("%s uses %s", name, sel.Sel.Name)
							}
						}
					}
					return true
				})
			}
		}
	}
	if files < 6 {
		t.Errorf("%d files", files)
	}
}

func FuzzState(f *testing.F) {
	data, err := sample().encode()
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(data, []byte("\n"))
	for _, seed := range []string{string(body), `{"committed":"b","SERIAL":3,"x":null}`, `{"committed":"a","images":{"c":{}},"trial":{"slot":"b"}}`, "null", "[]"} {
		f.Add([]byte(seed), true)
	}
	f.Add(data, false)
	f.Fuzz(func(t *testing.T, body []byte, frame bool) {
		data := body
		if frame { // the fuzzer finds no checksum by itself
			data = framed(1, string(body))
		}
		s, err := parseState(data)
		if err != nil {
			return
		}
		// Stored and read again it is the same, and usable.
		first, err := s.encode()
		if err != nil {
			t.Fatalf("%v", err)
		}
		again, err := parseState(first)
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		one, _ := json.Marshal(s)
		two, _ := json.Marshal(again)
		if !bytes.Equal(one, two) || !reflect.DeepEqual(len(s.rest), len(again.rest)) {
			t.Fatalf("%s\nand then\n%s", one, two)
		}
		if s.Trial != nil && (s.Trial.Slot == s.Committed || !s.Trial.Slot.valid()) {
			t.Fatalf("a trial of %q", s.Trial.Slot)
		}
		v := seeded()
		for _, name := range copies {
			v.d.now[testDir+"/"+name].data = data
		}
		if got := v.launch(); whichImage(got.data) != "A" {
			t.Fatalf("%+v", got.Start)
		}
	})
}
