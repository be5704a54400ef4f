package buffer_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// event is a system call that changes a file, or a line that the child said.
type event struct {
	Call string
	Path string
	To   string
	At   int64 // of a create: 1 = what is there is cut off
	Data []byte
}

// record runs the child that works for powercuts under strace.
func record(t *testing.T, dir string, seed uint64, lives int) []event {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	work := child(t, "cuts", dir, fmt.Sprint(seed, " ", lives))
	cmd := deps.Program(t, "strace", "strace", append([]string{"-f", "-qq", "-xx", "-y", "-s", "4000000", "-o", log, "-e", "signal=none", "-e",
		"trace=openat,mkdir,mkdirat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat"}, work.Args...)...)
	cmd.Env = append(cmd.Env, work.Env...)
	if out, err := cmd.Output(); err != nil || bytes.Contains(out, []byte("E ")) {
		if len(out) == 0 && os.Getenv("CI") != "true" {
			t.Skipf("strace does not work here: %v", err)
		}
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	var events []event
	unfinished := map[string]string{}
	for lines.Scan() {
		pid, call, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		call = strings.TrimSpace(call)
		if begin, ok := strings.CutSuffix(call, " <unfinished ...>"); ok {
			unfinished[pid] = begin
			continue
		}
		if _, rest, ok := strings.Cut(call, " resumed>"); ok && strings.HasPrefix(call, "<... ") {
			call = unfinished[pid] + rest
		}
		if e, ok := parseCall(t, dir, call); ok {
			events = append(events, e)
		}
	}
	return events
}

// parseCall reads one line of strace's.
func parseCall(t *testing.T, dir, line string) (e event, ok bool) {
	name, rest, _ := strings.Cut(line, "(")
	i := strings.LastIndex(rest, ") ")
	if i < 0 {
		return e, false
	}
	result, _, _ := strings.Cut(strings.TrimLeft(strings.TrimSpace(rest[i+1:]), "= "), "<")
	if n, err := strconv.ParseInt(strings.Fields(result)[0], 10, 64); err != nil || n < 0 {
		return e, false
	}
	args := strings.Split(rest[:i], ", ")
	text := func(s string) string { // "\x41\x42"
		b, err := strconv.Unquote(strings.TrimSuffix(s, "..."))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return b
	}
	fd := func(s string) string { // 7</path>, the path in hexadecimal
		_, path, _ := strings.Cut(s, "<")
		path = strings.TrimSuffix(strings.TrimSuffix(path, ">"), "(deleted)")
		return text(`"` + path + `"`)
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	switch name {
	case "mkdir":
		e = event{Call: "mkdir", Path: text(args[0])}
	case "mkdirat":
		e = event{Call: "mkdir", Path: text(args[1])}
	case "openat":
		e = event{Call: "create", Path: text(args[1])}
		if !strings.Contains(args[2], "O_CREAT") {
			return e, false
		}
		if strings.Contains(args[2], "O_TRUNC") {
			e.At = 1
		}
	case "write":
		if strings.HasPrefix(args[0], "1<") {
			return event{Call: "say", Data: []byte(text(args[1]))}, true
		}
		// What is written without a place is written once, to a new file.
		e = event{Call: "write", Path: fd(args[0]), Data: []byte(text(args[1]))}
	case "pwrite64":
		e = event{Call: "write", Path: fd(args[0]), Data: []byte(text(args[1])), At: number(args[3])}
	case "ftruncate":
		e = event{Call: "truncate", Path: fd(args[0]), At: number(args[1])}
	case "fallocate": // the file is at least that long; nothing else shows
		e = event{Call: "grow", Path: fd(args[0]), At: number(args[2]) + number(args[3])}
	case "fsync", "fdatasync":
		e = event{Call: "sync", Path: fd(args[0])}
	case "rename":
		e = event{Call: "rename", Path: text(args[0]), To: text(args[1])}
	case "renameat", "renameat2":
		e = event{Call: "rename", Path: text(args[1]), To: text(args[3])}
	case "unlink":
		e = event{Call: "unlink", Path: text(args[0])}
	case "unlinkat":
		e = event{Call: "unlink", Path: text(args[1])}
	}
	return e, strings.HasPrefix(e.Path, dir+"/") && filepath.Base(e.Path) != "lock" || e.Path == dir
}
