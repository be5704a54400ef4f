package slots

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// disk is a model of a file system and of what a power cut leaves of it. Of a file: what was synced is there; of what
// was written since, nothing, all, some sectors, or a new size with zeros or with another file's old bytes. Of a folder:
// its entries as synced, with any of the changes since, in any company. That is more than ext4 does, and what f2fs, UBIFS
// and overlays are allowed to.
type disk struct {
	now     map[string]*inode // entries as a process sees them
	durable map[string]*inode
	pending []change

	ops     int // so far: each call that changes something, syncs included
	cutAt   int // the power goes before this one; 0: never
	failAt  int // from this one on, failing of them fail
	failing int
	errno   error
	full    bool // Free says that nothing is free

	noData, noFolders bool // controls: a disk that takes syncs of data or of folders lightly
	lies              bool // what it keeps is not what was written
	locked            bool // by another process
	log               []string
}

type inode struct {
	mode   fs.FileMode // as seen
	data   []byte      // as seen
	link   string
	synced []byte
	perm   fs.FileMode // as synced
	writes []piece
}

type piece struct {
	at   int
	data []byte // nil: cut off at at
}

func (p piece) apply(b []byte) []byte {
	if p.data == nil {
		return b[:min(p.at, len(b))]
	}
	if n := p.at + len(p.data); len(b) < n {
		b = append(b, make([]byte, n-len(b))...)
	}
	copy(b[p.at:], p.data)
	return b
}

// change is one of a folder's entries; a rename is two that go together.
type change struct {
	folder, gone, set string
	node              *inode
}

func (c change) apply(m map[string]*inode) {
	if c.gone != "" {
		delete(m, c.gone)
	}
	if c.set != "" {
		m[c.set] = c.node
	}
}

type powerCut struct{}

func newDisk() *disk {
	root := &inode{mode: fs.ModeDir | 0o755}
	return &disk{now: map[string]*inode{"/": root}, durable: map[string]*inode{"/": root}}
}

// clone is the disk as a running system has it, with nothing that is not durable.
func (d *disk) clone() *disk {
	c := newDisk()
	for name, n := range d.now {
		k := *n
		k.data, k.synced, k.perm, k.writes = bytes.Clone(n.data), bytes.Clone(n.data), n.mode, nil
		c.now[name], c.durable[name] = &k, &k
	}
	return c
}

// op counts; the power may go before what it stands for, or the call may fail.
func (d *disk) op(call, name string) error {
	d.ops++
	d.log = append(d.log, call+" "+name)
	if d.ops == d.cutAt {
		panic(powerCut{})
	}
	if d.failAt > 0 && d.ops >= d.failAt && d.ops < d.failAt+d.failing {
		return &fs.PathError{Op: call, Path: name, Err: d.errno}
	}
	return nil
}

func (d *disk) entry(c change) {
	c.apply(d.now)
	d.pending = append(d.pending, c)
}

