package isotp

import (
	"fmt"

	"github.com/waybill-telematics/waybill/can"
)

// Address says which frames are one direction of a conversation.
type Address struct {
	ID       uint32
	Extended bool  // the identifier has 29 bits
	WithTA   bool  // extended addressing: the first data byte is an address (N_TA, or N_AE in mixed addressing, §10.3.4)
	TA       uint8 // that byte
}

// String prints the address as logs write it: 7E8, 18DAF110, 6F1/12 with an address byte.
func (a Address) String() string {
	digits := 3
	if a.Extended {
		digits = 8
	}
	s := fmt.Sprintf("%0*X", digits, a.ID)
	if a.WithTA {
		s += fmt.Sprintf("/%02X", a.TA)
	}
	return s
}

// Matches reports whether a frame belongs to this direction.
func (a Address) Matches(f *can.Frame) bool {
	if f.ID != a.ID || f.Extended() != a.Extended || f.Flags&(can.FlagError|can.FlagRemote) != 0 {
		return false
	}
	return !a.WithTA || f.Len > 0 && f.Data[0] == a.TA
}

// head is how many bytes stand before the protocol control information.
func (a Address) head() int {
	if a.WithTA {
		return 1
	}
	return 0
}
