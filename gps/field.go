package gps

import "time"

// sentence fields, cut at commas; fields[0] is the address. What is missing is empty.
type fields struct {
	at    [maxFields][]byte
	count int // fields there are, the address included
}

// cut cuts a sentence at its commas; false: there are more fields than any sentence has.
func (f *fields) cut(s *scanner) bool {
	f.count = 0
	if s.commas >= maxFields {
		return false
	}
	start := 0
	for i, end := range s.comma[:s.commas] {
		f.at[i] = s.buf[start:end]
		start = int(end) + 1
	}
	f.at[s.commas] = s.buf[start:s.length]
	f.count = s.commas + 1
	return true
}

func (f *fields) get(i int) []byte {
	if i < f.count {
		return f.at[i]
	}
	return nil
}

// char is the first character of a field, 0 when it is empty.
func (f *fields) char(i int) byte {
	if b := f.get(i); len(b) > 0 {
		return b[0]
	}
	return 0
}

func (f *fields) empty(i int) bool { return len(f.get(i)) == 0 }

// parseNumber reads a decimal number: sign, digits, one point; no exponent, no word such as nan. Some receivers pad
// with blanks. Digits beyond the 15th after the point are cut.
func parseNumber(b []byte) (float64, bool) {
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	negative := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		negative = b[0] == '-'
		b = b[1:]
	}
	var mantissa uint64
	var scale float64 = 1
	digits, point := 0, false
	for _, c := range b {
		switch {
		case c == '.' && !point:
			point = true
		case c < '0' || c > '9':
			return 0, false
		default:
			digits++
			if point && (scale >= 1e15 || mantissa >= 1e15) {
				continue
			}
			if mantissa >= 1e15 {
				return 0, false
			}
			mantissa = mantissa*10 + uint64(c-'0')
			if point {
				scale *= 10
			}
		}
	}
	if digits == 0 {
		return 0, false
	}
	v := float64(mantissa) / scale
	if negative {
		v = -v
	}
	return v, true
}

// parseWhole reads the whole part of a number of at most four digits: what a sky has.
func parseWhole(b []byte) (n int16, ok bool) {
	negative := len(b) > 1 && b[0] == '-'
	if negative {
		b = b[1:]
	}
	for i, c := range b {
		if c == '.' && i > 0 {
			break
		}
		if c < '0' || c > '9' || i == 4 {
			return 0, false
		}
		n = n*10 + int16(c-'0')
	}
	if negative {
		n = -n
	}
	return n, len(b) > 0
}

// parseCount reads a small non-negative integer; whatever is not one is 0.
func parseCount(b []byte) int {
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' || n > 9999 {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func twoDigits(b []byte) (int, bool) {
	if len(b) < 2 || b[0] < '0' || b[0] > '9' || b[1] < '0' || b[1] > '9' {
		return 0, false
	}
	return int(b[0]-'0')*10 + int(b[1]-'0'), true
}

// clockTime is a time of day as a sentence carries it.
type clockTime struct {
	ns    int64 // since midnight; up to 86,400.999… s in a leap second
	digit int64 // hhmmss.sss read as one number, in 1e-3: what the end of an epoch is told by
}

// parseClock reads hhmmss or hhmmss.sss. Second 60 is a leap second.
func parseClock(b []byte) (t clockTime, ok bool) {
	if len(b) < 6 {
		return t, false
	}
	hour, ok1 := twoDigits(b)
	minute, ok2 := twoDigits(b[2:])
	second, ok3 := twoDigits(b[4:])
	if !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 60 {
		return t, false
	}
	var fraction, unit int64 = 0, 1e9
	if len(b) > 6 {
		if b[6] != '.' {
			return t, false
		}
		for _, c := range b[7:] {
			if c < '0' || c > '9' {
				return t, false
			}
			unit /= 10 // 0 from the tenth digit on
			fraction += int64(c-'0') * unit
		}
	}
	t.ns = (int64(hour*3600+minute*60+second))*1e9 + fraction
	t.digit = int64(hour*10000+minute*100+second)*1000 + fraction/1e6
	return t, true
}

// day is a calendar day, as days since 1970-01-01.
type day int32

func dayOf(year int, month time.Month, dom int) (day, bool) {
	if month < 1 || month > 12 || dom < 1 || dom > 31 {
		return 0, false
	}
	t := time.Date(year, month, dom, 0, 0, 0, 0, time.UTC)
	if t.Day() != dom {
		return 0, false // 31 February
	}
	return day(t.Unix() / 86400), true // whole for every day; years before 1970 are refused by the callers
}

// parseAngle reads ddmm.mmmm or dddmm.mmmm and its hemisphere into 1e-9 degrees, rounding to the nearest. A value
// without a point, with minutes above 60 or beyond the pole or the date line is none.
func parseAngle(b, hemisphere []byte, positive, negative byte, limit int64) (int64, bool) {
	if len(hemisphere) != 1 || (hemisphere[0] != positive && hemisphere[0] != negative) {
		return 0, false
	}
	var whole int64
	i := 0
	for ; i < len(b) && b[i] != '.'; i++ {
		if b[i] < '0' || b[i] > '9' || i >= 7 {
			return 0, false
		}
		whole = whole*10 + int64(b[i]-'0')
	}
	if i == 0 || i >= len(b)-1 {
		return 0, false
	}
	var fraction, unit int64 = 0, 1e10
	for _, c := range b[i+1:] {
		if c < '0' || c > '9' {
			return 0, false
		}
		unit /= 10
		fraction += int64(c-'0') * unit
	}
	degrees, minutes := whole/100, whole%100
	if minutes > 59 {
		return 0, false
	}
	v := degrees*nanoDegrees + (minutes*1e10+fraction+300)/600
	if v > limit {
		return 0, false
	}
	if hemisphere[0] == negative {
		v = -v
	}
	return v, true
}

// position reads four fields from i on: latitude, N or S, longitude, E or W. Exactly 0, 0 is what receivers send that
// have no position, and no place on a road.
func (f *fields) position(i int) (latitude, longitude int64, ok bool) {
	latitude, okLat := parseAngle(f.get(i), f.get(i+1), 'N', 'S', 90*nanoDegrees)
	longitude, okLon := parseAngle(f.get(i+2), f.get(i+3), 'E', 'W', 180*nanoDegrees)
	if !okLat || !okLon || latitude == 0 && longitude == 0 {
		return 0, 0, false
	}
	return latitude, longitude, true
}
