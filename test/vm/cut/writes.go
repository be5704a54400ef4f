package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What dm-log-writes has written to its log device (Documentation/admin-guide/device-mapper/log-writes.rst and
// drivers/md/dm-log-writes.c), little-endian, in sectors of the size that the first one names: the head, then for each
// entry one sector with its description, and behind that, but for marks and discards, its data. A write stands in front
// of the first flush that came after it was done.
const (
	logMagic = 0x6a736677736872

	logFlush   = 1 << 0
	logFUA     = 1 << 1
	logDiscard = 1 << 2
	logMark    = 1 << 3
)

// logged is one entry of the log.
type logged struct {
	sector  uint64 // of the device, in units of the log's sectors
	sectors uint64
	flags   uint64
	mark    string
	data    int64 // where it begins on the log device
}

// writeLog is a whole log.
type writeLog struct {
	from    io.ReaderAt
	unit    int64 // bytes of a sector
	entries []logged
}

func readLog(from io.ReaderAt) (*writeLog, error) {
	le := binary.LittleEndian
	var head [4096]byte
	if _, err := from.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	l := &writeLog{from: from, unit: int64(le.Uint32(head[24:]))}
	count := le.Uint64(head[16:])
	if le.Uint64(head[:]) != logMagic || le.Uint64(head[8:]) != 1 || l.unit < 512 || l.unit > 4096 {
		return nil, fmt.Errorf("not a log of dm-log-writes: % x", head[:28])
	}
	at := l.unit
	for range count {
		b := head[:l.unit]
		if _, err := from.ReadAt(b, at); err != nil {
			return nil, err
		}
		at += l.unit
		e := logged{sector: le.Uint64(b), sectors: le.Uint64(b[8:]), flags: le.Uint64(b[16:]), data: at}
		if n := le.Uint64(b[24:]); e.flags&logMark != 0 && n <= uint64(l.unit)-32 {
			e.mark = string(b[32 : 32+n])
		}
		if e.flags&(logDiscard|logMark) == 0 {
			at += int64(e.sectors) * l.unit
		}
		l.entries = append(l.entries, e)
	}
	if count == 0 {
		return nil, errors.New("an empty log")
	}
	return l, nil
}

// apply does an entry to a device; keep says, for each sector, whether it got there; nil = all did.
func (l *writeLog) apply(to io.WriterAt, e *logged, keep func() bool) error {
	if e.flags&(logDiscard|logMark) != 0 || e.sectors == 0 { // a discard may leave the old contents
		return nil
	}
	data := make([]byte, int64(e.sectors)*l.unit)
	if _, err := l.from.ReadAt(data, e.data); err != nil {
		return err
	}
	at := int64(e.sector) * l.unit
	if keep == nil {
		_, err := to.WriteAt(data, at)
		return err
	}
	for n := int64(0); n < int64(len(data)); n += l.unit {
		if !keep() {
			continue
		}
		if _, err := to.WriteAt(data[n:n+l.unit], at+n); err != nil {
			return err
		}
	}
	return nil
}
