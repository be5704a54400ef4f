package buffer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
)

// TestLimits works at the edge: segments of the least and of the most bytes, the largest batch that each takes and one byte
// more, and a segment filled until it rolls. make test-arm runs it on 32 bits, where a mapping has its limits.
func TestLimits(t *testing.T) {
	for name, size := range map[string]int64{"least": 256 << 10, "default": 16 << 20, "most": 256 << 20} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(scratch(t), "queue")
			o := options(t)
			o.SegmentBytes, o.MaxBytes = size, 4*size
			q := open(t, dir, o)
			largest := buffer.MaxBatch(size)
			body := make([]byte, largest+1) // mostly zeros, so that it is made and compared quickly
			end := 0                        // where the last byte of the one before was
			mark := func(seq uint64, n int) buffer.Record {
				body[end], end = 0, n-1
				b := body[:n]
				for at := 0; at+8 <= n; at += 4096 {
					binary.BigEndian.PutUint64(b[at:], seq<<40|uint64(at))
				}
				b[n-1] = byte(seq)
				return buffer.Record{Lane: tele, Seq: seq, Samples: 1, First: 1, Last: 2, Bytes: b}
			}
			seq := q.Reserve(tele)
			if err := q.Commit([]buffer.Record{mark(seq, largest+1)}, nil); !errors.Is(err, buffer.ErrTooLarge) {
				t.Fatalf("%d bytes: %v, want ErrTooLarge", largest+1, err)
			}
			if err := q.Commit([]buffer.Record{mark(seq, largest)}, nil); err != nil {
				t.Fatalf("%d bytes: %v", largest, err)
			}
			// Then a segment in 64 pieces and a little more: it rolls by itself, and no file passes its bound.
			piece := int(size / 64)
			for range 66 {
				if err := q.Commit([]buffer.Record{mark(q.Reserve(tele), piece)}, nil); err != nil {
					t.Fatal(err)
				}
			}
			check := func() {
				t.Helper()
				for from := uint64(1); from <= 67; from++ {
					r, err := q.Next(tele, from)
					if err != nil || r.Seq != from {
						t.Fatalf("Next(%d): %d, %v", from, r.Seq, err)
					}
					n := piece
					if from == 1 {
						n = largest
					}
					if want := mark(from, n); !bytes.Equal(r.Bytes, want.Bytes) {
						t.Fatalf("batch %d of %d bytes is not what was committed", from, n)
					}
				}
			}
			check()
			segments := q.Segments()
			if len(segments) < 3 {
				t.Errorf("%d segments, want three or more", len(segments))
			}
			for _, s := range segments {
				if s.DiskBytes > size || s.FileBytes > size+2<<20 {
					t.Errorf("segment %d has %d bytes, %d on disk; its bound is %d", s.Number, s.FileBytes, s.DiskBytes, size)
				}
			}
			q.Abandon()
			q = open(t, dir, o)
			check()
			q.Release(tele, buffer.Range{First: 1, Last: 67})
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			if files, _ := filepath.Glob(filepath.Join(dir, "telemetry", "*")); len(files) > 0 {
				t.Errorf("%v stay", files)
			}
			_ = os.RemoveAll(dir)
		})
	}
}
