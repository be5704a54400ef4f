package can

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// readBatch is how many frames one system call takes at most.
const readBatch = 64

// ReaderOptions are the choices of a Reader.
type ReaderOptions struct {
	Bus           uint8    // what Frame.Bus will say
	Filters       []Filter // of a Plan; nil lets everything pass
	ReceiveBuffer int      // bytes the kernel may hold for the socket; 0 takes 4 MiB, some 5,000 frames
	// Gather is how long a Reader that was woken waits before it takes what came, so that a busy bus costs a wake-up for
	// many frames and not one for each. It delays frames by that much; their times are the kernel's. 0: it does not wait.
	Gather time.Duration
	Clock  clock.Clock  // nil takes the system's
	Log    *slog.Logger // nil says nothing
}

// ReaderStats are the counts of a Reader.
type ReaderStats struct {
	Frames    uint64 // delivered, error frames among them
	Drops     uint64 // lost because the socket's buffer was full
	Errors    uint64 // error frames
	Unstamped uint64 // frames without a kernel timestamp; they have the time of reading
	Clamped   uint64 // frames whose stamp was not possible
	Malformed uint64 // messages of the kernel that are no frame
}

// Reader reads a SocketCAN interface. It can only read. One goroutine calls Read; Close and Stats are safe from any.
type Reader struct {
	*socket
	bus   uint8
	clock clock.Clock

	// The kernel writes into these by address, so that they stay where they are.
	messages [readBatch]mmsghdr
	vectors  [readBatch]unix.Iovec
	frames   [readBatch][fdSize]byte
	control  [readBatch][controlSize]byte

	receive  func(fd uintptr) bool // recvmmsg, made once: a closure a call would be an allocation a call
	want     int                   // frames to receive
	received int
	errno    syscall.Errno
	down     syscall.Errno // the interface went down; what came before is still to be read
	final    uint32        // the kernel's count of drops when all of that was read

	bell   *bell
	gather time.Duration
	timer  *time.Timer // runs while frames are gathered
	done   chan struct{}
	once   sync.Once // closes done
	next   step

	stamps stamper
	lost   uint32 // the kernel's running count of drops

	stats struct {
		frames, drops, errors, unstamped, clamped, malformed atomic.Uint64
	}
}

// step is what a Reader does before it receives.
//
//	             a full batch
//	            ┌─────┐
//	            ▼     │        fewer frames
//	start ──▶ take ───┴──▶ received ──▶ gathering ──▶ take
//	            │ none        │ one, or no Gather       ▲
//	            ▼             ▼                         │
//	            └────────▶ waiting ─────── woken ───────┘
//
// A bus that goes on is never waited for in the poller: it is looked at every Gather. One that is still is not looked at.
type step uint8

const (
	stepTake   step = iota // nothing: there may be more
	stepGather             // waits for Gather
	stepWait               // waits for a frame, then for Gather
)

// mmsghdr is struct mmsghdr of recvmmsg(2). Go pads it as C does: to 8 bytes where pointers have 8, to 4 where they have 4.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// controlSize has room for three 64-bit timespecs and a drop count, each behind its cmsghdr, and for one more of either.
const controlSize = 256

// timestampingFlags ask for the time of the frame's arrival in the kernel, and the controller's own where it has one.
const timestampingFlags = unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE |
	unix.SOF_TIMESTAMPING_RX_HARDWARE | unix.SOF_TIMESTAMPING_RAW_HARDWARE

// Open opens a CAN interface for reading. An interface that is not there or down is an ErrDown.
func Open(name string, o ReaderOptions) (*Reader, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ReceiveBuffer == 0 {
		o.ReceiveBuffer = 4 << 20
	}
	var b *bell
	s, err := openSocket(name, 0, func(fd int) (err error) {
		if err = configureReader(fd, name, o); err == nil {
			b, err = newBell(fd, "can:"+name)
		}
		return err
	})
	if err != nil {
		if b != nil {
			_ = b.close()
		}
		return nil, err
	}
	if err := s.pending(); err != nil {
		_ = s.close()
		_ = b.close()
		return nil, err
	}
	r := &Reader{socket: s, bus: o.Bus, clock: o.Clock, bell: b, gather: o.Gather, timer: time.NewTimer(0), done: make(chan struct{})}
	r.stamps.emptied = r.clock.Boot()
	r.receive = r.receiveBatch
	for i := range r.messages {
		r.vectors[i].Base = &r.frames[i][0]
		r.vectors[i].SetLen(fdSize)
		h := &r.messages[i].header
		h.Iov = &r.vectors[i]
		h.SetIovlen(1)
		h.Control = &r.control[i][0]
	}
	return r, nil
}

