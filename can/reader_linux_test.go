package can

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlMessage is a control message as this machine's kernel writes it.
func controlMessage(level, kind int32, data []byte) []byte {
	space := unix.CmsgSpace(len(data))
	out := make([]byte, space)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&out[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(out[unix.CmsgLen(0):], data)
	return out
}

// timespecs are the three of struct scm_timestamping, with fields of 64 or 32 bits.
func timespecs(bits int, stamps [3]int64) []byte {
	var out []byte
	for _, ns := range stamps {
		if bits == 64 {
			out = binary.NativeEndian.AppendUint64(out, uint64(ns/1e9))
			out = binary.NativeEndian.AppendUint64(out, uint64(ns%1e9))
		} else {
			out = binary.NativeEndian.AppendUint32(out, uint32(ns/1e9))
			out = binary.NativeEndian.AppendUint32(out, uint32(ns%1e9))
		}
	}
	return out
}

func TestParseControl(t *testing.T) {
	const wall = int64(1_700_000_000_123456789)
	const soft = wall - 5_000_000
	drops := controlMessage(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, binary.NativeEndian.AppendUint32(nil, 77))
	for _, bits := range []int{32, 64} {
		stamp := func(kind int32, stamps [3]int64) []byte {
			return controlMessage(unix.SOL_SOCKET, kind, timespecs(bits, stamps))
		}
		for _, test := range []struct {
			name    string
			control []byte
			stamp   int64
			counted bool
		}{
			{"nothing", nil, 0, false},
			{"software, old option", stamp(unix.SO_TIMESTAMPING, [3]int64{soft}), soft, false},
			{"software, new option", stamp(unix.SO_TIMESTAMPING_NEW, [3]int64{soft, 0, soft + 1}), soft, false},
			{"hardware alone", stamp(unix.SO_TIMESTAMPING, [3]int64{0, 0, soft}), soft, false},
			{"hardware of another age", stamp(unix.SO_TIMESTAMPING, [3]int64{0, 0, 12345}), 0, false},
			{"hardware ahead of the clock", stamp(unix.SO_TIMESTAMPING, [3]int64{0, 0, wall + 1}), 0, false},
			{"no stamp", stamp(unix.SO_TIMESTAMPING, [3]int64{}), 0, false},
			{"drops and stamp", append(append([]byte{}, drops...), stamp(unix.SO_TIMESTAMPING, [3]int64{soft})...), soft, true},
			{"stamp and drops", append(stamp(unix.SO_TIMESTAMPING, [3]int64{soft}), drops...), soft, true},
			{"another level", controlMessage(unix.SOL_CAN_RAW, unix.SO_TIMESTAMPING, timespecs(bits, [3]int64{soft})), 0, false},
			{"too short to be one", stamp(unix.SO_TIMESTAMPING, [3]int64{soft})[:unix.SizeofCmsghdr+8], 0, false},
		} {
			stamp, lost, counted := parseControl(test.control, wall)
			if stamp != test.stamp || counted != test.counted || counted && lost != 77 {
				t.Errorf("%s, %d bits: stamp %d (want %d), drops %d %t", test.name, bits, stamp, test.stamp, lost, counted)
			}
		}
	}
}

// The kernel's array of struct mmsghdr has no gaps but those of C.
func TestMessageLayout(t *testing.T) {
	var m [2]mmsghdr
	word := unsafe.Sizeof(uintptr(0))
	want := (unsafe.Sizeof(unix.Msghdr{}) + 4 + word - 1) &^ (word - 1)
	if got := uintptr(unsafe.Pointer(&m[1])) - uintptr(unsafe.Pointer(&m[0])); got != want {
		t.Errorf("%d bytes apart, want %d", got, want)
	}
	if got := unsafe.Offsetof(m[0].length); got != unsafe.Sizeof(unix.Msghdr{}) {
		t.Errorf("msg_len at %d", got)
	}
}

func TestReaderFrame(t *testing.T) {
	head := func(id uint32, length, flags byte) []byte {
		return append(binary.NativeEndian.AppendUint32(nil, id), length, flags, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	}
	for _, test := range []struct {
		name string
		raw  []byte
		size uint32
		want Frame
		ok   bool
	}{
		{"classic", head(0x123, 3, 0), classicSize, Frame{ID: 0x123, Len: 3, Bus: 9}, true},
		{"extended", head(0x98FEF100, 8, 0), classicSize, Frame{ID: 0x18FEF100, Len: 8, Bus: 9, Flags: FlagExtended}, true},
		{"remote", head(0x40000123, 8, 0), classicSize, Frame{ID: 0x123, Len: 8, Bus: 9, Flags: FlagRemote}, true},
		{"error", head(0x20000040, 8, 0), classicSize, Frame{ID: 0x40, Len: 8, Bus: 9, Flags: FlagError}, true},
		{"FD", head(0x123, 64, 7), fdSize, Frame{ID: 0x123, Len: 64, Bus: 9, Flags: FlagFD | FlagBRS | FlagESI}, true},
		{"classic with too many bytes", head(0x123, 9, 0), classicSize, Frame{}, false},
		{"FD with too many bytes", head(0x123, 65, 0), fdSize, Frame{}, false},
		{"neither", head(0x123, 1, 0), 12, Frame{}, false},
	} {
		r := &Reader{bus: 9}
		copy(r.frames[0][:], test.raw)
		r.messages[0].length = test.size
		f := Frame{Flags: 0xFF, ID: 1, Len: 64}
		if ok := r.frame(0, &f); ok != test.ok {
			t.Errorf("%s: %t", test.name, ok)
		} else if ok && !(f.ID == test.want.ID && f.Len == test.want.Len && f.Bus == test.want.Bus && f.Flags == test.want.Flags && f.Data[0] == 1 && f.Data[7] == 8) {
			t.Errorf("%s: %+v", test.name, f)
		}
	}
}

func TestWriterEncode(t *testing.T) {
	for _, test := range []struct {
		frame Frame
		id    uint32
		size  int
		len   byte
		flags byte
		ok    bool
	}{
		{Frame{ID: 0x7FF, Len: 8}, 0x7FF, classicSize, 8, 0, true},
		{Frame{ID: 0x800, Len: 8}, 0, 0, 0, 0, false},
		{Frame{ID: 0x1FFFFFFF, Flags: FlagExtended}, 0x9FFFFFFF, classicSize, 0, 0, true},
		{Frame{ID: 0x20000000, Flags: FlagExtended}, 0, 0, 0, 0, false},
		{Frame{ID: 1, Len: 9}, 0, 0, 0, 0, false},
		{Frame{ID: 1, Len: 9, Flags: FlagFD | FlagBRS}, 1, fdSize, 12, fdFlagFDF | fdFlagBRS, true},
		{Frame{ID: 1, Len: 65, Flags: FlagFD}, 0, 0, 0, 0, false},
		{Frame{ID: 1, Len: 4, Flags: FlagRemote}, 0x40000001, classicSize, 4, 0, true},
		{Frame{ID: 1, Flags: FlagRemote | FlagFD}, 0, 0, 0, 0, false},
	} {
		var w Writer
		err := w.encode(&test.frame)
		if (err == nil) != test.ok {
			t.Errorf("%+v: %v", test.frame, err)
			continue
		}
		if id := binary.NativeEndian.Uint32(w.buf[:]); test.ok && (id != test.id || w.size != test.size || w.buf[4] != test.len || w.buf[5] != test.flags) {
			t.Errorf("%+v: id %#x, size %d, length %d, flags %d", test.frame, id, w.size, w.buf[4], w.buf[5])
		}
	}
}

func TestPaddedLen(t *testing.T) {
	for n, want := range map[int]int{0: 0, 8: 8, 9: 12, 12: 12, 21: 24, 33: 48, 49: 64, 64: 64, 65: 64, -1: 0} {
		if got := PaddedLen(n); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}
