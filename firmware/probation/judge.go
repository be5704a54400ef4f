package probation

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Verdict on a trial.
type Verdict uint8

// The verdicts.
const (
	Hold Verdict = iota // nothing is decided yet
	Pass                // commit it
	Fail                // roll it back
)

func (v Verdict) String() string { return [...]string{"hold", "pass", "fail"}[v] }

// Options of a Judge. Zero durations have defaults; all are times awake.
type Options struct {
	Healthy     time.Duration // everything has to work for so long, altogether. Default 2 min
	SourceGrace time.Duration // a source that does not work fails the trial after this. Default 2 min
	QueueGrace  time.Duration // likewise the queue. Default 5 min
	BrokerGrace time.Duration // likewise a broker that can be reached and does not acknowledge. Default 15 min
	MemoryGrace time.Duration // likewise memory above the cap. Default 30 s
	Longest     time.Duration // a trial that was not seen healthy after this fails. Default 24 h
	MemoryCap   int64         // bytes of RssAnon; 0: none
	MostBetween time.Duration // what one look may count for: the time between two of them, suspended or not, can be anything. Default 1 min
}

// Progress is what a trial has shown so far. It is kept across restarts: as JSON it has no secrets and no paths.
type Progress struct {
	Healthy time.Duration            `json:"healthy_ns"` // everything worked
	Watched time.Duration            `json:"watched_ns"`
	Worked  map[string]bool          `json:"worked,omitempty"` // what was seen to work on this trial
	Bad     map[string]time.Duration `json:"bad,omitempty"`    // what does not, and for how long
}

// Judge judges one trial. It is not safe for use from several goroutines.
type Judge struct {
	o    Options
	base Baseline
	p    Progress
}

// New goes on with a trial; progress is zero at its beginning.
func New(o Options, base Baseline, p Progress) *Judge {
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{
		{&o.Healthy, 2 * time.Minute}, {&o.SourceGrace, 2 * time.Minute}, {&o.QueueGrace, 5 * time.Minute}, {&o.BrokerGrace, 15 * time.Minute},
		{&o.MemoryGrace, 30 * time.Second}, {&o.Longest, 24 * time.Hour}, {&o.MostBetween, time.Minute},
	} {
		if *d.at <= 0 {
			*d.at = d.def
		}
	}
	p.Worked, p.Bad = maps.Clone(p.Worked), maps.Clone(p.Bad)
	if p.Worked == nil {
		p.Worked = map[string]bool{}
	}
	if p.Bad == nil {
		p.Bad = map[string]time.Duration{}
	}
	return &Judge{o, base, p}
}

// Progress is what to keep for a restart.
func (j *Judge) Progress() Progress {
	p := j.p
	p.Worked, p.Bad = maps.Clone(p.Worked), maps.Clone(p.Bad)
	return p
}

// finding is what one look says of one thing.
type finding struct {
	name  string
	state state
	text  string        // why it is not good
	grace time.Duration // of what is bad
}

type state uint8

const (
	good state = iota
	bad
	unknown
)

// Look takes in one look; passed is the time awake since the one before. The words say what decides, or what is waited for.
func (j *Judge) Look(h Health, passed time.Duration) (Verdict, string) {
	passed = min(max(passed, 0), j.o.MostBetween)
	j.p.Watched += passed
	waits := ""
	for _, f := range j.findings(h) {
		switch f.state {
		case good:
			delete(j.p.Bad, f.name)
			j.p.Worked[f.name] = true
			continue
		case bad:
			if j.p.Bad[f.name] += passed; j.p.Bad[f.name] >= f.grace {
				return Fail, fmt.Sprintf("%s: %s, for %v; it worked with version %s", f.name, f.text, j.p.Bad[f.name].Round(time.Second), j.base.Version)
			}
		}
		if waits == "" {
			waits = f.name + ": " + f.text
		}
	}
	if waits == "" {
		if j.p.Healthy += passed; j.p.Healthy >= j.o.Healthy {
			return Pass, fmt.Sprintf("everything that worked with version %s has worked for %v", j.base.Version, j.p.Healthy.Round(time.Second))
		}
		waits = fmt.Sprintf("healthy for %v of %v", j.p.Healthy.Round(time.Second), j.o.Healthy)
	} else if j.p.Watched >= j.o.Longest {
		return Fail, fmt.Sprintf("not seen healthy in %v awake: %s", j.p.Watched.Round(time.Second), waits)
	}
	return Hold, waits
}

// findings judges each thing by itself.
func (j *Judge) findings(h Health) []finding {
	var list []finding
	for _, name := range j.base.Sources {
		f := finding{name: name, grace: j.o.SourceGrace}
		at := slices.IndexFunc(h.Sources, func(s Source) bool { return s.Name == name })
		switch {
		case at < 0: // it is not configured any more
			continue
		case h.Sources[at].Err != "":
			f.state, f.text = bad, "it cannot be read: "+h.Sources[at].Err
		case h.Sources[at].Reads:
		case h.Sources[at].Traffic:
			f.state, f.text = bad, "frames come that are not read"
		case !j.p.Worked[name]:
			f.state, f.text = unknown, "nothing has come on it yet"
		}
		list = append(list, f)
	}
	queue := finding{name: "queue", grace: j.o.QueueGrace}
	if h.QueueErr != "" {
		queue.state, queue.text = bad, "it takes nothing: "+h.QueueErr
	}
	list = append(list, queue)
	if j.base.Acked {
		f := finding{name: "broker", grace: j.o.BrokerGrace}
		switch {
		case h.Acked || j.p.Worked[f.name]:
		case h.Reach == ReachBroker:
			f.state, f.text = bad, "it can be reached and acknowledges nothing"
		default:
			f.state, f.text = unknown, "there is no link to it"
		}
		list = append(list, f)
	}
	memory := finding{name: "memory", grace: j.o.MemoryGrace}
	if j.o.MemoryCap > 0 && h.AnonBytes > j.o.MemoryCap {
		memory.state, memory.text = bad, fmt.Sprintf("%d MiB, %d may be taken", h.AnonBytes>>20, j.o.MemoryCap>>20)
	}
	return append(list, memory)
}
