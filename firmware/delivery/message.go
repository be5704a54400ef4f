package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Messages over MQTT, for networks that let nothing else out; all numbers big-endian. What carries them (topics, quality of
// service, who signs the campaign) is not this package's.
//
//	0  format 1
//	1  kind: 1 request, 2 chunk
//	2  SHA-256 of the file, 32 bytes
//
//	request, vehicle to cloud           chunk, cloud to vehicle
//	34  bytes per chunk, 4              34  offset, 8
//	38  ranges, 2: 1…64                 42  the bytes, 1…65536
//	40  offset 8, length 4; each
//
// A request stands until all of it was sent, and the next one adds to it. Chunks should begin at multiples of "bytes per chunk", and
// may come twice and in any order.
const (
	messageFormat = 1
	kindRequest   = 1
	kindChunk     = 2
	messageHeader = 2 + sha256.Size
	chunkHeader   = messageHeader + 8
	mostRanges    = 64
	mostChunk     = 64 << 10
)

// Range is some bytes of a file.
type Range struct {
	Offset int64
	Length uint32
}

// Request is what a vehicle asks for.
type Request struct {
	File   [sha256.Size]byte // by its SHA-256
	Chunk  uint32            // bytes that one message should carry
	Ranges []Range
}

// Encode gives the message.
func (r *Request) Encode() []byte {
	b := append([]byte{messageFormat, kindRequest}, r.File[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Chunk)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Ranges)))
	for _, x := range r.Ranges {
		b = binary.BigEndian.AppendUint64(b, uint64(x.Offset))
		b = binary.BigEndian.AppendUint32(b, x.Length)
	}
	return b
}

// DecodeRequest reads one, for the cloud's side. That the ranges lie in the file is the caller's to see to.
func DecodeRequest(b []byte) (r Request, err error) {
	if r.File, err = decodeHeader(b, kindRequest); err != nil {
		return Request{}, err
	}
	b = b[messageHeader:]
	if len(b) < 6 {
		return Request{}, errors.New("a request that is cut off")
	}
	r.Chunk = binary.BigEndian.Uint32(b)
	n := int(binary.BigEndian.Uint16(b[4:]))
	if b = b[6:]; n == 0 || n > mostRanges || len(b) != 12*n || r.Chunk == 0 || r.Chunk > mostChunk {
		return Request{}, fmt.Errorf("a request of %d ranges in %d bytes, %d a chunk", n, len(b), r.Chunk)
	}
	for ; len(b) > 0; b = b[12:] {
		off, length := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
		if off > maxLength || length == 0 {
			return Request{}, fmt.Errorf("a request for %d bytes at %d", length, off)
		}
		r.Ranges = append(r.Ranges, Range{int64(off), length})
	}
	return r, nil
}

// Chunk is some bytes of a file on their way to a vehicle.
type Chunk struct {
	File   [sha256.Size]byte // by its SHA-256
	Offset int64
	Bytes  []byte // 1…65536
}

// Encode gives the message.
func (c *Chunk) Encode() []byte {
	b := append([]byte{messageFormat, kindChunk}, c.File[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Offset))
	return append(b, c.Bytes...)
}

// DecodeChunk reads one. The bytes are those of the message, not a copy.
func DecodeChunk(b []byte) (c Chunk, err error) {
	if c.File, err = decodeHeader(b, kindChunk); err != nil {
		return Chunk{}, err
	}
	if len(b) <= chunkHeader || len(b) > chunkHeader+mostChunk {
		return Chunk{}, fmt.Errorf("a chunk message of %d bytes: want %d to %d", len(b), chunkHeader+1, chunkHeader+mostChunk)
	}
	off := binary.BigEndian.Uint64(b[messageHeader:])
	if off > maxLength {
		return Chunk{}, fmt.Errorf("a chunk at %d", off)
	}
	return Chunk{c.File, int64(off), b[chunkHeader:]}, nil
}

func decodeHeader(b []byte, kind byte) (sum [sha256.Size]byte, err error) {
	switch {
	case len(b) < messageHeader:
		return sum, fmt.Errorf("a message of %d bytes", len(b))
	case b[0] != messageFormat:
		return sum, fmt.Errorf("a message of format %d, %d is known here", b[0], messageFormat)
	case b[1] != kind:
		return sum, fmt.Errorf("a message of kind %d, not %d", b[1], kind)
	}
	copy(sum[:], b[2:])
	return sum, nil
}
