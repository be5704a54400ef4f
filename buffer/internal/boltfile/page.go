package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// page is one page, or the page inside an inline bucket. Its first bytes are in memory, the rest is read when needed.
type page struct {
	s      *Snapshot
	offset int64 // of the header, in the file
	extent int64 // bytes that belong to it, overflow pages included
	head   []byte
	count  int
	branch bool
}

// page reads and checks the page of an id.
func (s *Snapshot) page(id uint64) (page, error) {
	if id < 2 || id >= s.highest || id >= uint64(s.size/PageSize) {
		return page{}, damaged("page %d is outside of the file", id)
	}
	offset := int64(id) * PageSize
	head := make([]byte, PageSize)
	if err := readAt(s.r, head, offset); err != nil {
		return page{}, err
	}
	if got := binary.LittleEndian.Uint64(head); got != id {
		return page{}, damaged("page %d calls itself %d", id, got)
	}
	overflow := uint64(binary.LittleEndian.Uint32(head[12:]))
	if id+overflow >= s.highest || int64(id+overflow+1)*PageSize > s.size {
		return page{}, damaged("page %d runs over the end", id)
	}
	return s.checked(page{s: s, offset: offset, extent: int64(overflow+1) * PageSize, head: head})
}

// inlinePage reads the page that stands in a bucket's value. Its id means nothing.
func (s *Snapshot) inlinePage(offset, room int64) (page, error) {
	if room < headerSize || room > PageSize {
		return page{}, damaged("an inline bucket of %d bytes", room)
	}
	head := make([]byte, room)
	if err := readAt(s.r, head, offset); err != nil {
		return page{}, err
	}
	p, err := s.checked(page{s: s, offset: offset, extent: room, head: head})
	if err == nil && p.branch {
		return page{}, damaged("an inline branch page")
	}
	return p, err
}

func (s *Snapshot) checked(p page) (page, error) {
	switch flags := binary.LittleEndian.Uint16(p.head[8:]); flags {
	case flagBranch:
		p.branch = true
	case flagLeaf:
	default:
		return page{}, damaged("page at %d: flags %#x", p.offset, flags)
	}
	p.count = int(binary.LittleEndian.Uint16(p.head[10:]))
	if int64(headerSize+p.count*elemSize) > p.extent {
		return page{}, damaged("page at %d: %d elements", p.offset, p.count)
	}
	return p, nil
}

// at gives n bytes at an offset inside the page; those that are in memory alias it.
func (p page) at(offset, n int64) ([]byte, error) {
	if offset < 0 || n < 0 || offset+n > p.extent {
		return nil, damaged("page at %d: an element outside of it", p.offset)
	}
	if offset+n <= int64(len(p.head)) {
		return p.head[offset : offset+n], nil
	}
	buf := make([]byte, n)
	return buf, readAt(p.s.r, buf, p.offset+offset)
}

// maxKey is bbolt's own limit.
const maxKey = 32 << 10

// leaf reads element i of a leaf page.
func (p page) leaf(i int) (key []byte, v Value, flags uint32, err error) {
	start := int64(headerSize + i*elemSize)
	elem, err := p.at(start, elemSize)
	if err != nil {
		return nil, v, 0, err
	}
	le := binary.LittleEndian
	pos, ksize, vsize := int64(le.Uint32(elem[4:])), int64(le.Uint32(elem[8:])), int64(le.Uint32(elem[12:]))
	if ksize == 0 || ksize > maxKey || start+pos+ksize+vsize > p.extent {
		return nil, v, 0, damaged("page at %d: element %d", p.offset, i)
	}
	key, err = p.at(start+pos, ksize)
	return key, Value{Offset: p.offset + start + pos + ksize, Size: vsize}, le.Uint32(elem), err
}

// branchElem reads element i of a branch page: the first key below a child, and the child.
func (p page) branchElem(i int) (key []byte, child uint64, err error) {
	start := int64(headerSize + i*elemSize)
	elem, err := p.at(start, elemSize)
	if err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	pos, ksize := int64(le.Uint32(elem)), int64(le.Uint32(elem[4:]))
	if ksize == 0 || ksize > maxKey {
		return nil, 0, damaged("page at %d: element %d", p.offset, i)
	}
	key, err = p.at(start+pos, ksize)
	return key, le.Uint64(elem[8:]), err
}

// seekLeaf finds the first key ≥ key in a leaf page.
func (p page) seekLeaf(key []byte) (found []byte, v Value, flags uint32, ok bool, err error) {
	lo, hi := 0, p.count
	for lo < hi {
		mid := (lo + hi) / 2
		k, _, _, err := p.leaf(mid)
		if err != nil {
			return nil, v, 0, false, err
		}
		if bytes.Compare(k, key) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == p.count {
		return nil, v, 0, false, nil
	}
	found, v, flags, err = p.leaf(lo)
	return found, v, flags, err == nil, err
}

// readAt fills buf; a file that ends too soon is damage, any other error is the disk's.
func readAt(r io.ReaderAt, buf []byte, offset int64) error {
	n, err := r.ReadAt(buf, offset)
	switch {
	case n == len(buf):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return damaged("the file ends at %d", offset+int64(n))
	}
	return err
}
