package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"path/filepath"
)

// ErrBudget says that a campaign has had all the bytes that it may have. What was fetched stays.
var ErrBudget = errors.New("the campaign's bytes are spent")

// budget counts what a campaign receives, over restarts and over power cuts: bodies and chunks byte by byte, what is around
// them by estimate (requestBytes and those after it). It is one file of two records of 64 bytes, written in turn, so that a
// torn one leaves the other:
//
//	 0  "WBSPENT", 1
//	 8  number of the record, 8 bytes, big-endian; the higher one counts
//	16  bytes spent, 8 bytes
//	24  campaign: the first 16 bytes of its id's SHA-256; 20 zero bytes
//	60  CRC-32C of the 60 bytes before
//
// To be right without a write for every block, it is ahead: bytes are noted as spent in leases, before they are asked for.
// A crash costs the rest of a lease, and the sum is never too low. A budget of 0 has no limit and no file.
type budget struct {
	limit    int64 // bytes
	spent    int64 // and not more than noted
	noted    int64 // on the disk
	number   uint64
	campaign [16]byte
	file     file
}

const (
	budgetMagic     = "WBSPENT\x01"
	budgetRecord    = 64
	mostLease       = 256 << 10
	leastLease      = 8 << 10
	requestBytes    = 512     // headers of a request's answer, about; those of a chunk's publish
	connectionBytes = 100     // of a TCP connection's beginning and end
	resumptionBytes = 1 << 10 // of a TLS session that goes on, with new tickets
	handshakeBytes  = 5 << 10 // of one that begins, with certificates
)

func openBudget(d disk, dir string, limit int64, id identity, log *slog.Logger) (*budget, error) {
	b := &budget{limit: limit, campaign: id.campaign}
	if limit == 0 {
		return b, nil
	}
	var err error
	if b.file, err = d.open(filepath.Join(dir, "spent")); err != nil {
		return nil, fmt.Errorf("byte budget: %w", err)
	}
	text, err := io.ReadAll(io.NewSectionReader(b.file, 0, 2*budgetRecord))
	if err == nil {
		err = d.syncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("byte budget: %w", err), b.file.Close())
	}
	found := false
	for at := 0; at+budgetRecord <= len(text); at += budgetRecord {
		number, spent, campaign, ok := parseSpent(text[at : at+budgetRecord])
		if !ok || found && number < b.number {
			continue
		}
		found = true
		b.number, b.spent = number, spent
		if campaign != b.campaign {
			b.spent = 0
		}
	}
	if len(text) > 0 && !found {
		log.Warn("the count of the campaign's bytes is damaged; it begins at 0", "file", "spent")
	}
	b.noted = b.spent
	return b, nil
}

func parseSpent(r []byte) (number uint64, spent int64, campaign [16]byte, ok bool) {
	if string(r[:8]) != budgetMagic || crc32.Checksum(r[:60], castagnoli()) != binary.BigEndian.Uint32(r[60:]) {
		return 0, 0, campaign, false
	}
	copy(campaign[:], r[24:])
	return binary.BigEndian.Uint64(r[8:]), int64(binary.BigEndian.Uint64(r[16:]) & (1<<63 - 1)), campaign, true
}

// left is how many bytes there are to ask for; ErrBudget: none.
func (b *budget) left() (int64, error) {
	if b.limit == 0 {
		return math.MaxInt64, nil
	}
	if b.spent >= b.limit {
		return 0, fmt.Errorf("%w: %d of %d; a campaign with a larger budget goes on from here", ErrBudget, b.spent, b.limit)
	}
	return b.limit - b.spent, nil
}

// allow says how many of n bytes may be asked for, and notes them. ErrBudget: none.
func (b *budget) allow(n int64) (int64, error) {
	if b.limit == 0 {
		return n, nil
	}
	left, err := b.left()
	if err != nil {
		return 0, err
	}
	n = min(n, left)
	if b.spent+n > b.noted {
		lease := max(min(mostLease, b.limit/64), leastLease)
		if err := b.note(min(b.spent+max(n, lease), max(b.limit, b.spent+n))); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// spend counts what came. What came unasked, or what an estimate adds, is noted with the next that is asked for.
func (b *budget) spend(n int64) { b.spent += n }

func (b *budget) note(spent int64) error {
	r := make([]byte, budgetRecord)
	copy(r, budgetMagic)
	binary.BigEndian.PutUint64(r[8:], b.number+1)
	binary.BigEndian.PutUint64(r[16:], uint64(spent))
	copy(r[24:], b.campaign[:])
	binary.BigEndian.PutUint32(r[60:], crc32.Checksum(r[:60], castagnoli()))
	if _, err := b.file.WriteAt(r, int64((b.number+1)%2)*budgetRecord); err != nil {
		return &diskError{fmt.Errorf("byte budget: %w", err)}
	}
	if err := b.file.Sync(); err != nil {
		return &diskError{fmt.Errorf("byte budget: %w", err)}
	}
	b.number++
	b.noted = spent
	return nil
}

// close notes what was really spent.
func (b *budget) close() error {
	if b.file == nil {
		return nil
	}
	var err error
	if b.noted != b.spent {
		err = b.note(b.spent)
	}
	return errors.Join(err, b.file.Close())
}
