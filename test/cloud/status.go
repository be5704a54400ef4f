package main

import (
	"encoding/json"
	"sync"
)

// storeLine is what waybill-fleet serve --json prints each interval.
type storeLine struct {
	Payloads uint64 `json:"payloads"` // that this process took; what follows is the store's
	Samples  int64  `json:"samples"`
	Gaps     uint64 `json:"gaps"`
	Losses   int64  `json:"losses"`
	Rejected uint64 `json:"rejected"`
	Parked   int64  `json:"parked"`
	Devices  int64  `json:"devices"`
}

// latest is the newest of them. It is safe for use from several goroutines.
type latest struct {
	mu   sync.Mutex // guards line
	line storeLine
}

func (l *latest) read(text []byte) {
	var s storeLine
	if json.Unmarshal(text, &s) == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.line = s
	}
}

func (l *latest) get() storeLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}
