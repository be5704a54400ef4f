package install

import (
	"bytes"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// Bounds of what a command may say.
const (
	maxLine   = 4 << 10  // bytes; of a longer one the beginning counts
	maxLogged = 64 << 10 // bytes of a run that go into the log
)

// hookLines reads what a command writes. Its two streams come from two goroutines.
type hookLines struct {
	progress Progress
	log      *slog.Logger

	mu      sync.Mutex
	closed  bool   // guarded by mu: nothing is told any more
	failure string // of the last "error" line
	status  Status
	logged  int
	lost    int64 // bytes that were not logged
	streams []*lineWriter
}

func (h *hookLines) out() io.Writer { return h.stream(h.line) }
func (h *hookLines) err() io.Writer {
	return h.stream(func(line string) { h.logLocked("standard error", line) })
}

func (h *hookLines) stream(take func(string)) io.Writer {
	w := &lineWriter{h: h, take: take}
	h.streams = append(h.streams, w)
	return w
}

// line takes a line of standard output.
func (h *hookLines) line(line string) {
	word, rest, _ := strings.Cut(line, " ")
	rest = clean(rest)
	switch word {
	case "progress":
		number, text, _ := strings.Cut(rest, " ")
		percent, err := strconv.Atoi(strings.TrimSuffix(number, "%"))
		if err != nil {
			h.logLocked("progress without a number", line)
			return
		}
		if h.progress != nil {
			h.progress(min(max(percent, 0), 100), strings.TrimSpace(text))
		}
	case "error":
		h.failure = rest
	case "booted":
		h.status.Booted = rest
	case "primary":
		h.status.Primary = rest
	case "busy":
		h.status.Busy = true
	case "state":
		switch s := State(rest); s {
		case Good, Bad, Trial:
			h.status.State = s
		default:
			h.logLocked("a state that is none", line)
		}
	default:
		h.logLocked("standard output", line)
	}
}

func (h *hookLines) logLocked(what, line string) {
	if h.logged += len(line); h.logged > maxLogged {
		h.lost += int64(len(line))
		return
	}
	if line = clean(line); line != "" {
		h.log.Info("the install hook says", "on", what, "text", line)
	}
}

// finish takes the last lines, those without an end, and tells what was left out. Nothing counts after it: a process that has
// escaped may still hold the pipe.
func (h *hookLines) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.streams {
		w.flushLocked()
	}
	h.closed = true
	if h.lost > 0 {
		h.log.Warn("the install hook says more than is logged", "bytes_left_out", h.lost)
	}
}

// lineWriter takes a stream apart into lines.
type lineWriter struct {
	h    *hookLines
	take func(string)
	line []byte // guarded by h.mu
	over int64  // bytes of the line beyond maxLine
}

// Write never fails: a command that says too much is not stopped for it.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	n := len(p)
	for !w.h.closed && len(p) > 0 {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		fit := min(len(part), maxLine-len(w.line))
		w.line = append(w.line, part[:fit]...)
		w.over += int64(len(part) - fit)
		if whole {
			w.flushLocked()
		}
		p = rest
	}
	return n, nil
}

func (w *lineWriter) flushLocked() {
	w.h.lost += w.over
	if len(w.line) > 0 {
		w.take(string(w.line))
	}
	w.line, w.over = w.line[:0], 0
}
