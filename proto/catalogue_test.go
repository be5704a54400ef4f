package telemetrypb

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// manySignals is a catalogue of some parts.
func manySignals(n int) *Catalogue {
	c := &Catalogue{Format: 1, VssVersion: "6.0"}
	for i := range n {
		c.Signals = append(c.Signals, &Signal{Id: uint32(i + 1), Name: fmt.Sprintf("can0.MESSAGE%d.SIGNAL%d", i/4, i), Scale: float64(i)})
	}
	return c
}

// The catalogue is written by hand: protobuf's own encoder must write the same bytes of every field that
// telemetry.proto has, so that none is forgotten when one is added.
func TestEncodeCatalogueIsProtobuf(t *testing.T) {
	full := &Signal{}
	fillMessage(t, full.ProtoReflect())
	full.Id = 3
	zeroes := &Signal{Id: 4, Min: proto.Float64(0), Max: proto.Float64(math.Copysign(0, -1)), Offset: math.Copysign(0, -1), Labels: []*Label{{}, {Value: -7}}}
	c := &Catalogue{Format: 1, Signals: []*Signal{{Id: 1}, full, zeroes}, VssVersion: "6.0"}
	data, hash := EncodeCatalogue(c)
	want, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("by hand\n%x\nby protobuf\n%x", data, want)
	}
	if hash != sha256.Sum256(data) {
		t.Error("the hash is of something else")
	}
	back, err := DecodeCatalogue(data)
	if err != nil || !proto.Equal(back, c) {
		t.Errorf("came back as %v (%v)", back, err)
	}
}

// fillMessage gives every field of a message a value that is not its default.
func fillMessage(t *testing.T, m protoreflect.Message) {
	t.Helper()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		value := func() protoreflect.Value {
			switch field.Kind() {
			case protoreflect.Uint32Kind:
				return protoreflect.ValueOfUint32(300)
			case protoreflect.Int64Kind:
				return protoreflect.ValueOfInt64(-2)
			case protoreflect.DoubleKind:
				return protoreflect.ValueOfFloat64(0.1)
			case protoreflect.StringKind:
				return protoreflect.ValueOfString("text of " + string(field.Name()))
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes([]byte{1, 2})
			case protoreflect.EnumKind:
				return protoreflect.ValueOfEnum(2)
			}
			t.Fatalf("field %s is of kind %s: teach this test and EncodeCatalogue about it", field.Name(), field.Kind())
			return protoreflect.Value{}
		}
		if field.IsList() && field.Kind() == protoreflect.MessageKind {
			list := m.Mutable(field).List()
			fillMessage(t, list.AppendMutable().Message())
			continue
		}
		m.Set(field, value())
	}
}

func TestEncodeCatalogueIsCanonical(t *testing.T) {
	c := manySignals(50)
	data, hash := EncodeCatalogue(c)
	shuffled := &Catalogue{VssVersion: "6.0", Signals: slices.Clone(c.Signals)} // format 0 reads as the one there is
	rand.New(rand.NewPCG(1, 2)).Shuffle(50, func(i, j int) {
		shuffled.Signals[i], shuffled.Signals[j] = shuffled.Signals[j], shuffled.Signals[i]
	})
	first := shuffled.Signals[0]
	again, sum := EncodeCatalogue(shuffled)
	if !bytes.Equal(again, data) || sum != hash {
		t.Error("another order, another catalogue")
	}
	if shuffled.Signals[0] != first {
		t.Error("the caller's catalogue was sorted")
	}
	data, _ = EncodeCatalogue(&Catalogue{Signals: []*Signal{{Id: 1, Name: "caf\xe9", Unit: "\xb0C"}}})
	if c, err := DecodeCatalogue(data); err != nil || c.Signals[0].Unit != "\uFFFDC" {
		t.Errorf("text that is not UTF-8: %v, %v", c, err)
	}
	if data, hash := EncodeCatalogue(nil); hash != sha256.Sum256(data) {
		t.Error("no catalogue, no hash")
	}
}

