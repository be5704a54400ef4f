package obd

// The table of PIDs is written with these. Bytes are named as J1979 names them: A is the first one.

const (
	byteA = iota
	byteB
	byteC
	byteD
	byteE
	byteF
	byteG
	byteH
	byteI
	byteJ
)

// Scales that come up again and again.
const (
	percent  = 100.0 / 255
	trim     = 100.0 / 128 // with an offset of −100
	lambda   = 2.0 / 65536
	volts    = 8.0 / 65536
	perThird = 1.0 / 32
)

func u8(name, unit string, at uint16, scale, offset float64) Field {
	return Field{Name: name, Unit: unit, Start: 8 * at, Bits: 8, Scale: scale, Offset: offset, If: -1}
}

func u16(name, unit string, at uint16, scale, offset float64) Field {
	return Field{Name: name, Unit: unit, Start: 8 * at, Bits: 16, Scale: scale, Offset: offset, If: -1}
}

func s16(name, unit string, at uint16, scale float64) Field {
	return Field{Name: name, Unit: unit, Start: 8 * at, Bits: 16, Signed: true, Scale: scale, If: -1}
}

func u32(name, unit string, at uint16, scale float64) Field {
	return Field{Name: name, Unit: unit, Start: 8 * at, Bits: 32, Scale: scale, If: -1}
}

// flag is bit 7–0 of a byte, 7 being the highest.
func flag(name string, at, bit uint16) Field { return bits(name, at, bit, 1) }

// bits is a number of so many bits, the highest of which is bit.
func bits(name string, at, bit uint16, n uint8) Field {
	return Field{Name: name, Start: 8*at + 7 - bit, Bits: n, Scale: 1, If: -1}
}

// when says that bit n of byte A tells whether the vehicle has the value.
func (f Field) when(n int16) Field {
	f.If = 7 - n
	return f
}

// whenInOrder gives the fields the support bits of byte A in order, from bit 0.
func whenInOrder(fields ...Field) []Field {
	for i := range fields {
		fields[i] = fields[i].when(int16(i))
	}
	return fields
}

// same is a run of fields of one kind, one after the other from byte B on, each with its support bit in byte A from bit 0.
func same(bytes uint16, unit string, scale, offset float64, names ...string) []Field {
	fields := make([]Field, len(names))
	for i, name := range names {
		fields[i] = Field{Name: name, Unit: unit, Start: 8 * (1 + uint16(i)*bytes), Bits: uint8(8 * bytes), Scale: scale, Offset: offset, If: 7 - int16(i)}
	}
	return fields
}

// orWide doubles a run of fields: with a support bit so many places further up the same bytes are of a scale so many times
// as wide.
func orWide(places int16, times float64, fields []Field) []Field {
	for _, f := range fields {
		f.Name += "Wide"
		f.Scale *= times
		f.If -= places
		fields = append(fields, f)
	}
	return fields
}

// table is the list of PIDs by their number.
type table [256]PID

func (t *table) add(id, length uint8, fields ...Field) {
	t[id] = PID{ID: id, Len: length, Fields: fields}
}

// one adds a PID of one byte and one value, two one of two bytes.
func (t *table) one(id uint8, name, unit string, scale, offset float64) {
	t.add(id, 1, u8(name, unit, byteA, scale, offset))
}

func (t *table) two(id uint8, name, unit string, scale, offset float64) {
	t.add(id, 2, u16(name, unit, byteA, scale, offset))
}
