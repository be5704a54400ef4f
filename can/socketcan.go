package can

// Flag bits in the identifiers of linux/can.h.
const (
	flagEFF = 1 << 31 // extended
	flagRTR = 1 << 30 // remote
	flagERR = 1 << 29 // error
)
