package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// Field numbers of AWS FleetWise's VehicleData, of a CapturedSignal in it and of a CanFrame in it, as published.
const (
	fwCampaign  = protowire.Number(1) // string
	fwDecoder   = protowire.Number(2) // string
	fwEvent     = protowire.Number(3) // uint32
	fwEventTime = protowire.Number(4) // uint64, Unix ms
	fwSignals   = protowire.Number(5) // repeated CapturedSignal
	fwFrames    = protowire.Number(7) // repeated CanFrame

	fwSignalTime  = protowire.Number(1) // sint64, ms from the event
	fwSignalID    = protowire.Number(2) // uint32
	fwSignalValue = protowire.Number(3) // double, physical

	fwFrameTime      = protowire.Number(1) // sint64, ms from the event
	fwFrameID        = protowire.Number(2) // uint32
	fwFrameInterface = protowire.Number(3) // string
	fwFrameData      = protowire.Number(4) // bytes
)

// The names that each of its messages carries, of usual length.
const (
	fwCampaignName = "arn:aws:iotfleetwise:eu-central-1:123456789012:campaign/fleet-telemetry-1"
	fwDecoderName  = "arn:aws:iotfleetwise:eu-central-1:123456789012:decoder-manifest/vehicle-model-2026-signals-v01"
)

// fleetWise is VehicleData of these samples, not yet compressed: per signal the newest first, times and values as it keeps
// them, in ms and as doubles.
func fleetWise(s *set, samples []telemetrypb.Sample, eventMS int64) []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, fwCampaign, protowire.BytesType), fwCampaignName)
	b = protowire.AppendString(protowire.AppendTag(b, fwDecoder, protowire.BytesType), fwDecoderName)
	b = appendNumber(b, fwEvent, 0xfee1_600d)
	b = appendNumber(b, fwEventTime, uint64(eventMS))
	relative := func(at int64) uint64 { return protowire.EncodeZigZag((at+s.unixNS)/1e6 - eventMS) }
	var one []byte
	if s.frames {
		for _, f := range frames(samples) {
			one = appendNumber(one[:0], fwFrameTime, relative(f.Time))
			one = appendNumber(one, fwFrameID, uint64(f.ID))
			one = protowire.AppendString(protowire.AppendTag(one, fwFrameInterface, protowire.BytesType), "0")
			one = protowire.AppendBytes(protowire.AppendTag(one, fwFrameData, protowire.BytesType), f.Payload())
			b = protowire.AppendBytes(protowire.AppendTag(b, fwFrames, protowire.BytesType), one)
		}
		return b
	}
	ordered := slices.Clone(samples)
	slices.Reverse(ordered)
	slices.SortStableFunc(ordered, func(a, b telemetrypb.Sample) int { return cmpInt(int64(a.Signal), int64(b.Signal)) })
	for _, v := range ordered {
		signal := s.signal(v.Signal)
		one = appendNumber(one[:0], fwSignalTime, relative(v.Time))
		one = appendNumber(one, fwSignalID, uint64(v.Signal))
		one = protowire.AppendTag(one, fwSignalValue, protowire.Fixed64Type)
		one = protowire.AppendFixed64(one, math.Float64bits(v.Physical(signal.GetScale(), signal.GetOffset())))
		b = protowire.AppendBytes(protowire.AppendTag(b, fwSignals, protowire.BytesType), one)
	}
	return b
}

// appendNumber appends a varint field; 0 is left out, as in proto3.
func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// signal finds a signal in the catalogue, whose signals ascend by id.
func (s *set) signal(id uint32) *telemetrypb.Signal {
	i, _ := slices.BinarySearchFunc(s.catalogue.Signals, id, func(c *telemetrypb.Signal, id uint32) int { return cmpInt(int64(c.Id), int64(id)) })
	return s.catalogue.Signals[i]
}

// frames puts classic frames together from the samples that they were recorded as (docs/RECORDING.md): three a frame.
func frames(samples []telemetrypb.Sample) []can.Frame {
	list := make([]can.Frame, 0, len(samples)/3)
	var columns [3][]telemetrypb.Sample // frame, len, data0: their ids ascend in this order
	first := samples[0].Signal
	for _, v := range samples {
		first = min(first, v.Signal)
	}
	for _, v := range samples {
		columns[v.Signal-first] = append(columns[v.Signal-first], v)
	}
	for i, v := range columns[0] {
		f := can.Frame{ID: uint32(v.Bits), Time: v.Time, Len: uint8(columns[1][i].Bits)}
		binary.BigEndian.PutUint64(f.Data[:], columns[2][i].Bits<<(64-8*f.Len))
		list = append(list, f)
	}
	return list
}

