package diagnose

import (
	"context"
	"math"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/poll"
)

// Constants of the schedule.
const (
	look      = time.Second      // how often is looked whether requests may go on
	retry     = time.Second      // after a frame that the bus or the governor did not take
	again     = 10 * time.Second // after an answer that did not come, unless the interval is shorter
	patience  = 3                // silences in a row until this is doubled with each further one …
	maxEvery  = 2 * time.Minute  // … but not beyond this, unless the interval is longer
	vinEvery  = 10 * time.Minute // until the vehicle identification number was told
	needs     = 3                // frames for which there has to be room before a request: itself, and flow control for two units
	never     = math.MaxInt64
	wholeLoad = 8 // bytes of the frames sent
)

// job is one request that is made again and again.
type job struct {
	name   string
	to     isotp.Address
	unit   *partner
	every  time.Duration // 0: when it is asked for
	once   bool          // until it succeeds
	secret bool          // what went wrong is not to be logged, but for its kind
	ask    func(context.Context) error

	due    int64 // CLOCK_BOOTTIME, ns
	silent int   // times in a row
}

// partner is a unit, or all that listen at one address.
type partner struct {
	name   string
	silent int // times in a row
}

func (p *Poller) add(j *job) *job {
	j.due = never
	p.jobs = append(p.jobs, j)
	return j
}

// Run asks until ctx ends.
func (p *Poller) Run(ctx context.Context) error {
	p.ended = true // begin with a start of the ignition
	for ctx.Err() == nil {
		j := p.next()
		v, wait := p.room(j.to)
		p.tell(v)
		switch v {
		case poll.Send:
			p.begin()
			if wait = min(time.Duration(p.next().due-p.options.Clock.Boot()), look); wait <= 0 {
				p.do(ctx, p.next())
				continue
			}
		case poll.Rate, poll.Load:
		case poll.IgnitionOff:
			p.ended = true
			wait = look
		default:
			wait = look
		}
		p.sleep(ctx, wait)
	}
	return nil
}

// next is the job that is due first.
func (p *Poller) next() *job {
	first := p.jobs[0]
	for _, j := range p.jobs {
		if j.due < first.due {
			first = j
		}
	}
	return first
}

// room asks whether a request with its flow control may be sent now.
func (p *Poller) room(to isotp.Address) (v poll.Verdict, wait time.Duration) {
	f := can.Frame{ID: to.ID, Len: wholeLoad}
	if to.Extended {
		f.Flags = can.FlagExtended
	}
	p.guard.Do(func(now int64, g *poll.Governor) { v, wait = g.Room(now, &f, needs) })
	return v, wait
}

// tell says once when requests pause, and once when they go on.
func (p *Poller) tell(v poll.Verdict) {
	if v == poll.Rate || v == poll.Load {
		v = poll.Send
	}
	before := poll.Verdict(p.pause.Swap(uint32(v)))
	switch {
	case before == v:
	case v == poll.Send:
		p.options.Log.Info("diagnostics go on")
	default:
		p.options.Log.Info("diagnostics pause", "why", v.Why())
	}
}

// begin makes everything due when the ignition went on since.
func (p *Poller) begin() {
	starts := p.starts.Load()
	if starts == p.start && !p.ended {
		return
	}
	p.start, p.ended = starts, false
	now := p.options.Clock.Boot()
	for _, j := range p.jobs {
		j.silent, j.unit.silent = 0, 0
		if j.every > 0 {
			j.due = now
		}
	}
	for _, forget := range p.forget {
		forget()
	}
}

// do makes one request and sets when it is made next.
func (p *Poller) do(ctx context.Context, j *job) {
	p.listening.Store(true)
	err := j.ask(ctx)
	p.listening.Store(false)
	now := p.options.Clock.Boot()
	if err == nil {
		p.answered.Add(1)
		j.silent, j.unit.silent = 0, 0
		if j.due = next(j.due, now, j.every); j.once || j.every == 0 {
			j.due = never
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	why := classify(err)
	p.failed[why].Add(1)
	if j.secret {
		p.options.Log.Debug("diagnostics", "unit", j.unit.name, "request", j.name, "failed", why)
	} else {
		p.options.Log.Debug("diagnostics", "unit", j.unit.name, "request", j.name, "failed", why, "error", err)
	}
	switch {
	case why == Held || why == Unsent:
		j.due = now + int64(retry)
		if why == Unsent {
			p.sleep(ctx, retry) // no job will fare better
		}
		return
	case why == Silent:
		j.silent++
		j.unit.silent++
		j.due = next(j.due, now, backOff(j.every, max(j.silent, j.unit.silent)))
	case why == Lost || why == Pending:
		j.due = next(j.due, now, min(j.every, again))
	default:
		j.silent, j.unit.silent = 0, 0
		j.due = next(j.due, now, j.every)
	}
	if final(err) || j.once && why == Malformed || j.every == 0 {
		j.due = never
	}
}

// next keeps the pace where it can, and does not catch up.
func next(due, now int64, every time.Duration) int64 {
	if due += int64(every); due > now {
		return due
	}
	return now + int64(every)
}

// backOff is how long what stayed unanswered so often in a row is let be.
func backOff(every time.Duration, silent int) time.Duration {
	d, most := min(every, again), max(every, maxEvery)
	for ; silent >= patience && d < most; silent-- {
		d *= 2
	}
	return min(d, most)
}

func (p *Poller) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(d, time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
