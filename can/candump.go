package can

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// maxLogLine bounds a line of a log, in bytes. The longest that candump writes has about 400.
const maxLogLine = 4096

// maxBuses is how many bus names Frame.Bus can number.
const maxBuses = 256

// LineError is a line of a log that could not be read.
type LineError struct {
	Line int
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }

// Scanner reads the logs of candump: what `candump -L` writes,
//
//	(1620692699.796900) can0 123#1122334455667788
//	(1620692699.796900) can0 18FEF100##5112233445566778899AABBCC T
//	(1620692699.796900) can0 123#R8
//
// and what it prints to a terminal, with or without a time, direction (-x) and text (-a):
//
//	(1620692699.796900)  can0  RX - -  123   [8]  11 22 33 44 55 66 77 88   '."3DUfw.'
//
// A line that is neither is counted, handed to OnReject and left out. One goroutine uses a Scanner.
type Scanner struct {
	// OnReject, when set, is told of each line that could not be read.
	OnReject func(*LineError)

	in         *bufio.Reader
	line       int
	rejected   uint64
	err        error
	buses      map[string]uint8
	names      []string
	frame      Frame
	stamp      int64
	stamped    bool
	afterError bool // the last frame was an error frame: candump -e explains it on lines that begin with a tab
}

// NewScanner reads a log from r.
func NewScanner(r io.Reader) *Scanner {
	return &Scanner{in: bufio.NewReaderSize(r, 64<<10), buses: map[string]uint8{}}
}

// Scan goes to the next frame; false at the end of the log or when it cannot be read further, see Err.
func (s *Scanner) Scan() bool {
	for s.err == nil {
		line, err := s.readLine()
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			s.err = err
			if len(line) == 0 {
				break
			}
		}
		s.line++
		if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLogLine {
			s.reject(fmt.Errorf("longer than %d bytes", maxLogLine))
			continue
		}
		found, err := s.parseLine(line)
		if err != nil {
			s.reject(err)
			continue
		}
		if found {
			s.afterError = s.frame.Flags&FlagError != 0
			return true
		}
	}
	return false
}

// Frame is the frame that Scan found. Its Time is 0: a log knows no CLOCK_BOOTTIME. Its Bus numbers the bus names in the
// order in which they appeared. The next Scan overwrites it.
func (s *Scanner) Frame() *Frame { return &s.frame }

// Bus is the name of the frame's bus.
func (s *Scanner) Bus() string { return s.names[s.frame.Bus] }

// Time is the line's time in Unix ns; false if it has none. Digits beyond the ninth decimal are cut off.
func (s *Scanner) Time() (unixNS int64, ok bool) { return s.stamp, s.stamped }

// Line is the number of the frame's line, from 1.
func (s *Scanner) Line() int { return s.line }

// Rejected counts the lines that could not be read.
func (s *Scanner) Rejected() uint64 { return s.rejected }

