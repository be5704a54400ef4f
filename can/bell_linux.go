package can

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bell rings once when a socket has something to read, and only while somebody waits for it.
//
// A socket on the runtime's own poller wakes the process for every frame that comes, whether anybody waits or not. So the
// socket hangs on an epoll of its own that tells once and then is deaf until the next wait (EPOLLONESHOT), and that epoll
// hangs on the runtime's.
//
//	socket ──▶ epoll of the bell ──▶ the runtime's poller
type bell struct {
	file   *os.File // the epoll
	raw    syscall.RawConn
	step   func(epoll uintptr) bool // made once: a closure a call would be an allocation a call
	socket int
	hung   bool // on the epoll
	armed  bool // it rings when something comes, or has rung and was not heard yet
	err    error

	event unix.EpollEvent
	rung  [1]unix.EpollEvent
}

// newBell makes the bell of a socket. It does not keep the socket open.
func newBell(socket int, name string) (*bell, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	b := &bell{socket: socket, event: unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}}
	if err = os.NewSyscallError("fcntl", unix.SetNonblock(epoll, true)); err != nil { // or os.NewFile leaves it off the poller
		_ = unix.Close(epoll)
		return nil, err
	}
	b.file = os.NewFile(uintptr(epoll), name)
	if b.raw, err = b.file.SyscallConn(); err != nil {
		_ = b.file.Close()
		return nil, err
	}
	b.step = b.listen
	return b, nil
}

// wait returns when there is something to read, at once if there is already, or with an error after close.
func (b *bell) wait() error {
	b.err = nil
	if err := b.raw.Read(b.step); err != nil {
		return err
	}
	return b.err
}

// listen arms the bell, then hears whether it rang; false asks the poller to wait. It has to be armed in here, where the
// poller is ready: what rang before would not be heard.
func (b *bell) listen(epoll uintptr) bool {
	if !b.armed {
		// The socket is added no sooner than it is armed: an error before that would ring, unheard, and not again.
		how := unix.EPOLL_CTL_MOD
		if !b.hung {
			how = unix.EPOLL_CTL_ADD
		}
		b.err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(epoll), how, b.socket, &b.event))
		b.armed = b.err == nil
		b.hung = b.hung || b.armed
		return !b.armed
	}
	for {
		n, err := unix.EpollWait(int(epoll), b.rung[:], 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			b.err = os.NewSyscallError("epoll_wait", err)
			return true
		}
		b.armed = n == 0
		return n > 0
	}
}

// close ends a wait.
func (b *bell) close() error {
	if err := b.file.Close(); err != nil {
		return fmt.Errorf("closing the epoll of a socket: %w", err)
	}
	return nil
}
