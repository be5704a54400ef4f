package buffer_test

import (
	"bufio"
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
	"github.com/waybill-telematics/waybill/test/deps"
)

// A power cut loses what was written and not synced, in any part and any order. Here a child works on a queue under
// strace; what it wrote is replayed up to a random point, what was not synced by then is dropped, kept or torn at sectors,
// and the queue that comes out is held to what the child had confirmed by then.

// diskFile is a file in the replay: what is durable and what is pending.
type diskFile struct {
	durable []byte
	pending []write
}

type write struct {
	at   int64
	data []byte // nil: truncate to at
}

func (w write) apply(b []byte) []byte {
	if w.data == nil {
		if int64(len(b)) > w.at {
			return b[:w.at]
		}
		return append(b, make([]byte, w.at-int64(len(b)))...)
	}
	if end := w.at + int64(len(w.data)); int64(len(b)) < end {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[w.at:], w.data)
	return b
}

// entryOp is a change of a folder that is not synced yet.
type entryOp struct {
	folder string
	name   string // path
	file   *diskFile
}

// disk is the replayed disk.
type disk struct {
	now     map[string]*diskFile // as the process sees it
	synced  map[string]*diskFile // folders' entries that are durable
	pending []entryOp            // a nil file takes the entry away
	sync    bool                 // false: a disk that ignores syncs, which must break the promises
}

func (d *disk) set(path string, f *diskFile) {
	if f == nil {
		delete(d.now, path)
	} else {
		d.now[path] = f
	}
	d.pending = append(d.pending, entryOp{filepath.Dir(path), path, f})
}

// event takes one system call in. It returns what the child said.
func (d *disk) event(t *testing.T, e event) (said string) {
	file := func() *diskFile {
		f := d.now[e.path]
		if f == nil {
			t.Fatalf("%s of %s, which is not there", e.call, e.path)
		}
		return f
	}
	switch e.call {
	case "say":
		return string(e.data)
	case "create":
		if d.now[e.path] == nil {
			d.set(e.path, &diskFile{})
		} else if e.at == 1 { // O_TRUNC
			f := file()
			f.pending = append(f.pending, write{})
		}
	case "write":
		f := file()
		f.pending = append(f.pending, write{e.at, e.data})
	case "truncate":
		f := file()
		f.pending = append(f.pending, write{at: e.at})
	case "rename":
		f := file()
		d.set(e.path, nil)
		d.set(e.to, f)
	case "unlink":
		file()
		d.set(e.path, nil)
	case "sync":
		if !d.sync {
			return ""
		}
		if f := d.now[e.path]; f != nil {
			for _, w := range f.pending {
				f.durable = w.apply(f.durable)
			}
			f.pending = nil
			return ""
		}
		kept := d.pending[:0:0]
		for _, op := range d.pending {
			if op.folder == e.path {
				op.apply(d.synced)
			} else {
				kept = append(kept, op)
			}
		}
		d.pending = kept
	}
	return ""
}

func (op entryOp) apply(m map[string]*diskFile) {
	if op.file == nil {
		delete(m, op.name)
	} else {
		m[op.name] = op.file
	}
}

// cut gives the files after a power cut: of what was not synced a part, chosen by how.
func (d *disk) cut(how string, rnd *rand.Rand) map[string][]byte {
	names := maps.Clone(d.synced)
	until := map[string]int{} // a folder's changes arrive in their order, up to some point
	count := map[string]int{}
	for _, op := range d.pending {
		count[op.folder]++
	}
	for _, folder := range slices.Sorted(maps.Keys(count)) {
		switch how {
		case "nothing":
		case "all":
			until[folder] = count[folder]
		default:
			until[folder] = rnd.IntN(count[folder] + 1)
		}
	}
	for _, op := range d.pending {
		if until[op.folder] > 0 {
			until[op.folder]--
			op.apply(names)
		}
	}
	files := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		b := bytes.Clone(f.durable)
		for i, w := range f.pending {
			switch {
			case how == "nothing" || how == "dropped" && rnd.IntN(2) == 0 || how == "cut" && i > rnd.IntN(len(f.pending)+1):
			case how == "torn" && w.data != nil:
				const sector = 512
				for at := 0; at < len(w.data); at += sector {
					if rnd.IntN(2) == 0 {
						b = write{w.at + int64(at), w.data[at:min(at+sector, len(w.data))]}.apply(b)
					}
				}
			default:
				b = w.apply(b)
			}
		}
		files[name] = b
	}
	return files
}

// event is a system call that changes a file, or a line that the child said.
type event struct {
	call string
	path string
	to   string
	at   int64
	data []byte
}

