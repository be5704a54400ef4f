package buffer_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// A loss record of these tests is text: the lane, the seqs that go, the seqs of copies that stand for them. A copy is
// "copy" and the seqs it stands for.
func lossText(l buffer.Lane, gone, copies []uint64) []byte {
	return fmt.Appendf(nil, "loss %d %v %v", l, gone, copies)
}

type loss struct {
	lane         buffer.Lane
	gone, copies []uint64
}

func parseLoss(b []byte) (l loss, ok bool) {
	text, ok := strings.CutPrefix(string(b), "loss ")
	if !ok {
		return l, false
	}
	fields := strings.SplitN(strings.NewReplacer("] [", "|", " [", "|", "]", "").Replace(text), "|", 3)
	n, _ := strconv.Atoi(fields[0])
	l.lane = buffer.Lane(n)
	for i, into := range []*[]uint64{&l.gone, &l.copies} {
		for _, f := range strings.Fields(fields[i+1]) {
			seq, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				panic(err)
			}
			*into = append(*into, seq)
		}
	}
	return l, true
}

// evicts is an OnEvict: one loss record a step, and one copy of those that are not copies.
func evicts(of buffer.Eviction) (out buffer.Evicted, err error) {
	var gone, copies []uint64
	size, first, last := 0, int64(0), int64(0)
	var of1 []uint64
	for _, b := range of.Batches {
		gone = append(gone, b.Seq)
		if !bytes.HasPrefix(b.Bytes, []byte("copy")) {
			of1 = append(of1, b.Seq)
			size += len(b.Bytes)
			first, last = b.First, b.Last
		}
	}
	if of.Thin && len(of1) > 0 {
		seq := of.Reserve(of.Lane)
		copies = append(copies, seq)
		b := fmt.Appendf(nil, "copy %v ", of1)
		b = append(b, bytes.Repeat([]byte{'.'}, max(0, size/10-len(b)))...)
		out.Copies = []buffer.Record{{Lane: of.Lane, Seq: seq, Samples: uint32(len(of1)), First: first, Last: last, Bytes: b}}
	}
	for _, v := range of.Void {
		for seq := v.First; seq <= v.Last; seq++ {
			gone = append(gone, seq)
		}
	}
	out.Losses = []buffer.Record{{Lane: buffer.Control, Seq: of.Reserve(buffer.Control), Samples: 1, Bytes: lossText(of.Lane, gone, copies)}}
	return out, nil
}

// evicting are options of a small queue that evicts.
func evicting(t testing.TB, thin bool) buffer.Options {
	o := options(t)
	o.MaxBytes, o.ControlReserve, o.OnEvict, o.Thin = 4<<20, 512<<10, evicts, thin
	return o
}

// holdings is what a queue holds, and what its loss records say.
type holdings struct {
	live   map[buffer.Lane]ranges.Set
	lost   map[buffer.Lane]ranges.Set
	copies map[buffer.Lane]ranges.Set // named by loss records
	broken []string
}

// look drains without releasing.
func look(q *buffer.Queue) *holdings {
	h := &holdings{live: map[buffer.Lane]ranges.Set{}, lost: map[buffer.Lane]ranges.Set{}, copies: map[buffer.Lane]ranges.Set{}}
	say := func(format string, args ...any) { h.broken = append(h.broken, fmt.Sprintf(format, args...)) }
	add := func(m map[buffer.Lane]ranges.Set, l buffer.Lane, seq uint64) {
		s := m[l]
		s.Add(buffer.Range{First: seq, Last: seq})
		m[l] = s
	}
	for _, l := range buffer.Lanes() {
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err != nil {
				say("%v", err)
				break
			}
			from = r.Seq + 1
			add(h.live, l, r.Seq)
			if record, ok := parseLoss(r.Bytes); ok {
				for _, seq := range record.gone {
					if h.lost[record.lane].Contains(seq) {
						say("%s %d is recorded as lost twice", record.lane, seq)
					}
					add(h.lost, record.lane, seq)
				}
				for _, seq := range record.copies {
					add(h.copies, record.lane, seq)
				}
			} else if want := buffertest.Batch(l, r.Seq, len(r.Bytes)); !bytes.Equal(r.Bytes, want.Bytes) && !bytes.HasPrefix(r.Bytes, []byte("copy")) {
				say("%s %d is not what was committed", l, r.Seq)
			}
		}
	}
	for l, lost := range h.lost {
		for _, r := range lost {
			if both := h.live[l].Within(r); len(both) > 0 {
				say("%s %v: recorded as lost, and there", l, both)
			}
		}
		for _, r := range h.copies[l] {
			for seq := r.First; seq <= r.Last; seq++ {
				if !h.live[l].Contains(seq) && !lost.Contains(seq) {
					say("%s %d: a copy that is neither there nor lost", l, seq)
				}
			}
		}
	}
	return h
}

