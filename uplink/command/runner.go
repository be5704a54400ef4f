package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Runner takes commands. Offer may be called from any goroutine, at any time; Run does the work and owns the ledger.
type Runner struct {
	o        Options
	handlers map[string]*Handler
	ledger   *ledger
	inbox    chan []byte
	finished chan entry
	running  int
	taking   bucket
	refusing bucket
	count    struct {
		taken, done, failed, refused, repeated, dropped, silent atomic.Uint64
	}
}

// New opens the ledger. A ledger that cannot say what was taken is a warning, and what was issued before is refused.
func New(o Options) (r *Runner, warning error, err error) {
	o, handlers, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	r = &Runner{
		o: o, handlers: handlers, inbox: make(chan []byte, waiting), finished: make(chan entry, together),
		taking: bucket{burst: takeBurst, every: takeEvery}, refusing: bucket{burst: refuseBurst, every: refuseEvery},
	}
	r.ledger, warning = openLedger(o.Dir, o.Epoch, o.Write)
	if err := r.register(); err != nil {
		return nil, nil, err
	}
	return r, warning, nil
}

// Offer hands over a message as it came. It never blocks: where 16 wait already it is counted and let go, and its sender, who gets no
// answer, sends it again.
func (r *Runner) Offer(message []byte) {
	if len(message) > maxEnvelope {
		message = message[:maxEnvelope+1] // enough to see that it is too large
	}
	select {
	case r.inbox <- slices.Clone(message):
	default:
		r.count.dropped.Add(1)
	}
}

// Run answers what the process before this one left, then takes commands until ctx ends; then it returns nil.
func (r *Runner) Run(ctx context.Context) error {
	r.settle()
	r.recover(ctx)
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.end()
			return nil
		case message := <-r.inbox:
			r.take(ctx, message)
		case e := <-r.finished:
			r.finish(ctx, e)
		case <-tick.C:
			r.settle()
			r.tell(ctx) // what a disk in trouble kept back
		}
	}
}

// settle lets the ledger begin as soon as somebody vouches for the time.
func (r *Runner) settle() {
	if _, ok := r.ledger.born(); ok {
		return
	}
	unix, doubt := r.o.Time()
	if doubt >= telemetrypb.Unbounded {
		return
	}
	if err := r.ledger.settle(unix + int64(doubt) + skew); err != nil {
		r.o.Log.Warn("the ledger of commands cannot be written; commands are refused", "error", err)
	}
}

// recover answers for commands that were taken and never finished: whether they did anything, nobody knows.
func (r *Runner) recover(ctx context.Context) {
	for _, e := range r.ledger.page.Entries {
		if !e.final() {
			r.o.Log.Warn("a command was interrupted", "id", e.ID, "command", e.Name)
			e.State, e.Reason, e.Text = Failed, ReasonInterrupted, "the agent ended before the command did; it is not run again"
			r.stamp(&e)
			if err := r.ledger.finish(e); err != nil {
				r.o.Log.Warn("the ledger of commands cannot be written", "error", err)
			}
		}
	}
	r.tell(ctx)
}

// tell emits the results that are not known to be durable, and waits until they are.
func (r *Runner) tell(ctx context.Context) {
	var told []entry
	for i := range r.ledger.page.Entries {
		if e := &r.ledger.page.Entries[i]; e.final() && !e.Told {
			r.o.Emit(e.result())
			told = append(told, *e)
		}
	}
	r.commit(ctx, told)
}

func (r *Runner) commit(ctx context.Context, told []entry) {
	if len(told) == 0 {
		return
	}
	if err := r.o.Commit(ctx); err != nil {
		if ctx.Err() == nil {
			r.o.Log.Warn("results of commands are not on disk yet", "results", len(told), "error", err)
		}
		return
	}
	for _, e := range told {
		r.ledger.told(e.Key, e.Counter)
	}
}

