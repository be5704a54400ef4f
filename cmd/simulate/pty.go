package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// staleBytes is when unread sentences count as nobody's: more than a reader that sleeps a second would leave. A real
// receiver's words are gone when nobody listens; without this, whoever opens the line would first hear of the past.
const staleBytes = 1024

// ptyLine is a pseudo-terminal. We hold its far end open as well, so that readers may come and go.
type ptyLine struct {
	near, far *os.File
	link      string
	unread    uint64
}

// openPTY makes a pseudo-terminal and a symbolic link to its far end. A link that is in the way is replaced; anything
// else is not.
func openPTY(link string) (*ptyLine, error) {
	if link == "" {
		return nil, errors.New("pty: wants the path of the link to make, such as pty:/tmp/gps0")
	}
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	p := &ptyLine{near: near}
	path, err := p.unlock()
	if err == nil {
		p.far, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		err = p.makeRaw()
	}
	if err == nil {
		err = replaceLink(path, link)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	p.link = link
	return p, nil
}

// unlock lets the far end be opened and says where it is.
func (p *ptyLine) unlock() (path string, err error) {
	var number int
	err = p.control(p.near, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return os.NewSyscallError("TIOCSPTLCK", err)
		}
		var err error
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return os.NewSyscallError("TIOCGPTN", err)
	})
	return fmt.Sprintf("/dev/pts/%d", number), err
}

// makeRaw turns off echo and all translation, as cfmakeraw(3) does.
func (p *ptyLine) makeRaw() error {
	return p.control(p.far, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return os.NewSyscallError("TCGETS", err)
		}
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		return os.NewSyscallError("TCSETS", unix.IoctlSetTermios(fd, unix.TCSETS, t))
	})
}

func (p *ptyLine) control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return errors.Join(err, failed)
}

func replaceLink(target, link string) error {
	if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink == 0 {
		return fmt.Errorf("%s is there and is no symbolic link", link)
	}
	temporary := filepath.Join(filepath.Dir(link), fmt.Sprintf(".%s.%d", filepath.Base(link), os.Getpid()))
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, link); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

// Send writes one epoch. What nobody reads is thrown away, and counted; it never waits for a reader.
func (p *ptyLine) Send(sentences []byte) error {
	waiting := 0
	err := p.control(p.far, func(fd int) (err error) {
		waiting, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return os.NewSyscallError("TIOCINQ", err)
	})
	if err == nil && waiting >= staleBytes {
		p.unread += uint64(waiting) / sentenceBytes(sentences)
		err = p.flushStale()
	}
	if err != nil {
		return err
	}
	written := 0
	err = p.control(p.near, func(fd int) error {
		n, err := unix.Write(fd, sentences)
		written = max(n, 0)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		return os.NewSyscallError("write", err)
	})
	if err == nil && written < len(sentences) {
		// The kernel holds as much as it can and has moved none of it where TIOCINQ counts.
		p.unread += uint64(bytes.Count(sentences, []byte("\n")))
		err = p.flushStale()
	}
	return err
}

// sentenceBytes is the mean length of a sentence.
func sentenceBytes(sentences []byte) uint64 {
	return uint64(max(1, len(sentences)/max(1, bytes.Count(sentences, []byte("\n")))))
}

// flushStale empties the line: what the far end has not read, and what is on its way there.
func (p *ptyLine) flushStale() error {
	return errors.Join(
		p.control(p.far, func(fd int) error {
			return os.NewSyscallError("TCFLSH", unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH))
		}),
		p.control(p.near, func(fd int) error {
			return os.NewSyscallError("TCFLSH", unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCOFLUSH))
		}),
	)
}

func (p *ptyLine) Unread() uint64 { return p.unread }

func (p *ptyLine) Flush() error { return nil }

func (p *ptyLine) Close() error {
	var errs []error
	if p.link != "" {
		errs = append(errs, os.Remove(p.link))
	}
	if p.far != nil {
		errs = append(errs, p.far.Close())
	}
	return errors.Join(append(errs, p.near.Close())...)
}