// all says that every number of a lane is there or recorded as lost.
func (h *holdings) all(t *testing.T, l buffer.Lane, next uint64) {
	t.Helper()
	missing := ranges.Set{{First: 1, Last: next - 1}}
	missing.RemoveSet(h.live[l])
	missing.RemoveSet(h.lost[l])
	if len(missing) > 0 {
		t.Errorf("%s: %v are neither there nor recorded as lost", l, missing)
	}
}

// TestDeadZone offers three times the quota: events and control are all there, of telemetry every number is there, in
// order, or recorded as lost, exactly once, over a kill too; the quota is kept throughout.
func TestDeadZone(t *testing.T) {
	for _, thin := range []bool{false, true} {
		t.Run(fmt.Sprint("thin ", thin), func(t *testing.T) {
			dir := t.TempDir()
			o := evicting(t, thin)
			q := open(t, dir, o)
			offered := int64(0)
			for n := 0; offered < 3*o.MaxBytes; n++ {
				batches := []buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 20<<10)}
				if n%10 == 0 {
					batches = append(batches, buffertest.Batch(buffer.Event, q.Reserve(buffer.Event), 500))
				}
				if n%50 == 0 {
					batches = append(batches, buffertest.Batch(buffer.Control, q.Reserve(buffer.Control), 500))
				}
				for _, b := range batches {
					offered += int64(len(b.Bytes))
				}
				if err := q.Commit(batches, nil); err != nil {
					t.Fatalf("commit %d: %v", n, err)
				}
				if used := q.Stats().DiskBytes; used > o.MaxBytes {
					t.Fatalf("commit %d: %d bytes on disk, quota %d", n, used, o.MaxBytes)
				}
				if n%97 == 0 {
					q.Abandon()
					q = open(t, dir, o)
				}
			}
			st := q.Stats()
			h := look(q)
			if len(h.broken) > 0 {
				t.Error(h.broken)
			}
			for _, l := range []buffer.Lane{buffer.Control, buffer.Event} {
				if want := (ranges.Set{{First: 1, Last: st.Lanes[l].Next - 1}}); !slices.Equal(h.live[l], want) {
					t.Errorf("%s: %v, want %v", l, h.live[l], want)
				}
			}
			h.all(t, tele, st.Lanes[tele].Next)
			originals := h.live[tele].Clone()
			originals.RemoveSet(h.copies[tele])
			if kept := originals.Count() * (20 << 10); kept < uint64(o.MaxBytes)/3 { // a commit of 20 KiB takes 32
				t.Errorf("telemetry of %d bytes is left, in a quota of %d", kept, o.MaxBytes)
			}
			if n := h.copies[tele].Count(); thin != (n > 5) {
				t.Errorf("%d copies", n)
			}
			if thin && st.Lanes[tele].Thinned+st.Lanes[tele].Evicted == 0 {
				t.Errorf("stats %+v", st.Lanes[tele])
			}
			q.Abandon()
			q = open(t, dir, o)
			again := look(q)
			if len(again.broken) > 0 || !slices.Equal(again.live[tele], h.live[tele]) || !slices.Equal(again.lost[tele], h.lost[tele]) {
				t.Errorf("opened again: %v, live %v lost %v", again.broken, again.live[tele], again.lost[tele])
			}
			// It drains to nothing.
			for _, l := range buffer.Lanes() {
				q.Release(l, buffer.Range{First: 1, Last: 1 << 40})
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			if files, _ := diskUse(t, dir); files != 0 {
				t.Errorf("%d segments are left", files)
			}
		})
	}
}

// fillUp commits batches of a lane until one step of eviction has happened, or the queue refuses.
func fillUp(t *testing.T, q *buffer.Queue, l buffer.Lane, happened func() bool) error {
	t.Helper()
	for range 3000 {
		if happened() {
			return nil
		}
		if err := q.Commit([]buffer.Record{buffertest.Batch(l, q.Reserve(l), 10<<10)}, nil); err != nil {
			return err
		}
	}
	t.Fatal("nothing happens")
	return nil
}