// take judges a message and begins what it asks for.
func (r *Runner) take(ctx context.Context, message []byte) {
	now := r.o.Clock.Boot()
	e, no := open(message, r.o.Keys)
	if no != nil {
		r.o.Alarm(fmt.Sprintf("somebody sends commands that are not believed: %s; see who may publish to %s", no.text,
			telemetrypb.Topic(r.o.Tenant, r.o.Device, telemetrypb.TopicCommand)))
		r.refuse(now, &e, 0, no)
		return
	}
	r.o.Alarm("")
	counter := e.body.GetCounter()
	if no = checkBody(e.body, r.o.Tenant, r.o.Device); no != nil {
		r.refuse(now, &e, counter, no)
		return
	}
	if before := r.ledger.find(e.key, counter); before != nil && before.Digest == digestName(e.digest) {
		r.count.repeated.Add(1)
		if r.refusing.take(now) { // a message may be repeated for ever, by anybody who has seen it
			r.o.Emit(before.result())
		} else {
			r.count.silent.Add(1)
		}
		return
	}
	name := e.body.GetCommand().GetName()
	handler := r.handlers[name]
	if no = r.judge(now, &e, handler); no != nil {
		r.refuse(now, &e, counter, no)
		return
	}
	taken := entry{Key: e.key.String(), Counter: counter, ID: e.body.GetId(), Name: cut(name, maxID), Digest: digestName(e.digest), State: Accepted}
	if no = r.permit(name, handler, e.body.GetCommand().GetArguments()); no != nil {
		taken.State, taken.Reason, taken.Text = Refused, no.reason, cut(no.text, maxText)
	}
	r.stamp(&taken)
	if err := r.ledger.take(taken); err != nil {
		r.refuse(now, &e, counter, refuse(ReasonDisk, "the vehicle cannot note that it takes the command, and so does not: %v", err))
		return
	}
	r.o.Emit(taken.result())
	if no != nil {
		r.count.refused.Add(1)
		r.o.Log.Warn("command refused", "id", taken.ID, "command", taken.Name, "key", taken.Key, "reason", string(no.reason), "text", no.text)
		r.commit(ctx, []entry{taken})
		return
	}
	r.count.taken.Add(1)
	r.o.Log.Info("command taken", "id", taken.ID, "command", taken.Name, "key", taken.Key, "counter", counter)
	r.running++
	go r.run(ctx, handler, e.body.GetCommand().GetArguments(), taken)
}

// judge says whether a command that is genuine may be taken now.
func (r *Runner) judge(now int64, e *envelope, h *Handler) *refusal {
	b := e.body
	issued, expires := b.GetIssuedUnixNs(), b.GetExpiresUnixNs()
	if issued <= 0 || expires <= issued {
		return refuse(ReasonMalformed, "a command is issued after 1970 and expires later than that")
	}
	if expires-issued > int64(r.o.MaxLife) {
		return refuse(ReasonLife, "the command lives %v, at most %v is allowed here (commands.max_life)", time.Duration(expires-issued), r.o.MaxLife)
	}
	r.settle()
	unix, doubt := r.o.Time()
	known := doubt < telemetrypb.Unbounded
	if no := r.inTime(issued, expires, unix, int64(min(doubt, telemetrypb.Unbounded)), known); no != nil && (known && no.reason != ReasonLedger || h == nil || !h.Harmless) {
		return no
	}
	switch last := r.ledger.last(e.key); {
	case b.GetCounter() == last:
		return refuse(ReasonCounter, "counter %d of key %s was taken already, by another command", last, e.key)
	case b.GetCounter() < last:
		return refuse(ReasonCounter, "counter %d is not above %d, the last one taken of key %s: commands of a key run in the order of their counters; send it anew", b.GetCounter(), last, e.key)
	}
	unanswered := 0
	for i := range r.ledger.page.Entries {
		if !r.ledger.page.Entries[i].Told {
			unanswered++
		}
	}
	if r.running >= together || unanswered >= keptEntries || !r.taking.take(now) {
		return refuse(ReasonBusy, "%d commands run, %d are not answered yet; send it again in a minute", r.running, unanswered)
	}
	return nil
}