func (d *disk) get(name string) (*inode, error) {
	if n := d.now[name]; n != nil {
		return n, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
}

func (d *disk) parent(name string) error { _, err := d.get(filepath.Dir(name)); return err }

func (d *disk) Open(name string) (file, error) {
	n, err := d.get(name)
	if err != nil {
		return nil, err
	}
	if n.link != "" || n.mode.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	return &diskFile{d: d, n: n, name: name}, nil
}

func (d *disk) Create(name string) (file, error) {
	if err := d.parent(name); err != nil {
		return nil, err
	}
	if err := d.op("create", name); err != nil {
		return nil, err
	}
	n := d.now[name]
	if n == nil {
		n = &inode{mode: 0o644, perm: 0o644}
		d.entry(change{folder: filepath.Dir(name), set: name, node: n})
	} else if len(n.data) > 0 {
		n.data = nil
		n.writes = append(n.writes, piece{})
	}
	return &diskFile{d: d, n: n, name: name, write: true}, nil
}

func (d *disk) Rename(from, to string) error {
	n, err := d.get(from)
	if err == nil {
		err = d.op("rename", to)
	}
	if err == nil {
		d.entry(change{filepath.Dir(to), from, to, n})
	}
	return err
}

func (d *disk) Remove(name string) error {
	if d.now[name] == nil {
		return nil
	}
	if err := d.op("remove", name); err != nil {
		return err
	}
	d.entry(change{folder: filepath.Dir(name), gone: name})
	return nil
}

func (d *disk) Symlink(target, name string) error {
	if d.now[name] != nil {
		return &fs.PathError{Op: "symlink", Path: name, Err: syscall.EEXIST}
	}
	if err := d.op("symlink", name); err != nil {
		return err
	}
	d.entry(change{folder: filepath.Dir(name), set: name, node: &inode{mode: fs.ModeSymlink | 0o777, link: target}})
	return nil
}

func (d *disk) Readlink(name string) (string, error) {
	n, err := d.get(name)
	if err == nil && n.link == "" {
		err = &fs.PathError{Op: "readlink", Path: name, Err: syscall.EINVAL}
	}
	if err != nil {
		return "", err
	}
	return n.link, nil
}

func (d *disk) Mkdir(name string) error {
	if err := d.parent(name); err != nil || d.now[name] != nil {
		return err
	}
	if err := d.op("mkdir", name); err != nil {
		return err
	}
	d.entry(change{folder: filepath.Dir(name), set: name, node: &inode{mode: fs.ModeDir | 0o755, perm: fs.ModeDir | 0o755}})
	return nil
}

func (d *disk) Lstat(name string) (fileInfo, error) {
	n, err := d.get(name)
	if err != nil {
		return fileInfo{}, err
	}
	return fileInfo{int64(len(n.data)), n.mode}, nil
}

func (d *disk) SyncFolder(name string) error {
	if _, err := d.get(name); err != nil {
		return err
	}
	if err := d.op("sync folder", name); err != nil || d.noFolders {
		return err
	}
	d.pending = slices.DeleteFunc(d.pending, func(c change) bool {
		if c.folder == name {
			c.apply(d.durable)
		}
		return c.folder == name
	})
	return nil
}

func (d *disk) Free(string) (uint64, error) {
	if d.full {
		return 0, nil
	}
	return 1 << 30, nil
}

func (d *disk) Lock(name string) (io.Closer, error) {
	if err := d.parent(name); err != nil {
		return nil, err
	}
	if d.locked {
		return nil, errBusy
	}
	return io.NopCloser(nil), nil
}

type diskFile struct {
	d     *disk
	n     *inode
	name  string
	at    int
	write bool
}

func (f *diskFile) Read(p []byte) (int, error) {
	if f.at >= len(f.n.data) {
		return 0, io.EOF
	}
	k := copy(p, f.n.data[f.at:])
	f.at += k
	return k, nil
}

func (f *diskFile) Write(p []byte) (int, error) {
	if err := f.d.op("write", f.name); err != nil {
		return 0, err
	}
	w := piece{f.at, bytes.Clone(p)}
	f.n.data = w.apply(f.n.data)
	f.n.writes = append(f.n.writes, w)
	f.at += len(p)
	return len(p), nil
}

func (f *diskFile) Chmod(mode fs.FileMode) error {
	if err := f.d.op("chmod", f.name); err != nil {
		return err
	}
	f.n.mode = mode
	return nil
}

func (f *diskFile) Sync() error {
	if err := f.d.op("sync", f.name); err != nil || f.d.noData {
		return err
	}
	f.n.synced, f.n.perm, f.n.writes = bytes.Clone(f.n.data), f.n.mode, nil
	if f.d.lies {
		f.n.synced[len(f.n.synced)/2] ^= 1
	}
	return nil
}

// Forget leaves what is not synced, as the kernel does.
func (f *diskFile) Forget() {
	if len(f.n.writes) == 0 {
		f.n.data = bytes.Clone(f.n.synced)
	}
}

func (f *diskFile) Close() error { return nil }

// What may be left of the writes to a file that were not synced.
var leftovers = []string{"nothing", "all", "sectors", "zeros", "stale"}

const sector = 512

func (n *inode) left(way string) []byte {
	b := bytes.Clone(n.synced)
	for i, w := range n.writes {
		switch {
		case way == "nothing":
		case way == "all", w.data == nil:
			b = w.apply(b)
		case way == "sectors": // every second one
			for at := i % 2 * sector; at < len(w.data); at += 2 * sector {
				b = piece{w.at + at, w.data[at:min(at+sector, len(w.data))]}.apply(b)
			}
		default:
			fill := byte(0)
			if way == "stale" {
				fill = 'x'
			}
			b = piece{w.at, bytes.Repeat([]byte{fill}, len(w.data))}.apply(b)
		}
	}
	return b
}

// states are all disks that a power cut now may leave: each part of the entries that are not synced, with each kind of
// leftover of the files.
func (d *disk) states() iter.Seq2[string, *disk] {
	return func(yield func(string, *disk) bool) {
		for mask := range 1 << len(d.pending) {
			entries := maps.Clone(d.durable)
			for i, c := range d.pending {
				if mask>>i&1 == 1 {
					c.apply(entries)
				}
			}
			dirty := false
			for _, n := range entries {
				dirty = dirty || len(n.writes) > 0 || n.mode != n.perm && n.link == ""
			}
			ways := leftovers
			if !dirty {
				ways = ways[:1]
			}
			for _, way := range ways {
				if !yield(fmt.Sprintf("entries %b, data %s", mask, way), rebooted(entries, way)) {
					return
				}
			}
		}
	}
}

// key tells disks apart that are at rest.
func (d *disk) key() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(d.now)) {
		n := d.now[name]
		b.WriteString(name)
		b.WriteString(n.mode.String())
		b.WriteString(n.link)
		b.Write(n.data)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return string(sum[:])
}

func rebooted(entries map[string]*inode, way string) *disk {
	d := newDisk()
	seen := map[*inode]*inode{}
	for name, n := range entries {
		if entries[filepath.Dir(name)] == nil { // in a folder that is not there
			continue
		}
		k := seen[n]
		if k == nil {
			k = &inode{mode: n.perm, perm: n.perm, link: n.link}
			if n.link != "" || n.mode.IsDir() {
				k.mode, k.perm = n.mode, n.mode
			} else if way == "all" {
				k.mode, k.perm = n.mode, n.mode
			}
			k.data = n.left(way)
			k.synced = bytes.Clone(k.data)
			seen[n] = k
		}
		d.now[name], d.durable[name] = k, k
	}
	return d
}
