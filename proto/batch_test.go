package telemetrypb

import (
	"bytes"
	"encoding/csv"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/test/deps"
)

// wireFiles finds the recorded samples; without them a person's machine skips, CI fails.
func wireFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(deps.Testdata(t, "wire"), "*.csv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of wire data: %v", len(files), err)
	}
	return files
}

// readWire reads t_ms,signal,raw.
func readWire(t testing.TB, file string) (samples []Sample) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reader := csv.NewReader(bytes.NewReader(text))
	reader.Comment = '#'
	rows, err := reader.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] {
		var v [3]int64
		for i := range v {
			if v[i], err = strconv.ParseInt(row[i], 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		samples = append(samples, IntSample(uint32(v[1]), v[0]*1e6, v[2]))
	}
	return samples
}

// Recorded samples go the whole way of a publish and come back, in whatever cuts.
func TestWireIsLossless(t *testing.T) {
	for _, file := range wireFiles(t) {
		samples := readWire(t, file)
		if len(samples) != 4000 {
			t.Fatalf("%s: %d samples", file, len(samples))
		}
		for _, seconds := range []int64{1, 5, 10} {
			var batches [][]byte
			var want []Sample
			for rest := samples; len(rest) > 0; {
				n := slices.IndexFunc(rest, func(s Sample) bool { return s.Time >= int64(len(batches)+1)*seconds*1e9 })
				if n <= 0 {
					n = len(rest)
				}
				head := exampleHead()
				head.Seq = uint64(len(batches)) + 1
				batch, err := AppendBatch(nil, head, rest[:n])
				if err != nil {
					t.Fatal(err)
				}
				batches, want, rest = append(batches, batch), append(want, bySignal(rest[:n])...), rest[n:]
			}
			payload := AppendPayload(nil, false, nil, batches...)
			view, err := OpenPayload(payload)
			if err != nil {
				t.Fatal(err)
			}
			var got []Sample
			for _, b := range view.Batches {
				batch, err := OpenBatch(b)
				if err != nil {
					t.Fatal(err)
				}
				if got, err = batch.Samples(got); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s in batches of %d s comes back otherwise", file, seconds)
			}
			t.Logf("%s, %2d s: %.4f bytes a sample", filepath.Base(file), seconds, float64(len(payload))/float64(len(samples)))
		}
	}
}

// The envelope is written by hand: protobuf's own encoder, given its fields, must write the same bytes, and the
// checksum must be that of the standard library over the parts as FORMAT.md names them.
func TestEnvelopeIsProtobuf(t *testing.T) {
	head := exampleHead()
	head.Catalogue = [16]byte{1, 2, 3}
	head.Supersedes = []*SeqRange{{First: 1, Last: 300}, {First: 0, Last: 5}, {}}
	for _, times := range [][2]int64{{-5, 7}, {math.MinInt64, math.MaxInt64}, {0, 0}} {
		batch, err := AppendBatch(nil, head, []Sample{IntSample(1, times[0], 1), IntSample(1, times[1], 2)})
		if err != nil {
			t.Fatal(err)
		}
		view, err := OpenBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(&Batch{Envelope: view.Envelope, Body: view.Body})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, batch) {
			t.Errorf("by hand\n%x\nby protobuf\n%x", batch, again)
		}
		e := proto.Clone(view.Envelope).(*Envelope)
		e.Crc32C = 0
		bare, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if sum := crc32.Checksum(slices.Concat(bare, view.Body), crc32.MakeTable(crc32.Castagnoli)); sum != view.Envelope.Crc32C {
			t.Errorf("checksum %08x, want %08x", view.Envelope.Crc32C, sum)
		}
		want := &Envelope{Format: 1, MinReader: 1, Tenant: "acme", Device: "car-7", Epoch: head.Epoch, Lane: Lane_LANE_TELEMETRY,
			Seq: 42, BootId: head.BootID[:], BootCount: 3, FirstNs: times[0], SpanNs: uint64(times[1] - times[0]), Samples: 2,
			Catalogue: head.Catalogue[:], Codec: Codec_CODEC_COLUMNS_1, Supersedes: head.Supersedes, Crc32C: view.Envelope.Crc32C}
		if !proto.Equal(view.Envelope, want) {
			t.Errorf("got %v, want %v", view.Envelope, want)
		}
		if view.Envelope.LastNs() != times[1] {
			t.Errorf("last %d, want %d", view.Envelope.LastNs(), times[1])
		}
	}
}

