package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The journal beside a data file, all numbers big-endian:
//
//	  0  "WBPART", 0, format 1
//	  8  length of the file, 8 bytes
//	 16  block size, 4 bytes
//	 20  stage, 1 byte: 0 first try, 1 fetched again, 2 given up; 3 zero bytes
//	 24  SHA-256 of the file
//	 56  campaign: the first 16 bytes of its id's SHA-256; 52 zero bytes
//	124  CRC-32C of the 124 bytes before
//	128  for each block 8 bytes: CRC-32C of the block, then of (SHA-256 of the file, block's number, the block's CRC)
//
// Eight zero bytes are a block that is not there. An entry that is torn, or another file's, does not fit its check and counts
// as that too. An entry without its data (the disk wrote them in another order) does not fit the block. So whatever part
// of the writes a power cut leaves, a block counts only if it is there; the order data, sync, entry, sync only sees to it
// that it does.
const (
	journalMagic   = "WBPART\x00\x01"
	journalHeader  = 128
	journalEntry   = 8
	leastBlock     = 16 << 10
	mostBlocks     = 1 << 16
	maxLength      = 16 << 30 // bytes of a file; with it blocks are 256 KiB
	maxJournalSize = journalHeader + mostBlocks*journalEntry
)

// stage is how often a file was fetched whole and found wrong.
type stage uint8

const (
	firstTry stage = iota
	secondTry
	givenUp
)

// identity binds a journal to the file that is fetched, and its stage to the campaign.
type identity struct {
	length   int64
	block    int
	sum      [sha256.Size]byte
	campaign [16]byte
}

func newIdentity(length int64, sum [sha256.Size]byte, campaign string) (identity, error) {
	if length <= 0 || length > maxLength {
		return identity{}, fmt.Errorf("a file of %d bytes: 1 to %d can be fetched", length, int64(maxLength))
	}
	id := identity{length: length, block: leastBlock, sum: sum}
	for length > int64(id.block)*mostBlocks {
		id.block *= 2
	}
	hash := sha256.Sum256([]byte(campaign))
	copy(id.campaign[:], hash[:])
	return id, nil
}

// blocks is how many there are; the last may be short.
func (id identity) blocks() int { return int((id.length + int64(id.block) - 1) / int64(id.block)) }

// span is where a block begins and how long it is.
func (id identity) span(block int) (off int64, n int) {
	off = int64(block) * int64(id.block)
	return off, int(min(int64(id.block), id.length-off))
}

var errForeign = errors.New("the journal is another file's")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by hash/crc32

func (id identity) header(s stage) []byte {
	h := make([]byte, journalHeader)
	copy(h, journalMagic)
	binary.BigEndian.PutUint64(h[8:], uint64(id.length))
	binary.BigEndian.PutUint32(h[16:], uint32(id.block))
	h[20] = byte(s)
	copy(h[24:], id.sum[:])
	copy(h[56:], id.campaign[:])
	binary.BigEndian.PutUint32(h[124:], crc32.Checksum(h[:124], castagnoli()))
	return h
}

// parseJournal reads a journal that has to be id's. What it says of blocks are claims, to be held against the data.
func parseJournal(id identity, data []byte) (s stage, sums []uint32, marked []bool, err error) {
	if len(data) < journalHeader || !bytes.Equal(data[:8], []byte(journalMagic)) {
		return 0, nil, nil, errors.New("it is no journal of this format")
	}
	if crc32.Checksum(data[:124], castagnoli()) != binary.BigEndian.Uint32(data[124:]) {
		return 0, nil, nil, errors.New("the journal's header is damaged")
	}
	s = stage(data[20])
	// A stage was reached in a campaign, and does not bind the next one; blocks are good for any.
	same := id
	if s == firstTry {
		copy(same.campaign[:], data[56:72])
	}
	if s > givenUp || !bytes.Equal(data[:journalHeader], same.header(s)) {
		return 0, nil, nil, errForeign
	}
	sums, marked = make([]uint32, id.blocks()), make([]bool, id.blocks())
	for i := range sums {
		at := journalHeader + i*journalEntry
		if at+journalEntry > len(data) {
			break
		}
		sum := binary.BigEndian.Uint32(data[at:])
		if binary.BigEndian.Uint32(data[at+4:]) == id.check(i, sum) {
			sums[i], marked[i] = sum, true
		}
	}
	return s, sums, marked, nil
}

// check binds an entry to its file and its place.
func (id identity) check(block int, sum uint32) uint32 {
	var b [sha256.Size + 8]byte
	copy(b[:], id.sum[:])
	binary.BigEndian.PutUint32(b[sha256.Size:], uint32(block))
	binary.BigEndian.PutUint32(b[sha256.Size+4:], sum)
	return crc32.Checksum(b[:], castagnoli())
}

// entry is what marks a block, and where in the journal.
func (id identity) entry(block int, sum uint32) (off int64, b []byte) {
	b = binary.BigEndian.AppendUint32(nil, sum)
	return journalHeader + int64(block)*journalEntry, binary.BigEndian.AppendUint32(b, id.check(block, sum))
}
