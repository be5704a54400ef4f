package clock

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Bounds of a Book.
const (
	maxBoots = 64      // whose records are kept: a queue rarely holds batches of more
	maxBook  = 1 << 20 // bytes
)

// Book is what stays of the time from boot to boot: the last good time, and the clock records of the latest boots, in
// the order of their counts.
type Book struct {
	Good     Good
	Reserved uint32 // the newest record's process may have used revisions up to here
	Records  []*telemetrypb.ClockRecord
}

// ErrBook: these bytes are not a Book.
var ErrBook = errors.New("not a clock file")

const bookHead = "waybill-clock 1 %d %d %d %08x\n" // good time, its source, reserved revision, CRC-32C of the records

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode writes a book: a line of text, then a Records message.
func (b *Book) Encode() ([]byte, error) {
	list := &telemetrypb.Records{}
	for _, r := range b.Records {
		list.Records = append(list.Records, &telemetrypb.Record{Record: &telemetrypb.Record_Clock{Clock: r}})
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(list)
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf(bookHead, b.Good.Unix, b.Good.Source, b.Reserved, crc32.Checksum(body, castagnoli))
	sum := crc32.Checksum([]byte(head), castagnoli)
	return append(fmt.Appendf(nil, "%08x ", sum), append([]byte(head), body...)...), nil
}

// ParseBook reads what Encode wrote, and nothing else.
func ParseBook(data []byte) (b Book, err error) {
	line, body, whole := bytes.Cut(data, []byte("\n"))
	if !whole || len(data) > maxBook || len(line) < 9 || line[8] != ' ' {
		return Book{}, ErrBook
	}
	var headSum, bodySum uint32
	if _, err := fmt.Sscanf(string(line[:8]), "%08x", &headSum); err != nil || crc32.Checksum(data[9:len(line)+1], castagnoli) != headSum {
		return Book{}, fmt.Errorf("%w: its first line is damaged", ErrBook)
	}
	if _, err := fmt.Sscanf(string(data[9:len(line)+1]), bookHead, &b.Good.Unix, &b.Good.Source, &b.Reserved, &bodySum); err != nil {
		return Book{}, fmt.Errorf("%w: %w", ErrBook, err)
	}
	if crc32.Checksum(body, castagnoli) != bodySum {
		return Book{}, fmt.Errorf("%w: its records are damaged", ErrBook)
	}
	var list telemetrypb.Records
	if err := proto.Unmarshal(body, &list); err != nil {
		return Book{}, fmt.Errorf("%w: %w", ErrBook, err)
	}
	for _, r := range list.GetRecords() {
		if c := r.GetClock(); len(c.GetBootId()) == 16 && c.GetRevision() > 0 {
			b.Records = append(b.Records, c)
		}
	}
	return b, nil
}

// find is the record of a boot, nil if there is none.
func (b *Book) find(boot [16]byte) *telemetrypb.ClockRecord {
	for _, r := range b.Records {
		if bytes.Equal(r.GetBootId(), boot[:]) {
			return r
		}
	}
	return nil
}

// trim keeps the newest boots.
func (b *Book) trim() {
	if n := len(b.Records); n > maxBoots {
		b.Records = slices.Delete(b.Records, 0, n-maxBoots)
	}
}

// settle bounds the boots that ended before this one began, at start at the latest: newest first, up to one that GPS
// vouched for, which needs no bound. It gives back those that changed, each under a new revision.
func (b *Book) settle(start int64) (changed []*telemetrypb.ClockRecord) {
	for i := len(b.Records) - 1; i >= 0; i-- {
		r := b.Records[i]
		if hasGPS(r) {
			break
		}
		if r.NotAfterUnixNs != nil && distance(r.GetNotAfterUnixNs(), start) < uint64(boundTolerance) {
			continue
		}
		r = proto.CloneOf(r)
		r.NotAfterUnixNs = proto.Int64(start)
		if r.NotBeforeUnixNs != nil && r.GetNotBeforeUnixNs() > start {
			r.NotBeforeUnixNs = nil // kept on the word of a clock that was wrong
		}
		r.Revision += reserve + 1 // above what its process may have used and not written down
		b.Records[i] = r
		changed = append(changed, r)
	}
	return changed
}

// boundTolerance is how far a bound has to move to be told again, ns.
const boundTolerance = int64(1e9)

func hasGPS(r *telemetrypb.ClockRecord) bool {
	return slices.ContainsFunc(r.GetAnchors(), func(a *telemetrypb.Anchor) bool { return a.GetSource() == telemetrypb.TimeSource_TIME_SOURCE_GPS })
}