func TestDecodeCatalogueRefuses(t *testing.T) {
	encode := func(c *Catalogue) []byte {
		data, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"garbage":      {[]byte{0xff}, ErrMalformed},
		"id 0":         {encode(&Catalogue{Format: 1, Signals: []*Signal{{}}}), ErrMalformed},
		"id twice":     {encode(&Catalogue{Format: 1, Signals: []*Signal{{Id: 2}, {Id: 2}}}), ErrMalformed},
		"descending":   {encode(&Catalogue{Format: 1, Signals: []*Signal{{Id: 2}, {Id: 1}}}), ErrMalformed},
		"newer":        {encode(&Catalogue{Format: 2}), ErrNewerFormat},
		"much too big": {make([]byte, MaxCatalogue+1), ErrTooLarge},
	} {
		if _, err := DecodeCatalogue(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestCatalogueSignal(t *testing.T) {
	c := &Catalogue{Signals: []*Signal{{Id: 2}, {Id: 5}, {Id: math.MaxUint32}}}
	for _, id := range []uint32{2, 5, math.MaxUint32} {
		if s := c.Signal(id); s.GetId() != id {
			t.Errorf("signal %d: %v", id, s)
		}
	}
	for _, id := range []uint32{0, 1, 3, 6, math.MaxUint32 - 1} {
		if s := c.Signal(id); s != nil {
			t.Errorf("signal %d: %v", id, s)
		}
	}
	if (*Catalogue)(nil).Signal(1) != nil {
		t.Error("a signal of no catalogue")
	}
}

// Parts come in any order, twice, and mixed with those of another catalogue; each fits a batch of 16 KiB.
func TestCatalogueParts(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	var all []*CataloguePart
	want := map[[32]byte]*Catalogue{}
	for _, n := range []int{0, 1, 800, 2500} {
		c := manySignals(n)
		data, hash := EncodeCatalogue(c)
		want[hash] = c
		parts := SplitCatalogue(data)
		if n == 2500 && len(parts) < 5 {
			t.Fatalf("only %d parts", len(parts))
		}
		for _, p := range parts {
			batch, err := AppendControl(nil, controlHead(), &Records{Records: []*Record{{Record: &Record_Catalogue{Catalogue: p}}}})
			if err != nil || len(batch) > 16<<10 {
				t.Errorf("a part makes a batch of %d bytes (%v)", len(batch), err)
			}
			all = append(all, p)
			if len(parts) > 1 {
				all = append(all, proto.Clone(p).(*CataloguePart))
			}
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var assembler CatalogueAssembler
	for _, p := range all {
		c, hash, err := assembler.Add(p)
		if err != nil {
			t.Fatal(err)
		}
		if [32]byte(p.Hash) != hash {
			t.Fatal("the hash of another catalogue")
		}
		if c != nil {
			if !proto.Equal(c, want[hash]) {
				t.Errorf("catalogue %x is another", hash[:4])
			}
			delete(want, hash)
		}
	}
	if len(want) != 0 {
		t.Errorf("%d catalogues were never whole", len(want))
	}
}

func TestCatalogueAssemblerRefuses(t *testing.T) {
	data, hash := EncodeCatalogue(manySignals(2500))
	part := func(change func(p *CataloguePart)) *CataloguePart {
		p := proto.Clone(SplitCatalogue(data)[1]).(*CataloguePart)
		change(p)
		return p
	}
	for name, p := range map[string]*CataloguePart{
		"none":         nil,
		"short hash":   part(func(p *CataloguePart) { p.Hash = p.Hash[:16] }),
		"beyond count": part(func(p *CataloguePart) { p.Index = p.Count }),
		"count 0":      part(func(p *CataloguePart) { p.Index, p.Count = 0, 0 }),
		"count 2^32":   part(func(p *CataloguePart) { p.Count = math.MaxUint32 }),
		"too long":     part(func(p *CataloguePart) { p.Data = make([]byte, MaxPart+1) }),
		"empty":        part(func(p *CataloguePart) { p.Data = nil }),
	} {
		var assembler CatalogueAssembler
		if c, _, err := assembler.Add(p); err == nil || c != nil {
			t.Errorf("%s: %v, %v", name, c, err)
		}
		if len(assembler.pending) != 0 {
			t.Errorf("%s is kept", name)
		}
	}

	// A damaged part spoils the whole, and the parts sent again make it good.
	var assembler CatalogueAssembler
	feed := func(parts []*CataloguePart) (*Catalogue, error) {
		for i, p := range parts {
			if c, _, err := assembler.Add(p); err != nil || c != nil || i == len(parts)-1 {
				return c, err
			}
		}
		return nil, nil
	}
	bad := SplitCatalogue(data)
	bad[1] = part(func(p *CataloguePart) { p.Data[7] ^= 1 })
	if c, err := feed(bad); !errors.Is(err, ErrChecksum) || c != nil {
		t.Errorf("a damaged part: %v", err)
	}
	if c, err := feed(SplitCatalogue(data)); err != nil || c == nil {
		t.Errorf("sent again: %v", err)
	}

	// Memory: no more than a few catalogues are kept unfinished, the newest of them.
	for i := range byte(100) {
		p := part(func(p *CataloguePart) { p.Hash[0] = i })
		if _, _, err := assembler.Add(p); err != nil {
			t.Fatal(err)
		}
		if len(assembler.pending) > assemblies {
			t.Fatalf("%d are kept", len(assembler.pending))
		}
	}
	if _, _, err := assembler.Add(part(func(p *CataloguePart) { p.Hash[0] = 99; p.Count++ })); !errors.Is(err, ErrMalformed) {
		t.Errorf("another count: %v", err)
	}
	huge := &CataloguePart{Hash: hash[:], Count: MaxCatalogue/PartBytes + 1, Data: make([]byte, MaxPart)}
	var last error
	for i := range huge.Count {
		huge.Index = i
		if _, _, last = assembler.Add(huge); last != nil {
			break
		}
	}
	if !errors.Is(last, ErrTooLarge) {
		t.Errorf("parts of more than a catalogue's size: %v", last)
	}
}