// inTime judges issue and expiry. Where the clock's doubt leaves both open the answer is no: an expiry is a promise of the sender's that the
// command does nothing later.
func (r *Runner) inTime(issued, expires, unix, doubt int64, known bool) *refusal {
	at := func() string {
		return fmt.Sprintf("%s ± %v", time.Unix(0, unix).UTC().Format(time.RFC3339), time.Duration(doubt).Round(time.Millisecond))
	}
	if !known {
		return refuse(ReasonClock, "nobody vouches for the vehicle's time, so that the expiry cannot be judged; send it again when GPS or NTP has set the clock")
	}
	if unix >= expires || expires-unix <= doubt {
		return refuse(ReasonExpired, "the command expired at %s; it is %s here", time.Unix(0, expires).UTC().Format(time.RFC3339), at())
	}
	if issued > unix && issued-unix > doubt+skew {
		return refuse(ReasonEarly, "the command was issued at %s; it is %s here", time.Unix(0, issued).UTC().Format(time.RFC3339), at())
	}
	if born, ok := r.ledger.born(); !ok || issued < born {
		return refuse(ReasonLedger, "the command was issued before this vehicle's ledger of commands begins (%s): whether it was taken is not known; send it anew", time.Unix(0, born).UTC().Format(time.RFC3339))
	}
	return nil
}

// permit says whether the configuration and the handler will have it.
func (r *Runner) permit(name string, h *Handler, arguments map[string]string) *refusal {
	switch {
	case h == nil:
		return refuse(ReasonUnknown, "this version has no command %q", cut(name, maxID))
	case !slices.Contains(r.o.Allow, name):
		return refuse(ReasonNotAllowed, "%s is not in commands.allow of this vehicle's configuration", name)
	case h.Check == nil && len(arguments) > 0:
		return refuse(ReasonArguments, "%s takes no arguments", name)
	case h.Check != nil:
		if err := h.Check(arguments); err != nil {
			return refuse(ReasonArguments, "%s: %v", name, err)
		}
	}
	return nil
}

// run calls the handler. It ends with the handler, and that with ctx.
func (r *Runner) run(ctx context.Context, h *Handler, arguments map[string]string, e entry) {
	bound, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	var last atomic.Int64
	call := &Call{ID: e.ID, Arguments: arguments, progress: func(percent uint32, text string) {
		now, before := r.o.Clock.Boot(), last.Load()
		if before != 0 && now-before < progressEvery || !last.CompareAndSwap(before, now) {
			return
		}
		step := e
		step.State, step.Text = Running, cut(text, maxText)
		r.stamp(&step)
		result := step.result()
		result.Percent = percent
		r.o.Emit(result)
	}}
	text, err := protect(bound, h, call)
	e.State, e.Text = Done, cut(text, maxText)
	if err != nil {
		e.State, e.Reason, e.Text = Failed, ReasonError, cut(err.Error(), maxText)
		switch {
		case ctx.Err() != nil:
			e.Reason = ReasonInterrupted
		case errors.Is(bound.Err(), context.DeadlineExceeded):
			e.Reason = ReasonTimeout
		}
	}
	r.stamp(&e)
	r.finished <- e // has room for every one that may run
}

// protect makes an error of a panic: a command must not take the agent down.
func protect(ctx context.Context, h *Handler, c *Call) (text string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the command's own code broke: %v\n%s", p, debug.Stack())
		}
	}()
	return h.Run(ctx, c)
}

