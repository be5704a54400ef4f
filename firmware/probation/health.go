package probation

import "time"

// Source is a bus or a receiver.
type Source struct {
	Name    string
	Reads   bool   // something was read from it since the look before
	Err     string // why it cannot be read now; empty: it is open
	Traffic bool   // something came on it since the look before, by another's count than ours: the kernel's of a CAN interface
}

// Reach says whether the broker can be reached without this version's uplink: by a plain TCP connection, say.
type Reach uint8

// What a try to reach the broker says.
const (
	ReachUnknown Reach = iota // not tried
	ReachNone                 // there is no link, or nobody answers
	ReachBroker               // it takes a connection
)

// Health is what one look sees.
type Health struct {
	Sources   []Source
	QueueErr  string // why the queue took nothing the last time; empty: it did
	Acked     bool   // the broker acknowledged something since the look before
	Reach     Reach
	AnonBytes int64 // RssAnon of /proc/self/status; 0: not known
}

// Baseline is what worked before the update. It is written down by the version that is to be replaced.
type Baseline struct {
	Version string   `json:"version"`
	Sources []string `json:"sources"` // that were read
	Acked   bool     `json:"acked"`   // the broker acknowledged
}

// baselineTime is how far back a baseline looks, awake.
const baselineTime = 10 * time.Minute

// Record gathers a baseline while a version runs. Its zero value is ready. It is not safe for use from several goroutines.
type Record struct {
	now   time.Duration
	reads map[string]time.Duration
	acked time.Duration
	ever  bool
}

// Look notes what worked; passed is the time awake since the look before.
func (r *Record) Look(h Health, passed time.Duration) {
	r.now += passed
	if r.reads == nil {
		r.reads = map[string]time.Duration{}
	}
	for _, s := range h.Sources {
		if s.Reads {
			r.reads[s.Name] = r.now
		}
	}
	if h.Acked {
		r.acked, r.ever = r.now, true
	}
}

// Baseline is what worked of late. order names the sources in the order in which they are wanted.
func (r *Record) Baseline(version string, order []string) Baseline {
	b := Baseline{Version: version, Acked: r.ever && r.now-r.acked <= baselineTime, Sources: []string{}}
	for _, name := range order {
		if at, ok := r.reads[name]; ok && r.now-at <= baselineTime {
			b.Sources = append(b.Sources, name)
		}
	}
	return b
}
