package clock

import (
	"sync"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Log is the clock of a replay: the stamps of the recording are the only time there is. The first stamp ties a made-up
// boot to the log's wall time; every later one moves both clocks on. It is safe for use from several goroutines.
type Log struct {
	mu     sync.Mutex // guards what follows
	base   int64      // unix ns of boot time 0
	latest int64      // boot ns
	start  bool
}

// logLead is what lies before the first stamp, so that a second log that starts a little earlier still has a boot time.
const logLead = int64(time.Hour)

// Stamp turns a log's wall time into boot time, in ns, and reports whether it was the first one.
func (l *Log) Stamp(unixNS int64) (bootNS int64, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.start {
		l.base, l.start, first = unixNS-logLead, true, true
	}
	bootNS = unixNS - l.base
	l.latest = max(l.latest, bootNS)
	return bootNS, first
}

// Anchor is the tie between the log's time and the made-up boot.
func (l *Log) Anchor() *telemetrypb.Anchor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &telemetrypb.Anchor{BootNs: logLead, UnixNs: l.base + logLead, Source: telemetrypb.TimeSource_TIME_SOURCE_LOG}
}

// Boot is the latest stamp's boot time.
func (l *Log) Boot() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

// Wall is the latest stamp.
func (l *Log) Wall() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.start {
		return time.Time{}
	}
	return time.Unix(0, l.base+l.latest)
}