// finish notes a result, tells it, and sees that it lasts.
func (r *Runner) finish(ctx context.Context, e entry) {
	r.running--
	if e.State == Done {
		r.count.done.Add(1)
	} else {
		r.count.failed.Add(1)
	}
	r.o.Log.Info("command ended", "id", e.ID, "command", e.Name, "state", string(e.State), "reason", string(e.Reason))
	if err := r.ledger.finish(e); err != nil {
		r.o.Log.Warn("the ledger of commands cannot be written", "error", err)
		r.ledger.page.put(e) // the answer stands all the same, as long as this process does
	}
	r.o.Emit(e.result())
	r.commit(ctx, []entry{e})
}

// end waits a little for the handlers, whose ctx has ended. What is not finished then is interrupted, says the next start.
func (r *Runner) end() {
	defer func() {
		if err := r.ledger.close(); err != nil {
			r.o.Log.Warn("the ledger of commands cannot be written", "error", err)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	for r.running > 0 {
		select {
		case e := <-r.finished:
			r.finish(ctx, e)
		case <-ctx.Done():
			r.o.Log.Warn("commands do not end; they are answered at the next start", "commands", r.running)
			return
		}
	}
}

// refuse answers what is not taken, as far as the rate allows: nobody must be able to fill the queue, or the flash, with refusals.
func (r *Runner) refuse(now int64, e *envelope, counter uint64, no *refusal) {
	r.count.refused.Add(1)
	if e.body.GetId() == "" || !r.refusing.take(now) {
		r.count.silent.Add(1)
		r.o.Log.Debug("command refused without an answer", "reason", string(no.reason), "text", no.text)
		return
	}
	r.o.Log.Warn("command refused", "id", e.body.GetId(), "key", e.key.String(), "reason", string(no.reason), "text", no.text)
	answer := entry{Key: e.key.String(), Counter: counter, ID: e.body.GetId(), Name: cut(e.body.GetCommand().GetName(), maxID),
		State: Refused, Reason: no.reason, Text: cut(no.text, maxText)}
	r.stamp(&answer)
	r.o.Emit(answer.result())
}

// stamp dates a state.
func (r *Runner) stamp(e *entry) {
	e.BootID, e.BootCount, e.BootNS = hex.EncodeToString(r.o.BootID[:]), r.o.BootCount, r.o.Clock.Boot()
}

// cut bounds a text, and makes it one that protobuf and JSON can carry.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	s = s[:most-len("…")]
	for len(s) > 0 {
		if last, n := utf8.DecodeLastRuneInString(s); last != utf8.RuneError || n != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + "…"
}

// bucket lets burst things happen at once and then one each interval. Times are CLOCK_BOOTTIME, ns.
type bucket struct {
	burst int
	every int64
	used  int
	at    int64 // when the oldest place comes back from
}

func (b *bucket) take(now int64) bool {
	if back := (now - b.at) / b.every; back > 0 {
		b.used = max(b.used-int(min(back, int64(b.burst))), 0)
		b.at += back * b.every
	}
	if b.used == 0 {
		b.at = now
	}
	if b.used >= b.burst {
		return false
	}
	b.used++
	return true
}

func (r *Runner) register() error {
	if r.o.Metrics == nil {
		return nil
	}
	c := &r.count
	var failed error
	for _, m := range []struct {
		name, help string
		v          *atomic.Uint64
	}{
		{"taken_total", "Commands that were taken.", &c.taken},
		{"done_total", "Commands that succeeded.", &c.done},
		{"failed_total", "Commands that failed.", &c.failed},
		{"refused_total", "Messages that were refused.", &c.refused},
		{"repeated_total", "Messages that had been taken before.", &c.repeated},
		{"unanswered_total", "Refused or repeated messages without an answer: no id, or too many.", &c.silent},
		{"dropped_total", "Messages for which there was no room.", &c.dropped},
	} {
		failed = errors.Join(failed, r.o.Metrics.Register(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Namespace: "waybill", Subsystem: "commands", Name: m.name, Help: m.help},
			func() float64 { return float64(m.v.Load()) })))
	}
	return failed
}
