package api

import "time"

// Counts is what a store holds.
type Counts struct {
	Devices  int64  `json:"devices"`
	Online   int64  `json:"online"` // as their last status said
	Batches  int64  `json:"batches"`
	Samples  int64  `json:"samples"`
	Gaps     uint64 `json:"gaps"`     // batches that neither came nor are accounted for
	Losses   int64  `json:"losses"`   // entries of the loss ledgers
	Parked   int64  `json:"parked"`   // batches that wait until they can be read
	Rejected int64  `json:"rejected"` // batches
	Letters  int64  `json:"dead_letters"`
}

// Device is a vehicle in a list.
type Device struct {
	DeviceID
	State     string    `json:"state"` // online, offline, unknown: no status came
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	Version   string    `json:"version"`
	Queue     *Queue    `json:"queue"` // nil: no status came
	Position  *Position `json:"position"`
	Batches   uint64    `json:"batches"` // that came
	Gaps      uint64    `json:"gaps"`    // batches
	Losses    int64     `json:"losses"`  // entries
	Parked    int64     `json:"parked"`  // batches
	Alarms    int       `json:"alarms"`
}

// The states of a device.
const (
	StateOnline  = "online"
	StateOffline = "offline"
	StateUnknown = "unknown"
)

// Queue is what the vehicle said to have in its queue.
type Queue struct {
	AsOf    time.Time   `json:"as_of"` // when the status came
	Batches uint64      `json:"batches"`
	Bytes   uint64      `json:"bytes"`
	Lanes   []LaneDepth `json:"lanes"`
}

// LaneDepth is one lane of it.
type LaneDepth struct {
	Lane    string `json:"lane"`
	Batches uint64 `json:"batches"`
	Bytes   uint64 `json:"bytes"`
	NextSeq uint64 `json:"next_seq"`
}

// Position is the latest one that is believed.
type Position struct {
	Time        time.Time `json:"time"`
	Uncertainty float64   `json:"uncertainty_s"` // half width of the time
	TimeSource  string    `json:"time_source"`
	Latitude    float64   `json:"latitude"`  // degrees, WGS 84
	Longitude   float64   `json:"longitude"` // likewise
	Source      string    `json:"source"`    // which receiver: gps0
}

// DeviceDetail is all about one vehicle.
type DeviceDetail struct {
	Device
	Hardware string     `json:"hardware"`
	Power    string     `json:"power"`  // as its status says
	Reason   string     `json:"reason"` // why it is offline
	Reported *time.Time `json:"reported"`
	Info     *Info      `json:"info"`
	Alarm    []Alarm    `json:"alarm"`
	Lanes    []Lane     `json:"lanes"`
	Excluded Excluded   `json:"excluded"`
}

// Info is the newest record that a vehicle gave of itself.
type Info struct {
	VIN      string            `json:"vin"`
	Mode     string            `json:"mode"`
	Versions map[string]string `json:"versions"`
}

// Alarm is a condition that a person should know of.
type Alarm struct {
	Name  string `json:"name"`
	Text  string `json:"text"`
	Times uint64 `json:"times"`
}

// Lane is one sequence of numbers of a device.
type Lane struct {
	Epoch   string `json:"epoch"` // 16 hexadecimal digits
	Lane    string `json:"lane"`
	Batches uint64 `json:"batches"`
	Last    uint64 `json:"last_seq"`
	Gaps    uint64 `json:"gaps"`
}

// Excluded counts positions that are not shown. Counting ends at 10,000 of each.
type Excluded struct {
	Undated   int64 `json:"undated"`   // their time is not known
	Future    int64 `json:"future"`    // dated later than now
	Uncertain int64 `json:"uncertain"` // their time may be wrong by more than MaxUncertainty
	Suspect   int64 `json:"suspect"`   // the receiver's fix cannot be (docs/GPS.md)
}

// MaxUncertainty is how uncertain a position's time may be, half width, for it to be shown on a map.
const MaxUncertainty = 10 * time.Minute

