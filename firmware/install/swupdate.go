package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// SWUpdateOptions say where SWUpdate is. Zero values are the defaults in brackets.
type SWUpdateOptions struct {
	Control  string        // its control socket [/tmp/sockinstctrl]
	Progress string        // its progress socket [/tmp/swupdateprog]; where there is none, progress is that of the bytes given over
	Bits     int           // word size of the daemon, 32 or 64 [the agent's own]
	Set      string        // which images of a .swu: software set and running mode, both or none
	Mode     string        //
	Timeout  time.Duration // of an installation [1 h]
	Call     time.Duration // of any other exchange [30 s]
	Poll     time.Duration // how often it is asked how far it is [200 ms]
	Logger   *slog.Logger
	// CmdLine is the kernel's command line, whose root= names what runs: SWUpdate has no word for it [/proc/cmdline].
	CmdLine string
}

// SWUpdate installs a .swu through a running SWUpdate. Its signature is SWUpdate's business. SWUpdate knows no slots: which system is
// started next is set by the .swu itself (bootenv, scripts), within its transaction, so Install activates. What is good stands in
// the boot loader's variable `ustate`, which the marks set; SWUpdate has to be built with it.
type SWUpdate struct {
	o      SWUpdateOptions
	layout swLayout
}

// NewSWUpdate makes an installer; nothing is connected before it is used.
func NewSWUpdate(o SWUpdateOptions) (*SWUpdate, error) {
	layout, err := newSWLayout(o.Bits)
	if err != nil {
		return nil, err
	}
	if (o.Set == "") != (o.Mode == "") || len(o.Set) > 255 || len(o.Mode) > 255 {
		return nil, errors.New("swupdate: software set and running mode are given both or not at all, with 255 bytes at most")
	}
	for _, d := range []struct {
		v *string
		d string
	}{{&o.Control, "/tmp/sockinstctrl"}, {&o.Progress, "/tmp/swupdateprog"}, {&o.CmdLine, "/proc/cmdline"}} {
		if *d.v == "" {
			*d.v = d.d
		}
	}
	o.Timeout, o.Call, o.Poll = orDefault(o.Timeout, time.Hour), orDefault(o.Call, 30*time.Second), orDefault(o.Poll, 200*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &SWUpdate{o, layout}, nil
}

// Name is "swupdate".
func (s *SWUpdate) Name() string { return "swupdate" }

// Install gives SWUpdate the image's bytes and follows it to its end. Ending ctx before the last byte ends the installation too;
// afterwards it goes on in SWUpdate.
func (s *SWUpdate) Install(caller context.Context, image *os.File, progress Progress) error {
	info, err := image.Stat()
	if err != nil {
		return fmt.Errorf("swupdate: %w", err)
	}
	ctx, cancel := context.WithTimeout(caller, s.o.Timeout)
	defer cancel()
	conn, err := s.begin(ctx)
	if err != nil {
		return ended(ctx, caller, s.o.Timeout, "swupdate: waiting for another installation", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends what waits
	defer stop()

	report := &swReport{to: progress}
	watching, unwatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(watching, report) })
	err = s.give(conn, image, info.Size(), report)
	if err == nil {
		err = s.finish(ctx, report)
	}
	unwatch()
	watcher.Wait() // progress is not called any more
	return ended(ctx, caller, s.o.Timeout, "swupdate: installing "+image.Name(), err)
}

// begin asks for an installation until SWUpdate takes it. Only one is under way at a time.
func (s *SWUpdate) begin(ctx context.Context) (net.Conn, error) {
	busy := func(err error) error { // time ran out on a daemon that answered: it is not gone
		if over(ctx) {
			return fmt.Errorf("swupdate: %w: %w", ErrBusy, err)
		}
		return err
	}
	for idle, asked := 0, false; ; asked = true {
		conn, answer, err := s.exchange(ctx, s.layout.install(s.o.Set, s.o.Mode))
		if err != nil && asked {
			return nil, busy(err)
		}
		if err != nil {
			return nil, err
		}
		if answer.kind == swAck {
			return conn, conn.SetDeadline(time.Time{})
		}
		conn.Close()
		status, _, err := s.settle(ctx)
		if err != nil {
			return nil, busy(err)
		}
		// Refused once while idle, it may have been busy a moment ago; twice, it does not want this request.
		if status.current != swIdle {
			idle = 0
		} else if idle++; idle > 1 {
			return nil, fmt.Errorf("swupdate: %w: it refuses the request (%s); is software set %q, mode %q accepted (swupdate -q)?", ErrFailed, orNone(answer.text), s.o.Set, s.o.Mode)
		}
		if err := wait(ctx, s.o.Poll); err != nil {
			return nil, busy(err)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "without a word"
	}
	return s
}

// give writes the image, and waits until SWUpdate has read it or does not want more: it hangs up then. From its answer to begin to that
// moment its state is that of this installation, so what it says afterwards is of no earlier one.
func (s *SWUpdate) give(conn net.Conn, image io.ReadSeeker, size int64, report *swReport) error {
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("swupdate: %w", err)
	}
	buf := make([]byte, 64<<10)
	var given int64
	for {
		n, err := image.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return broken(err)
			}
			given += int64(n)
			report.given(given, size)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("swupdate: reading the image: %w", err)
		}
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return broken(err)
		}
	}
	_, err := io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
	return broken(err)
}

