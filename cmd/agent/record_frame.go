package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// A recorded frame is samples of one time: frame, len, data0, and data1…data7 as far as its payload goes. All are whole
// numbers, and each column keeps its order, so that the frame is put together again exactly. docs/RECORDING.md tells a
// stranger how.
//
//	frame  bit  0–31  can_id of linux/can.h: identifier, 29 error, 30 remote, 31 extended
//	       bit 32–39  flags of struct canfd_frame: 32 bit rate switch, 33 error state, 34 FD format
//	len               bytes of the payload, of a remote frame those asked for
//	dataN             bytes 8N…8N+7 as far as there are any, as one big-endian number: 11 22 33 is 0x112233. data0 is
//	                  there for every frame, 0 if it has no payload, so that it shares the frame's times.
const (
	rawEFF = 1 << 31 // CAN_EFF_FLAG
	rawRTR = 1 << 30 // CAN_RTR_FLAG
	rawERR = 1 << 29 // CAN_ERR_FLAG
	rawBRS = 1 << 32 // CANFD_BRS
	rawESI = 1 << 33 // CANFD_ESI
	rawFDF = 1 << 34 // CANFD_FDF

	rawWord  = 8                    // bytes of one data sample
	rawWords = can.MaxLen / rawWord // data samples of the longest frame
	rawMask  = rawFDF<<1 - 1        // the bits of frame that mean something
	rawAll   = 2 + rawWords         // signals of a recorded bus
	rawID    = uint32(can.MaxExtendedID)
)

// rawFlags ties the bits of a frame sample to the flags of can.Frame.
var rawFlags = [...]struct {
	bit  uint64
	flag can.Flags
}{
	{rawEFF, can.FlagExtended}, {rawRTR, can.FlagRemote}, {rawERR, can.FlagError},
	{rawBRS, can.FlagBRS}, {rawESI, can.FlagESI}, {rawFDF, can.FlagFD},
}

// rawIDs are the ids of the samples of a recorded bus, or what stands in their place.
type rawIDs struct {
	frame, length uint32
	data          [rawWords]uint32
}

// all are the ids in the order of rawNames.
func (r *rawIDs) all() [rawAll]*uint32 {
	list := [rawAll]*uint32{&r.frame, &r.length}
	for i := range r.data {
		list[2+i] = &r.data[i]
	}
	return list
}

// rawNames are the last parts of the signals' names.
func rawNames() [rawAll]string {
	list := [rawAll]string{"frame", "len"}
	for i := range rawWords {
		list[2+i] = "data" + string(rune('0'+i))
	}
	return list
}

// appendFrame appends the samples of a frame.
func (r *rawIDs) appendFrame(dst []telemetrypb.Sample, f *can.Frame) []telemetrypb.Sample {
	word := uint64(f.ID & rawID)
	for _, m := range &rawFlags {
		if f.Flags&m.flag != 0 {
			word |= m.bit
		}
	}
	payload := f.Payload()
	dst = append(dst, telemetrypb.UintSample(r.frame, f.Time, word), telemetrypb.UintSample(r.length, f.Time, uint64(f.Len)),
		telemetrypb.UintSample(r.data[0], f.Time, dataWord(payload, 0)))
	for i := 1; i*rawWord < len(payload); i++ {
		dst = append(dst, telemetrypb.UintSample(r.data[i], f.Time, dataWord(payload, i)))
	}
	return dst
}

// dataWord is the i-th word of a payload; 0 where there is none.
func dataWord(payload []byte, i int) uint64 {
	var b [rawWord]byte
	payload = payload[min(i*rawWord, len(payload)):]
	payload = payload[:min(rawWord, len(payload))]
	copy(b[rawWord-len(payload):], payload)
	return binary.BigEndian.Uint64(b[:])
}