func configureReader(fd int, name string, o ReaderOptions) error {
	if err := setOption(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FD_FRAMES, 1, "CAN_RAW_FD_FRAMES"); err != nil {
		return err
	}
	if err := setOption(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_ERR_FILTER, unix.CAN_ERR_MASK, "CAN_RAW_ERR_FILTER"); err != nil {
		return err
	}
	if o.Filters != nil {
		if len(o.Filters) > MaxFilters {
			return fmt.Errorf("%d filters, the kernel takes %d", len(o.Filters), MaxFilters)
		}
		if err := setFilters(fd, o.Filters); err != nil {
			return err
		}
	}
	// The forced size passes net.core.rmem_max but needs CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, o.ReceiveBuffer) != nil {
		if err := setOption(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, o.ReceiveBuffer, "SO_RCVBUF"); err != nil {
			return err
		}
	}
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil && got < o.ReceiveBuffer {
		o.Log.Warn("the receive buffer is smaller than asked for; give CAP_NET_ADMIN or raise net.core.rmem_max",
			"interface", name, "bytes", got, "asked", o.ReceiveBuffer)
	}
	if err := setOption(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1, "SO_RXQ_OVFL"); err != nil {
		return err
	}
	// The new option has 64-bit seconds on 32-bit machines too, from Linux 5.1 on.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, timestampingFlags) == nil {
		return nil
	}
	return setOption(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, timestampingFlags, "SO_TIMESTAMPING")
}

// Close ends a Read under way.
func (r *Reader) Close() error {
	r.once.Do(func() { close(r.done) })
	return errors.Join(r.close(), r.bell.close())
}

// Stats returns the counts so far.
func (r *Reader) Stats() ReaderStats {
	return ReaderStats{
		Frames: r.stats.frames.Load(), Drops: r.stats.drops.Load(), Errors: r.stats.errors.Load(),
		Unstamped: r.stats.unstamped.Load(), Clamped: r.stats.clamped.Load(), Malformed: r.stats.malformed.Load(),
	}
}

// receiveBatch calls recvmmsg once, which waits for nothing.
func (r *Reader) receiveBatch(fd uintptr) bool {
	for i := range r.want {
		r.messages[i].header.SetControllen(controlSize)
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.messages[0])), uintptr(r.want), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.ENETDOWN || errno == unix.ENODEV {
			// The kernel tells this ahead of the frames that came before it.
			if r.down == 0 {
				r.down = errno
				continue
			}
		}
		if errno == unix.EAGAIN && r.down != 0 {
			errno, r.final = r.down, dropsOf(fd)
		}
		r.received, r.errno = int(n), errno
		if errno != 0 {
			r.received = 0
		}
		return true
	}
}

