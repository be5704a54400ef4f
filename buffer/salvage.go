package buffer

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// salvage looks for records at every place of a file, without its structure: each carries its own header with a
// checksum, its epoch, lane and commit, and lies in one piece. The bytes behind a header are checked when the batch is read.
// What comes out may include records of a commit that was under way; those are whole and were never sent.
func salvage(f io.ReaderAt, size int64, w wanted, why string) (*contents, error) {
	c := &contents{salvaged: true, damage: why}
	c.head = segmentHead{Lane: w.lane, Number: w.number}
	byKey := map[string]int{} // journal: (seq, part) → place in c.journal
	bySeq := map[uint64]int{}
	err := scanRecords(f, size, func(h header, at int64, body func() ([]byte, error)) error {
		if h.Lane != w.lane || !w.isOurs(h.Epoch) || w.last != 0 && h.Commit > w.last {
			return nil
		}
		if c.head.Epoch == 0 {
			c.head.Epoch = h.Epoch
		}
		if c.first == 0 || h.Commit < c.first {
			c.first = h.Commit
		}
		c.last = max(c.last, h.Commit)
		if h.Kind == kindBatch {
			p := placed{
				listed: listed{Seq: h.Seq, Length: h.Length, Samples: h.Samples, First: h.First, Last: h.Last},
				commit: h.Commit, at: at,
			}
			// A page that was copied leaves the same record behind twice; a commit that failed may leave another.
			i, there := bySeq[h.Seq]
			if !there {
				bySeq[h.Seq] = len(c.batches)
				c.batches = append(c.batches, p)
			} else if c.batches[i].commit < h.Commit {
				c.batches[i] = p
			}
			return nil
		}
		b, err := body()
		if err != nil {
			return err
		}
		if len(b) < journalBytes {
			return nil
		}
		key := fmt.Sprint(h.Seq, be.Uint32(b[36:]), h.Commit)
		if i, there := byKey[key]; !there {
			byKey[key] = len(c.journal)
			c.journal = append(c.journal, journaled{seq: h.Seq, commit: h.Commit, at: at})
		} else if checksum(b) == h.Sum {
			c.journal[i].at = at
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.head.First = c.first
	return c, nil
}

// anotherCopy looks for a sound copy of a batch whose bytes are damaged: bbolt copies a page to change it and leaves the
// one before where it was.
func anotherCopy(path string, lane Lane, e entry) (found header, bytes []byte, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return found, nil, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return found, nil, false
	}
	_ = scanRecords(f, info.Size(), func(h header, _ int64, body func() ([]byte, error)) error {
		if ok || h.Kind != kindBatch || h.Lane != lane || h.Seq != e.seq || h.Commit != e.commit {
			return nil
		}
		b, err := body()
		if err == nil && uint64(len(b)) == uint64(h.Length) && checksum(b) == h.Sum {
			found, bytes, ok = h, b, true
		}
		return nil
	})
	return found, bytes, ok
}

// salvageFile is salvage of a file by its name.
func salvageFile(path string, w wanted, why string) (*contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return salvage(f, info.Size(), w, why)
}

// scanRecords calls each for every header in the file whose checksum is right, in the order of the file.
func scanRecords(f io.ReaderAt, size int64, each func(h header, at int64, body func() ([]byte, error)) error) error {
	const window = 1 << 20
	buf := make([]byte, window)
	for base := int64(0); base < size; {
		n, err := f.ReadAt(buf[:min(window, size-base)], base)
		if n < headerBytes {
			if err == nil || err == io.EOF {
				return nil
			}
			// A block that the disk cannot read: go on behind it.
			base += 4096
			continue
		}
		chunk := buf[:n]
		next := base + int64(n) - headerBytes + 1
		for i := 0; i+headerBytes <= len(chunk); {
			j := bytes.Index(chunk[i:], []byte(recordMagic))
			if j < 0 || i+j+headerBytes > len(chunk) {
				break
			}
			i += j
			h, err := parseHeader(chunk[i:])
			if err != nil {
				i++
				continue
			}
			at := base + int64(i)
			err = each(h, at, func() ([]byte, error) {
				if at+headerBytes+int64(h.Length) > size {
					return nil, nil
				}
				body := make([]byte, h.Length)
				if n, _ := f.ReadAt(body, at+headerBytes); n < len(body) {
					return nil, nil
				}
				return body, nil
			})
			if err != nil {
				return err
			}
			// Behind the header and not behind the bytes: their length may be right and still lead over other records
			// when the file was overwritten in part.
			i += headerBytes
		}
		base = next
	}
	return nil
}