// record runs the child under strace.
func record(t *testing.T, part, dir string, steps int) []event {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	work := child(t, part, dir, fmt.Sprint("77 ", steps))
	cmd := deps.Program(t, "strace", "strace", append([]string{"-f", "-qq", "-xx", "-y", "-s", "4000000", "-o", log, "-e", "signal=none", "-e",
		"trace=openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat"}, work.Args...)...)
	cmd.Env = append(cmd.Env, work.Env...)
	if out, err := cmd.Output(); err != nil || bytes.Contains(out, []byte("E ")) {
		if len(out) == 0 && os.Getenv("CI") != "true" {
			t.Skipf("strace does not work here: %v", err)
		}
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	var events []event
	unfinished := map[string]string{}
	for lines.Scan() {
		pid, call, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		call = strings.TrimSpace(call)
		if begin, ok := strings.CutSuffix(call, " <unfinished ...>"); ok {
			unfinished[pid] = begin
			continue
		}
		if _, rest, ok := strings.Cut(call, " resumed>"); ok && strings.HasPrefix(call, "<... ") {
			call = unfinished[pid] + rest
		}
		if e, ok := parseCall(t, dir, call); ok {
			events = append(events, e)
		}
	}
	return events
}

// parseCall reads one line of strace's.
func parseCall(t *testing.T, dir, line string) (e event, ok bool) {
	name, rest, _ := strings.Cut(line, "(")
	i := strings.LastIndex(rest, ") ")
	if i < 0 {
		return e, false
	}
	result, _, _ := strings.Cut(strings.TrimLeft(strings.TrimSpace(rest[i+1:]), "= "), "<")
	if n, err := strconv.ParseInt(strings.Fields(result)[0], 10, 64); err != nil || n < 0 {
		return e, false
	}
	args := strings.Split(rest[:i], ", ")
	text := func(s string) string { // "\x41\x42"
		b, err := strconv.Unquote(strings.TrimSuffix(s, "..."))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return b
	}
	fd := func(s string) string { // 7</path>, the path in hexadecimal
		_, path, _ := strings.Cut(s, "<")
		path = strings.TrimSuffix(strings.TrimSuffix(path, ">"), "(deleted)")
		return text(`"` + path + `"`)
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	switch name {
	case "openat":
		e = event{call: "create", path: text(args[1])}
		if !strings.Contains(args[2], "O_CREAT") {
			return e, false
		}
		if strings.Contains(args[2], "O_TRUNC") {
			e.at = 1
		}
	case "write":
		if strings.HasPrefix(args[0], "1<") {
			return event{call: "say", data: []byte(text(args[1]))}, true
		}
		// What is written without a place is written once, to a new file.
		e = event{call: "write", path: fd(args[0]), data: []byte(text(args[1]))}
	case "pwrite64":
		e = event{call: "write", path: fd(args[0]), data: []byte(text(args[1])), at: number(args[3])}
	case "ftruncate":
		e = event{call: "truncate", path: fd(args[0]), at: number(args[1])}
	case "fallocate": // the file is at least that long; nothing else shows
		e = event{call: "write", path: fd(args[0]), data: []byte{}, at: number(args[2]) + number(args[3])}
	case "fsync", "fdatasync":
		e = event{call: "sync", path: fd(args[0])}
	case "rename":
		e = event{call: "rename", path: text(args[0]), to: text(args[1])}
	case "renameat", "renameat2":
		e = event{call: "rename", path: text(args[1]), to: text(args[3])}
	case "unlink":
		e = event{call: "unlink", path: text(args[0])}
	case "unlinkat":
		e = event{call: "unlink", path: text(args[1])}
	}
	return e, strings.HasPrefix(e.path, dir+"/") && filepath.Base(e.path) != "lock" || e.path == dir
}

// promised is what the child had said by some time.
type promised struct {
	batches  map[batchID]int // confirmed
	journal  map[batchID]int // confirmed parts of what is not sealed
	perhaps  map[batchID]bool
	released map[batchID]bool // and synced
	epoch    uint64
}

func (p *promised) hear(t *testing.T, said string) {
	for line := range strings.Lines(said) {
		var kind string
		var lane uint8
		var seq uint64
		var arg int
		if n, _ := fmt.Sscan(line, &kind, &lane, &seq, &arg); n < 3 {
			t.Fatalf("the child says %q", line)
		}
		id := batchID{buffer.Lane(lane), seq}
		switch kind {
		case "B":
			p.batches[id] = arg
			delete(p.journal, id)
		case "J":
			p.journal[id] = arg + 1
		case "f":
			p.perhaps[id] = true
		case "F":
			p.released[id] = true
		}
	}
}

// hold opens what a power cut has left and lists the promises that it breaks.
func (p *promised) hold(dir string, o buffer.Options) (broken []string, newEpoch bool) {
	say := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	o.OnDamage = func(d buffer.Damage) {
		if d.Batches > 0 || d.Journal {
			say("damage: %v", d)
		}
	}
	q, err := buffer.Open(dir, o)
	if err != nil {
		return []string{err.Error()}, false
	}
	defer q.Close()
	newEpoch = q.Epoch() != p.epoch
	there, highest := map[batchID]bool{}, map[buffer.Lane]uint64{}
	for _, l := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				return append(broken, err.Error()), newEpoch
			}
			if want := buffertest.Batch(l, r.Seq, len(r.Bytes)); !bytes.Equal(r.Bytes, want.Bytes) || r.Epoch != p.epoch {
				say("batch %d of %s is not what was committed", r.Seq, l)
			}
			there[batchID{l, r.Seq}], highest[l] = true, r.Seq
			from = r.Seq + 1
		}
	}
	for id := range p.batches {
		if !there[id] && !p.perhaps[id] {
			say("confirmed batch %v is gone", id)
		}
		highest[id.lane] = max(highest[id.lane], id.seq)
	}
	for id := range p.released {
		if there[id] {
			say("released batch %v is back", id)
		}
	}
	parts := map[batchID]int{}
	for _, e := range q.Recovered() {
		id := batchID{e.Lane, e.Seq}
		if want := buffertest.Entry(e.Lane, e.Seq, parts[id]); !bytes.Equal(e.Bytes, want.Bytes) || there[id] {
			say("journal of %v, part %d: %q", id, parts[id], e.Bytes)
		}
		parts[id]++
	}
	for id, n := range p.journal {
		if !there[id] && parts[id] < n {
			say("%d journal entries of %v, confirmed were %d", parts[id], id, n)
		}
		highest[id.lane] = max(highest[id.lane], id.seq)
	}
	for l, seq := range highest {
		if next := q.Reserve(l); next <= seq {
			say("%s: seq %d is given again, %d is in use", l, next, seq)
		}
	}
	return broken, newEpoch
}

