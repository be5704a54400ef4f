package can

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What happens to a socket between its opening and the first wait is heard by that wait: here an error, as of an
// interface that goes down, by a pipe whose other end is closed.
func TestBellHearsWhatCameBeforeTheFirstWait(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	b, err := newBell(pipe[1], "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(pipe[0]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // the runtime's poller has heard all that there is to hear
	rung := make(chan error, 1)
	go func() { rung <- b.wait() }()
	select {
	case err := <-rung:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the error was not heard")
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}
