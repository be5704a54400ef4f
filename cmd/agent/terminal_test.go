package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal and what it shows: as much of ECMA-48 as top uses.
type terminal struct {
	master, slave *os.File
	screen        chan []string // the lines after each change
}

func openTerminal(t *testing.T, columns, rows int) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tt := &terminal{master: master, slave: slave, screen: make(chan []string, 1000)}
	tt.resize(t, columns, rows)
	t.Cleanup(func() { slave.Close(); master.Close() })
	return tt
}

func (tt *terminal) resize(t *testing.T, columns, rows int) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(tt.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows),
		Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
}

// show reads the terminal until it is closed, and hands over each whole screen: from one cursor home to the next.
func (tt *terminal) show() {
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := tt.master.Read(buf)
		all = append(all, buf[:n]...)
		for {
			begin := bytes.Index(all, []byte(screenHome))
			end := bytes.Index(all, []byte(screenRest))
			if begin < 0 || end < begin {
				break
			}
			text := string(all[begin+len(screenHome) : end])
			for _, code := range []string{lineClear, bold, reverse, plain} {
				text = strings.ReplaceAll(text, code, "")
			}
			tt.screen <- strings.Split(text, "\r\n")
			all = all[end+len(screenRest):]
		}
		if err != nil {
			tt.screen <- []string{string(all)} // what came last of all
			close(tt.screen)
			return
		}
	}
}

// await waits for a screen that is as wanted.
func (tt *terminal) await(t *testing.T, what string, wanted func(lines []string) bool) []string {
	t.Helper()
	deadline := time.After(time.Minute)
	var last []string
	for {
		select {
		case lines, ok := <-tt.screen:
			if ok && wanted(lines) {
				return lines
			}
			if !ok {
				t.Fatalf("it ended before %s; the last screen:\n%s", what, strings.Join(last, "\n"))
			}
			last = lines
		case <-deadline:
			t.Fatalf("no %s; the last screen:\n%s", what, strings.Join(last, "\n"))
		}
	}
}
