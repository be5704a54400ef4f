package buffer_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/buffer/buffertest"
)

// The traps that other stores fell into, by name. docs/TESTING.md lists where the others are.

// TestTrapDrainedPowerCutRestart: everything was delivered and the segments are gone, so meta alone knows how far the numbers
// had come; or meta is on the disk and the unlinks are not. Numbers go on, and nothing is sent again.
func TestTrapDrainedPowerCutRestart(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	add(t, q, tele, 60, 12000)
	add(t, q, buffer.Event, 2, 100)
	full := tree(t, dir)
	q.Release(tele, buffer.Range{First: 1, Last: 60})
	q.Release(buffer.Event, buffer.Range{First: 1, Last: 2})
	if err := q.Close(); err != nil { // tails go as well
		t.Fatal(err)
	}
	epoch, drained := q.Epoch(), tree(t, dir)
	if n := len(segments(drained, tele)); n != 0 {
		t.Fatalf("%d segments after draining", n)
	}
	back := maps.Clone(drained)
	for _, l := range []buffer.Lane{tele, buffer.Event} {
		for _, name := range segments(full, l) {
			back[name] = full[name]
		}
	}
	some := maps.Clone(drained)
	for i, name := range segments(full, tele) {
		if i%2 == 1 {
			some[name] = full[name]
		}
	}
	for name, files := range map[string]map[string][]byte{"unlinked": drained, "no unlink arrived": back, "some did": some} {
		o := run(t, plant(t, files), epoch)
		if o.err != nil || o.newEpoch || len(o.delivered) > 0 || len(o.damage) > 0 {
			t.Errorf("%s: %v, new epoch %v, %d delivered again, %v", name, o.err, o.newEpoch, len(o.delivered), o.damage)
			continue
		}
		if a, b := o.q.Reserve(tele), o.q.Reserve(buffer.Event); a != 61 || b != 3 {
			t.Errorf("%s: the next seqs are %d and %d, want 61 and 3", name, a, b)
		}
		if n := len(o.q.Segments()); n > 0 {
			t.Errorf("%s: %d segments stay", name, n)
		}
	}
}

// TestTrapJournalAndBatchApart: a batch's journal entry is in one segment and the batch in a later one. Wherever the power goes,
// the content is there exactly once: recovered from the journal, or as the batch.
func TestTrapJournalAndBatchApart(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, options(t))
	open1 := q.Reserve(tele)
	if err := q.Commit(nil, []buffer.JournalEntry{buffertest.Entry(tele, open1, 0)}); err != nil {
		t.Fatal(err)
	}
	var states []map[string][]byte
	add(t, q, tele, 60, 12000) // rolls
	states = append(states, tree(t, dir))
	q.Release(tele, buffer.Range{First: 2, Last: 61})
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	states = append(states, tree(t, dir)) // nothing but the entry keeps its segment
	if err := q.Roll(tele); err != nil {  // the new segment is made, the batch is not in it
		t.Fatal(err)
	}
	states = append(states, tree(t, dir))
	before := len(states)
	if err := q.Commit([]buffer.Record{buffertest.Batch(tele, open1, 100)}, nil); err != nil {
		t.Fatal(err)
	}
	states = append(states, tree(t, dir)) // the entry is still there
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	gone := tree(t, dir)
	states = append(states, gone) // its segment is not
	back := maps.Clone(gone)      // or the unlink did not arrive
	first := segments(states[0], tele)[0]
	back[first] = states[0][first]
	states = append(states, back)
	if _, there := gone[first]; there {
		t.Fatal("the journal's segment stays")
	}
	epoch := q.Epoch()
	q.Abandon()
	for i, files := range states {
		o := run(t, plant(t, files), epoch)
		if o.err != nil || o.newEpoch || len(o.damage) > 0 {
			t.Fatalf("state %d: %v, new epoch %v, %v", i, o.err, o.newEpoch, o.damage)
		}
		recovered := o.q.Recovered()
		if sealed := o.delivered[batchID{tele, open1}]; sealed != (i >= before) || (len(recovered) == 1) == sealed {
			t.Errorf("state %d: batch there %v, %d entries recovered", i, sealed, len(recovered))
		}
		if seq := o.q.Reserve(tele); seq != 62 {
			t.Errorf("state %d: the next seq is %d, want 62", i, seq)
		}
	}
}