// powercuts replays some states of a recording and returns how many broke a promise, and how many began a new epoch.
// hold holds a queue to them.
func powercuts(t *testing.T, dir string, events []event, states int, syncs bool,
	hold func(p *promised, dir string) (broken []string, newEpoch bool)) (bad, newEpochs int) {
	t.Helper()
	base := scratch(t)
	rnd := rand.New(rand.NewPCG(21, 22))
	hows := []string{"nothing", "all", "cut", "dropped", "torn", "torn"}
	stops := map[int]int{}
	for range states {
		stops[rnd.IntN(len(events))]++
	}
	d := &disk{now: map[string]*diskFile{}, synced: map[string]*diskFile{}, sync: syncs}
	p := &promised{
		batches: map[batchID]int{}, journal: map[batchID]int{}, perhaps: map[batchID]bool{}, released: map[batchID]bool{},
		epoch: 0x65706f6368373700, // "epoch77\0", see childWork
	}
	for i, e := range events {
		if said := d.event(t, e); said != "" {
			p.hear(t, said)
		}
		for range stops[i] {
			how := hows[rnd.IntN(len(hows))]
			into, err := os.MkdirTemp(base, "state")
			if err != nil {
				t.Fatal(err)
			}
			for name, b := range d.cut(how, rnd) {
				rel, _ := filepath.Rel(dir, name)
				path := filepath.Join(into, rel)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, bytes.TrimRight(b, "\x00"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(path, int64(len(b))); err != nil {
					t.Fatal(err)
				}
			}
			broken, newEpoch := hold(p, into)
			if newEpoch && (len(p.batches) > 0 || len(p.journal) > 0) {
				newEpochs++
			}
			if len(broken) > 0 {
				if bad++; syncs && bad < 4 {
					t.Errorf("cut behind event %d (%s %s), unsynced writes: %s\n\t%s", i, e.call, e.path, how, strings.Join(broken, "\n\t"))
				}
			}
			os.RemoveAll(into)
		}
	}
	return bad, newEpochs
}

// scratch is a folder in memory where there is one: states that are only looked at need no disk.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "waybill-buffer")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestPowerCut: no state breaks a promise. WAYBILL_POWERCUT_STATES says how many; a release runs 4,000 and more.
func TestPowerCut(t *testing.T) {
	states := 400
	if testing.Short() {
		states = 100
	}
	if n, err := strconv.Atoi(os.Getenv("WAYBILL_POWERCUT_STATES")); err == nil {
		states = n
	}
	dir := filepath.Join(t.TempDir(), "queue")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	events := record(t, "work", dir, 220)
	calls := map[string]int{}
	for _, e := range events {
		calls[e.call]++
	}
	if calls["write"] < 300 || calls["sync"] < 150 || calls["rename"] < 8 || calls["unlink"] < 3 {
		t.Fatalf("the recording has too little in it: %v", calls)
	}
	hold := func(p *promised, dir string) ([]string, bool) {
		return p.hold(dir, buffer.Options{SegmentBytes: 256 << 10, Rand: crand.Reader})
	}
	bad, newEpochs := powercuts(t, dir, events, states, true, hold)
	if bad > 0 {
		t.Errorf("%d of %d states break a promise", bad, states)
	}
	t.Logf("%d states out of %v: %d broken, %d new epochs", states, calls, bad, newEpochs)

	// The control: with the syncs taken out it must fail, or the replay sees nothing.
	if bad, _ := powercuts(t, dir, events, 60, false, hold); bad < 20 {
		t.Errorf("without syncs only %d of 60 states break a promise", bad)
	}
}
