package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/waybill-telematics/waybill/buffer/internal/ranges"
)

// The format's version, in meta and in every segment. readerVersion is the lowest version that can read what this one
// writes; a file that asks for more than formatVersion is left untouched.
const (
	formatVersion = 1
	readerVersion = 1
)

// castagnoli is the table of CRC-32C (RFC 3720 appendix B.4).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Kinds of record; also the first byte of their keys, so that batches stand before journal entries.
const (
	kindBatch   byte = 'b'
	kindJournal byte = 'j'
)

const (
	recordMagic  = "WBR1"
	commitMagic  = "WBC1"
	segmentMagic = "WBS1"

	headerBytes     = 64 // of a record, in front of its bytes
	journalBytes    = 40 // more, in front of a journal entry's
	batchKeyBytes   = 9
	journalKeyBytes = 13
)

var (
	headKey     = []byte{0}        // in every bucket: what is in it; sorts first
	segmentName = []byte{0}        // the bucket with the segment's own head; sorts before all commits
	be          = binary.BigEndian // everything of ours; keys then sort as numbers
)

// errRecord: a record's own bytes are not what was written.
var errRecord = errors.New("damaged record")

// header stands in front of every stored record. It says everything that the bytes alone would not, so that a record
// found anywhere in a file can be put back in its place.
type header struct {
	Kind    byte
	Lane    Lane
	Epoch   uint64
	Seq     uint64
	Commit  uint64
	First   int64 // CLOCK_BOOTTIME ns
	Last    int64
	Samples uint32
	Length  uint32 // of the bytes behind the header
	Sum     uint32 // CRC-32C of those bytes
}

// appendHeader appends the 64 bytes of h.
func appendHeader(dst []byte, h *header) []byte {
	start := len(dst)
	dst = append(dst, recordMagic...)
	dst = append(dst, h.Kind, byte(h.Lane), 0, 0)
	dst = be.AppendUint64(dst, h.Epoch)
	dst = be.AppendUint64(dst, h.Seq)
	dst = be.AppendUint64(dst, h.Commit)
	dst = be.AppendUint64(dst, uint64(h.First))
	dst = be.AppendUint64(dst, uint64(h.Last))
	dst = be.AppendUint32(dst, h.Samples)
	dst = be.AppendUint32(dst, h.Length)
	dst = be.AppendUint32(dst, h.Sum)
	return be.AppendUint32(dst, checksum(dst[start:]))
}

// parseHeader reads a header and checks its own checksum, not that of the bytes behind it.
func parseHeader(b []byte) (h header, err error) {
	if len(b) < headerBytes {
		return h, fmt.Errorf("%w: %d bytes, want a header of %d", errRecord, len(b), headerBytes)
	}
	b = b[:headerBytes]
	if string(b[:4]) != recordMagic || checksum(b[:60]) != be.Uint32(b[60:]) {
		return h, fmt.Errorf("%w: header checksum", errRecord)
	}
	h = header{
		Kind: b[4], Lane: Lane(b[5]), Epoch: be.Uint64(b[8:]), Seq: be.Uint64(b[16:]), Commit: be.Uint64(b[24:]),
		First: int64(be.Uint64(b[32:])), Last: int64(be.Uint64(b[40:])),
		Samples: be.Uint32(b[48:]), Length: be.Uint32(b[52:]), Sum: be.Uint32(b[56:]),
	}
	if h.Kind == kindJournal && h.Length < journalBytes {
		return h, fmt.Errorf("%w: a journal entry of %d bytes", errRecord, h.Length)
	}
	return h, nil
}

// openRecord checks a stored value: its header, its length and the checksum of its bytes, which it returns. With an
// error the header is still good when its Kind is not 0.
func openRecord(value []byte) (header, []byte, error) {
	h, err := parseHeader(value)
	if err != nil {
		return header{}, nil, err
	}
	body := value[headerBytes:]
	if uint64(len(body)) != uint64(h.Length) {
		return h, nil, fmt.Errorf("%w: %d bytes, header says %d", errRecord, len(body), h.Length)
	}
	if checksum(body) != h.Sum {
		return h, nil, fmt.Errorf("%w: checksum", errRecord)
	}
	return h, body, nil
}

