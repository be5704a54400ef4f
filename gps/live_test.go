package gps_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/gps/gpstest"
)

// keepSending sends an epoch every so often until the returned function is called: a receiver does not wait for us.
func keepSending(write func([]byte) error, every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for second := 0; ctx.Err() == nil; second++ {
			if write(gpstest.Epoch(nil, drive(second%3000))) != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// waitAnyFix drops what came before and waits for a valid fix.
func (r *running) waitAnyFix(t *testing.T) {
	t.Helper()
	for len(r.fixes) > 0 {
		<-r.fixes
	}
	for deadline := time.After(patience); ; {
		select {
		case f := <-r.fixes:
			if f.Valid() {
				return
			}
		case <-deadline:
			t.Fatal("no fix")
		}
	}
}

// A receiver that comes back under the same path with another rate is understood again, each time, and nothing stays
// behind. The rates are those of the lists of real receivers' data sheets.
func TestAutoBaudFollowsAReceiverThroughReplugs(t *testing.T) {
	receiver := newReceiver(t)
	rates := []uint32{unix.B115200, unix.B9600, unix.B4800, unix.B38400, unix.B57600}
	t.Run("warm up", func(t *testing.T) { autoBaudRound(t, receiver, unix.B9600, nil) })
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	t.Run("replugs", func(t *testing.T) { autoBaudRound(t, receiver, unix.B9600, rates) })
	nothingLeaked(t, goroutines, files)
}

func autoBaudRound(t *testing.T, receiver *gpstest.Receiver, first uint32, rates []uint32) {
	receiver.Speak(first)
	r := start(t, gps.SerialOptions{Device: receiver.Path(), Baud: gps.AutoBaud, Clock: &stepClock{}})
	stop := keepSending(func(b []byte) error { _, err := receiver.Write(b); return err }, 50*time.Millisecond)
	r.waitState(t, true)
	r.waitAnyFix(t)
	stop()
	during := 0
	for _, rate := range rates {
		if err := receiver.HangUp(); err != nil {
			t.Fatal(err)
		}
		r.waitState(t, false)
		receiver.Speak(rate)
		if err := receiver.Plug(); err != nil {
			t.Fatal(err)
		}
		stop := keepSending(func(b []byte) error { _, err := receiver.Write(b); return err }, 50*time.Millisecond)
		r.waitState(t, true)
		// What was sent before the device was opened is understood at any rate, on a pseudo-terminal; not what follows.
		for settled := false; !settled; {
			r.waitAnyFix(t)
			terminal, err := receiver.Terminal()
			settled = err == nil && terminal.Cflag&unix.CBAUD == rate
		}
		stop()
		if n := descriptors(t); during == 0 {
			during = n
		} else if n > during {
			t.Errorf("%d descriptors after a replug, %d after the first", n, during)
		}
	}
}

// A receiver that is told another rate while it runs is found again; noise at every rate is told.
func TestAutoBaudFollowsAChangeOfRate(t *testing.T) {
	receiver := newReceiver(t)
	receiver.Speak(unix.B4800)
	r := start(t, gps.SerialOptions{Device: receiver.Path(), Baud: gps.AutoBaud, Clock: &stepClock{}})
	stop := keepSending(func(b []byte) error { _, err := receiver.Write(b); return err }, 20*time.Millisecond)
	defer func() { stop() }()
	r.waitState(t, true)
	receiver.Speak(unix.B38400)
	for {
		r.waitAnyFix(t)
		if terminal, err := receiver.Terminal(); err == nil && terminal.Cflag&unix.CBAUD == unix.B38400 {
			break
		}
	}
	receiver.Speak(unix.B300) // not a usual one
	if err := r.waitState(t, false); !strings.Contains(err.Error(), "usual rates") {
		t.Errorf("reason: %v", err)
	}
}

// server is a TCP server that sends what it is told to whoever connected last.
func server(t *testing.T) (listener net.Listener, accepted chan net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = make(chan net.Conn, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		for len(accepted) > 0 {
			_ = (<-accepted).Close()
		}
	})
	return listener, accepted
}

func startTCP(t *testing.T, o gps.TCPOptions) *running {
	t.Helper()
	r := &running{fixes: make(chan gps.Fix, 1000), states: make(chan error, 1000), done: make(chan error, 1)}
	o.OnState = func(err error) { r.states <- err }
	o.Log, o.Clock, o.RetryMin = quiet(), &stepClock{}, 10*time.Millisecond
	source, err := gps.NewTCP(o)
	if err != nil {
		t.Fatal(err)
	}
	r.run(t, source.Run)
	return r
}

func (r *running) accept(t *testing.T, accepted chan net.Conn) net.Conn {
	t.Helper()
	select {
	case conn := <-accepted:
		return conn
	case <-time.After(patience):
		t.Fatal("does not dial")
	}
	panic("not reached")
}

func TestTCPDialsAgain(t *testing.T) {
	listener, accepted := server(t)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	t.Run("connections", func(t *testing.T) {
		r := startTCP(t, gps.TCPOptions{Address: listener.Addr().String(), Silence: time.Second})
		for round := range 4 {
			conn := r.accept(t, accepted)
			r.waitState(t, true)
			for second := range 2 {
				at := drive(10*round + second)
				if _, err := conn.Write(gpstest.Epoch(nil, at)); err != nil {
					t.Fatal(err)
				}
			}
			r.waitFix(t, drive(10*round))
			r.waitFix(t, drive(10*round+1))
			if round%2 == 0 {
				_ = conn.Close()
			} else { // the other end lost its power: nothing comes any more, not even the end
				defer conn.Close()
			}
			if err := r.waitState(t, false); round%2 == 1 && !strings.Contains(err.Error(), "nothing came") {
				t.Errorf("reason: %v", err)
			}
		}
		if conn := r.accept(t, accepted); conn != nil {
			_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := conn.Read(make([]byte, 1)); n > 0 || err == io.EOF {
				t.Error("the client sends, or leaves")
			}
			_ = conn.Close()
		}
	})
	nothingLeaked(t, goroutines, files)
}

func TestTCPOptionsAreChecked(t *testing.T) {
	if _, err := gps.NewTCP(gps.TCPOptions{Address: "router", Clock: &stepClock{}, Log: quiet()}); err == nil {
		t.Error("an address without a port")
	}
	if _, err := gps.NewTCP(gps.TCPOptions{Address: "router:10110"}); err == nil {
		t.Error("no clock")
	}
}

// A gpsd that goes away and comes back is dialled again, and asked again for its reports, of the one device.
func TestGPSDDialsAgain(t *testing.T) {
	listener, accepted := server(t)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	t.Run("connections", func(t *testing.T) {
		r := startGPSD(t, gps.GPSDOptions{Address: listener.Addr().String(), Device: `/dev/"x`})
		for range 3 {
			conn := r.accept(t, accepted)
			r.waitState(t, true)
			request := make([]byte, 200)
			if n, err := conn.Read(request); string(request[:n]) != `?WATCH={"enable":true,"json":true,"device":"/dev/\"x"};`+"\n" {
				t.Errorf("asked %q (%v)", request[:n], err)
			}
			if _, err := io.WriteString(conn, `{"class":"TPV","device":"/dev/\"x","mode":2,"time":"2026-11-22T12:00:00.000Z","lat":48.1173,"lon":11.5}`+"\n"); err != nil {
				t.Fatal(err)
			}
			r.waitFix(t, drive(0))
			_ = conn.Close()
			r.waitState(t, false)
		}
	})
	nothingLeaked(t, goroutines, files)
}
