package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// calm is how long Watch rests between two calls: a clock that is set again and again must not cost more.
const calm = 500 * time.Millisecond

// Watch calls set whenever somebody sets CLOCK_REALTIME, and after a suspend, until ctx ends; then it returns nil. The
// kernel tells by a timer that a change of the clock cancels (timerfd_settime(2), TFD_TIMER_CANCEL_ON_SET). It may miss
// that the clock was set twice in half a second.
func Watch(ctx context.Context, set func()) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()
	stop := context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := timer.SyscallConn()
	if err != nil {
		return fmt.Errorf("watching the system's clock: %w", err)
	}
	for ctx.Err() == nil {
		// The timer itself is not set; its cancellation is.
		var armed error
		if err := raw.Control(func(fd uintptr) {
			armed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &unix.ItimerSpec{}, nil)
		}); err != nil {
			return fmt.Errorf("watching the system's clock: %w", err)
		}
		if armed != nil && !errors.Is(armed, unix.ECANCELED) { // set between the cancellation and this call
			return os.NewSyscallError("timerfd_settime", armed)
		}
		var expirations [8]byte
		if armed == nil {
			if _, err := timer.Read(expirations[:]); err != nil && !errors.Is(err, unix.ECANCELED) {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("watching the system's clock: %w", err)
			}
		}
		set()
		pause := time.NewTimer(calm)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
	return nil
}
