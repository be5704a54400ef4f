package buffer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"testing"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// seal puts the checksum that belongs there at the end, so that the fuzzer gets past it.
func seal(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	b = bytes.Clone(b)
	be.PutUint32(b[len(b)-4:], checksum(b[:len(b)-4]))
	return b
}

func someMeta() *meta {
	m := &meta{
		Generation: 7, Clean: true, LastCommit: 1e18, HasParent: true,
		Parent: Parent{Epoch: 3, Last: map[Lane]uint64{Control: 1, Event: 2, Telemetry: 3, Raw: 4}, Reason: "meta is damaged"},
		Epochs: []epochStart{{Epoch: 3, Start: [5]uint64{0, 1, 1, 1, 1}}, {Epoch: 9, Start: [5]uint64{0, 2, 3, 4, 5}}},
	}
	m.Lanes[Telemetry] = metaLane{
		Next: 90, NextCommit: 50, NextSegment: 4, Released: ranges.Set{{First: 0, Last: 20}, {First: 30, Last: 30}},
		Segments: []metaSegment{{
			Number: 2, Epoch: 3, Closed: true, First: 10, Last: 40, FileBytes: 1 << 20, Batches: 60, Bytes: 900000, Samples: 7,
			FirstTime: -5, LastTime: 1 << 60, Stored: ranges.Set{{First: 21, Last: 80}}, Journal: ranges.Set{{First: 85, Last: 85}},
		}, {Number: 3, Epoch: 9, Salvaged: true}},
	}
	return m
}

func TestMetaRoundTrip(t *testing.T) {
	want := someMeta()
	b := appendMeta(nil, want)
	got, err := parseMeta(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for i := range b {
		b[i] ^= 0x10
		if _, err := parseMeta(b); !errors.Is(err, errMeta) {
			t.Fatalf("byte %d flipped: %v, want errMeta", i, err)
		}
		b[i] ^= 0x10
	}
	for n := range b {
		if _, err := parseMeta(b[:n]); !errors.Is(err, errMeta) {
			t.Fatalf("cut off at %d: %v, want errMeta", n, err)
		}
	}
}

// TestRecordBytes holds the format to bytes written out by hand, as FORMAT.md describes them.
func TestRecordBytes(t *testing.T) {
	got := appendBatch(nil, &Record{Lane: Telemetry, Seq: 0x1122, Samples: 5, First: 0x0A0B, Last: -1, Bytes: []byte("123456789")}, 0xE0, 0x33)
	want, err := hex.DecodeString("57425231" + "62" + "03" + "0000" + "00000000000000e0" + "0000000000001122" +
		"0000000000000033" + "0000000000000a0b" + "ffffffffffffffff" + "00000005" + "00000009" + "e3069283")
	if err != nil {
		t.Fatal(err)
	}
	// CRC-32C of "123456789" is E3069283: the check value that CRC catalogues give for it.
	if !bytes.Equal(got[:60], want) || string(got[64:]) != "123456789" {
		t.Errorf("header\n%x, want\n%x", got[:60], want)
	}
	h, body, err := openRecord(got)
	if err != nil || string(body) != "123456789" || h.Last != -1 {
		t.Errorf("%+v, %q, %v", h, body, err)
	}
	for i := range got {
		got[i] ^= 2
		if _, _, err := openRecord(got); !errors.Is(err, errRecord) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		got[i] ^= 2
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(appendMeta(nil, someMeta()))
	f.Add(appendMeta(nil, &meta{Epochs: []epochStart{{Epoch: 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, seal(b)} {
			m, err := parseMeta(b)
			if err != nil {
				continue
			}
			again, err := parseMeta(appendMeta(nil, m))
			if err != nil || !reflect.DeepEqual(m, again) {
				t.Errorf("%+v, %v, was %+v", again, err, m)
			}
		}
	})
}

func FuzzCommitHead(f *testing.F) {
	head := commitHead{
		Commit: 9, Lane: Event, Epoch: 4, Batches: []listed{{Seq: 7, Length: 100, Samples: 3, First: -1, Last: 2}, {Seq: 8}},
		Journal: ranges.Set{{First: 9, Last: 9}},
	}
	head.Released[Raw] = ranges.Set{{First: 1, Last: 5}}
	f.Add(appendCommitHead(nil, &head))
	f.Add(appendCommitHead(nil, &commitHead{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, seal(b)} {
			c, err := parseCommitHead(b)
			if err != nil {
				continue
			}
			again, err := parseCommitHead(appendCommitHead(nil, &c))
			if err != nil || !reflect.DeepEqual(c, again) {
				t.Errorf("%+v, %v, was %+v", again, err, c)
			}
		}
	})
}

func FuzzSalvage(f *testing.F) {
	one := appendBatch(nil, &Record{Lane: Event, Seq: 4, Bytes: []byte("body")}, 1, 2)
	two := appendJournal(nil, &JournalEntry{Lane: Event, Seq: 5, Bytes: []byte("j")}, 1, 1, 2)
	f.Add(append(append([]byte("xxWBR1"), one...), two...))
	f.Add(two[:len(two)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := salvage(bytes.NewReader(b), int64(len(b)), wanted{lane: Event, number: 1}, "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range c.batches {
			if h, err := parseHeader(b[p.at:]); err != nil || h.Seq != p.Seq || h.Kind != kindBatch {
				t.Errorf("batch %d at %d: %+v, %v", p.Seq, p.at, h, err)
			}
		}
	})
}

// FuzzSegment reads segments of any bytes: an error, or what can be salvaged; never a panic.
func FuzzSegment(f *testing.F) {
	t, err := newTail(f.TempDir(), segmentHead{Lane: Event, Epoch: 5, Number: 0, First: 1, Generation: 1}, minSegment, false)
	if err != nil {
		f.Fatal(err)
	}
	r := &Record{Lane: Event, Seq: 1, Bytes: []byte("batch")}
	head := commitHead{Lane: Event, Epoch: 5, Commit: 1, Batches: []listed{{Seq: 1, Length: 5}}}
	if err := t.write(&head, func(uint64) uint64 { return 5 }, []*Record{r}, nil); err != nil {
		f.Fatal(err)
	}
	t.close(nil)
	contents, err := os.ReadFile(t.seg.path)
	if err != nil {
		f.Fatal(err)
	}
	contents = contents[:8*4096]
	f.Add(contents, uint16(0), byte(0))
	f.Add(contents, uint16(4096+16), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, x byte) {
		if len(b) == 0 {
			return
		}
		b = bytes.Clone(b)
		b[int(at)%len(b)] ^= x
		c, err := walkSegment(bytes.NewReader(b), int64(len(b)), wanted{lane: Event})
		if err != nil {
			if !isDamage(err) && !errors.Is(err, ErrNewerFormat) {
				t.Errorf("%v: neither damage nor a newer format", err)
			}
			return
		}
		if c.head.Lane != Event || c.last+1 < c.first {
			t.Errorf("%+v", c)
		}
	})
}
