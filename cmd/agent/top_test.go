package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// TestTopOnATerminal runs the program on a real pseudo-terminal: it draws what fits, follows the size, scrolls, searches,
// goes
// on when the agent comes back, and leaves the terminal as it was.
func TestTopOnATerminal(t *testing.T) {
	if os.Getenv("WAYBILL_TEST_TOP") != "" {
		os.Exit(cli.Execute(rootCommand(), []string{"top", "--address", os.Getenv("WAYBILL_TEST_TOP")}, os.Stderr))
	}
	a := newFakeAgent(t)
	a.alarms.Store(true)
	tt := openTerminal(t, 80, 24)
	before, err := unix.IoctlGetTermios(int(tt.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	itself := []string{os.Args[0], "-test.run", "^TestTopOnATerminal$"}
	if emulator := os.Getenv("WAYBILL_TEST_EXEC"); emulator != "" {
		itself = append([]string{emulator}, itself...)
	}
	cmd := exec.CommandContext(ctx, itself[0], itself[1:]...)
	cmd.Env = append(os.Environ(), "WAYBILL_TEST_TOP="+a.address())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tt.slave, tt.slave, tt.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // so that a new size is told by SIGWINCH
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go tt.show()
	fits := func(lines []string, columns, rows int) bool {
		for _, line := range lines {
			if len([]rune(line)) > columns {
				t.Errorf("a line of %d columns: %q", len([]rune(line)), line)
			}
		}
		return len(lines) == rows
	}
	press := func(keys string) {
		t.Helper()
		if _, err := tt.master.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	has := func(lines []string, words string) bool { return strings.Contains(strings.Join(lines, "\n"), words) }

	lines := tt.await(t, "signals on 80×24", func(lines []string) bool { return has(lines, "Message00") && has(lines, "70") })
	if !fits(lines, 80, 24) {
		t.Errorf("%d lines on 24", len(lines))
	}
	t.Log("\n" + strings.Join(lines, "\n"))
	for _, words := range []string{"car-1 of acme", "ALARM     uplink.receipt", "can0", "queue", "uplink", "q end",
		"of 50 signals", "▁▃ █"} {
		if !has(lines, words) {
			t.Errorf("it does not show %q", words)
		}
	}
	tt.resize(t, 120, 50)
	tt.await(t, "screen of 120×50", func(lines []string) bool {
		return len(lines) == 50 && fits(lines, 120, 50) && has(lines,
			"Message20")
	})
	tt.resize(t, 40, 10)
	tt.await(t, "screen of 40×10", func(lines []string) bool { return len(lines) == 10 && fits(lines, 40, 10) })
	tt.resize(t, 80, 24)
	tt.await(t, "screen of 80×24", func(lines []string) bool { return len(lines) == 24 && fits(lines, 80, 24) })
	press("\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~\x1b[6~")
	tt.await(t, "end of the list", func(lines []string) bool { return has(lines, "Message49") && !has(lines, "Message00") })
	press("/age3")
	tt.await(t, "search", func(lines []string) bool {
		return has(lines, "/age3_") && has(lines, "Message39") && has(lines, "Message30") && !has(lines, "Message49")
	})
	press("\r")
	tt.await(t, "kept search", func(lines []string) bool { return has(lines, `10 signals with "age3"`) })
	press("\x1b")
	tt.await(t, "all signals again", func(lines []string) bool {
		return has(lines, "of 50 signals") && has(lines,
			"Message00")
	})
	press("oo")
	tt.await(t, "order by rate", func(lines []string) bool {
		return has(lines, "by rate") && has(lines, "Message49") && !has(lines, "Message00")
	})
	a.server.CloseClientConnections()
	tt.await(t, "word of a lost agent", func(lines []string) bool {
		return has(lines, "not connected: ") && has(lines,
			"Message49")
	})
	tt.await(t, "agent that is back", func(lines []string) bool {
		return !has(lines, "not connected: ") && has(lines,
			"Message49")
	})
	press("q")
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
	after, err := unix.IoctlGetTermios(int(tt.slave.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is another one: %+v, %+v, %v", before, after, err)
	}
	tt.slave.Close() // the last one: the master's reader ends
	last := ""
	for lines := range tt.screen {
		last = strings.Join(lines, "\n")
	}
	if !strings.Contains(last, screenEnd) {
		t.Errorf("it leaves the alternate screen on, or the cursor off: %q", last)
	}
}

func TestTopWithoutATerminal(t *testing.T) {
	var stderr bytes.Buffer
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	stdin := os.Stdin
	os.Stdin = in
	defer func() { os.Stdin = stdin }()
	if code := cli.Execute(rootCommand(), []string{"top", "--address", "127.0.0.1:1"}, &stderr); code != cli.Usage ||
		!strings.Contains(stderr.String(), "needs a terminal") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}

// FuzzTopScreen: whatever is typed and however small the terminal is, a screen has its size.
func FuzzTopScreen(f *testing.F) {
	f.Add([]byte("/abc\r\x1b[6~o\x1b"), 80, 24)
	f.Add([]byte("\x1b[999999~qjk /\x7f\x7f"), 1, 1)
	state := aState()
	rows := make([]topRow, 40)
	f.Fuzz(func(t *testing.T, typed []byte, width, height int) {
		width, height = 1+max(width, 0)%300, 1+max(height, 0)%100
		s := &topScreen{}
		for _, b := range typed {
			s.press(b)
			screen := string(s.draw(topView{state: &state, rows: rows}, width, height))
			lines := strings.Split(strings.TrimSuffix(strings.TrimPrefix(screen, screenHome), screenRest), "\r\n")
			if len(lines) != height {
				t.Fatalf("%d lines on %d", len(lines), height)
			}
			for _, line := range lines {
				for _, code := range []string{lineClear, bold, reverse, plain} {
					line = strings.ReplaceAll(line, code, "")
				}
				if n := len([]rune(line)); n > width || strings.ContainsAny(line, "\x1b\r\n") {
					t.Fatalf("%d columns on %d: %q", n, width, line)
				}
			}
		}
		s.settle()
	})
}
