package obd

// Field is one value within the data of a PID. Physical = raw × Scale + Offset; the raw integer is exact.
type Field struct {
	Name   string
	Unit   string  // as J1979 has it; "" for numbers, flags and codes
	Start  uint16  // the first bit: 0 is the highest bit of byte A
	Bits   uint8   // up to 32, the highest first
	Signed bool    // two's complement
	Scale  float64 // never 0
	Offset float64
	// If names the bit by which the vehicle says that it has this value, counted as Start; -1: it always has.
	If int16
}

// PID is one parameter of mode 01, and of a freeze frame.
type PID struct {
	ID     uint8
	Len    uint8   // bytes of data
	Fields []Field // none for the bitmaps, and for what J1979 defines and this table does not take apart
}

// Reading is a value that a vehicle told.
type Reading struct {
	Field *Field
	Raw   int64
	PID   uint8
}

// Physical is the value in the field's unit. The product is rounded before the sum, on every processor.
func (r Reading) Physical() float64 {
	return float64(float64(r.Raw)*r.Field.Scale) + r.Field.Offset
}

// Lookup finds a PID of mode 01. What it points to is not to be changed.
func Lookup(id uint8) (*PID, bool) {
	p := &pids[id]
	return p, p.Len != 0
}

// Decode appends the values in the data of the PID, those that the vehicle has. Values that data is too short for are
// left out: fields beyond Len exist for vehicles with a third and fourth bank only.
func (p *PID) Decode(data []byte, dst []Reading) []Reading {
	for i := range p.Fields {
		f := &p.Fields[i]
		if int(f.Start)+int(f.Bits) > 8*len(data) || f.If >= 0 && extract(data, int(f.If), 1) == 0 {
			continue
		}
		raw := int64(extract(data, int(f.Start), int(f.Bits)))
		if f.Signed {
			shift := 64 - uint(f.Bits)
			raw = raw << shift >> shift
		}
		dst = append(dst, Reading{Field: f, Raw: raw, PID: p.ID})
	}
	return dst
}

// extract reads bits of big-endian data, the highest bit of the first byte being bit 0.
func extract(data []byte, start, bits int) (v uint64) {
	for i := start; i < start+bits; i++ {
		v = v<<1 | uint64(data[i/8]>>(7-i%8)&1)
	}
	return v
}

// IsBitmap reports whether a PID says which PIDs after it are supported (00, 20, … E0).
func IsBitmap(id uint8) bool { return id&0x1F == 0 }

// Set is a set of PIDs, or of the information types of mode 09.
type Set [4]uint64

// Add puts an id into the set.
func (s *Set) Add(id uint8) { s[id>>6] |= 1 << (id & 63) }

// Has reports whether an id is in the set.
func (s *Set) Has(id uint8) bool { return s[id>>6]>>(id&63)&1 != 0 }

// AddBitmap puts the ids into the set that the data of a bitmap names: its first bit is the id after its own.
func (s *Set) AddBitmap(id uint8, data [4]byte) {
	for i := range 32 {
		if data[i/8]>>(7-i%8)&1 != 0 && int(id)+i < 0xFF {
			s.Add(id + 1 + uint8(i))
		}
	}
}

// Values lists the ids in order, the bitmaps' own left out.
func (s *Set) Values() (ids []uint8) {
	for id := 1; id < 256; id++ {
		if s.Has(uint8(id)) && !IsBitmap(uint8(id)) {
			ids = append(ids, uint8(id))
		}
	}
	return ids
}
