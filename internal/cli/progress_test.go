package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// aTerminal is a pseudo-terminal.
func aTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestProgressIsForTerminals(t *testing.T) {
	master, slave := aTerminal(t)
	var file bytes.Buffer
	text := strings.Repeat("x", 1<<20)
	for _, quiet := range []*Progress{
		NewProgress(&file, &file, "work", 1<<20), // no terminal
		NewProgress(slave, slave, "work", 1<<20), // the result goes to it
	} {
		quiet.last = time.Time{}
		quiet.Add(1)
		quiet.End()
	}
	p := NewProgress(slave, &file, "work", 2<<20)
	p.last = time.Time{} // the first is due
	r := p.Reader(io.NopCloser(strings.NewReader(text)))
	if n, err := io.Copy(io.Discard, r); err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	p.last = time.Time{}
	p.Add(0)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	shown, _ := io.ReadAll(master) // ends with an error, as terminals do
	if !strings.Contains(string(shown), "work [##########..........]  50% of 2.0 MiB") || !strings.HasSuffix(string(shown),
		"\r\x1b[K") || strings.HasPrefix(string(shown), "\r\x1b[K") {
		t.Errorf("the terminal shows %q", shown)
	}
	if file.Len() > 0 {
		t.Errorf("where there is no terminal it writes %q", file.String())
	}
}