// Err is what ended the reading, nil at the end of the log.
func (s *Scanner) Err() error {
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

func (s *Scanner) reject(err error) {
	s.rejected++
	if s.OnReject != nil {
		s.OnReject(&LineError{Line: s.line, Err: err})
	}
}

// readLine returns the next line without its end. One that is too long is read to its end and answered with
// bufio.ErrBufferFull.
func (s *Scanner) readLine() ([]byte, error) {
	line, err := s.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = s.in.ReadSlice('\n')
		}
		if err != nil {
			s.err = err
		}
		return nil, bufio.ErrBufferFull
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// parseLine reads one line into s; false when there is nothing in it.
func (s *Scanner) parseLine(line []byte) (found bool, err error) {
	if s.afterError && len(line) > 0 && line[0] == '\t' {
		return false, nil
	}
	rest := line
	s.stamp, s.stamped = 0, false
	token, rest := nextField(rest)
	if len(token) == 0 || token[0] == '#' || token[0] == ';' {
		return false, nil
	}
	if token[0] == '(' {
		if s.stamp, rest, err = parseStamp(line); err != nil {
			return false, err
		}
		s.stamped = true
		token, rest = nextField(rest)
	}
	if len(token) == 0 {
		return false, errors.New("no bus name")
	}
	if len(token) > 64 || bytes.IndexByte(token, '#') >= 0 {
		return false, fmt.Errorf("bus name %.40q", token)
	}
	bus := token
	token, rest = nextField(rest)
	f := &s.frame
	f.Flags, f.Time = 0, 0
	if i := bytes.IndexByte(token, '#'); i >= 0 {
		if err := parseCompact(token[:i], token[i+1:], f); err != nil {
			return false, err
		}
	} else if err := parseSpaced(token, rest, f); err != nil {
		return false, err
	}
	number, known := s.buses[string(bus)]
	if !known {
		if len(s.names) == maxBuses {
			return false, fmt.Errorf("more than %d bus names", maxBuses)
		}
		number = uint8(len(s.names))
		s.names = append(s.names, string(bus))
		s.buses[string(bus)] = number
	}
	f.Bus = number
	return true, nil
}

// nextField cuts the first field off a line; fields stand between spaces or tabs.
func nextField(line []byte) (field, rest []byte) {
	i := 0
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	j := i
	for j < len(line) && line[j] != ' ' && line[j] != '\t' {
		j++
	}
	return line[i:j], line[j:]
}

// parseStamp reads "(1620692699.796900)" or candump -tA's "(2021-05-11 02:24:59.796900)". The latter names no zone and
// is read as UTC.
func parseStamp(line []byte) (unixNS int64, rest []byte, err error) {
	open, end := bytes.IndexByte(line, '('), bytes.IndexByte(line, ')')
	if end < open {
		return 0, nil, errors.New("time without a closing parenthesis")
	}
	text := bytes.TrimSpace(line[open+1 : end])
	rest = line[end+1:]
	whole, fraction := text, []byte(nil)
	if i := bytes.IndexByte(text, '.'); i >= 0 {
		whole, fraction = text[:i], text[i+1:]
		if len(fraction) == 0 {
			return 0, nil, fmt.Errorf("time %.40q", text)
		}
	}
	seconds, ok := parseDecimal(whole)
	if !ok {
		date, dateErr := time.Parse(time.DateTime, string(whole))
		if dateErr != nil || date.Unix() < 0 {
			return 0, nil, fmt.Errorf("time %.40q", text)
		}
		seconds = date.Unix()
	}
	var ns int64
	for i := range max(len(fraction), 9) {
		switch {
		case i >= len(fraction):
			ns *= 10
		case fraction[i] < '0' || fraction[i] > '9':
			return 0, nil, fmt.Errorf("time %.40q", text)
		case i < 9:
			ns = 10*ns + int64(fraction[i]-'0')
		}
	}
	if seconds > (math.MaxInt64-ns)/1e9 {
		return 0, nil, fmt.Errorf("time %.40q is out of range", text)
	}
	return seconds*1e9 + ns, rest, nil
}

// parseDecimal reads a run of digits below 2^63.
func parseDecimal(text []byte) (int64, bool) {
	if len(text) == 0 || len(text) > 19 {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	v, err := strconv.ParseInt(string(text), 10, 64)
	return v, err == nil
}

// parseID reads an identifier: up to three digits are a base identifier, more an extended one.
func parseID(text []byte, f *Frame) error {
	if len(text) == 0 || len(text) > 8 {
		return fmt.Errorf("identifier %.40q", text)
	}
	var id uint32
	for _, c := range text {
		v := hexDigit(c)
		if v < 0 {
			return fmt.Errorf("identifier %.40q", text)
		}
		id = id<<4 | uint32(v)
	}
	switch {
	case len(text) <= 3 && id <= MaxStandardID:
	case len(text) > 3 && id <= MaxExtendedID:
		f.Flags |= FlagExtended
	case id&^MaxExtendedID == flagERR:
		f.Flags |= FlagError
		id &= MaxExtendedID
	default:
		return fmt.Errorf("identifier %s is out of range", text)
	}
	f.ID = id
	return nil
}

// parseCompact reads ID#DATA, ID#R[len] and ID##<flags>DATA.
func parseCompact(id, data []byte, f *Frame) error {
	if err := parseID(id, f); err != nil {
		return err
	}
	limit := MaxClassicLen
	switch {
	case len(data) > 0 && data[0] == '#':
		if len(data) < 2 || hexDigit(data[1]) < 0 {
			return errors.New("FD frame without its flags")
		}
		setFDFlags(f, byte(hexDigit(data[1])))
		data, limit = data[2:], MaxLen
	case len(data) > 0 && (data[0] == 'R' || data[0] == 'r'):
		return parseRemote(data[1:], f)
	}
	n := 0
	for len(data) > 0 {
		if limit == MaxClassicLen && n == MaxClassicLen && data[0] == '_' && len(data) == 2 && hexDigit(data[1]) > 8 {
			break // a raw DLC above 8 (CAN_CTRLMODE_CC_LEN8_DLC): the payload still has eight bytes
		}
		if data[0] == '.' && n > 0 {
			data = data[1:]
		}
		if n == limit {
			return fmt.Errorf("more than %d data bytes", limit)
		}
		b, ok := hexByte(data)
		if !ok {
			return fmt.Errorf("data %.40q is not pairs of hexadecimal digits", data)
		}
		f.Data[n] = b
		n++
		data = data[2:]
	}
	f.Len = uint8(n)
	return nil
}

func setFDFlags(f *Frame, nibble byte) {
	f.Flags |= FlagFD
	if nibble&1 != 0 {
		f.Flags |= FlagBRS
	}
	if nibble&2 != 0 {
		f.Flags |= FlagESI
	}
}

// parseRemote reads the length of a remote frame, and the raw DLC that may follow it.
func parseRemote(length []byte, f *Frame) error {
	f.Flags |= FlagRemote
	f.Len = 0
	if len(length) > 0 {
		if length[0] < '0' || length[0] > '8' {
			return fmt.Errorf("remote frame of length %.10q", length)
		}
		f.Len = length[0] - '0'
		length = length[1:]
	}
	if len(length) > 0 && !(f.Len == 8 && len(length) == 2 && length[0] == '_' && hexDigit(length[1]) > 8) {
		return fmt.Errorf("%.10q behind the length of a remote frame", length)
	}
	return nil
}

// parseSpaced reads what candump prints to a terminal, from the field behind the bus name on.
func parseSpaced(token, rest []byte, f *Frame) error {
	if string(token) == "RX" || string(token) == "TX" { // -x: direction, then bit rate switch and error state
		var switched, passive []byte
		switched, rest = nextField(rest)
		passive, rest = nextField(rest)
		if string(switched) == "B" {
			f.Flags |= FlagBRS
		}
		if string(passive) == "E" {
			f.Flags |= FlagESI
		}
		token, rest = nextField(rest)
	}
	if err := parseID(token, f); err != nil {
		return err
	}
	length, rest := nextField(rest)
	n := len(length)
	if n < 3 || !(length[0] == '[' && length[n-1] == ']' || length[0] == '{' && length[n-1] == '}') {
		return fmt.Errorf("no [length] behind the identifier %s", token)
	}
	count, ok := parseDecimal(length[1 : n-1])
	switch {
	case length[0] == '{': // a raw DLC above 8 in place of the length
		count = MaxClassicLen
	case !ok || count > MaxLen:
		return fmt.Errorf("length %s", length)
	case n == 4: // candump prints FD lengths with two digits
		f.Flags |= FlagFD
	case count > MaxClassicLen:
		return fmt.Errorf("length %s of a classic frame", length)
	}
	if f.Flags&FlagFD == 0 {
		f.Flags &^= FlagBRS | FlagESI
	}
	f.Len = uint8(count)
	if word, _ := nextField(rest); string(word) == "remote" {
		if f.Flags&FlagFD != 0 {
			return errors.New("a remote frame of the FD format")
		}
		f.Flags |= FlagRemote
		return nil
	}
	for i := range int(count) {
		var pair []byte
		pair, rest = nextField(rest)
		b, ok := hexByte(pair)
		if !ok || len(pair) != 2 {
			return fmt.Errorf("%d data bytes where %d were announced", i, count)
		}
		f.Data[i] = b
	}
	return nil
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

func hexByte(text []byte) (byte, bool) {
	if len(text) < 2 {
		return 0, false
	}
	hi, lo := hexDigit(text[0]), hexDigit(text[1])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}
