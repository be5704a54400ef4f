package delivery

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// part is a file that is being fetched: NAME.data, of its full length from the beginning and sparse, and NAME.journal. It is
// not safe for use by several goroutines.
//
// A block that was written counts at once, and for the next start when it is marked in the journal: data synced, entry
// written, journal synced. That is done for syncBytes together, or for what came in syncEvery, so that flash wears by two
// syncs each time. A crash costs what was not marked: syncBytes, the write that went over it, and blocks begun.
type part struct {
	o       partOptions
	id      identity
	data    file
	journal file
	stage   stage

	have    []bool
	sums    []uint32       // of the blocks that are there
	begun   map[int]prefix // blocks of which the first bytes are there; gone after a restart
	bytes   int64          // there, those of begun blocks included
	pending []int          // blocks that are there and not marked yet
	waiting int64          // their bytes
	since   time.Time      // the first of them
}

type prefix struct {
	n   int
	sum uint32 // CRC-32C of them
}

type partOptions struct {
	disk      disk
	dir, name string
	syncBytes int64
	syncEvery time.Duration
	log       *slog.Logger
}

func (o partOptions) path(suffix string) string { return filepath.Join(o.dir, o.name+suffix) }

// openPart goes on with what the disk has of the file. Every block that the journal claims is read; one that is not what
// was written is fetched again.
func openPart(o partOptions, id identity) (*part, error) {
	p := &part{o: o, id: id, begun: map[int]prefix{}}
	err := p.load()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("download %s: %w", o.name, err), p.shut())
	}
	return p, nil
}

func (p *part) load() (err error) {
	if p.data, err = p.o.disk.open(p.o.path(".data")); err != nil {
		return err
	}
	if p.journal, err = p.o.disk.open(p.o.path(".journal")); err != nil {
		return err
	}
	// Nothing beyond the longest journal can be ours.
	text, err := io.ReadAll(io.NewSectionReader(p.journal, 0, maxJournalSize))
	if err != nil {
		return err
	}
	s, sums, marked, err := parseJournal(p.id, text)
	if err != nil {
		if len(text) > 0 {
			p.o.log.Warn("the download begins anew", "file", p.o.name, "why", err)
		}
		return p.begin(firstTry)
	}
	p.stage, p.sums, p.have = s, sums, make([]bool, len(sums))
	if s == givenUp {
		return nil
	}
	if err := p.fit(); err != nil {
		return err
	}
	damaged := 0
	block := make([]byte, p.id.block)
	for i, claimed := range marked {
		if !claimed {
			continue
		}
		off, n := p.id.span(i)
		if _, err := p.data.ReadAt(block[:n], off); err != nil || crc32.Checksum(block[:n], castagnoli()) != sums[i] {
			damaged++ // a place that cannot be read may well be written again
			continue
		}
		p.have[i] = true
		p.bytes += int64(n)
	}
	if damaged > 0 {
		p.o.log.Warn("blocks on the disk are not what was written; they are fetched again", "file", p.o.name, "blocks", damaged)
	}
	return nil
}

// begin forgets all blocks, first in the journal. A file that was given up keeps its journal only, so that a restart does not
// fetch it again.
func (p *part) begin(s stage) error {
	if err := p.journal.Close(); err != nil {
		return err
	}
	p.journal = nil
	if err := replaceDurably(p.o.disk, p.o.path(".journal"), p.id.header(s)); err != nil {
		return err
	}
	var err error
	if p.journal, err = p.o.disk.open(p.o.path(".journal")); err != nil {
		return err
	}
	p.stage, p.have, p.sums = s, make([]bool, p.id.blocks()), make([]uint32, p.id.blocks())
	p.begun, p.bytes = map[int]prefix{}, 0
	p.pending, p.waiting = nil, 0
	if err := p.data.Truncate(0); err != nil { // gives back the room of what was there
		return err
	}
	if s == givenUp {
		return nil
	}
	return p.fit()
}