// setHead sets what a frame is from its first two samples, or says why no frame is like that.
func setHead(f *can.Frame, word, length uint64) error {
	f.Flags = 0
	for _, m := range &rawFlags {
		if word&m.bit != 0 {
			f.Flags |= m.flag
		}
	}
	fd := f.Flags&can.FlagFD != 0
	switch {
	case word&^rawMask != 0:
		return fmt.Errorf("frame %#x has bits that mean nothing", word)
	case word&(rawEFF|rawERR) == 0 && word&uint64(rawID) > can.MaxStandardID:
		return fmt.Errorf("frame %#x: the identifier has more than 11 bits", word)
	case word&(rawEFF|rawERR) == rawEFF|rawERR:
		return fmt.Errorf("frame %#x is an error and extended", word)
	case !fd && f.Flags&(can.FlagBRS|can.FlagESI) != 0:
		return fmt.Errorf("frame %#x has flags of the FD format and is not of it", word)
	case length > can.MaxLen || !fd && length > can.MaxClassicLen:
		return fmt.Errorf("frame %#x of %d bytes", word, length)
	}
	f.ID, f.Len = uint32(word)&rawID, uint8(length)
	return nil
}

// errWide: a data sample is larger than its bytes.
var errWide = errors.New("a data sample does not fit the length of its frame")

// setWord sets the i-th word of the payload.
func setWord(f *can.Frame, i int, value uint64) error {
	payload := f.Payload()
	payload = payload[min(i*rawWord, len(payload)):]
	payload = payload[:min(rawWord, len(payload))]
	if n := len(payload); n < rawWord && value>>(8*n) != 0 {
		return errWide
	}
	var b [rawWord]byte
	binary.BigEndian.PutUint64(b[:], value)
	copy(payload, b[rawWord-len(payload):])
	return nil
}

// column are the samples of one signal in a batch: decoded, they stand in a row, ascending by signal.
func column(samples []telemetrypb.Sample, id uint32) []telemetrypb.Sample {
	if id == 0 {
		return nil
	}
	low, high := 0, len(samples)
	for low < high {
		if middle := (low + high) / 2; samples[middle].Signal < id {
			low = middle + 1
		} else {
			high = middle
		}
	}
	for high = low; high < len(samples) && samples[high].Signal == id; {
		high++
	}
	return samples[low:high]
}

// frames puts together the frames of one bus in a batch, whose samples are ascending by signal, in their order on the bus.
// A batch has whole frames only; one in which anything is over, missing, or at another time than its frame gives none.
func (r *rawIDs) frames(dst []can.Frame, samples []telemetrypb.Sample, bus uint8) ([]can.Frame, error) {
	heads, lengths := column(samples, r.frame), column(samples, r.length)
	var data [rawWords][]telemetrypb.Sample
	for i := range data {
		data[i] = column(samples, r.data[i])
	}
	if len(lengths) != len(heads) || len(data[0]) != len(heads) {
		return dst, fmt.Errorf("%d frames with %d lengths and %d payloads", len(heads), len(lengths), len(data[0]))
	}
	begin := len(dst)
	next := func(column *[]telemetrypb.Sample, at int64) (uint64, error) {
		if len(*column) == 0 {
			return 0, errors.New("data are missing")
		}
		s := &(*column)[0]
		if s.Kind != telemetrypb.KindUint || s.Time != at {
			return 0, errors.New("data of another time or kind than the frame")
		}
		*column = (*column)[1:]
		return s.Bits, nil
	}
	for i := range heads {
		dst = append(dst, can.Frame{Time: heads[i].Time, Bus: bus})
		f := &dst[len(dst)-1]
		err := error(nil)
		if heads[i].Kind != telemetrypb.KindUint {
			err = errors.New("not an unsigned number")
		}
		length, lengthErr := next(&lengths, f.Time)
		err = errors.Join(err, lengthErr)
		if err == nil {
			err = setHead(f, heads[i].Bits, length)
		}
		for k := 0; err == nil && (k == 0 || k*rawWord < len(f.Payload())); k++ {
			var value uint64
			if value, err = next(&data[k], f.Time); err == nil {
				err = setWord(f, k, value)
			}
		}
		if err != nil {
			return dst[:begin], fmt.Errorf("frame %d of %d: %w", i+1, len(heads), err)
		}
	}
	for i := range data {
		if len(data[i]) > 0 {
			return dst[:begin], fmt.Errorf("%d data samples without a frame", len(data[i]))
		}
	}
	return dst, nil
}
