package network

import (
	"encoding/json"
	"fmt"
	"time"
)

// ledger is what travelled on the day that is counted. It is kept across restarts.
type ledger struct {
	Day     string                      `json:"day"`     // date of Used; empty: not known
	Elapsed time.Duration               `json:"elapsed"` // CLOCK_BOOTTIME that ran on Used while nobody knew the date, ns
	Used    map[string]map[string]int64 `json:"used"`    // bytes by link and lane
}

// parseLedger reads what encode wrote.
func parseLedger(b []byte) (*ledger, error) {
	l := &ledger{}
	if len(b) > 0 {
		if err := json.Unmarshal(b, l); err != nil {
			return &ledger{Used: map[string]map[string]int64{}}, fmt.Errorf("the day's bytes: %w", err)
		}
	}
	if l.Used == nil {
		l.Used = map[string]map[string]int64{}
	}
	return l, nil
}

func (l *ledger) encode() ([]byte, error) { return json.Marshal(l) }

func (l *ledger) add(link, lane string, bytes int64) {
	lanes := l.Used[link]
	if lanes == nil {
		lanes = map[string]int64{}
		l.Used[link] = lanes
	}
	lanes[lane] += bytes
}

// roll begins a new day at midnight, or, while nobody knows the date, after 24 h that the vehicle was awake. What was
// counted without a date belongs to the first date that becomes known. A date that goes back was wrong before and gives
// nothing back. date is empty while it is not known; elapsed is the time since the last call.
func (l *ledger) roll(date string, elapsed time.Duration) (began bool) {
	if date == "" {
		if l.Elapsed += elapsed; l.Elapsed < 24*time.Hour {
			return false
		}
	} else {
		began = l.Day != "" && date > l.Day
		l.Day, l.Elapsed = date, 0
		if !began {
			return false
		}
	}
	*l = ledger{Day: date, Used: map[string]map[string]int64{}}
	return true
}
