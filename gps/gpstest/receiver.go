// Package gpstest is a satellite receiver for tests: a pseudo-terminal that speaks NMEA by script, hangs up and comes
// back under the same path, as a receiver on USB does when its plug is pulled.
package gpstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/gps"
)

// Receiver is the far end of a serial line. It is safe for use from several goroutines.
type Receiver struct {
	path string

	mu     sync.Mutex // guards what follows
	master *os.File   // nil while unplugged
	slave  string
	rate   uint32 // termios speed it speaks at, 0: any
}

// NewReceiver makes a plugged-in receiver whose device is a symbolic link in dir, as under /dev/serial/by-id.
func NewReceiver(dir string) (*Receiver, error) {
	r := &Receiver{path: filepath.Join(dir, "receiver")}
	return r, r.Plug()
}

// Path is the device to open. It stays the same through HangUp and Plug.
func (r *Receiver) Path() string { return r.path }

// Plug makes a new pseudo-terminal behind the path. It is an error while one is there.
func (r *Receiver) Plug() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.master != nil {
		return errors.New("the receiver is plugged in already")
	}
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	next := r.path + ".new"
	if err = os.Symlink(slave, next); err == nil {
		err = os.Rename(next, r.path)
	}
	if err != nil {
		return errors.Join(err, master.Close())
	}
	r.master, r.slave = master, slave
	return nil
}

// HangUp pulls the plug: whoever has the device open is hung up on, and the path leads nowhere.
func (r *Receiver) HangUp() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.master == nil {
		return nil
	}
	err := errors.Join(os.Remove(r.path), r.master.Close())
	r.master = nil
	return err
}

// Close ends the receiver.
func (r *Receiver) Close() error { return r.HangUp() }

// Speak sets the rate it speaks at from now on, one of the B constants of termios such as unix.B9600: whoever listens at
// another gets noise, as many bytes of it. 0, as at first: everybody understands.
func (r *Receiver) Speak(rate uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate = rate
}

// Write sends bytes down the line.
func (r *Receiver) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.master == nil {
		return 0, errors.New("the receiver is unplugged")
	}
	if r.rate != 0 {
		t, err := r.terminalLocked()
		if err != nil {
			return 0, err
		}
		if t.Cflag&unix.CBAUD != r.rate {
			noise := make([]byte, len(p))
			for i, c := range p {
				noise[i] = c ^ 0xA5
			}
			p = noise
		}
	}
	return r.master.Write(p)
}

// Send sends the sentences of each fix, as Epoch makes them.
func (r *Receiver) Send(fixes ...gps.Fix) error {
	for _, f := range fixes {
		if _, err := r.Write(Epoch(nil, f)); err != nil {
			return err
		}
	}
	return nil
}

// Step is a part of a script.
type Step struct {
	Wait   time.Duration // before Data
	Data   []byte
	HangUp bool // after Data
	Plug   bool // before Data
}

// Play runs a script until it or ctx ends.
func (r *Receiver) Play(ctx context.Context, script ...Step) error {
	for i, step := range script {
		if step.Wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(step.Wait):
			}
		}
		var err error
		if step.Plug {
			err = r.Plug()
		}
		if err == nil && len(step.Data) > 0 {
			_, err = r.Write(step.Data)
		}
		if err == nil && step.HangUp {
			err = r.HangUp()
		}
		if err != nil {
			return fmt.Errorf("step %d of the script: %w", i, err)
		}
	}
	return nil
}

// Terminal is how the line is set up at present, by whoever opened it last.
func (r *Receiver) Terminal() (*unix.Termios, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.master == nil {
		return nil, errors.New("the receiver is unplugged")
	}
	return r.terminalLocked()
}

func (r *Receiver) terminalLocked() (*unix.Termios, error) {
	var t *unix.Termios
	err := control(r.master, func(fd int) (err error) {
		t, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	return t, os.NewSyscallError("tcgetattr", err)
}

// Epoch appends what a receiver sends for one fix: RMC, VTG, GGA, GSA.
func Epoch(dst []byte, f gps.Fix) []byte {
	dst = gps.AppendRMC(dst, f)
	dst = gps.AppendVTG(dst, f)
	dst = gps.AppendGGA(dst, f)
	return gps.AppendGSA(dst, f)
}

// openTerminal makes a pseudo-terminal without echo. It is left as a tty is at boot otherwise: cooked, at 38,400 bit/s.
func openTerminal() (master *os.File, slave string, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return os.NewSyscallError("unlockpt", err)
		}
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return os.NewSyscallError("ptsname", err)
		}
		slave = "/dev/pts/" + strconv.Itoa(n)
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return os.NewSyscallError("tcgetattr", err)
		}
		t.Lflag &^= unix.ECHO
		return os.NewSyscallError("tcsetattr", unix.IoctlSetTermios(fd, unix.TCSETS, t))
	})
	if err != nil {
		return nil, "", errors.Join(err, master.Close())
	}
	return master, slave, nil
}

// control runs f on a file's descriptor without taking it from the runtime's poller.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
