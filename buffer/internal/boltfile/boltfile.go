// Package boltfile reads a bbolt file without locking, mapping or trusting it. bbolt itself maps a file (a truncated
// one then kills the process with SIGBUS), panics on damaged pages, takes a lock that the writer holds, and checks
// nothing but its two meta pages. This reader takes any bytes and answers with records or with an error; it knows pages and
// buckets, not what is in them. The layout is that of bbolt 1.x, file version 2: see FORMAT.md.
package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// Layout of a bbolt file, version 2. Integers are in the machine's order, little-endian on everything Waybill runs on.
const (
	PageSize   = 4096 // the writer sets it; a file of another size is refused
	headerSize = 16   // id u64, flags u16, count u16, overflow u32
	elemSize   = 16   // both kinds of element

	magic    = 0xED0CDAED
	version  = 2
	metaSize = 56 // checksummed part of a meta page, behind the page header

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagMeta   = 0x04

	elemBucket = 0x01 // leaf element: the value is a bucket
	bucketHead = 16   // root page id u64, sequence u64

	maxDepth = 12 // a root tree of 2^12 pages at the least fill; deeper means a loop
)

// ErrDamaged says that the bytes do not make a bbolt file.
var ErrDamaged = errors.New("damaged page structure")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Snapshot is the newest state that a file's meta pages show. It stays readable while a writer goes on for one more
// commit, since bbolt never overwrites a page that the state before needs; Moved tells.
type Snapshot struct {
	r       io.ReaderAt
	size    int64
	root    uint64
	highest uint64 // number of pages in use
	txid    uint64

	// BothMetas says that both meta pages were whole and of consecutive transactions. A commit writes one of them, so a
	// file whose newest commit was confirmed has two; with one, or with an old one, the newest may be gone.
	BothMetas bool
}

// Open reads the meta pages.
func Open(r io.ReaderAt, size int64) (*Snapshot, error) {
	var best *Snapshot
	var sum uint64
	whole := 0
	for id := range int64(2) {
		s, err := readMeta(r, size, id)
		switch {
		case errors.Is(err, ErrDamaged):
			continue
		case err != nil:
			return nil, err
		}
		whole++
		sum += s.txid
		if best == nil || s.txid > best.txid {
			best = s
		}
	}
	if best == nil {
		return nil, damaged("no meta page is whole")
	}
	best.BothMetas = whole == 2 && sum+1 == 2*best.txid
	return best, nil
}

func readMeta(r io.ReaderAt, size, id int64) (*Snapshot, error) {
	var page [headerSize + metaSize + 8]byte
	if err := readAt(r, page[:], id*PageSize); err != nil {
		return nil, err
	}
	m := page[headerSize:]
	sum := fnv.New64a()
	sum.Write(m[:metaSize])
	le := binary.LittleEndian
	switch {
	case le.Uint32(m) != magic || le.Uint32(m[4:]) != version:
		return nil, damaged("page %d is no meta page", id)
	case le.Uint64(m[metaSize:]) != sum.Sum64():
		return nil, damaged("meta page %d: checksum", id)
	case le.Uint16(page[8:]) != flagMeta || le.Uint64(page[:]) != uint64(id):
		return nil, damaged("meta page %d: header", id)
	case le.Uint32(m[8:]) != PageSize:
		return nil, damaged("pages of %d bytes, want %d", le.Uint32(m[8:]), PageSize)
	}
	return &Snapshot{r: r, size: size, root: le.Uint64(m[16:]), highest: le.Uint64(m[40:]), txid: le.Uint64(m[48:])}, nil
}

// Transaction is the number of the transaction that the snapshot shows; a new file's first one is 2.
func (s *Snapshot) Transaction() uint64 { return s.txid }

// Used is where the pages end that the state may refer to; in a file that was cut off, behind its end.
func (s *Snapshot) Used() int64 { return int64(min(s.highest, maxPages)) * PageSize }

const maxPages = 1 << 40

// Moved says whether the file has committed since the snapshot was taken; then a page it read may have been reused.
func (s *Snapshot) Moved() bool {
	now, err := Open(s.r, s.size)
	return err != nil || now.txid != s.txid
}

// Bucket is one bucket of the root, a place in the file.
type Bucket struct {
	s      *Snapshot
	root   uint64 // page of its tree; 0 = inline
	inline int64  // offset of the page inside the value, when inline
	room   int64  // bytes of that page
}

// Value is where a key's value lies in the file.
type Value struct {
	Offset int64
	Size   int64
}

