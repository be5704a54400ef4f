package install

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// swReport brings what is heard of an installation together: bytes given over, steps on the progress socket, texts. It is safe for
// use by several goroutines, and calls to one at a time.
type swReport struct {
	to Progress

	mu      sync.Mutex
	steps   bool // the progress socket tells: bytes do not count any more
	percent int  // guarded by mu
	text    string
}

// given is for where the progress socket tells nothing: bytes on their way count for nine tenths.
func (r *swReport) given(n, of int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.steps && of > 0 {
		r.tellLocked(int(min(n*90/of, 90)), "giving it to SWUpdate")
	}
}

func (r *swReport) say(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tellLocked(r.percent, text)
}

func (r *swReport) step(s swStep) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.status == swIdle || s.steps == 0:
		return
	case !r.steps: // the other measure ends here
		r.steps, r.percent = true, 0
	}
	percent := s.whole()
	if s.status == swSuccess {
		percent = 100
	}
	r.tellLocked(percent, fmt.Sprintf("step %d of %d: %s (%s)", s.step, s.steps, s.image, s.handler))
}

// tellLocked passes on what is new, and no step back.
func (r *swReport) tellLocked(percent int, text string) {
	percent = max(percent, r.percent)
	if r.to == nil || percent == r.percent && text == r.text {
		return
	}
	r.percent, r.text = percent, text
	r.to(percent, text)
}

// watch reads the progress socket until ctx ends. It never stops reading before that: SWUpdate waits for whoever does. Without the
// socket there is less to tell, and no more is lost.
func (s *SWUpdate) watch(ctx context.Context, report *swReport) {
	conn, err := (&net.Dialer{Timeout: s.o.Call}).DialContext(ctx, "unix", s.o.Progress)
	if err == nil {
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		err = readSteps(conn, report.step)
	}
	if ctx.Err() == nil {
		s.o.Logger.Info("SWUpdate's progress is not known", "socket", s.o.Progress, "error", err)
	}
}

// readSteps reads progress messages, in whichever layout they come, until the connection ends.
func readSteps(r io.Reader, step func(swStep)) error {
	first := make([]byte, swPadded)
	if _, err := io.ReadFull(r, first[:swGreet]); err != nil {
		return err
	}
	begin := swGreet
	greeted := isGreeting(first)
	if greeted {
		begin = 0
	}
	if _, err := io.ReadFull(r, first[begin:]); err != nil {
		return err
	}
	message := make([]byte, swPadded)
	if greeted && isPacked(first) {
		if s, ok := parseStep(first[:swPacked]); ok {
			step(s)
		}
		message = message[:swPacked]
		begin = copy(message, first[swPacked:])
	} else {
		if s, ok := parseStep(first); ok {
			step(s)
		}
		begin = 0
	}
	for {
		if _, err := io.ReadFull(r, message[begin:]); err != nil {
			return err
		}
		begin = 0
		if s, ok := parseStep(message); ok {
			step(s)
		}
	}
}