// TestWorth: what is worth less goes for what is worth more, never the other way round.
func TestWorth(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, evicting(t, false))
	gone := func(l buffer.Lane) uint64 { st := q.Stats().Lanes[l]; return st.Evicted + st.Thinned }
	fill := func(l buffer.Lane, n int) {
		for range n {
			if err := q.Commit([]buffer.Record{buffertest.Batch(l, q.Reserve(l), 10<<10)}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(buffer.Raw, 60)
	fill(tele, 60)
	if err := fillUp(t, q, tele, func() bool { return gone(buffer.Raw) > 0 }); err != nil || gone(tele) > 0 {
		t.Fatalf("telemetry came: %v, telemetry gone %d", err, gone(tele))
	}
	if err := fillUp(t, q, buffer.Event, func() bool { return gone(tele) > 0 }); err != nil || gone(buffer.Event) > 0 {
		t.Fatalf("events came: %v, events gone %d", err, gone(buffer.Event))
	}
	if err := fillUp(t, q, buffer.Event, func() bool { return gone(buffer.Event) > 0 }); err != nil {
		t.Fatal(err)
	}
	events := gone(buffer.Event)
	if err := fillUp(t, q, buffer.Raw, func() bool { return gone(buffer.Event) > events }); !errors.Is(err, buffer.ErrFull) {
		t.Errorf("raw in a queue of events: %v, want ErrFull", err)
	}
	if err := fillUp(t, q, buffer.Control, func() bool { return q.Stats().Lanes[buffer.Event].Batches == 0 }); err != nil {
		t.Errorf("control in a queue of events: %v", err)
	}
	if err := fillUp(t, q, buffer.Control, func() bool { return false }); !errors.Is(err, buffer.ErrFull) {
		t.Errorf("control in a queue of control: %v, want ErrFull", err)
	}
	if h := look(q); len(h.broken) > 0 {
		t.Error(h.broken)
	}
}

// TestLaneQuota: a lane that is at its own quota pays for itself.
func TestLaneQuota(t *testing.T) {
	o := evicting(t, true)
	o.MaxBytes = 64 << 20
	o.LaneBytes = map[buffer.Lane]int64{buffer.Raw: 1 << 20, tele: 3 << 20}
	q := open(t, t.TempDir(), o)
	for n := range 600 {
		l := []buffer.Lane{buffer.Raw, tele, buffer.Event}[n%3]
		if err := q.Commit([]buffer.Record{buffertest.Batch(l, q.Reserve(l), 10<<10)}, nil); err != nil {
			t.Fatal(err)
		}
		used := map[buffer.Lane]int64{}
		for _, s := range q.Segments() {
			used[s.Lane] += s.DiskBytes
		}
		if used[buffer.Raw] > 1<<20 || used[tele] > 3<<20 {
			t.Fatalf("batch %d: %v", n, used)
		}
	}
	st := q.Stats().Lanes
	if st[buffer.Raw].Thinned+st[buffer.Raw].Evicted == 0 || st[buffer.Event].Evicted > 0 {
		t.Errorf("%+v", st)
	}
	h := look(q)
	if len(h.broken) > 0 {
		t.Error(h.broken)
	}
	for l, s := range st {
		h.all(t, l, s.Next)
	}
}

// TestThinningIsRefused: copies that the disk does not take become a drop, and their numbers stand in its record.
func TestThinningIsRefused(t *testing.T) {
	dir := t.TempDir()
	o := evicting(t, true)
	asked, refused := 0, uint64(0)
	var q *buffer.Queue
	o.OnEvict = func(of buffer.Eviction) (buffer.Evicted, error) {
		out, err := evicts(of)
		if asked++; refused == 0 && len(out.Copies) == 1 {
			// The copy needs a new segment, and that cannot be made.
			out.Copies[0].Bytes = append(out.Copies[0].Bytes, make([]byte, 165<<10)...)
			refused = out.Copies[0].Seq
			segments := q.Segments()
			next := uint64(0)
			for _, s := range segments {
				if s.Lane == tele {
					next = s.Number + 1
				}
			}
			if err := os.MkdirAll(filepath.Join(dir, "telemetry", fmt.Sprintf("%012d.seg.tmp", next), "x"), 0o700); err != nil {
				t.Error(err)
			}
		}
		return out, err
	}
	q = open(t, dir, o)
	if err := fillUp(t, q, tele, func() bool { return asked >= 6 }); err != nil {
		t.Fatal(err)
	}
	if refused == 0 {
		t.Fatal("nothing was thinned")
	}
	h := look(q)
	if len(h.broken) > 0 {
		t.Error(h.broken)
	}
	if !h.lost[tele].Contains(refused) {
		t.Errorf("the number %d of the copy that was not written is not in a loss record", refused)
	}
	h.all(t, tele, q.Stats().Lanes[tele].Next)
	h.all(t, buffer.Control, q.Stats().Lanes[buffer.Control].Next)
}

// TestEvictionFails: without a record nothing goes.
func TestEvictionFails(t *testing.T) {
	o := evicting(t, false)
	broken := errors.New("no record")
	o.OnEvict = func(buffer.Eviction) (buffer.Evicted, error) { return buffer.Evicted{}, broken }
	q := open(t, t.TempDir(), o)
	err := fillUp(t, q, tele, func() bool { return false })
	if !errors.Is(err, broken) || !errors.Is(err, buffer.ErrFull) {
		t.Errorf("%v", err)
	}
	if h := look(q); len(h.broken) > 0 || h.live[tele].Count() != q.Stats().Lanes[tele].Next-2 {
		t.Errorf("%v, live %v", h.broken, h.live[tele])
	}
}

// TestKept: what is released stays for the time given, can be had again, and goes first.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	o := evicting(t, false)
	now := time.Unix(1_700_000_000, 0)
	o.KeepReleased, o.Now = time.Hour, func() time.Time { return now }
	q := open(t, dir, o)
	add(t, q, tele, 100, 10<<10)
	q.Release(tele, buffer.Range{First: 1, Last: 60})
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	q.Abandon()
	q = open(t, dir, o)
	got, err := q.Recall(q.Epoch(), tele, buffer.Range{First: 5, Last: 200})
	if err != nil || fmt.Sprint(got) != "{[{5 60}] [{61 100}] []}" {
		t.Fatalf("recalled %v, %v", got, err)
	}
	if got := buffertest.Drain(t, q, tele, 0); len(got) != 96 || got[0] != 5 {
		t.Errorf("%d batches from %v", len(got), got[:1])
	}
	if st := q.Stats().Lanes[tele]; st.Batches != 96 {
		t.Errorf("%+v", st)
	}
	q.Release(tele, buffer.Range{First: 1, Last: 60})
	q.Sync()
	if err := fillUp(t, q, tele, func() bool { return q.Segments()[0].Seqs[0].First > 30 }); err != nil || q.Stats().Lanes[tele].Evicted > 0 {
		t.Fatalf("%v, %+v", err, q.Stats().Lanes[tele])
	}
	if got, _ := q.Recall(q.Epoch(), tele, buffer.Range{First: 1, Last: 20}); fmt.Sprint(got) != "{[] [] [{1 20}]}" {
		t.Errorf("old batches are still kept in a full queue: %v", got)
	}
	q.Release(tele, buffer.Range{First: 1, Last: 1 << 40})
	q.Sync()
	now = now.Add(2 * time.Hour)
	q.Sync()
	if n := len(q.Segments()); n > 2 {
		t.Errorf("%d segments after the time is over", n)
	}
}

// TestLiveBeforeBacklog: what was acknowledged ahead of the backlog is not sent again after a restart, whichever lane's
// commit the release came to the disk with.
func TestLiveBeforeBacklog(t *testing.T) {
	for _, l := range buffer.Lanes() {
		dir := t.TempDir()
		q := open(t, dir, options(t))
		add(t, q, tele, 10, 1000)
		q.Release(tele, buffer.Range{First: 8, Last: 10})
		add(t, q, l, 1, 100)
		q.Abandon()
		q = open(t, dir, options(t))
		want := []uint64{1, 2, 3, 4, 5, 6, 7}
		if l == tele {
			want = append(want, 11)
		}
		if got := buffertest.Drain(t, q, tele, 0); !slices.Equal(got, want) {
			t.Errorf("with a commit of lane %s: %v, want %v", l, got, want)
		}
	}
}

// TestEvictWhileDraining: with a receiver at work at the same time, each batch was handed out or stands in a record.
func TestEvictWhileDraining(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, evicting(t, true))
	var sent, lost ranges.Set
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			for _, l := range []buffer.Lane{buffer.Control, tele} {
				r, err := q.Next(l, 0)
				if err != nil {
					continue
				}
				one := buffer.Range{First: r.Seq, Last: r.Seq}
				if record, ok := parseLoss(r.Bytes); ok && record.lane == tele {
					for _, seq := range record.gone {
						lost.Add(buffer.Range{First: seq, Last: seq})
					}
				} else if l == tele {
					sent.Add(one)
				}
				if err := q.Release(l, one); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for range 500 {
		batches := []buffer.Record{buffertest.Batch(tele, q.Reserve(tele), 10<<10), buffertest.Batch(tele, q.Reserve(tele), 20<<10)}
		if err := q.Commit(batches, nil); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	<-stopped
	if st := q.Stats().Lanes[tele]; st.Evicted+st.Thinned == 0 {
		t.Fatalf("%+v", st)
	}
	h := look(q)
	all := ranges.Set{{First: 1, Last: q.Stats().Lanes[tele].Next - 1}}
	for _, s := range []ranges.Set{sent, lost, h.live[tele], h.lost[tele]} {
		all.RemoveSet(s)
	}
	if len(all) > 0 {
		t.Errorf("%v were neither handed out nor recorded as lost", all)
	}
}