// TestTrapLossRecordedUnlinkCutOff: the record of an eviction is on the disk and the power goes before the evicted segment is
// unlinked, or before meta says so. What is recorded as lost is not sent, not recorded again, and its file goes.
func TestTrapLossRecordedUnlinkCutOff(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, evicting(t, false))
	var before map[string][]byte
	for q.Stats().Lanes[tele].Evicted == 0 {
		before = tree(t, dir)
		add(t, q, tele, 1, 12000)
	}
	after := tree(t, dir)
	next := q.Stats().Lanes[tele].Next
	q.Abandon()
	unlinked := slices.DeleteFunc(segments(before, tele), func(name string) bool { _, there := after[name]; return there })
	if len(unlinked) == 0 {
		t.Fatal("nothing was unlinked")
	}
	cut := maps.Clone(after)
	for _, name := range unlinked {
		cut[name] = before[name]
	}
	oldMeta := maps.Clone(cut) // the record's own commit releases; meta came after
	oldMeta["meta"] = before["meta"]
	for name, files := range map[string]map[string][]byte{"cut before the unlink": cut, "cut before meta": oldMeta} {
		o := evicting(t, false)
		o.OnDamage = func(d buffer.Damage) { t.Errorf("%s: damage: %v", name, d) }
		again := open(t, plant(t, files), o)
		h := look(again)
		if len(h.broken) > 0 {
			t.Errorf("%s: %s", name, strings.Join(h.broken, "; "))
		}
		h.all(t, tele, next)
		if len(h.lost[tele]) == 0 {
			t.Errorf("%s: no loss record", name)
		}
		for _, s := range again.Segments() {
			if slices.Contains(unlinked, s.File) {
				t.Errorf("%s: %s stays", name, s.File)
			}
		}
	}
}

// TestTrapPoisonFreesItsSegment: one batch among good ones is never taken, or cannot be read. The others' segments go at once,
// its own when it is rejected or found damaged; it holds up nothing.
func TestTrapPoisonFreesItsSegment(t *testing.T) {
	files, epoch, _ := sample(t)
	name := segments(files, tele)[1]
	poison := uint64(0)
	for seq := uint64(4); seq <= 60 && poison == 0; seq++ {
		if strings.Contains(string(files[name]), string(buffertest.Batch(tele, seq, 0).Bytes)) {
			poison = seq + 1
		}
	}
	for _, damaged := range []bool{false, true} {
		broken := maps.Clone(files)
		if damaged {
			b := []byte(string(files[name]))
			b[strings.Index(string(b), string(buffertest.Batch(tele, poison, 0).Bytes))+30] ^= 1
			broken[name] = b
		}
		o := run(t, plant(t, broken), epoch)
		if o.err != nil || o.delivered[batchID{tele, poison}] == damaged || o.lost[batchID{tele, poison}] != damaged {
			t.Fatalf("damaged %v: %v; delivered %v, lost %v", damaged, o.err, o.delivered[batchID{tele, poison}], o.lost[batchID{tele, poison}])
		}
		for id := range o.delivered {
			if id.lane == tele && id.seq != poison {
				o.q.Release(tele, buffer.Range{First: id.seq, Last: id.seq})
			}
		}
		if err := o.q.Sync(); err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, s := range o.q.Segments() {
			if s.Lane == tele {
				held++
			}
		}
		if want := map[bool]int{false: 1, true: 0}[damaged]; held != want {
			t.Errorf("damaged %v: %d segments are held, want %d", damaged, held, want)
		}
		o.q.Release(tele, buffer.Range{First: poison, Last: poison}) // rejected
		if err := o.q.Sync(); err != nil {
			t.Fatal(err)
		}
		for _, s := range o.q.Segments() {
			if s.Lane == tele {
				t.Errorf("damaged %v: %s stays", damaged, s.File)
			}
		}
	}
}
