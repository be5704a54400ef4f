package buffer_test

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// diskFile is a file in the replay: what is durable and what is pending.
type diskFile struct {
	durable []byte
	pending []write
}

type write struct {
	at   int64
	data []byte // nil: truncate to at
}

func (w write) end() int64 { return w.at + int64(len(w.data)) }

func (w write) apply(b []byte) []byte {
	if w.data == nil {
		return resize(b, w.at)
	}
	if int64(len(b)) < w.end() {
		b = resize(b, w.end())
	}
	copy(b[w.at:], w.data)
	return b
}

// pieces cuts a write where multiples of size are.
func (w write) pieces(size int64) (list []write) {
	for at := w.at; at < w.end(); {
		next := min((at/size+1)*size, w.end())
		list = append(list, write{at, w.data[at-w.at : next-w.at]})
		at = next
	}
	return list
}

func resize(b []byte, n int64) []byte {
	if int64(len(b)) >= n {
		return b[:n]
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

// entryOp is a change of a folder's entries that is not synced yet: a rename takes one name away and sets another.
type entryOp struct {
	folder string // whose sync makes it durable; all folders' renames stay within one
	gone   string
	set    string
	file   *diskFile // of set; nil for a folder
}

func (op entryOp) apply(files map[string]*diskFile) {
	if op.gone != "" {
		delete(files, op.gone)
	}
	if op.set != "" {
		files[op.set] = op.file
	}
}

// syncs says which system calls a disk takes seriously. Each that it does not must break a promise.
type syncs struct {
	Data, Folders bool
	InPlace       bool // no temporary file and no rename: what has a name ending in .tmp is made under its last name at once
}

// disk is the replayed disk. Folders are entries without a file.
type disk struct {
	syncs
	now     map[string]*diskFile // as the process sees it
	synced  map[string]*diskFile // entries that are durable
	pending []entryOp
}

func newDisk(root string, s syncs) *disk {
	return &disk{syncs: s, now: map[string]*diskFile{root: nil}, synced: map[string]*diskFile{root: nil}}
}

func (d *disk) change(op entryOp) {
	op.apply(d.now)
	d.pending = append(d.pending, op)
}

// take takes one system call in. It returns what the child said.
func (d *disk) take(t testing.TB, e event) (said string) {
	if d.InPlace {
		if e.Call == "rename" {
			return ""
		}
		if path, ok := bytes.CutSuffix([]byte(e.Path), []byte(".tmp")); ok {
			e.Path = string(path)
		}
	}
	folder := filepath.Dir(e.Path)
	file := func() *diskFile {
		f := d.now[e.Path]
		if f == nil {
			t.Fatalf("%s of %s, which is not there", e.Call, e.Path)
		}
		return f
	}
	switch e.Call {
	case "say":
		return string(e.Data)
	case "mkdir":
		d.change(entryOp{folder: folder, set: e.Path})
	case "create":
		if _, ok := d.now[e.Path]; !ok {
			d.change(entryOp{folder: folder, set: e.Path, file: &diskFile{}})
		} else if e.At == 1 { // O_TRUNC
			f := file()
			f.pending = append(f.pending, write{})
		}
	case "write":
		f := file()
		f.pending = append(f.pending, write{e.At, e.Data})
	case "truncate":
		f := file()
		f.pending = append(f.pending, write{at: e.At})
	case "grow":
		f := file()
		f.pending = append(f.pending, write{e.At, []byte{}})
	case "rename":
		d.change(entryOp{folder: folder, gone: e.Path, set: e.To, file: file()})
	case "unlink":
		file()
		d.change(entryOp{folder: folder, gone: e.Path})
	case "sync":
		d.flush(e.Path)
	}
	return ""
}

func (d *disk) flush(path string) {
	if f := d.now[path]; f != nil {
		if d.Data {
			for _, w := range f.pending {
				f.durable = w.apply(f.durable)
			}
			f.pending = nil
		}
		return
	}
	if !d.Folders {
		return
	}
	kept := d.pending[:0:0]
	for _, op := range d.pending {
		if op.folder == path {
			op.apply(d.synced)
		} else {
			kept = append(kept, op)
		}
	}
	d.pending = kept
}

// How much of what is not synced survives a power cut. Of entries: none, all, those before some moment (as the journal
// of ext4 does it), those before some moment of each folder, any. Of data: nothing, everything, some writes, some pages
// in any order, everything but sectors of the last write, some sectors; or the file has its new size and what was never
// written is zeros, or whatever was on the disk before.
var (
	entryWays = []string{"none", "all", "before", "folders", "any"}
	dataWays  = []string{"nothing", "all", "writes", "pages", "torn last", "torn", "zeros", "stale"}
)

const (
	pageBytes   = 4096
	sectorBytes = 512
)

// cut gives the files after a power cut.
func (d *disk) cut(entries, data string, rnd *rand.Rand) map[string][]byte {
	names := d.entries(entries, rnd)
	files := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		if _, ok := names[filepath.Dir(name)]; f == nil || !ok { // a folder, or in one that is not there
			continue
		}
		files[name] = f.cut(data, rnd, func() []byte { return d.stale(f, rnd) })
	}
	return files
}

func (d *disk) entries(way string, rnd *rand.Rand) map[string]*diskFile {
	names := maps.Clone(d.synced)
	until, count := map[string]int{}, map[string]int{}
	for _, op := range d.pending {
		count[op.folder]++
	}
	for _, folder := range slices.Sorted(maps.Keys(count)) {
		until[folder] = rnd.IntN(count[folder] + 1)
	}
	before := rnd.IntN(len(d.pending) + 1)
	for i, op := range d.pending {
		until[op.folder]--
		switch {
		case way == "none", way == "before" && i >= before, way == "folders" && until[op.folder] < 0, way == "any" && rnd.IntN(2) == 0:
		default:
			op.apply(names)
		}
	}
	return names
}

// stale is what may have been on the disk where f grows: bytes of another file.
func (d *disk) stale(f *diskFile, rnd *rand.Rand) []byte {
	var others [][]byte
	for _, name := range slices.Sorted(maps.Keys(d.now)) {
		if o := d.now[name]; o != nil && o != f && len(o.durable) >= pageBytes {
			others = append(others, o.durable)
		}
	}
	if len(others) == 0 {
		return make([]byte, pageBytes)
	}
	return others[rnd.IntN(len(others))]
}

func (f *diskFile) cut(way string, rnd *rand.Rand, stale func() []byte) []byte {
	b := bytes.Clone(f.durable)
	if way == "zeros" || way == "stale" {
		full := bytes.Clone(b)
		for _, w := range f.pending {
			full = w.apply(full)
		}
		if n := len(b); len(full) > n {
			b = resize(b, int64(len(full)))
			if way == "stale" {
				for old, at := stale(), n; at < len(b); at += len(old) - at%len(old) {
					copy(b[at:], old[at%len(old):])
				}
			}
		}
		way = []string{"nothing", "pages"}[rnd.IntN(2)]
	}
	some := func(w write, size int64) {
		for _, piece := range w.pieces(size) {
			if rnd.IntN(2) == 0 {
				b = piece.apply(b)
			}
		}
	}
	for i, w := range f.pending {
		last := i == len(f.pending)-1
		switch {
		case way == "nothing", way == "writes" && rnd.IntN(2) == 0:
		case way == "pages" && w.data != nil:
			some(w, pageBytes)
		case (way == "torn" || way == "torn last" && last) && w.data != nil:
			some(w, sectorBytes)
		default:
			b = w.apply(b)
		}
	}
	return b
}
