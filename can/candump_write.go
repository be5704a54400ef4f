package can

import "strconv"

const upperHex = "0123456789ABCDEF"

// AppendLog appends a frame as `candump -L` writes it, with its newline. The time has six decimals, or nine where it
// needs them. What the kernel calls FDF is left out of the flags, so that cansend takes the line as it is.
func AppendLog(dst []byte, unixNS int64, bus string, f *Frame) []byte {
	dst = append(dst, '(')
	dst = AppendSeconds(dst, unixNS)
	dst = append(dst, ") "...)
	dst = append(dst, bus...)
	dst = append(dst, ' ')
	id, digits := f.ID, 3
	switch {
	case f.Flags&FlagError != 0:
		id, digits = id|flagERR, 8
	case f.Extended():
		digits = 8
	}
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, upperHex[id>>(4*i)&15])
	}
	dst = append(dst, '#')
	switch {
	case f.Flags&FlagRemote != 0:
		dst = append(dst, 'R')
		if f.Len > 0 {
			dst = append(dst, '0'+min(f.Len, MaxClassicLen))
		}
		return append(dst, '\n')
	case f.Flags&FlagFD != 0:
		nibble := byte('0')
		if f.Flags&FlagBRS != 0 {
			nibble |= 1
		}
		if f.Flags&FlagESI != 0 {
			nibble |= 2
		}
		dst = append(dst, '#', nibble)
	}
	for _, b := range f.Payload() {
		dst = append(dst, upperHex[b>>4], upperHex[b&15])
	}
	return append(dst, '\n')
}

// AppendSeconds appends a Unix time in seconds with six decimals, or nine where it needs them.
func AppendSeconds(dst []byte, unixNS int64) []byte {
	if unixNS < 0 {
		dst = append(dst, '-')
	}
	seconds, ns := unixNS/1e9, unixNS%1e9
	if seconds < 0 {
		seconds = -seconds
	}
	if ns < 0 {
		ns = -ns
	}
	dst = strconv.AppendInt(dst, seconds, 10)
	dst = append(dst, '.')
	last := int64(1)
	if ns%1000 == 0 {
		last = 1000
	}
	for place := int64(1e8); place >= last; place /= 10 {
		dst = append(dst, '0'+byte(ns/place%10))
	}
	return dst
}
