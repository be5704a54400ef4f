package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/can"
)

// interfaceName is how CAN interfaces are called; anything else without a prefix is a path.
var interfaceName = regexp.MustCompile(`^(v|vx|sl)?can[0-9]+$`)

const (
	socketPrefix = "socketcan:"
	ptyPrefix    = "pty:"
)

func isInterface(out string) bool {
	return strings.HasPrefix(out, socketPrefix) || interfaceName.MatchString(out)
}

func isPTY(out string) bool { return strings.HasPrefix(out, ptyPrefix) }

// openBus opens an OUT of --can.
func openBus(ctx context.Context, out, name string) (bus, error) {
	switch {
	case out == "":
		return nowhere{}, nil
	case isInterface(out):
		return openSocket(strings.TrimPrefix(out, socketPrefix))
	}
	f, err := openFile(ctx, out)
	if err != nil {
		return nil, err
	}
	return &logBus{file: file{f, bufio.NewWriterSize(f, 64<<10)}, name: name}, nil
}

// openLine opens an OUT of --gps.
func openLine(ctx context.Context, out string, start time.Time) (line, error) {
	switch {
	case out == "":
		return quiet{}, nil
	case isPTY(out):
		return openPTY(strings.TrimPrefix(out, ptyPrefix))
	}
	f, err := openFile(ctx, out)
	if err != nil {
		return nil, err
	}
	l := &logLine{file{f, bufio.NewWriterSize(f, 16<<10)}}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		fmt.Fprintf(l.w, "# Date: %s\n", start.Format(time.DateOnly)) // an error stays in the writer until Flush
	}
	return l, nil
}

// openFile opens a file or FIFO for writing. Opening a FIFO waits for its reader, and for no longer than ctx.
func openFile(ctx context.Context, path string) (*os.File, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return os.OpenFile(path, flags, 0o644)
	}
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			// A reader that no longer reads must not keep us from ending.
			context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Now().Add(time.Second)) })
			return f, nil
		}
		if !errors.Is(err, unix.ENXIO) { // nobody has it open for reading yet
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: nobody opened the FIFO for reading", path)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// file is a buffered file.
type file struct {
	f *os.File
	w *bufio.Writer
}

func (o *file) Flush() error { return o.w.Flush() }

func (o *file) Close() error { return errors.Join(o.w.Flush(), o.f.Close()) }

// logBus writes candump -L lines.
type logBus struct {
	file
	name string
	text []byte
}

func (b *logBus) Send(_ context.Context, at time.Time, f *can.Frame) error {
	b.text = can.AppendLog(b.text[:0], at.UnixNano(), b.name, f)
	_, err := b.w.Write(b.text)
	return err
}

// logLine writes sentences.
type logLine struct{ file }

func (l *logLine) Send(sentences []byte) error {
	_, err := l.w.Write(sentences)
	return err
}

func (l *logLine) Unread() uint64 { return 0 }

// nowhere is an output that was not asked for.
type nowhere struct{}

func (nowhere) Send(context.Context, time.Time, *can.Frame) error { return nil }
func (nowhere) Flush() error                                      { return nil }
func (nowhere) Close() error                                      { return nil }

// quiet is nowhere as a line.
type quiet struct{ nowhere }

func (quiet) Send([]byte) error { return nil }
func (quiet) Unread() uint64    { return 0 }

// socketBus sends to a CAN interface.
type socketBus struct {
	fd    int
	name  string
	frame [canFDFrame]byte
}

// socketRetry is how long a frame waits when the interface's queue is full.
const socketRetry = time.Millisecond

// busyLimit is when an interface that takes nothing counts as broken: on a real bus, when nobody acknowledges.
const busyLimit = 5 * time.Second

func openSocket(name string) (*socketBus, error) {
	nic, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w; a virtual one: ip link add dev %s type vcan && ip link set %s up", name, err, name, name)
	}
	fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, os.NewSyscallError("socket", err))
	}
	b := &socketBus{fd: fd, name: name}
	// A sender that does not listen must not fill its own receive queue.
	if err := unix.SetsockoptCanRawFilter(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FILTER, nil); err != nil {
		b.Close()
		return nil, fmt.Errorf("interface %s: %w", name, os.NewSyscallError("setsockopt", err))
	}
	// CAN FD is for interfaces that have it; where one has not, sending such a frame says so.
	_ = unix.SetsockoptInt(fd, unix.SOL_CAN_RAW, unix.CAN_RAW_FD_FRAMES, 1)
	if err := unix.Bind(fd, &unix.SockaddrCAN{Ifindex: nic.Index}); err != nil {
		b.Close()
		return nil, fmt.Errorf("interface %s: %w", name, os.NewSyscallError("bind", err))
	}
	return b, nil
}

func (b *socketBus) Send(ctx context.Context, _ time.Time, f *can.Frame) error {
	frame := kernelFrame(&b.frame, f)
	for began := time.Now(); ; {
		_, err := unix.Write(b.fd, frame)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("interface %s: %w", b.name, os.NewSyscallError("write", err))
		case time.Since(began) > busyLimit:
			return fmt.Errorf("interface %s: takes no frames since %v: is anyone else on the bus?", b.name, busyLimit)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interface %s: stopped while its queue was full; the last frame was not sent", b.name)
		case <-time.After(socketRetry):
		}
	}
}

func (b *socketBus) Flush() error { return nil }

func (b *socketBus) Close() error { return os.NewSyscallError("close", unix.Close(b.fd)) }
