package gps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// ReplayOptions is what a Replay needs.
type ReplayOptions struct {
	// Path of a log or FIFO. A FIFO without a writer is not at its end: the next writer goes on. "-": standard input,
	// a read of which cannot be broken off before it returns.
	Path string
	// Input, if not nil, is read in place of Path. Reading it cannot be broken off before it returns.
	Input io.Reader
	// Speed paces the epochs by their own times: 1 as they were recorded, 2 twice as fast; 0: as fast as they are taken.
	Speed float64
	// Stamp turns an epoch's UTC, Unix ns, into boot time, ns: the log's time is the clock. Epochs before the first
	// dated one are left out, later undated ones get the stamp of the one before. nil: the time of receipt is.
	Stamp  func(unixNS int64) int64
	Clock  clock.Clock
	Parser ParserOptions // LogHeaders is always set
}

// Replay reads a log or a FIFO once, from its beginning to its end. It is run once, by one goroutine.
type Replay struct {
	opts    ReplayOptions
	parser  *Parser
	undated uint64
}

// NewReplay makes a reader; nothing is opened yet.
func NewReplay(o ReplayOptions) (*Replay, error) {
	if o.Path == "" && o.Input == nil {
		return nil, errors.New("receiver log: no file named")
	}
	if o.Clock == nil && o.Stamp == nil {
		return nil, errors.New("receiver log: needs a clock, or to be one")
	}
	if o.Speed < 0 {
		return nil, fmt.Errorf("receiver log: speed must not be negative, got %g", o.Speed)
	}
	o.Parser.LogHeaders = true
	parser, err := NewParser(o.Parser)
	if err != nil {
		return nil, err
	}
	return &Replay{opts: o, parser: parser}, nil
}

// Run reads to the end of the input or of ctx. emit is called for each epoch, in this goroutine.
func (r *Replay) Run(ctx context.Context, emit func(Fix)) error {
	input := r.opts.Input
	if input == nil {
		file, err := openInput(ctx, r.opts.Path)
		if err != nil {
			return err
		}
		defer file.Close()
		input = file
	}
	pace := pacer{speed: r.opts.Speed}
	var stamp int64
	stamped := false
	out := func(f Fix) {
		if f.Has(HasTime) && ctx.Err() == nil {
			pace.wait(ctx, f.Time)
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case r.opts.Stamp == nil:
			if r.opts.Speed > 0 {
				f.Boot = r.opts.Clock.Boot() // the bytes were read well ahead of the epoch's turn
			}
		case f.Has(HasTime):
			stamp, stamped = r.opts.Stamp(f.Time), true
			f.Boot = stamp
		case stamped:
			f.Boot = stamp
		default:
			r.undated++
			return
		}
		emit(f)
	}
	buf := make([]byte, readBytes)
	for ctx.Err() == nil {
		n, err := input.Read(buf)
		if n > 0 {
			r.parser.Feed(buf[:n], r.boot(), out)
		}
		switch {
		case err == nil:
		case errors.Is(err, errQuiet):
			r.parser.Idle(out)
		case errors.Is(err, io.EOF):
			r.parser.End(out)
			return nil
		case ctx.Err() == nil:
			return fmt.Errorf("reading the receiver log %s: %w", r.opts.Path, err)
		}
	}
	return nil
}

func (r *Replay) boot() int64 {
	if r.opts.Stamp != nil {
		return 0 // each epoch is stamped by its own time
	}
	return r.opts.Clock.Boot()
}

// Counters is what the parser has seen; to be called after Run, or from emit.
func (r *Replay) Counters() Counters { return r.parser.Counters() }

// AppendSky appends what is in view; to be called after Run, or from emit.
func (r *Replay) AppendSky(dst []Satellite) []Satellite { return r.parser.AppendSky(dst) }

// Undated is how many epochs were left out since nothing before them told a date.
func (r *Replay) Undated() uint64 { return r.undated }

// pacer spreads the epochs of a log over time as they were recorded.
type pacer struct {
	speed   float64
	started time.Time
	first   int64
}

// maxPause is the longest pause of a log that is kept: a receiver that was off, or whose clock was set.
const maxPause = 10 * time.Second

func (p *pacer) wait(ctx context.Context, unixNS int64) {
	if p.speed <= 0 {
		return
	}
	now := time.Now()
	pause := time.Duration(float64(unixNS-p.first)/p.speed) - now.Sub(p.started)
	if p.started.IsZero() || pause > maxPause || pause < -maxPause {
		p.started, p.first = now, unixNS
		return
	}
	if pause < time.Millisecond {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// errQuiet: nothing came for a while; more may.
var errQuiet = errors.New("nothing to read for now")

// liveFile is a file or FIFO whose reads end with the context, and with errQuiet when a FIFO is silent.
type liveFile struct {
	*os.File
	fifo bool
	stop func() bool
}

// openInput opens without waiting for a FIFO's writer. Reads of what can be waited for go through the runtime's poller.
func openInput(ctx context.Context, path string) (*liveFile, error) {
	fd, err := 0, error(nil)
	if path == "-" {
		if fd, err = unix.Dup(0); err != nil {
			return nil, os.NewSyscallError("dup", err)
		}
		unix.CloseOnExec(fd)
	} else if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0); err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	l := &liveFile{File: file, fifo: path != "-" && info.Mode()&os.ModeNamedPipe != 0}
	l.stop = context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	return l, nil
}

// quietAfter is how long a FIFO is silent before an epoch is taken to be over.
const quietAfter = 200 * time.Millisecond

func (l *liveFile) Read(p []byte) (int, error) {
	if !l.fifo {
		return l.File.Read(p)
	}
	if err := l.SetReadDeadline(time.Now().Add(quietAfter)); err != nil {
		return l.File.Read(p)
	}
	n, err := l.File.Read(p)
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, errQuiet
	case errors.Is(err, io.EOF): // no writer
		time.Sleep(quietAfter / 10)
		return 0, errQuiet
	}
	return n, err
}

func (l *liveFile) Close() error {
	l.stop()
	return l.File.Close()
}
