package delivery

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// memDisk is a disk that notes every change, and can be asked what a power cut would have left of it after any of them. It
// assumes no more than POSIX: a file's bytes are durable when it was synced, its name when its folder was; what was not may be
// there, or not, or torn. Names become durable in their order, as a journalling file system has it.
type memDisk struct {
	ops   []diskOp
	names map[string]int // path to inode
	nodes [][]byte
	room  int64 // bytes that all files may have; negative: no limit
	syncs int
	mark  func() int64          // noted with each change
	fail  func(op diskOp) error // before a change
}

type diskOp struct {
	kind     string // create, write, truncate, sync, rename, remove, syncdir
	node     int
	path, to string
	off      int64
	data     []byte
	mark     int64
}

func newMemDisk() *memDisk { return &memDisk{names: map[string]int{}, room: -1} }

func (d *memDisk) note(op diskOp) error {
	if d.fail != nil {
		if err := d.fail(op); err != nil {
			return &fs.PathError{Op: op.kind, Path: op.path, Err: err}
		}
	}
	if d.mark != nil {
		op.mark = d.mark()
	}
	if op.kind == "sync" {
		d.syncs++
	}
	d.ops = append(d.ops, op)
	return nil
}

func (d *memDisk) open(path string) (file, error) {
	node, ok := d.names[path]
	if !ok {
		node = len(d.nodes)
		if err := d.note(diskOp{kind: "create", node: node, path: path}); err != nil {
			return nil, err
		}
		d.nodes = append(d.nodes, nil)
		d.names[path] = node
	}
	return &memFile{d, node}, nil
}

func (d *memDisk) rename(from, to string) error {
	node, ok := d.names[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if err := d.note(diskOp{kind: "rename", path: from, to: to}); err != nil {
		return err
	}
	delete(d.names, from)
	d.names[to] = node
	return nil
}

func (d *memDisk) remove(path string) error {
	if _, ok := d.names[path]; !ok {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	if err := d.note(diskOp{kind: "remove", path: path}); err != nil {
		return err
	}
	delete(d.names, path)
	return nil
}

func (d *memDisk) syncDir(string) error { return d.note(diskOp{kind: "syncdir"}) }

func (d *memDisk) free(string) (int64, error) {
	if d.room < 0 {
		return 1 << 40, nil
	}
	return d.room, nil
}

type memFile struct {
	d    *memDisk
	node int
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	data := f.d.nodes[f.node]
	if off >= int64(len(data)) {
		return 0, io.EOF
	}
	n := copy(b, data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	if f.d.room >= 0 && f.d.room < int64(len(b)) {
		return 0, &fs.PathError{Op: "write", Err: syscall.ENOSPC}
	}
	if err := f.d.note(diskOp{kind: "write", node: f.node, off: off, data: append([]byte(nil), b...)}); err != nil {
		return 0, err
	}
	if f.d.room >= 0 {
		f.d.room -= int64(len(b))
	}
	f.d.nodes[f.node] = writeInto(f.d.nodes[f.node], b, off)
	return len(b), nil
}

func writeInto(data, b []byte, off int64) []byte {
	if end := int(off) + len(b); end > len(data) {
		data = append(data, make([]byte, end-len(data))...)
	}
	copy(data[off:], b)
	return data
}

func resize(data []byte, size int64) []byte {
	if int(size) <= len(data) {
		return append([]byte(nil), data[:size]...)
	}
	return append(data, make([]byte, int(size)-len(data))...)
}

func (f *memFile) Truncate(size int64) error {
	if err := f.d.note(diskOp{kind: "truncate", node: f.node, off: size}); err != nil {
		return err
	}
	f.d.nodes[f.node] = resize(f.d.nodes[f.node], size)
	return nil
}

func (f *memFile) Sync() error { return f.d.note(diskOp{kind: "sync", node: f.node}) }

func (f *memFile) Close() error { return nil }

func (f *memFile) size() (int64, error) { return int64(len(f.d.nodes[f.node])), nil }

// loss is what a power cut does to what is not durable.
type loss int

const (
	keepAll  loss = iota // it was all written
	dropAll              // nothing of it was
	tornLast             // all but the end of the last write
	anyOf                // some of it, in no order, some of that torn at a sector
	losses
)

// cut is the disk as a power cut after the first n changes leaves it.
func (d *memDisk) cut(n int, how loss, r *rand.Rand) *memDisk {
	synced := make([]int, len(d.nodes)) // by inode: changes before it are durable
	names := 0
	for i, op := range d.ops[:n] {
		switch op.kind {
		case "sync":
			synced[op.node] = i
		case "syncdir":
			names = i
		}
	}
	after := newMemDisk()
	after.nodes = make([][]byte, len(d.nodes))
	upto := n // names become durable in their order
	switch how {
	case dropAll:
		upto = names
	case anyOf:
		upto = names + r.IntN(n-names+1)
	}
	for i, op := range d.ops[:n] {
		named := i < upto
		switch op.kind {
		case "create":
			if named {
				after.names[op.path] = op.node
			}
		case "rename":
			if named {
				if node, ok := after.names[op.path]; ok {
					after.names[op.to] = node
				}
				delete(after.names, op.path)
			}
		case "remove":
			if named {
				delete(after.names, op.path)
			}
		case "write", "truncate":
			data := op.data
			if i >= synced[op.node] {
				switch {
				case how == dropAll, how == anyOf && r.IntN(2) == 0:
					continue
				case how == tornLast && i == n-1 && len(data) > 0:
					data = data[:len(data)/2]
				case how == anyOf && r.IntN(3) == 0 && len(data) > 512:
					data = data[:512*r.IntN(len(data)/512)]
				}
			}
			if op.kind == "truncate" {
				after.nodes[op.node] = resize(after.nodes[op.node], op.off)
			} else {
				after.nodes[op.node] = writeInto(after.nodes[op.node], data, op.off)
			}
		}
	}
	return after
}

// onMemory is an image that is looked for on a memDisk.
type onMemory struct {
	signed
	t    testing.TB
	disk *memDisk
}

func (m onMemory) Open(path string) (*os.File, error) {
	node, ok := m.disk.names[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	data := m.disk.nodes[node]
	if !bytes.Equal(data, m.data) {
		return nil, errors.New("it is not the image")
	}
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		m.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := f.WriteAt(data, 0); err != nil {
		m.t.Fatal(err)
	}
	return f, nil
}