// broken tells a connection that ran out of time from one that SWUpdate closed: why it did is what it is asked next.
func broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("swupdate: %w", err)
	}
	return nil
}

// finish waits until SWUpdate is idle and takes its result. Its texts come one with each answer, oldest first, each with the
// state at its time; an answer without a text has the state as it is.
func (s *SWUpdate) finish(ctx context.Context, report *swReport) error {
	var why []string // what it complained of, the last few
	for {
		status, err := s.ask(ctx, s.layout.message(swGetStatus))
		if err != nil {
			return err
		}
		switch {
		case status.text != "":
			s.o.Logger.Debug("swupdate says", "text", status.text)
			report.say(status.text)
			if status.complains() {
				if why = append(why, status.text); len(why) > 4 {
					why = why[1:]
				}
			}
			continue
		case status.current != swIdle:
			if err := wait(ctx, s.o.Poll); err != nil {
				return err
			}
			continue
		case status.last == swSuccess:
			return nil
		case status.last == swFailure:
			if why == nil {
				why = []string{"it does not say why"}
			}
			return fmt.Errorf("swupdate: %w: %s", ErrFailed, strings.Join(why, "; "))
		}
		return fmt.Errorf("swupdate: %w: it was started anew in the middle", ErrUnreachable)
	}
}

// Activate says once more that an installed system waits for its start; installing said so already.
func (s *SWUpdate) Activate(ctx context.Context) error { return s.mark(ctx, swStateInstalled) }

// Rearm says that what runs waits for its start still, as after its installation.
func (s *SWUpdate) Rearm(ctx context.Context) error { return s.mark(ctx, swStateInstalled) }

// MarkGood sets ustate to 0.
func (s *SWUpdate) MarkGood(ctx context.Context) error { return s.mark(ctx, swStateOK) }

// MarkBad sets ustate to 3.
func (s *SWUpdate) MarkBad(ctx context.Context) error { return s.mark(ctx, swStateFailed) }

func (s *SWUpdate) mark(ctx context.Context, state byte) error {
	answer, err := s.ask(ctx, s.layout.setState(state))
	if err != nil {
		return err
	}
	if answer.kind != swAck {
		return fmt.Errorf("swupdate: %w: it does not set ustate to %c; it has to be built with CONFIG_UPDATE_STATE_CHOICE_BOOTLOADER and to have a boot loader (swupdate -B)",
			ErrFailed, state)
	}
	s.o.Logger.Info("marked", "installer", "swupdate", "ustate", string(state))
	return nil
}

// Status asks for the state of SWUpdate and of ustate.
func (s *SWUpdate) Status(ctx context.Context) (Status, error) {
	var out Status
	answer, err := s.ask(ctx, s.layout.message(swGetState))
	if err != nil {
		return out, err
	}
	if answer.kind == swAck {
		switch answer.first {
		case swStateOK:
			out.State = Good
		case swStateInstalled, swStateTesting, swStateProgress:
			out.State = Trial
		case swStateFailed:
			out.State = Bad
		}
	}
	if answer, out.LastError, err = s.settle(ctx); err != nil {
		return out, err
	}
	out.Busy = answer.current != swIdle
	if line, err := os.ReadFile(s.o.CmdLine); err == nil {
		for word := range strings.FieldsSeq(string(line)) {
			if root, ok := strings.CutPrefix(word, "root="); ok {
				out.Booted = clean(root)
			}
		}
	}
	return out, nil
}

// settle asks for the state until it comes without a text, as it is, and gives back the last text that was a complaint. SWUpdate keeps a
// hundred texts.
func (s *SWUpdate) settle(ctx context.Context) (answer swAnswer, complaint string, err error) {
	for range 128 {
		if answer, err = s.ask(ctx, s.layout.message(swGetStatus)); err != nil || answer.text == "" {
			break
		}
		if answer.complains() {
			complaint = answer.text
		}
	}
	return answer, complaint, err
}

// ask sends a message and takes the answer.
func (s *SWUpdate) ask(ctx context.Context, message []byte) (swAnswer, error) {
	conn, answer, err := s.exchange(ctx, message)
	if err == nil {
		conn.Close()
	}
	return answer, err
}

// exchange sends a message on a new connection, which stays open. SWUpdate serves one after the other: it waits for the message of
// each that connects, so it is sent at once and whole.
func (s *SWUpdate) exchange(caller context.Context, message []byte) (net.Conn, swAnswer, error) {
	ctx, cancel := context.WithTimeout(caller, s.o.Call)
	defer cancel()
	fail := func(err error) (net.Conn, swAnswer, error) {
		switch {
		case caller.Err() != nil:
			err = caller.Err()
		case over(ctx):
			err = fmt.Errorf("%w, more than %s: %w", ErrTimeout, s.o.Call, err)
		}
		return nil, swAnswer{}, fmt.Errorf("swupdate: %w: %s: %w", ErrUnreachable, s.o.Control, err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.o.Control)
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	_, err = conn.Write(message)
	answer := make([]byte, s.layout.size())
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	var a swAnswer
	if err == nil {
		a, err = s.layout.parse(answer)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errNotSWUpdate) {
		err = fmt.Errorf("%w: it does not take messages of %d bytes: a version or a word size that is not supported, see docs/OTA.md", err, len(message))
	}
	if err != nil {
		conn.Close()
		return fail(err)
	}
	return conn, a, nil
}
