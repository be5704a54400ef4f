package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progressEvery is how often a terminal is told. What is shorter shows nothing.
const progressEvery = 250 * time.Millisecond

// Progress tells on a terminal how far long work is. Where there is none it is silent. It belongs to one goroutine.
type Progress struct {
	out         io.Writer // nil: silent
	what        string
	done, total int64 // bytes; total 0: not known
	last        time.Time
	shown       bool
}

// NewProgress makes one for work on so many bytes; 0: nobody knows. stdout is where the work's result goes: on the same
// terminal the two would be in each other's way.
func NewProgress(stderr, stdout io.Writer, what string, total int64) *Progress {
	p := &Progress{what: what, total: total, last: time.Now()}
	if isTerminal(stderr) && !isTerminal(stdout) {
		p.out = stderr
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Add tells of bytes that are done.
func (p *Progress) Add(n int) {
	p.done += int64(n)
	if p.out == nil || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	const mebibyte = 1 << 20
	if p.total <= 0 {
		fmt.Fprintf(p.out, "\r%s: %.1f MiB\x1b[K", p.what, float64(p.done)/mebibyte)
		return
	}
	part := min(float64(p.done)/float64(p.total), 1)
	bar := [20]byte{}
	for i := range bar {
		bar[i] = '.'
		if float64(i) < part*float64(len(bar)) {
			bar[i] = '#'
		}
	}
	fmt.Fprintf(p.out, "\r%s [%s] %3.0f%% of %.1f MiB\x1b[K", p.what, bar[:], 100*part, float64(p.total)/mebibyte)
}

// End takes the line away.
func (p *Progress) End() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// Reader is r, whose bytes are told of as they are read, and whose Close is the end.
func (p *Progress) Reader(r io.ReadCloser) io.ReadCloser { return &progressReader{r, p} }

type progressReader struct {
	io.ReadCloser
	progress *Progress
}

func (r *progressReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.progress.Add(n)
	return n, err
}

func (r *progressReader) Close() error {
	r.progress.End()
	return r.ReadCloser.Close()
}
