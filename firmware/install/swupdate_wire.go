package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// SWUpdate's messages are C structures in memory order, of the daemon's own word size and byte order (include/network_ipc.h,
// progress_ipc.h and swupdate_status.h of SWUpdate). A message on the control socket has one size, that of its longest kind,
// an installation's request; the daemon hangs up on any other. size_t makes that 3120 bytes on 64 bits and 3104 on 32. That
// is so in 2022.12 and in what was published up to 2025.12; in the years before the request was shorter.
const (
	swMagic      = 0x14052001 // IPC_MAGIC
	swAPI        = 1          // SWUPDATE_API_VERSION
	swSource     = 4          // SOURCE_LOCAL
	swDescOffset = 8 + 12     // of a status' text: after magic, type, current, last_result, error
	swDesc       = 2048
)

// msgtype
const (
	swInstall   = 0 // REQ_INSTALL
	swAck       = 1
	swNack      = 2
	swGetStatus = 3
	swSetState  = 7 // SET_UPDATE_STATE
	swGetState  = 8 // GET_UPDATE_STATE
)

// RECOVERY_STATUS
const (
	swIdle     = 0
	swSuccess  = 3
	swFailure  = 4
	swProgress = 8 // the last one
)

// update_state_t, include/state.h: characters, as the boot loader's variable has them.
const (
	swStateOK        = '0'
	swStateInstalled = '1'
	swStateTesting   = '2'
	swStateFailed    = '3'
	swStateProgress  = '7'
)

// swLayout is where the members of a message are.
type swLayout struct{ word int } // bytes of size_t, 4 or 8

func newSWLayout(bits int) (swLayout, error) {
	switch bits {
	case 0:
		bits = strconv.IntSize
	case 32, 64:
	default:
		return swLayout{}, fmt.Errorf("swupdate: %d bits: want 32 or 64", bits)
	}
	return swLayout{bits / 8}, nil
}

// request is where the members of swupdate_request begin, from the message's beginning: apiversion, source, dry_run, len, info[512],
// software_set[256], running_mode[256], disable_store_swu.
func (l swLayout) request() (length, info, set, mode, noStore, end int) {
	length = align(8+12, l.word)
	info = length + l.word
	set = info + 512
	mode = set + 256
	noStore = mode + 256
	return length, info, set, mode, noStore, align(noStore+1, l.word)
}

// size of a message: the request, its len and buf[2048].
func (l swLayout) size() int {
	_, _, _, _, _, end := l.request()
	return align(end+4+2048, l.word)
}

func align(n, to int) int { return (n + to - 1) / to * to }

func (l swLayout) message(kind uint32) []byte {
	m := make([]byte, l.size())
	binary.NativeEndian.PutUint32(m, swMagic)
	binary.NativeEndian.PutUint32(m[4:], kind)
	return m
}

// install asks for an installation; set and mode select among the images of a .swu, both or none.
func (l swLayout) install(set, mode string) []byte {
	m := l.message(swInstall)
	_, _, setAt, modeAt, noStore, _ := l.request()
	binary.NativeEndian.PutUint32(m[8:], swAPI)
	binary.NativeEndian.PutUint32(m[12:], swSource)
	copy(m[setAt:setAt+255], set) // a NUL stays behind it
	copy(m[modeAt:modeAt+255], mode)
	m[noStore] = 1 // the image lies on our disk already
	return m
}

// setState asks for the boot loader's variable to be set. The state is an enum here, and a character in the answer to swGetState.
func (l swLayout) setState(state byte) []byte {
	m := l.message(swSetState)
	binary.NativeEndian.PutUint32(m[8:], uint32(state))
	return m
}

// swAnswer is what a message of the daemon says.
type swAnswer struct {
	kind                  uint32
	current, last, failed uint32 // of a status
	text                  string // of a status, or of a refusal
	first                 byte   // of the union: a state
}

// complains says that a status' text is of an error.
func (a swAnswer) complains() bool { return a.failed != 0 || a.current == swFailure }

var errNotSWUpdate = errors.New("not an answer of SWUpdate")

func (l swLayout) parse(m []byte) (a swAnswer, err error) {
	if len(m) != l.size() || binary.NativeEndian.Uint32(m) != swMagic {
		return a, errNotSWUpdate
	}
	u := func(at int) uint32 { return binary.NativeEndian.Uint32(m[at:]) }
	a = swAnswer{kind: u(4), current: u(8), last: u(12), failed: u(16), first: m[8]}
	switch a.kind {
	case swAck:
		a.text = clean(cString(m[swDescOffset : swDescOffset+swDesc]))
	case swNack:
		a.text = clean(cString(m[8 : 8+128]))
	default:
		return a, fmt.Errorf("%w: type %d", errNotSWUpdate, a.kind)
	}
	return a, nil
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// A progress message was the compiler's own layout, with four bytes of nothing before dwl_bytes and after the end, up to 2025.05, and is
// packed since. Later ones than 2022.12 greet with their version and "ACK\0" first.
const (
	swPadded = 2416 // bytes
	swPacked = 2408
	swGreet  = 8
)

// swStep is what a progress message says.
type swStep struct {
	status, steps, step, percent uint32
	image, handler               string
}

func parseStep(m []byte) (s swStep, ok bool) {
	at := 20 // of nsteps
	switch len(m) {
	case swPadded:
		at = 24
	case swPacked:
	default:
		return s, false
	}
	u := func(at int) uint32 { return binary.NativeEndian.Uint32(m[at:]) }
	s = swStep{status: u(4), steps: u(at), step: u(at + 4), percent: u(at + 8),
		image: clean(cString(m[at+12 : at+268])), handler: clean(cString(m[at+268 : at+332]))}
	return s, s.status <= swProgress
}

// whole is the percentage of all steps.
func (s swStep) whole() int {
	if s.steps == 0 || s.step == 0 || s.steps > 1<<20 {
		return 0
	}
	done := uint64(min(s.step, s.steps)-1)*100 + uint64(min(s.percent, 100))
	return int(min(done/uint64(s.steps), 100))
}

// isGreeting tells the first eight bytes of a connection's first message from a greeting: there they are version and status.
func isGreeting(m []byte) bool { return string(m[4:swGreet]) == "ACK\x00" }

// isPacked tells from the first padded length of bytes how long a message is: where a message is packed, the next one, with the
// same version and a status, begins before these bytes end; where it is not, there are the text's last bytes and nothing.
func isPacked(m []byte) bool {
	version := binary.NativeEndian.Uint32(m)
	return version != 0 && binary.NativeEndian.Uint32(m[swPacked:]) == version && binary.NativeEndian.Uint32(m[swPacked+4:]) <= swProgress
}