// appendBatch appends the stored value of a batch.
func appendBatch(dst []byte, r *Record, epoch, commit uint64) []byte {
	dst = appendHeader(dst, &header{
		Kind: kindBatch, Lane: r.Lane, Epoch: epoch, Seq: r.Seq, Commit: commit, First: r.First, Last: r.Last,
		Samples: r.Samples, Length: uint32(len(r.Bytes)), Sum: checksum(r.Bytes),
	})
	return append(dst, r.Bytes...)
}

// appendJournal appends the stored value of a journal entry. part is its place among the entries of its seq.
func appendJournal(dst []byte, e *JournalEntry, part uint32, epoch, commit uint64) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, headerBytes)...)
	dst = append(dst, e.Boot[:]...)
	dst = be.AppendUint32(dst, e.BootCount)
	dst = append(dst, e.Catalogue[:]...)
	dst = be.AppendUint32(dst, part)
	dst = append(dst, e.Bytes...)
	body := dst[start+headerBytes:]
	appendHeader(dst[start:start], &header{
		Kind: kindJournal, Lane: e.Lane, Epoch: epoch, Seq: e.Seq, Commit: commit,
		Length: uint32(len(body)), Sum: checksum(body),
	})
	return dst
}

// parseJournal takes a journal entry out of its stored bytes, which it copies.
func parseJournal(h header, body []byte) (e JournalEntry, part uint32) {
	e = JournalEntry{Lane: h.Lane, Seq: h.Seq, Epoch: h.Epoch, BootCount: be.Uint32(body[16:])}
	copy(e.Boot[:], body)
	copy(e.Catalogue[:], body[20:])
	e.Bytes = append([]byte(nil), body[journalBytes:]...)
	return e, be.Uint32(body[36:])
}

func batchKey(seq uint64) []byte { return be.AppendUint64([]byte{kindBatch}, seq) }

func journalKey(seq uint64, part uint32) []byte {
	return be.AppendUint32(be.AppendUint64([]byte{kindJournal}, seq), part)
}

// commitPrefix is how the name of a commit's bucket begins, so that names sort by commit.
func commitPrefix(commit uint64) []byte { return be.AppendUint64(nil, commit) }

// Bounds of what one commit's name lists; bbolt takes names of up to 32 KiB.
const (
	maxCommitBatches  = 256
	maxCommitJournal  = 256
	maxCommitReleased = 64
)

// commitHead is the name of a commit's bucket: what is in it, so that a segment's contents are known from the few
// pages of its root and a missing record shows; and what was released since the commit before, so that releases cost
// no write of their own.
type commitHead struct {
	Commit   uint64
	Lane     Lane
	Epoch    uint64
	Batches  []listed
	Journal  ranges.Set // seqs with journal entries in this commit
	Released [laneCount + 1]ranges.Set
}

// listed is what a commit's name says of a batch.
type listed struct {
	Seq     uint64
	Length  uint32
	Samples uint32
	First   int64 // CLOCK_BOOTTIME ns
	Last    int64
}

const (
	commitFixed    = 32
	listedBytes    = 32
	rangeBytes     = 16
	releasedBytes  = 24
	checksumLength = 4
)

func appendCommitHead(dst []byte, c *commitHead) []byte {
	start := len(dst)
	dst = be.AppendUint64(dst, c.Commit)
	dst = append(dst, commitMagic...)
	dst = append(dst, byte(c.Lane), 0)
	dst = be.AppendUint16(dst, uint16(len(c.Batches)))
	dst = be.AppendUint16(dst, uint16(len(c.Journal)))
	n := 0
	for _, set := range c.Released {
		n += len(set)
	}
	dst = be.AppendUint16(dst, uint16(n))
	dst = append(dst, 0, 0, 0, 0)
	dst = be.AppendUint64(dst, c.Epoch)
	for _, b := range c.Batches {
		dst = be.AppendUint64(dst, b.Seq)
		dst = be.AppendUint32(dst, b.Length)
		dst = be.AppendUint32(dst, b.Samples)
		dst = be.AppendUint64(dst, uint64(b.First))
		dst = be.AppendUint64(dst, uint64(b.Last))
	}
	for _, r := range c.Journal {
		dst = be.AppendUint64(dst, r.First)
		dst = be.AppendUint64(dst, r.Last)
	}
	for lane, set := range c.Released {
		for _, r := range set {
			dst = be.AppendUint64(dst, uint64(lane))
			dst = be.AppendUint64(dst, r.First)
			dst = be.AppendUint64(dst, r.Last)
		}
	}
	return be.AppendUint32(dst, checksum(dst[start:]))
}