// Every flipped bit, every lost or doubled byte of a batch is noticed when it is opened.
func TestDamageIsDetected(t *testing.T) {
	samples, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		t.Fatal(err)
	}
	records, err := AppendControl(nil, controlHead(), &Records{Records: []*Record{{Record: &Record_Loss{Loss: &Loss{Count: 3, Source: "can:can0"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, at int, b []byte) {
		t.Helper()
		if _, err := OpenBatch(b); !errors.Is(err, ErrChecksum) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s %d: %v", what, at, err)
		}
	}
	for _, batch := range [][]byte{samples, records, longBatch(t)} {
		if _, err := OpenBatch(batch); err != nil {
			t.Fatal(err)
		}
		for bit := range len(batch) * 8 {
			batch[bit/8] ^= 1 << (bit % 8)
			refused("flipped bit", bit, batch)
			batch[bit/8] ^= 1 << (bit % 8)
		}
		for at := range batch {
			refused("lost byte", at, slices.Concat(batch[:at], batch[at+1:]))
			refused("cut at", at, batch[:at])
			refused("doubled byte", at, slices.Concat(batch[:at+1], batch[at:]))
		}
		refused("a byte more", len(batch), append(slices.Clone(batch), 0))
	}
	refused("nothing", 0, nil)
}

func controlHead() *Head {
	h := exampleHead()
	h.Lane = Lane_LANE_UNSPECIFIED
	return h
}

// longBatch has lengths of two bytes.
func longBatch(t *testing.T) []byte {
	t.Helper()
	head := exampleHead()
	for i := range uint64(30) {
		head.Supersedes = append(head.Supersedes, &SeqRange{First: i, Last: 3 * i})
	}
	batch, err := AppendBatch(nil, head, interleaved(rand.New(rand.NewPCG(1, 1)), 5, 60))
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// sealAs seals an envelope of the test's making, checksum included.
func sealAs(t *testing.T, e *Envelope, body []byte) []byte {
	t.Helper()
	e.Crc32C = 0
	bare, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := appendSealed(nil, bare, body)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// A batch can be sound and still say what cannot be.
func TestOpenBatchRefuses(t *testing.T) {
	good, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		t.Fatal(err)
	}
	view, err := OpenBatch(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(e *Envelope)
		want   error
	}{
		"nothing changed":  {func(*Envelope) {}, nil},
		"a newer writer":   {func(e *Envelope) { e.Format = 2 }, nil},
		"a newer reader":   {func(e *Envelope) { e.Format, e.MinReader = 3, 2 }, ErrNewerFormat},
		"newer and odd":    {func(e *Envelope) { e.MinReader, e.BootId, e.Device = 9, nil, "" }, ErrNewerFormat},
		"no format":        {func(e *Envelope) { e.Format = 0 }, ErrMalformed},
		"no device":        {func(e *Envelope) { e.Device = "" }, ErrMalformed},
		"device in a path": {func(e *Envelope) { e.Device = "a/b" }, ErrMalformed},
		"tenant wildcard":  {func(e *Envelope) { e.Tenant = "+" }, ErrMalformed},
		"lane 0":           {func(e *Envelope) { e.Lane = 0 }, ErrMalformed},
		"lane 5":           {func(e *Envelope) { e.Lane = 5 }, ErrMalformed},
		"seq 0":            {func(e *Envelope) { e.Seq = 0 }, ErrMalformed},
		"boot id of 15":    {func(e *Envelope) { e.BootId = e.BootId[:15] }, ErrMalformed},
		"catalogue of 32":  {func(e *Envelope) { e.Catalogue = make([]byte, 32) }, ErrMalformed},
		"endless span":     {func(e *Envelope) { e.FirstNs, e.SpanNs = 1, math.MaxInt64 }, ErrMalformed},
	} {
		e := proto.Clone(view.Envelope).(*Envelope)
		c.change(e)
		got, err := OpenBatch(sealAs(t, e, view.Body))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want == ErrNewerFormat && (got.Envelope.GetSeq() != 42 || got.Bytes == nil) {
			t.Errorf("%s: the view is not whole: %v", name, got.Envelope)
		}
		if c.want == ErrNewerFormat {
			if _, err := got.Samples(nil); !errors.Is(err, ErrNewerFormat) {
				t.Errorf("%s: its samples: %v", name, err)
			}
		}
	}
	if _, err := OpenBatch(sealAs(t, &Envelope{Format: 1}, nil)); !errors.Is(err, ErrMalformed) {
		t.Errorf("an empty envelope: %v", err)
	}
}

// The envelope is believed only where the body agrees.
func TestSamplesAgreeWithEnvelope(t *testing.T) {
	good, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		t.Fatal(err)
	}
	view, err := OpenBatch(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(e *Envelope){
		"one fewer":    func(e *Envelope) { e.Samples-- },
		"one more":     func(e *Envelope) { e.Samples++ },
		"2^32 − 1":     func(e *Envelope) { e.Samples = math.MaxUint32 },
		"begins later": func(e *Envelope) { e.FirstNs++; e.SpanNs-- },
		"ends later":   func(e *Envelope) { e.SpanNs++ },
		"records":      func(e *Envelope) { e.Codec = Codec_CODEC_RECORDS },
	} {
		e := proto.Clone(view.Envelope).(*Envelope)
		change(e)
		lying, err := OpenBatch(sealAs(t, e, view.Body))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kept := []Sample{IntSample(1, 1, 1)}
		if out, err := lying.Samples(kept); err == nil || len(out) != 1 {
			t.Errorf("%s: %d samples, %v", name, len(out), err)
		}
	}
}

// What a later version may write into a body is kept for it, not rejected: FORMAT.md, section 7. The decoder in Python says
// the same of it.
func TestNewerBodies(t *testing.T) {
	good, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		t.Fatal(err)
	}
	view, err := OpenBatch(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(e *Envelope, body []byte)
		want   error
	}{
		"an unknown codec":  {func(e *Envelope, _ []byte) { e.Codec = 9 }, ErrNewerFormat},
		"an unknown cipher": {func(e *Envelope, _ []byte) { e.Cipher = Cipher_CIPHER_AES_256_GCM }, ErrNewerFormat},
		"body version 2":    {func(_ *Envelope, body []byte) { body[0] = 2 }, ErrNewerFormat},
		"body version 0":    {func(_ *Envelope, body []byte) { body[0] = 0 }, ErrMalformed},
		"no codec":          {func(e *Envelope, _ []byte) { e.Codec = 0 }, ErrMalformed},
	} {
		e, body := proto.Clone(view.Envelope).(*Envelope), slices.Clone(view.Body)
		c.change(e, body)
		sealed := sealAs(t, e, body)
		newer, err := OpenBatch(sealed)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kept := []Sample{IntSample(1, 1, 1)}
		if out, err := newer.Samples(kept); !errors.Is(err, c.want) || len(out) != 1 {
			t.Errorf("%s: %d samples, %v, want %v", name, len(out), err, c.want)
		}
		if c.want != ErrNewerFormat {
			continue
		}
		decode := deps.Python(t, filepath.Join(deps.Root(t), "tools", "decode_batch.py"))
		decode.Stdin = bytes.NewReader(AppendPayload(nil, false, nil, sealed, good))
		var said bytes.Buffer
		decode.Stderr = &said
		if out, err := decode.Output(); err != nil || !strings.Contains(said.String(), "for a newer reader") || bytes.Count(out, []byte("\n")) != len(exampleSamples()) {
			t.Errorf("%s: the decoder in Python prints %q, %q, %v", name, out, said.String(), err)
		}
	}
}

func TestAppendBatchRefuses(t *testing.T) {
	for name, change := range map[string]func(h *Head){
		"no tenant":       func(h *Head) { h.Tenant = "" },
		"no device":       func(h *Head) { h.Device = "" },
		"device too long": func(h *Head) { h.Device = strings.Repeat("x", MaxName+1) },
		"seq 0":           func(h *Head) { h.Seq = 0 },
		"no lane":         func(h *Head) { h.Lane = 0 },
		"lane 5":          func(h *Head) { h.Lane = 5 },
		"too many ranges": func(h *Head) { h.Supersedes = slices.Repeat([]*SeqRange{{First: 1, Last: 2}}, 3000) },
	} {
		h := exampleHead()
		change(h)
		if out, err := AppendBatch([]byte("kept"), h, exampleSamples()); err == nil || string(out) != "kept" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	h := exampleHead()
	if out, err := AppendControl([]byte("kept"), h, &Records{}); err == nil || string(out) != "kept" {
		t.Errorf("records in the telemetry lane: %q, %v", out, err)
	}
	if _, err := AppendControl(nil, controlHead(), &Records{Records: make([]*Record, MaxRecords+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many records: %v", err)
	}
}

func TestControl(t *testing.T) {
	want := &Records{Records: []*Record{
		{Record: &Record_Clock{Clock: &ClockRecord{Revision: 2, Anchors: []*Anchor{{BootNs: 1, UnixNs: 2, NewPiece: true}}}}},
		{Record: &Record_Epoch{Epoch: &Epoch{Epoch: 5, Reason: "new"}}},
		{Record: &Record_Device{Device: &DeviceInfo{Versions: map[string]string{"b": "2", "a": "1", "c": "3"}}}},
		{},
	}}
	batch, err := AppendControl(nil, controlHead(), want)
	if err != nil {
		t.Fatal(err)
	}
	again, err := AppendControl(nil, controlHead(), want)
	if err != nil || !bytes.Equal(again, batch) {
		t.Errorf("the same records, other bytes (%v)", err)
	}
	view, err := OpenBatch(batch)
	if err != nil {
		t.Fatal(err)
	}
	if e := view.Envelope; e.Lane != Lane_LANE_CONTROL || e.Samples != 4 || e.Codec != Codec_CODEC_RECORDS {
		t.Errorf("envelope %v", e)
	}
	got, err := view.Records()
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := view.Samples(nil); err == nil {
		t.Error("records were read as samples")
	}
	e := proto.Clone(view.Envelope).(*Envelope)
	e.Samples = MaxRecords + 2
	flood, err := OpenBatch(sealAs(t, e, bytes.Repeat([]byte{0x0a, 0}, MaxRecords+2)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := flood.Records(); err == nil {
		t.Error("more records than allowed were read")
	}
}

func FuzzOpenBatch(f *testing.F) {
	batch, err := AppendBatch(nil, exampleHead(), exampleSamples())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(batch)
	f.Add([]byte{0x0a, 0x06, 0xfd, 0x01, 0, 0, 0, 0, 0x12, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum would stop nearly everything: it is made good first where there is one.
		if envelope, body, _, err := splitBatch(b); err == nil {
			if b, err = appendSealed(nil, envelope, body); err != nil {
				t.Fatal(err)
			}
		}
		view, err := OpenBatch(b)
		if err != nil {
			return
		}
		if !bytes.Equal(view.Bytes, b) {
			t.Fatal("the view is of other bytes")
		}
		if view.Envelope.Samples > 1<<14 {
			return
		}
		view.Samples(nil)
		view.Records()
		RenderPlain(view, nil, nil)
	})
}
