package can

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Writer sends frames to an interface. Who may, and when, is decided before it (package poll); a Reader cannot send.
// One goroutine calls Send; Close is safe from any.
type Writer struct {
	*socket
	buf   [fdSize]byte
	size  int
	send  func(fd uintptr) bool
	errno syscall.Errno
	sent  int
}

// NewWriter opens an interface for sending. It receives nothing.
func NewWriter(name string) (*Writer, error) {
	s, err := openSocket(name, unix.SOCK_NONBLOCK, func(fd int) error {
		if err := setFilters(fd, nil); err != nil {
			return err
		}
		return setOption(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FD_FRAMES, 1, "CAN_RAW_FD_FRAMES")
	})
	if err != nil {
		return nil, err
	}
	w := &Writer{socket: s}
	w.send = w.write
	return w, nil
}

// Close ends a Send under way.
func (w *Writer) Close() error { return w.close() }

// write calls write(2) once; false asks the poller to wait for room.
func (w *Writer) write(fd uintptr) bool {
	for {
		n, err := unix.Write(int(fd), w.buf[:w.size])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		}
		w.sent, w.errno = n, 0
		if err != nil {
			errors.As(err, &w.errno)
		}
		return true
	}
}

// queuePause is how long Send waits when the interface's queue is full: the kernel has no event for it. A full queue of
// ten frames drains in about 2 ms at 500 kbit/s.
const queuePause = time.Millisecond

// Send hands one frame to the kernel. It waits while the interface's queue is full, until ctx ends. A remote frame has
// no data; an FD frame of a length that FD does not have is filled up with zeros.
func (w *Writer) Send(ctx context.Context, f *Frame) error {
	if err := w.encode(f); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("CAN interface %s: %w", w.name, err)
		}
		if err := w.raw.Write(w.send); err != nil {
			return w.waitFailed(err)
		}
		switch {
		case w.errno == unix.ENOBUFS:
			select {
			case <-ctx.Done():
			case <-time.After(queuePause):
			}
			continue
		case w.errno != 0:
			return w.failed("write", w.errno)
		case w.sent != w.size:
			return fmt.Errorf("CAN interface %s: %d of %d bytes: %w", w.name, w.sent, w.size, io.ErrShortWrite)
		}
		return nil
	}
}

// encode puts a frame into the form of linux/can.h.
func (w *Writer) encode(f *Frame) error {
	id, limit := f.ID, uint32(MaxStandardID)
	if f.Extended() {
		limit = MaxExtendedID
	}
	fd := f.Flags&FlagFD != 0
	switch {
	case f.Flags&FlagError != 0:
		id, limit = id|flagERR, MaxExtendedID
	case f.Extended():
		id |= flagEFF
	}
	if f.ID > limit {
		return fmt.Errorf("identifier %#x does not fit its format", f.ID)
	}
	if f.Len > MaxLen || !fd && f.Len > MaxClassicLen || fd && f.Flags&(FlagRemote|FlagError) != 0 {
		return fmt.Errorf("a frame of %d bytes and flags %#x cannot be sent", f.Len, f.Flags)
	}
	if f.Flags&FlagRemote != 0 {
		id |= flagRTR
	}
	w.buf = [fdSize]byte{}
	binary.NativeEndian.PutUint32(w.buf[:], id)
	w.buf[4], w.size = f.Len, classicSize
	if fd {
		w.size = fdSize
		w.buf[4] = uint8(PaddedLen(int(f.Len)))
		w.buf[5] = fdFlagFDF
		if f.Flags&FlagBRS != 0 {
			w.buf[5] |= fdFlagBRS
		}
		if f.Flags&FlagESI != 0 {
			w.buf[5] |= fdFlagESI
		}
	}
	copy(w.buf[frameHead:w.size], f.Payload())
	return nil
}