// Buckets calls each for every bucket of the root, in the order of their names. name is only valid during the call.
func (s *Snapshot) Buckets(each func(name []byte, b Bucket) error) error {
	return s.walk(s.root, 0, new(uint64), func(p page, i int) error {
		name, value, flags, err := p.leaf(i)
		if err != nil {
			return err
		}
		if flags&elemBucket == 0 {
			return nil
		}
		b, err := s.bucket(value)
		if err != nil {
			return err
		}
		return each(name, b)
	})
}

// Bucket finds the first bucket of the root whose name begins with prefix; ok is false when there is none.
func (s *Snapshot) Bucket(prefix []byte) (b Bucket, name []byte, ok bool, err error) {
	name, value, flags, ok, err := s.seek(s.root, prefix, 0)
	if err != nil || !ok || !bytes.HasPrefix(name, prefix) || flags&elemBucket == 0 {
		return Bucket{}, nil, false, err
	}
	b, err = s.bucket(value)
	return b, name, err == nil, err
}

func (s *Snapshot) bucket(v Value) (Bucket, error) {
	var head [bucketHead]byte
	if v.Size < bucketHead {
		return Bucket{}, damaged("a bucket of %d bytes", v.Size)
	}
	if err := readAt(s.r, head[:], v.Offset); err != nil {
		return Bucket{}, err
	}
	b := Bucket{s: s, root: binary.LittleEndian.Uint64(head[:])}
	if b.root == 0 {
		b.inline, b.room = v.Offset+bucketHead, v.Size-bucketHead
	}
	return b, nil
}

// Each calls each for every key of the bucket, in order. key is only valid during the call.
func (b Bucket) Each(each func(key []byte, v Value) error) error {
	visit := func(p page, i int) error {
		key, value, _, err := p.leaf(i)
		if err != nil {
			return err
		}
		return each(key, value)
	}
	if b.root != 0 {
		return b.s.walk(b.root, 0, new(uint64), visit)
	}
	p, err := b.s.inlinePage(b.inline, b.room)
	if err != nil {
		return err
	}
	for i := range p.count {
		if err := visit(p, i); err != nil {
			return err
		}
	}
	return nil
}

// Find looks a key up.
func (b Bucket) Find(key []byte) (v Value, ok bool, err error) {
	var found []byte
	if b.root != 0 {
		found, v, _, ok, err = b.s.seek(b.root, key, 0)
	} else {
		var p page
		if p, err = b.s.inlinePage(b.inline, b.room); err == nil {
			found, v, _, ok, err = p.seekLeaf(key)
		}
	}
	return v, ok && bytes.Equal(found, key), err
}

// Read reads a value.
func (s *Snapshot) Read(v Value) ([]byte, error) {
	buf := make([]byte, v.Size)
	return buf, readAt(s.r, buf, v.Offset)
}

// ReadPrefix reads the first bytes of a value, as many as buf and the value hold.
func (s *Snapshot) ReadPrefix(v Value, buf []byte) ([]byte, error) {
	buf = buf[:min(int64(len(buf)), v.Size)]
	return buf, readAt(s.r, buf, v.Offset)
}

// walk visits the leaf elements below a page, in order. pages counts what was visited: a tree has no page twice.
func (s *Snapshot) walk(id uint64, depth int, pages *uint64, visit func(p page, i int) error) error {
	if *pages++; depth > maxDepth || *pages > s.highest {
		return damaged("page %d: a loop", id)
	}
	p, err := s.page(id)
	if err != nil {
		return err
	}
	for i := range p.count {
		if p.branch {
			_, child, err := p.branchElem(i)
			if err != nil {
				return err
			}
			err = s.walk(child, depth+1, pages, visit)
			if err != nil {
				return err
			}
		} else if err := visit(p, i); err != nil {
			return err
		}
	}
	return nil
}

// seek finds the first key ≥ key below a page.
func (s *Snapshot) seek(id uint64, key []byte, depth int) (found []byte, v Value, flags uint32, ok bool, err error) {
	if depth > maxDepth {
		return nil, v, 0, false, damaged("page %d: deeper than %d", id, maxDepth)
	}
	p, err := s.page(id)
	if err != nil {
		return nil, v, 0, false, err
	}
	if !p.branch {
		return p.seekLeaf(key)
	}
	// It is in the last child whose first key is not above key, or first in the one behind.
	lo, hi := 0, p.count
	for lo < hi {
		mid := (lo + hi) / 2
		k, _, err := p.branchElem(mid)
		if err != nil {
			return nil, v, 0, false, err
		}
		if bytes.Compare(k, key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for i := max(lo-1, 0); i <= lo && i < p.count; i++ {
		_, child, err := p.branchElem(i)
		if err != nil {
			return nil, v, 0, false, err
		}
		found, v, flags, ok, err = s.seek(child, key, depth+1)
		if err != nil || ok {
			return found, v, flags, ok, err
		}
	}
	return nil, v, 0, false, nil
}