// fit gives the data file its length, sparsely: how much the file takes at most is seen to by whoever fetches.
func (p *part) fit() error {
	size, err := p.data.size()
	if err != nil || size == p.id.length {
		return err
	}
	return p.data.Truncate(p.id.length)
}

func (p *part) complete() bool { return p.bytes == p.id.length }

// write takes bytes from a source and says how many of them were new. A block is filled from its beginning: bytes that do
// not follow what is there of a block are left, and asked for again.
func (p *part) write(b []byte, off int64) (fresh int, err error) {
	if off < 0 || off > p.id.length || int64(len(b)) > p.id.length-off {
		return 0, fmt.Errorf("%d bytes at %d, in a file of %d", len(b), off, p.id.length)
	}
	for len(b) > 0 {
		i := int(off / int64(p.id.block))
		start, size := p.id.span(i)
		within := int(off - start)
		piece := b[:min(len(b), size-within)]
		b, off = b[len(piece):], off+int64(len(piece))
		begun := p.begun[i]
		if p.have[i] || within > begun.n || within+len(piece) <= begun.n {
			continue
		}
		piece = piece[begun.n-within:]
		if _, err := p.data.WriteAt(piece, start+int64(begun.n)); err != nil {
			return fresh, err
		}
		begun = prefix{begun.n + len(piece), crc32.Update(begun.sum, castagnoli(), piece)}
		fresh += len(piece)
		p.bytes += int64(len(piece))
		if begun.n < size {
			p.begun[i] = begun
			continue
		}
		delete(p.begun, i)
		p.have[i], p.sums[i] = true, begun.sum
		if len(p.pending) == 0 {
			p.since = time.Now()
		}
		p.pending = append(p.pending, i)
		p.waiting += int64(size)
	}
	if p.waiting >= p.o.syncBytes || len(p.pending) > 0 && time.Since(p.since) >= p.o.syncEvery {
		err = p.sync()
	}
	return fresh, err
}

// missing is the first range from a place on that is not there, most bytes of it at most; none is 0, 0. It ends where a
// block begins of which something is there.
func (p *part) missing(from, most int64) (off, n int64) {
	for i := int(from / int64(p.id.block)); i < len(p.have); i++ {
		start, size := p.id.span(i)
		switch begun := p.begun[i].n; {
		case n == 0 && !p.have[i]:
			off, n = start+int64(begun), int64(size-begun)
		case n > 0 && (p.have[i] || begun > 0):
			return off, min(n, most)
		case n > 0:
			n += int64(size)
		}
		if n >= most {
			break
		}
	}
	return off, min(n, most)
}

// sync marks what was written since it was last called.
func (p *part) sync() error {
	if len(p.pending) == 0 {
		return nil
	}
	if err := p.data.Sync(); err != nil {
		// The kernel may have thrown the pages away, and says so only once: what they held is fetched again.
		for _, i := range p.pending {
			_, n := p.id.span(i)
			p.have[i] = false
			p.bytes -= int64(n)
		}
		for _, begun := range p.begun {
			p.bytes -= int64(begun.n)
		}
		p.begun = map[int]prefix{}
		p.pending, p.waiting = nil, 0
		return err
	}
	for _, i := range p.pending {
		off, entry := p.id.entry(i, p.sums[i])
		if _, err := p.journal.WriteAt(entry, off); err != nil {
			return err // they stay pending: the next time they are written again
		}
	}
	if err := p.journal.Sync(); err != nil {
		return err
	}
	p.pending, p.waiting = nil, 0
	return nil
}

// close marks what is there and closes the files.
func (p *part) close() error { return errors.Join(p.sync(), p.shut()) }

func (p *part) shut() (err error) {
	for _, f := range []*file{&p.data, &p.journal} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	return err
}

// removePart removes a part's files, the journal last: without it the data is nothing.
func removePart(o partOptions) error {
	if err := removeAll(o.disk, o.path(".data"), o.path(".journal"), o.path(".journal.new")); err != nil {
		return err
	}
	err := o.disk.syncDir(o.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