// Signal is what is delivered under one name.
type Signal struct {
	Name   string            `json:"name"`
	Unit   string            `json:"unit"`
	Source string            `json:"source"`
	Labels map[string]string `json:"labels,omitempty"` // of whole values
	Last   *Value            `json:"last,omitempty"`
}

// Value is one dated value. Value is a number, a text, or null; not-a-number and the infinities are texts.
type Value struct {
	Time  time.Time `json:"time"`
	Value any       `json:"value"`
	Label string    `json:"label,omitempty"`
}

// Point is a position on a track.
type Point struct {
	UnixNS              int64
	Latitude, Longitude float64
	Begins              bool // nothing is known of the time before it: not to be joined with the point before
}

// Bucket sums up what a signal was in a stretch of time.
type Bucket struct {
	Index          int64 // of the stretch
	Count          int64
	Min, Max, Mean float64
	FirstNS        int64 // Unix ns of the first sample in it
	LastNS         int64
}

// Event is one sample of the event lane.
type Event struct {
	Time        *time.Time `json:"time"` // null: not known
	Uncertainty float64    `json:"uncertainty_s"`
	TimeSource  string     `json:"time_source"`
	Name        string     `json:"name"`
	Unit        string     `json:"unit"`
	Value       any        `json:"value"`
	Label       string     `json:"label,omitempty"`
	Epoch       string     `json:"epoch"`
	Seq         uint64     `json:"seq"`
	Index       uint32     `json:"index"`
}

// Gap is a run of numbers of which the batches neither came nor are accounted for.
type Gap struct {
	DeviceID
	Epoch   string `json:"epoch"`
	Lane    string `json:"lane"`
	First   uint64 `json:"first_seq"`
	Last    uint64 `json:"last_seq"`
	Batches uint64 `json:"batches"`
	// Queued is how many batches of this lane and epoch the vehicle said to have in its queue still: with them, what is
	// missing may be on its way (late); with 0 it is not there. Null: it did not say.
	Queued *uint64 `json:"queued"`
}

// Loss is one entry of a vehicle's loss ledger.
type Loss struct {
	DeviceID
	Recorded     time.Time `json:"recorded"` // when the entry came
	Reason       string    `json:"reason"`
	Source       string    `json:"source"`
	Count        uint64    `json:"count"`
	CountIsBound bool      `json:"count_is_bound"` // at most, not exactly
	CountUnknown bool      `json:"count_unknown"`
	Unit         string    `json:"unit"`
	Epoch        string    `json:"epoch,omitempty"`
	Lane         string    `json:"lane,omitempty"`
	Seqs         []Seqs    `json:"seqs"`
	Arrived      uint64    `json:"arrived"` // of Seqs, batches that came all the same
	Detail       string    `json:"detail"`
}

// Seqs is a closed range of numbers.
type Seqs struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Parked is a batch that waits until it can be read.
type Parked struct {
	DeviceID
	Epoch     string    `json:"epoch"`
	Lane      string    `json:"lane"`
	Seq       uint64    `json:"seq"`
	Samples   uint64    `json:"samples"`
	Bytes     int64     `json:"bytes"`
	Reason    string    `json:"reason"`    // catalogue: it is not there yet; format: needs a newer reader
	Catalogue string    `json:"catalogue"` // 32 hexadecimal digits
	Received  time.Time `json:"received"`
}

// DeadLetter is something that could not be taken.
type DeadLetter struct {
	ID     int64     `json:"id"`
	Topic  string    `json:"topic"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail"`
	Bytes  int64     `json:"bytes"`
	Times  int64     `json:"times"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Erased says what an erasure took away, and what stays.
type Erased struct {
	DeviceID
	Samples int64    `json:"samples"`
	Batches int64    `json:"batches"` // of which the contents went
	Records int64    `json:"records"` // of the vehicle itself, its clocks, answers to commands, its status, dead letters
	Stays   []string `json:"stays"`
}