// jsonText is one document of a batch: an object a sample with time, name and physical value, or an object a frame.
func jsonText(s *set, samples []telemetrypb.Sample) []byte {
	b := fmt.Appendf(nil, `{"device":"%s","samples":[`, device)
	if s.frames {
		for _, f := range frames(samples) {
			b = append(can.AppendSeconds(append(b, `{"time":`...), f.Time+s.unixNS), `,"bus":"vcan0"`...)
			b = fmt.Appendf(b, `,"id":"%03X","data":"%X"},`, f.ID, f.Payload())
		}
	} else {
		for _, v := range samples {
			signal := s.signal(v.Signal)
			b = append(can.AppendSeconds(append(b, `{"time":`...), v.Time+s.unixNS), `,"name":"`...)
			b = append(append(b, signal.GetName()...), `","value":`...)
			b = strconv.AppendFloat(b, v.Physical(signal.GetScale(), signal.GetOffset()), 'g', -1, 64)
			b = append(b, "},"...)
		}
	}
	return append(b[:len(b)-1], "]}"...)
}

// gzipped is the size of text under gzip.
func gzipped(t testing.TB, text []byte) int {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Len()
}

// xzLog is the size of a log, cut into intervals and each of them packed by `xz -9`.
func xzLog(t testing.TB, log []logLine, every time.Duration) int {
	t.Helper()
	xz, err := exec.LookPath("xz")
	if err != nil {
		deps.Missing(t, "xz, of Debian's xz-utils: %v", err)
	}
	dir := t.TempDir()
	var files []string
	for begin := 0; begin < len(log); {
		part := (log[begin].unixNS - log[0].unixNS) / int64(every)
		var text []byte
		for ; begin < len(log) && (log[begin].unixNS-log[0].unixNS)/int64(every) == part; begin++ {
			text = append(text, log[begin].text...)
		}
		files = append(files, writeFile(t, filepath.Join(dir, strconv.Itoa(len(files))), "%s", text))
	}
	return len(output(t, nil, append([]string{xz, "-9", "-c"}, files...)...)) // one file's behind the other's
}

// headerFigures is what a file of recorded columns says of itself.
var headerFigures = regexp.MustCompile(`VehicleData of the same samples: (\d+) bytes, snappy (\d+) bytes, ([\d.]+) bytes/sample`)

// Our FleetWise is as large as the one that the recorded columns were weighed with, by other hands: to the byte before
// compression, and within what two of snappy's encoders differ by after it.
func TestFleetWise(t *testing.T) {
	for _, file := range wireFiles(t) {
		text := readFile(t, file)
		figures := headerFigures.FindStringSubmatch(string(text))
		if figures == nil {
			t.Fatalf("%s: no figures in its head", file)
		}
		plain, _ := strconv.Atoi(figures[1])
		packed, _ := strconv.Atoi(figures[2])
		weight, _ := strconv.ParseFloat(figures[3], 64)
		s := wireSet(t, file)
		data := fleetWise(&s, s.samples, s.unixNS/1e6+10_000) // collected when 10 s were over
		got := len(snappy.Encode(nil, data))
		t.Logf("%s: %d bytes (%d), packed %d (%d)", filepath.Base(file), len(data), plain, got, packed)
		if len(data) != plain {
			t.Errorf("%s: VehicleData has %d bytes, the head says %d", filepath.Base(file), len(data), plain)
		}
		if math.Abs(float64(got-packed)) > 0.002*float64(packed) || math.Abs(float64(got)/float64(len(s.samples))-weight) > 0.01*weight {
			t.Errorf("%s: packed %d bytes, %.2f a sample; the head says %d and %.2f", filepath.Base(file), got, float64(got)/float64(len(s.samples)), packed, weight)
		}
	}
}

// What JSON says of a sample.
func TestJSON(t *testing.T) {
	s := wireSet(t, wireFiles(t)[0])
	const want = `{"device":"BENCH-DEVICE-0001","samples":[{"time":1780300800.066000,"name":"can0.Message1.Signal1","value":83.7},` +
		`{"time":1780300800.066000,"name":"can0.Message1.Signal2","value":101.60000000000001}]}`
	if got := string(jsonText(&s, s.samples[:2])); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