func parseCommitHead(b []byte) (c commitHead, err error) {
	if len(b) < commitFixed+checksumLength || string(b[8:12]) != commitMagic || !summed(b) {
		return c, fmt.Errorf("%w: commit name", errRecord)
	}
	c = commitHead{Commit: be.Uint64(b), Lane: Lane(b[12]), Epoch: be.Uint64(b[24:])}
	batches, journal, released := int(be.Uint16(b[14:])), int(be.Uint16(b[16:])), int(be.Uint16(b[18:]))
	b = b[commitFixed : len(b)-checksumLength]
	if len(b) != batches*listedBytes+journal*rangeBytes+released*releasedBytes {
		return c, fmt.Errorf("%w: commit name of %d batches in %d bytes", errRecord, batches, len(b))
	}
	for range batches {
		c.Batches = append(c.Batches, listed{
			Seq: be.Uint64(b), Length: be.Uint32(b[8:]), Samples: be.Uint32(b[12:]),
			First: int64(be.Uint64(b[16:])), Last: int64(be.Uint64(b[24:])),
		})
		b = b[listedBytes:]
	}
	for range journal {
		c.Journal.Add(Range{First: be.Uint64(b), Last: be.Uint64(b[8:])})
		b = b[rangeBytes:]
	}
	for range released {
		lane := be.Uint64(b)
		if lane == 0 || lane > laneCount {
			return c, fmt.Errorf("%w: commit name with lane %d", errRecord, lane)
		}
		c.Released[lane].Add(Range{First: be.Uint64(b[8:]), Last: be.Uint64(b[16:])})
		b = b[releasedBytes:]
	}
	return c, nil
}

// segmentHead is written when a segment is made and never again.
type segmentHead struct {
	Lane       Lane
	Epoch      uint64
	Number     uint64 // of the segment, in its lane
	First      uint64 // number of its first commit
	Generation uint64 // of meta when it was made: a meta with a lower one is older than the segment
}

// A segment head and a meta file begin alike in every version: magic, version, lowest version that can read it; and
// end with a checksum. So damage is told from a newer format.
func appendSegmentHead(dst []byte, s *segmentHead) []byte {
	start := len(dst)
	dst = append(dst, segmentMagic...)
	dst = be.AppendUint16(dst, formatVersion)
	dst = be.AppendUint16(dst, readerVersion)
	dst = append(dst, byte(s.Lane), 0, 0, 0, 0, 0, 0, 0)
	dst = be.AppendUint64(dst, s.Epoch)
	dst = be.AppendUint64(dst, s.Number)
	dst = be.AppendUint64(dst, s.First)
	dst = be.AppendUint64(dst, s.Generation)
	return be.AppendUint32(dst, checksum(dst[start:]))
}

func parseSegmentHead(b []byte) (s segmentHead, err error) {
	if len(b) < 12 || string(b[:4]) != segmentMagic || !summed(b) {
		return s, fmt.Errorf("%w: segment head", errRecord)
	}
	if reader := be.Uint16(b[6:]); reader > formatVersion {
		return s, fmt.Errorf("%w: needs format %d, this version reads %d", ErrNewerFormat, reader, formatVersion)
	}
	if len(b) < 52 {
		return s, fmt.Errorf("%w: segment head of %d bytes", errRecord, len(b))
	}
	s = segmentHead{
		Lane: Lane(b[8]), Epoch: be.Uint64(b[16:]), Number: be.Uint64(b[24:]), First: be.Uint64(b[32:]),
		Generation: be.Uint64(b[40:]),
	}
	if !s.Lane.Valid() {
		return s, fmt.Errorf("%w: segment of lane %d", errRecord, s.Lane)
	}
	return s, nil
}

// summed checks the CRC-32C in the last four bytes.
func summed(b []byte) bool {
	return len(b) >= 4 && checksum(b[:len(b)-4]) == be.Uint32(b[len(b)-4:])
}
