package postgres

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// deadAfter is how long the server may be silent before a connection to it is given up, as `abandoned` is for the other direction. A machine that loses
// its power closes nothing, and a process would wait a quarter of an hour for a dead server.
const deadAfter = 30 * time.Second

// dialer makes connections that notice when the server's machine is gone.
func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: deadAfter / 2, Interval: deadAfter / 6, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter/time.Millisecond))
			})
			return errors.Join(err, failed)
		},
	}
}

// Unreachable says whether an error is of a server that is not there, or is starting or stopping, so that waiting may help
// (PostgreSQL, appendix A: class 57, operator intervention).
func Unreachable(err error) bool {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said.Code == "57P01" || said.Code == "57P02" || said.Code == "57P03"
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
