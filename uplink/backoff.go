package uplink

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"time"
)

// pace is the back-off between connections: full jitter, uniform in [0, min(cap, base·2ⁿ)).
type pace struct {
	base, cap time.Duration
	rand      *rand.Rand
	failed    int // tries in a row that were of no use
	short     int // accepted sessions that were cut short since one that lived for Options.ResetAfter
	mute      int // of these, in a row, that ended without any PUBACK for what was published
	unheard   int // tries in a row that the broker ended before it answered CONNECT
}

func (p *pace) wait() time.Duration { return p.upTo(p.cap) }

func (p *pace) upTo(most time.Duration) time.Duration {
	top := p.base
	for range p.failed {
		if top >= most {
			break
		}
		top *= 2
	}
	return time.Duration(p.rand.Int64N(int64(max(min(top, most), 1))))
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
	u.judgeAnswer(out, p)
	most := p.cap
	switch {
	case out.lived >= u.o.ResetAfter, out.verdict:
		p.failed = 0
	case out.acks > 0 && guarded(out, p):
		most = min(most, u.o.ResetAfter)
	case out.acks > 0:
		p.failed = 0
	}
	if out.left && out.lived >= u.o.WakeGap {
		return 0, Connecting
	}
	wait := p.upTo(most)
	p.failed++
	return wait, Offline
}

// guarded is the flap guard. PUBACKs take the back-off back, except where connections are cut short again and again and carry
// little, as in a duel, or where the same lane breaks them each time: there they would make it a storm.
func guarded(out outcome, p *pace) bool {
	return out.lived < shortSession && (out.troubled || out.few && p.short >= duelSessions)
}

// judgeLife looks for another client with our id: brokers close the older connection of the two.
func (u *Uplink) judgeLife(out outcome, p *pace) {
	if !out.online || out.left {
		return
	}
	switch {
	case out.lived >= u.o.ResetAfter, out.verdict: // a batch was the cause
		p.short = 0
		u.o.Alarms.Clear(alarmDuel)
	case out.mute, out.troubled: // what we sent was the cause
	// Only a broker ends a connection in good order, and without a word from us it has no other reason.
	case out.lived < shortSession, out.quiet && errors.Is(out.err, io.EOF):
		p.short++
	}
	if p.mute++; !out.mute {
		p.mute = 0
	}
	switch {
	case p.mute >= duelSessions:
		u.o.Alarms.Raise(alarmDenied, fmt.Sprintf("%d connections in a row were accepted and lost before the broker acknowledged anything: its ACL, where RabbitMQ and others close the connection on a publish that they deny, a packet limit, or a broker that takes nothing more (memory, disk) is the likely cause; allow %s", p.mute, u.topic("up/#")))
	case p.short >= duelSessions:
		u.o.Alarms.Raise(alarmDuel, fmt.Sprintf("%d connections were accepted and soon lost: another client with the id %q, or a very poor link, is the likely cause", p.short, u.o.ClientID))
	}
}

// judgeAnswer looks for a broker that does not answer CONNECT, or hangs up on it: brokers at a limit of their own do so without
// a word.
func (u *Uplink) judgeAnswer(out outcome, p *pace) {
	if out.online || !out.opened && !errors.Is(out.err, io.EOF) && !errors.Is(out.err, syscall.ECONNRESET) {
		p.unheard = 0
		return
	}
	if p.unheard++; p.unheard >= unheardTries {
		u.o.Alarms.Raise(alarmUnavailable, fmt.Sprintf("broker %s was reached %d times in a row and did not accept the vehicle (%v): a limit of its own (connections, quota, memory, disk), or a port that speaks something else, is the likely cause", u.end, p.unheard, out.err))
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