// dropsOf is the kernel's running count of drops, which it tells otherwise only beside a frame that came later; 0 where
// it does not say (before Linux 4.12).
func dropsOf(fd uintptr) uint32 {
	var info [unix.SK_MEMINFO_DROPS + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return info[unix.SK_MEMINFO_DROPS]
}

// fill receives at least one frame.
func (r *Reader) fill() error {
	for {
		if r.next == stepWait {
			if err := r.bell.wait(); err != nil {
				return r.waitFailed(err)
			}
		}
		if r.next != stepTake && !r.pause() {
			return r.waitFailed(os.ErrClosed)
		}
		if err := r.raw.Read(r.receive); err != nil {
			return r.waitFailed(err)
		}
		switch {
		case r.errno == unix.EAGAIN:
			r.stamps.emptied = r.clock.Boot()
			r.next = stepWait
			continue
		case r.errno != 0:
			return r.failed("recvmmsg", r.errno)
		case r.received == r.want || r.down != 0: // nothing rings for an interface that is down
			r.next = stepTake
		case r.received > 1 && r.gather > 0:
			r.next = stepGather
		default:
			r.next = stepWait
		}
		return nil
	}
}

// pause waits for Gather; false when the Reader was closed meanwhile.
func (r *Reader) pause() bool {
	if r.gather <= 0 {
		return true
	}
	r.timer.Reset(r.gather)
	select {
	case <-r.timer.C:
		return true
	case <-r.done:
		return false
	}
}

// Read implements FrameReader. It waits for frames and takes up to 64 at once; it allocates nothing.
func (r *Reader) Read(dst []Frame) (n int, drops uint64, err error) {
	if len(dst) == 0 {
		return 0, 0, nil
	}
	r.want = min(len(dst), readBatch)
	if err := r.fill(); err != nil {
		if r.final != 0 {
			drops, r.lost, r.final = uint64(r.final-r.lost), r.final, 0
			r.stats.drops.Add(drops)
		}
		return 0, drops, err
	}
	wall, boot := r.now()
	for i := range r.received {
		f := &dst[n]
		if !r.frame(i, f) {
			r.stats.malformed.Add(1)
			continue
		}
		stamp, lost, counted := parseControl(r.controlOf(i), wall)
		if counted {
			drops += uint64(lost - r.lost) // the kernel's counter wraps at 2^32, and so does the difference
			r.lost = lost
		}
		f.Time = r.stamps.boot(stamp, wall, boot)
		n++
	}
	if r.received < r.want {
		r.stamps.emptied = boot
	}
	r.stats.frames.Add(uint64(n))
	r.stats.drops.Add(drops)
	r.stats.unstamped.Store(r.stamps.unstamped)
	r.stats.clamped.Store(r.stamps.clamped)
	return n, drops, nil
}

// now reads both clocks as one: again when the goroutine was interrupted between them, and of several tries the tightest
// counts.
func (r *Reader) now() (wall, boot int64) {
	const together = 50e3 // ns
	tightest := int64(math.MaxInt64)
	for range 3 {
		before := r.clock.Boot()
		w := r.clock.Wall().UnixNano()
		apart := r.clock.Boot() - before
		if apart < tightest {
			tightest, wall, boot = apart, w, before+apart/2
		}
		if apart < together {
			break
		}
	}
	return wall, boot
}

// frame reads the i-th message of the batch; false when it is no frame.
func (r *Reader) frame(i int, f *Frame) bool {
	raw := &r.frames[i]
	size := int(r.messages[i].length)
	if size != classicSize && size != fdSize {
		return false
	}
	id, length := binary.NativeEndian.Uint32(raw[:]), raw[4]
	f.Flags = 0
	limit := uint8(MaxClassicLen)
	if size == fdSize {
		f.Flags, limit = FlagFD, MaxLen
		if raw[5]&fdFlagBRS != 0 {
			f.Flags |= FlagBRS
		}
		if raw[5]&fdFlagESI != 0 {
			f.Flags |= FlagESI
		}
	}
	if length > limit {
		return false
	}
	switch {
	case id&flagERR != 0:
		f.Flags |= FlagError
		f.ID = id & MaxExtendedID
		r.stats.errors.Add(1)
	case id&flagEFF != 0:
		f.Flags |= FlagExtended
		f.ID = id & MaxExtendedID
	default:
		f.ID = id & MaxStandardID
	}
	if id&flagRTR != 0 && id&flagERR == 0 {
		f.Flags |= FlagRemote
	}
	f.Len, f.Bus = length, r.bus
	if size == fdSize {
		f.Data = [MaxLen]byte(raw[frameHead:])
	} else {
		copy(f.Data[:MaxClassicLen], raw[frameHead:classicSize])
	}
	return true
}

// controlOf is what the kernel said beside the i-th message.
func (r *Reader) controlOf(i int) []byte {
	return r.control[i][:min(int(r.messages[i].header.Controllen), controlSize)]
}

// hardwarePlausible is how far a controller's own clock may be from the realtime clock for its stamps to be used, ns.
const hardwarePlausible = 1e9

// parseControl finds the timestamp (Unix ns, 0: none) and the running count of drops among the control messages.
//
// The software stamp comes first: it is CLOCK_REALTIME, taken in the interrupt or just behind it. A controller's clock is
// free running on most hardware and drifts away from it; it serves where the driver gives nothing else and it is near.
func parseControl(control []byte, wall int64) (stamp int64, lost uint32, counted bool) {
	const align = unix.SizeofPtr
	for len(control) >= unix.SizeofCmsghdr {
		header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		end := int(header.Len)
		if end < unix.SizeofCmsghdr || end > len(control) {
			break
		}
		data := control[cmsgData:end]
		if header.Level == unix.SOL_SOCKET {
			switch header.Type {
			case unix.SO_TIMESTAMPING, unix.SO_TIMESTAMPING_NEW:
				stamp = pickStamp(data, wall)
			case unix.SO_RXQ_OVFL:
				if len(data) >= 4 {
					lost, counted = binary.NativeEndian.Uint32(data), true
				}
			}
		}
		control = control[min((end+align-1)&^(align-1), len(control)):]
	}
	return stamp, lost, counted
}

// cmsgData is where the data of a control message begins: behind its aligned header.
const cmsgData = (unix.SizeofCmsghdr + unix.SizeofPtr - 1) &^ (unix.SizeofPtr - 1)

// pickStamp chooses among the three timespecs of struct scm_timestamping: software, an old one that stays empty, hardware.
// They have 64-bit fields, or 32-bit ones from the old option on 32-bit machines.
func pickStamp(data []byte, wall int64) int64 {
	read := func(i int) int64 {
		if len(data) >= 48 {
			return int64(binary.NativeEndian.Uint64(data[16*i:]))*1e9 + int64(binary.NativeEndian.Uint64(data[16*i+8:]))
		}
		return int64(int32(binary.NativeEndian.Uint32(data[8*i:])))*1e9 + int64(int32(binary.NativeEndian.Uint32(data[8*i+4:])))
	}
	if len(data) < 24 {
		return 0
	}
	if software := read(0); software != 0 {
		return software
	}
	if hardware := read(2); hardware > wall-hardwarePlausible && hardware <= wall {
		return hardware
	}
	return 0
}
