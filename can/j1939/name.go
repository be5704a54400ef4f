package j1939

import "encoding/binary"

// GroupAddressClaimed is the parameter group whose payload ParseName reads.
const GroupAddressClaimed = 60928

// Name is what a node says about itself when it claims an address (SAE J1939-81 §4.1.1, ISO 11783-5). NMEA 2000 reads
// FunctionInstance and ECUInstance as one device instance of eight bits, and System as device class.
type Name struct {
	Identity             uint32 // serial number, 21 bits
	Manufacturer         uint16 // code, 11 bits
	ECUInstance          uint8  // 3 bits
	FunctionInstance     uint8  // 5 bits
	Function             uint8
	System               uint8 // vehicle system, 7 bits
	SystemInstance       uint8 // 4 bits
	IndustryGroup        uint8 // 0 global, 1 on-highway, 2 agriculture, 3 construction, 4 marine, 5 industrial
	ArbitraryAddressable bool  // takes another address where its own is taken
}

// ParseName reads the eight bytes of an address claim.
func ParseName(payload []byte) (Name, error) {
	if len(payload) < 8 {
		return Name{}, ErrShort
	}
	x := binary.LittleEndian.Uint64(payload)
	return Name{
		Identity:             uint32(x & (1<<21 - 1)),
		Manufacturer:         uint16(x >> 21 & (1<<11 - 1)),
		ECUInstance:          uint8(x >> 32 & 7),
		FunctionInstance:     uint8(x >> 35 & 0x1F),
		Function:             uint8(x >> 40),
		System:               uint8(x >> 49 & 0x7F), // bit 48 is reserved
		SystemInstance:       uint8(x >> 56 & 0xF),
		IndustryGroup:        uint8(x >> 60 & 7),
		ArbitraryAddressable: x>>63 != 0,
	}, nil
}
