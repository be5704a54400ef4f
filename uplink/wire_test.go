package uplink

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCork: the kernel takes the wish for full segments, and takes it back.
func TestCork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var w wire
	w.cork(true) // no connection yet
	w.use(conn)
	for _, on := range []bool{true, false} {
		w.cork(on)
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		value := -1
		if err := raw.Control(func(fd uintptr) { value, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK) }); err != nil {
			t.Fatal(err)
		}
		if value != 0 != on {
			t.Errorf("TCP_CORK is %d, wanted: %t", value, on)
		}
	}
	conn.Close()
	w.cork(true)
}
