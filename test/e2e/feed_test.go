package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// counterDBC is a bus with nothing but a frame counter on it: what of it is in the store tells exactly what was lost.
const counterDBC = `VERSION ""
BU_: ECU
BO_ 256 Counter: 8 ECU
 SG_ Count : 0|32@1+ (1,0) [0|4294967295] "" ECU
 SG_ Inverse : 32|32@1+ (1,0) [0|4294967295] "" ECU
`

// feed writes counter frames into a FIFO at a steady pace, as a bus would: it waits for nobody.
type feed struct {
	path string
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex  // guards what follows
	written []time.Time // by counter: when it was written; zero: the FIFO was full, so it never was on this bus
}

// startFeed makes the FIFO and begins. It holds both ends open, so that a reader may come and go.
func startFeed(t testing.TB, dir string, every time.Duration) *feed {
	t.Helper()
	f := &feed{path: filepath.Join(dir, "bus.fifo"), stop: make(chan struct{}), done: make(chan struct{})}
	if err := syscall.Mkfifo(f.path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(f.path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fifo := os.NewFile(uintptr(fd), f.path)
	go func() {
		defer close(f.done)
		defer fifo.Close()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := uint32(0); ; n++ {
			select {
			case <-f.stop:
				return
			case <-tick.C:
			}
			now := time.Now()
			line := fmt.Appendf(nil, "(%d.%06d) can0 100#%02X%02X%02X%02X%02X%02X%02X%02X\n", now.Unix(), now.Nanosecond()/1000,
				byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(^n), byte(^n>>8), byte(^n>>16), byte(^n>>24))
			_, err := syscall.Write(fd, line) // whole or not at all: a line is shorter than PIPE_BUF
			if err != nil {
				now = time.Time{}
			}
			f.mu.Lock()
			f.written = append(f.written, now)
			f.mu.Unlock()
		}
	}()
	t.Cleanup(f.end)
	return f
}

// end stops feeding. It may be called again.
func (f *feed) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	<-f.done
}

// at is when a counter was written, and whether it was.
func (f *feed) at(n int) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n >= len(f.written) {
		return time.Time{}, false
	}
	return f.written[n], !f.written[n].IsZero()
}

func (f *feed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.written)
}
