package uplink

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// pace is the back-off between connections: full jitter, uniform in [0, min(cap, base·2ⁿ)).
type pace struct {
	base, cap time.Duration
	rand      *rand.Rand
	failed    int // tries in a row that were of no use
	short     int // accepted sessions in a row that lived less than shortSession
}

func (p *pace) wait() time.Duration {
	top := p.base
	for range p.failed {
		if top >= p.cap {
			break
		}
		top *= 2
	}
	return time.Duration(p.rand.Int64N(int64(max(min(top, p.cap), 1))))
}

// judge decides how long to wait after a session and raises what a person should know.
func (u *Uplink) judge(out outcome, p *pace) (time.Duration, Phase) {
	if r := u.refused(out); r.text != "" {
		wait := u.o.RefusedRetry/2 + time.Duration(p.rand.Int64N(int64(u.o.RefusedRetry/2)+1))
		if r.transient {
			wait = p.wait()
			p.failed++
		}
		u.count.refusals.Add(1)
		u.o.Alarms.Raise(r.alarm, fmt.Sprintf("%s; the next try is at most %s away", r.text, u.o.RefusedRetry))
		if r.transient {
			return wait, Offline
		}
		return wait, Refused
	}
	u.judgeLife(out, p)
	if out.acks > 0 || out.lived >= u.o.ResetAfter {
		p.failed = 0
	}
	if out.left && out.lived >= u.o.WakeGap {
		return 0, Connecting
	}
	wait := p.wait()
	p.failed++
	return wait, Offline
}

// judgeLife looks for another client with our id: brokers close the older connection of the two.
func (u *Uplink) judgeLife(out outcome, p *pace) {
	switch {
	case out.left:
	case out.online && out.lived < shortSession:
		p.short++
	case out.lived >= u.o.ResetAfter:
		p.short = 0
		u.o.Alarms.Clear(alarmDuel)
	case out.online:
		p.short = 0
	}
	if p.short >= duelSessions {
		u.o.Alarms.Raise(alarmDuel, fmt.Sprintf("%d connections in a row were accepted and lost within %s: another client with the id %q, or a very poor link, is the likely cause", p.short, shortSession, u.o.ClientID))
	}
}

// describe says in words why a session ended.
func describe(out outcome) string {
	switch {
	case out.err == nil:
		return "the connection ended"
	case out.left:
		return out.err.Error()
	case !out.online:
		return "not connected: " + out.err.Error()
	}
	return "connection lost: " + out.err.Error()
}
