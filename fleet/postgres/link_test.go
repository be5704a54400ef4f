//go:build system

package postgres

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Neither end waits for a machine that is gone longer than deadAfter: not with nothing on its way, nor with something.
func TestLinksNoticeDeath(t *testing.T) {
	ctx := context.Background()
	s := open(t, fresh(t, quick(t)), options())
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var idle, interval, count, user int
	if err := conn.QueryRow(ctx, `SELECT current_setting('tcp_keepalives_idle')::int, current_setting('tcp_keepalives_interval')::int, current_setting('tcp_keepalives_count')::int,
	    current_setting('tcp_user_timeout')::int / 1000`).Scan(&idle, &interval, &count, &user); err != nil {
		t.Fatal(err)
	}
	if most := int(deadAfter / time.Second); idle <= 0 || idle+interval*count > most || user != most {
		t.Errorf("the server notices after %d s + %d × %d s, and %d s", idle, count, interval, user)
	}
	raw, err := conn.Conn().PgConn().Conn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for name, option := range map[string][2]int{"TCP_USER_TIMEOUT": {unix.TCP_USER_TIMEOUT, 30_000}, "TCP_KEEPIDLE": {unix.TCP_KEEPIDLE, 15}, "TCP_KEEPINTVL": {unix.TCP_KEEPINTVL, 5}, "TCP_KEEPCNT": {unix.TCP_KEEPCNT, 3}} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option[0]); err != nil || got != option[1] {
				t.Errorf("%s is %d, %v; want %d", name, got, err, option[1])
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}
