package can_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/test/deps"
)

// wireBits is exactly what a classic frame takes on the wire, bit by bit (ISO 11898-1:2015 §10.4, §10.5): it is built,
// its CRC computed, and stuffed.
func wireBits(f *can.Frame) int {
	var bits []byte
	put := func(value uint32, count int) {
		for i := count - 1; i >= 0; i-- {
			bits = append(bits, byte(value>>i&1))
		}
	}
	put(0, 1) // start of frame
	if f.Extended() {
		put(f.ID>>18, 11)
		put(3, 2) // SRR, IDE
		put(f.ID&(1<<18-1), 18)
	} else {
		put(f.ID, 11)
	}
	put(0, 3) // RTR and two more: IDE and r0, or r1 and r0
	put(uint32(f.Len), 4)
	for _, b := range f.Payload() {
		put(uint32(b), 8)
	}
	crc := uint32(0)
	for _, bit := range bits {
		next := uint32(bit) ^ crc>>14&1
		crc = crc << 1 & 0x7FFF
		if next != 0 {
			crc ^= 0x4599
		}
	}
	put(crc, 15)
	stuffed, run, last := 0, 0, byte(2)
	for _, bit := range bits {
		if bit != last {
			run, last = 0, bit
		}
		if run++; run == 5 {
			stuffed++
			run, last = 1, 1-bit
		}
	}
	return len(bits) + stuffed + 13
}

func TestBusBitsOfRecordedTraffic(t *testing.T) {
	for _, name := range []string{"car-raw-500k.log", "boat-nmea2000.log", "nissan-uds-isotp.log", "car-uds-isotp.log", "truck-j1939.log"} {
		file, err := os.Open(filepath.Join(deps.Testdata(t), "can", name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var frames, bytes, extended, exact uint64
		lines := can.NewScanner(file)
		for lines.Scan() {
			f := lines.Frame()
			frames++
			bytes += uint64(len(f.Payload()))
			if f.Extended() {
				extended++
			}
			exact += uint64(wireBits(f))
		}
		if frames == 0 {
			t.Fatalf("%s: no frames", name)
		}
		off := can.BusBits(frames, bytes, float64(extended)/float64(frames))/float64(exact) - 1
		t.Logf("%s: %d frames, %d bits, estimated %+.1f %%", name, frames, exact, 100*off)
		if math.Abs(off) > 0.04 {
			t.Errorf("%s: the estimate is %+.1f %% off", name, 100*off)
		}
	}
}

// The bounds that the comment of BusBits states.
func TestBusBitsOfExtremes(t *testing.T) {
	for _, f := range []can.Frame{
		{ID: 0, Len: 8},
		{ID: 0, Len: 0},
		{ID: 0, Len: 8, Flags: can.FlagExtended},
		{ID: 0x555, Len: 8, Data: [64]byte{0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55}},
	} {
		extended := 0.0
		if f.Extended() {
			extended = 1
		}
		exact := float64(wireBits(&f))
		if ratio := exact / can.BusBits(1, uint64(f.Len), extended); ratio > 1.14 || ratio < 0.92 {
			t.Errorf("%+v: %v bits, %.3f of the estimate", f.ID, exact, ratio)
		}
	}
}
