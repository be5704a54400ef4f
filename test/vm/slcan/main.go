// Command slcan gives a guest kernel a CAN interface with a controller's states: one end of a pseudo-terminal gets the
// line discipline of serial line CAN adapters, at the other end this program is the adapter. It writes the name of the
// interface to standard output, then every line of its standard input to the kernel as the adapter would, and what the
// kernel sends to standard error. It ends with its input. It runs in test guests only.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lineDiscipline is N_SLCAN (linux/tty.h).
const lineDiscipline = 17

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "slcan:", err)
		os.Exit(1)
	}
}

func run() error {
	adapter, err := os.OpenFile("/dev/pts/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer adapter.Close()
	fd := int(adapter.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number: %w", err)
	}
	line, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer line.Close() // the kernel takes the interface away
	if err := makeRaw(int(line.Fd())); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(line.Fd()), unix.TIOCSETD, lineDiscipline); err != nil {
		return fmt.Errorf("line discipline %d: %w", lineDiscipline, err)
	}
	name, err := interfaceName(int(line.Fd()))
	if err != nil {
		return fmt.Errorf("name of the interface: %w", err)
	}
	fmt.Println(name)

	// Nobody may leave the terminal full: the kernel's side would wait.
	go func() {
		lines := bufio.NewScanner(adapter)
		lines.Split(splitReturns)
		for lines.Scan() {
			fmt.Fprintf(os.Stderr, "from the kernel: %s\n", lines.Text())
		}
	}()
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		if _, err := io.WriteString(adapter, commands.Text()+"\r"); err != nil {
			return err
		}
	}
	return commands.Err()
}

// splitReturns is a bufio.SplitFunc: the protocol ends its lines with a carriage return.
func splitReturns(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\r'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// makeRaw does what cfmakeraw(3) does: bytes pass as they are.
func makeRaw(fd int) error {
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	mode.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	mode.Oflag &^= unix.OPOST
	mode.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	mode.Cflag = mode.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	return unix.IoctlSetTermios(fd, unix.TCSETS, mode)
}

// interfaceName asks a serial line with this discipline what its interface is called.
func interfaceName(fd int) (string, error) {
	var name [unix.IFNAMSIZ]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&name))); errno != 0 {
		return "", errno
	}
	return unix.ByteSliceToString(name[:]), nil
}
