package can

// J1939 identifiers (SAE J1939-21 §5.1–5.2): three bits of priority, the extended data page and the data page, the PDU
// format (PF), the PDU specific byte (PS) and the source address.

// pduFormatBroadcast is the first PDU format whose PS belongs to the PGN (PDU2); below it PS is a destination (PDU1).
const pduFormatBroadcast = 240

// PGN is the parameter group number of a 29-bit identifier.
func PGN(id uint32) uint32 {
	pgn := id >> 8 & 0x3FFFF
	if pgn>>8&0xFF < pduFormatBroadcast {
		pgn &^= 0xFF
	}
	return pgn
}

// pgnMask covers the bits of an identifier that make its PGN.
func pgnMask(id uint32) uint32 {
	if id>>16&0xFF < pduFormatBroadcast {
		return 0x3FF0000
	}
	return 0x3FFFF00
}

// SourceAddress is the address of the sender of a J1939 frame.
func SourceAddress(id uint32) uint8 { return uint8(id) }
