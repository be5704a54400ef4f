package local

// Signals are the collected signals with their latest values: the answer of PathSignals. Recorded frames are not among
// them. A value is there from the moment on at which somebody began to look: the agent keeps none for nobody, so that the
// first answer after a while comes a second late, and what is told rarely is missing at first.
type Signals struct {
	Format  int      `json:"format"` // 1
	BootMS  int64    `json:"boot_ms"`
	PeriodS float64  `json:"period_s"` // from one point of a history to the next
	Signals []Signal `json:"signals"`
}

// Signal is one signal.
type Signal struct {
	Name    string   `json:"name"`
	Unit    string   `json:"unit"`
	Source  string   `json:"source"` // can:can0, gps:gps0, agent
	Comment string   `json:"comment"`
	Lane    string   `json:"lane"`    // event, telemetry; "": only rules look at it
	History []Number `json:"history"` // the value at each period, the newest last; at most HistoryPoints
	Value
}

// HistoryPoints bounds a history.
const HistoryPoints = 60

// Value is the latest of a signal.
type Value struct {
	ID    uint32  `json:"id"`    // of the signal, in this run of the agent
	Value Number  `json:"value"` // physical; null: text, or not seen
	Text  string  `json:"text"`  // the value's label, or text; "": neither
	AtMS  int64   `json:"at_ms"` // CLOCK_BOOTTIME, ms; 0: not seen since somebody looks
	Rate  float64 `json:"rate"`  // samples/s over the last seconds; frames that repeat the one before count once a second
}

// Values are those that changed in the last period: an event of PathEvents. A signal that is not among them has the value
// that it had, and its history goes on with that.
type Values struct {
	BootMS int64   `json:"boot_ms"`
	Values []Value `json:"values"`
}
