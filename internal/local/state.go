package local

// State is how the agent is: the answer of PathState. Times that end in _ms are CLOCK_BOOTTIME in milliseconds, 0: never;
// Now ties them to wall time. Lists keep the order of the configuration.
type State struct {
	Format    int        `json:"format"` // 1
	Now       Now        `json:"now"`
	Agent     Agent      `json:"agent"`
	Alarms    []Alarm    `json:"alarms"` // those that stand, by name
	Power     string     `json:"power"`  // on, draining, quiet, awake; "": parking is not configured
	Clock     Clock      `json:"clock"`
	Buses     []Bus      `json:"buses"`
	Receivers []Receiver `json:"receivers"`
	Tracks    []Track    `json:"tracks"` // by receiver, as long as somebody looks
	Queue     Queue      `json:"queue"`
	Uplink    *Uplink    `json:"uplink"` // null: record only
	Losses    []Loss     `json:"losses"` // since the start; by reason, source and unit
	Collect   Collect    `json:"collect"`
	Update    *Update    `json:"update"` // null: no updates are configured
}

// Now is the moment of the document.
type Now struct {
	BootMS  int64   `json:"boot_ms"`
	UnixMS  int64   `json:"unix_ms"` // wall time as the agent knows it; 0: it does not
	UptimeS float64 `json:"uptime_s"`
	RSS     int64   `json:"rss_bytes"` // resident memory of the agent
}

// Agent is which program this is, and whose.
type Agent struct {
	Device   string `json:"device"`
	Tenant   string `json:"tenant"`
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Built    string `json:"built"`    // RFC 3339; "": not stamped
	Hardware string `json:"hardware"` // linux/arm64
	Go       string `json:"go"`
	BootID   string `json:"boot_id"`
	Boots    uint32 `json:"boots"`
	Epoch    string `json:"epoch"`   // of the queue, 16 hexadecimal digits
	Profile  string `json:"profile"` // of the configuration; "": none
	Slot     string `json:"slot"`    // of the two that updates use; "": it was started without them
}

// Alarm is a condition that a person should know of.
type Alarm struct {
	Name    string `json:"name"` // stable: uplink.receipt
	Text    string `json:"text"` // what is wrong, the likely cause and the remedy
	SinceMS int64  `json:"since_ms"`
	Times   uint64 `json:"times"` // raises since the start
}

// Clock is how well the agent knows the time.
type Clock struct {
	Source       string `json:"source"`        // none, system, ntp, gps, floor, log, neighbour
	UncertaintyS Number `json:"uncertainty_s"` // half width; null: nobody vouches for it
	Contradicted bool   `json:"contradicted"`  // the system claims to be synchronised, and GPS denies it
	RefusedFixes int64  `json:"refused_fixes"` // with a time that cannot be
	Steps        int64  `json:"steps"`         // of the system's clock
	Suspends     int64  `json:"suspends"`
}

// Bus is one bus. What only an interface has is missing of a replay.
type Bus struct {
	Name        string  `json:"name"`
	Interface   string  `json:"interface"` // "": a replay
	Replay      string  `json:"replay"`    // file; "": an interface
	Kind        string  `json:"kind"`      // can, vcan, vxcan
	State       string  `json:"state"`     // as can.BusState is printed: error_active, bus_off, stopped …; "": not known
	Up          bool    `json:"up"`        // it is read
	Bitrate     uint32  `json:"bitrate"`   // bit/s; 0: not known
	DataBitrate uint32  `json:"data_bitrate"`
	ListenOnly  bool    `json:"listen_only"`
	FD          bool    `json:"fd"`
	LoadPercent Number  `json:"load_percent"` // estimated, over the last second
	FrameRate   Number  `json:"frame_rate"`   // frames/s, over the last seconds
	Frames      uint64  `json:"frames"`       // read since the start
	ErrorFrames uint64  `json:"error_frames"`
	Drops       uint64  `json:"drops"`     // by the kernel; they are losses
	TxErrors    *uint16 `json:"tx_errors"` // error counters of the controller; null: it does not tell
	RxErrors    *uint16 `json:"rx_errors"`
	BusOffs     uint32  `json:"bus_offs"` // since the interface was made
	Restarts    uint32  `json:"restarts"`
	Changes     uint64  `json:"state_changes"`
	Short       uint64  `json:"short"`   // frames in which a signal lies beyond the end; they are losses
	Unknown     uint64  `json:"unknown"` // frames that nobody asked for
}

// Receiver is one positioning receiver at its last epoch, after the configured privacy.
type Receiver struct {
	Name       string      `json:"name"`
	Source     string      `json:"source"` // serial /dev/ttyACM0, tcp host:port, gpsd host:port, replay FILE
	AtMS       int64       `json:"at_ms"`
	FixUnixMS  int64       `json:"fix_unix_ms"` // as the receiver says; 0: it did not
	Mode       string      `json:"mode"`        // "": not known; no fix, 2D, 3D
	Quality    string      `json:"quality"`     // gnss, dgnss, rtk …
	Withheld   bool        `json:"withheld"`    // there is a position, and privacy keeps it here
	Latitude   Number      `json:"latitude"`    // degrees
	Longitude  Number      `json:"longitude"`
	Altitude   Number      `json:"altitude"` // m above mean sea level
	Speed      Number      `json:"speed"`    // m/s
	Track      Number      `json:"track"`    // degrees from true north
	HDOP       Number      `json:"hdop"`
	PDOP       Number      `json:"pdop"`
	Error      Number      `json:"error"` // m, one standard deviation, horizontal
	Used       int         `json:"used"`  // satellites in the solution
	Seen       int         `json:"seen"`  // in view
	Suspect    []string    `json:"suspect"`
	Parked     bool        `json:"parked"`
	Odometer   Number      `json:"odometer"` // m
	Satellites []Satellite `json:"satellites"`
}

// Satellite is one in view; of several bands the strongest.
type Satellite struct {
	System    string `json:"system"` // gps, glonass, galileo, beidou, qzss, navic, sbas
	ID        int    `json:"id"`
	Elevation Number `json:"elevation"` // degrees
	Azimuth   Number `json:"azimuth"`   // degrees from true north
	SNR       Number `json:"snr"`       // dB-Hz
	Used      bool   `json:"used"`
}

// Track is where a receiver was, the oldest point first.
type Track struct {
	Receiver string  `json:"receiver"`
	Points   []Point `json:"points"`
}

// Point is one place.
type Point struct {
	AtMS      int64   `json:"at_ms"`
	Latitude  float64 `json:"latitude"` // degrees
	Longitude float64 `json:"longitude"`
	Speed     Number  `json:"speed"` // m/s
}

// Queue is what waits on the disk.
type Queue struct {
	Lanes     []Lane `json:"lanes"`
	Batches   uint64 `json:"batches"`
	Bytes     uint64 `json:"bytes"`
	OldestS   Number `json:"oldest_s"` // age of the oldest sample; null: none waits, or it is of a boot that is not dated
	DiskBytes int64  `json:"disk_bytes"`
	MaxBytes  int64  `json:"max_bytes"`
	FreeBytes int64  `json:"free_bytes"` // of the file system; -1: not known
	CommitMS  int64  `json:"commit_ms"`  // the last commit
	Damaged   uint64 `json:"damaged"`    // batches since the start
	Flash     Flash  `json:"flash"`
}

// Lane is one lane of the queue.
type Lane struct {
	Name    string `json:"name"` // control, event, telemetry, raw
	Batches uint64 `json:"batches"`
	Bytes   uint64 `json:"bytes"`
	Samples uint64 `json:"samples"` // taken since the start
	Evicted uint64 `json:"evicted"` // batches, for want of room
	Thinned uint64 `json:"thinned"`
}

// Flash is what the agent costs the storage. What an eMMC tells of its life stands in its register EXT_CSD (JESD84-B51).
type Flash struct {
	Written     int64  `json:"written_bytes"`     // handed to the storage since the start (proc_pid_io(5)); -1: not known
	PerDay      Number `json:"bytes_per_day"`     // at that rate; null: too early to tell
	Device      string `json:"device"`            // mmcblk0; "": not known
	UsedPercent Number `json:"life_used_percent"` // upper end of what bytes 268 and 269 say, in tens; null: it does not tell
	EndOfLife   string `json:"end_of_life"`       // byte 267: normal, warning, urgent; "": it does not tell
}

// Uplink is the way to the broker and the store.
type Uplink struct {
	Phase        string `json:"phase"` // offline, connecting, online, refused, resting, stopped
	Text         string `json:"text"`  // in words
	SinceMS      int64  `json:"since_ms"`
	NextTryMS    int64  `json:"next_try_ms"` // 0: none is planned
	Broker       string `json:"broker"`      // without what is secret
	Insecure     bool   `json:"insecure"`
	Link         string `json:"link"` // that is used; "": whatever the routes say
	Links        []Link `json:"links"`
	SendRate     Number `json:"send_rate"` // bytes/s over the last seconds
	Bandwidth    Number `json:"bandwidth"` // bytes/s that the connection bears; null: not known
	RoundTripMS  Number `json:"rtt_ms"`    // least time to a PUBACK
	BytesSent    uint64 `json:"bytes_sent"`
	InFlight     int    `json:"in_flight"` // publishes without PUBACK
	Unreceipted  int    `json:"unreceipted"`
	Sent         uint64 `json:"batches_sent"`
	Released     uint64 `json:"batches_released"` // that the store has
	Resent       uint64 `json:"batches_resent"`
	Rejected     uint64 `json:"batches_rejected"`
	Parked       uint64 `json:"batches_parked"`
	Receipts     uint64 `json:"receipts"`
	Store        string `json:"store"` // who sent the last receipt
	Connections  uint64 `json:"connections"`
	Losses       uint64 `json:"connection_losses"`
	PayloadBytes int    `json:"payload_bytes"` // that one publish may hold at present
}

// Link is one way out of the vehicle.
type Link struct {
	Name    string `json:"name"`
	Up      bool   `json:"up"`
	Why     string `json:"why"` // why it is not
	Metered bool   `json:"metered"`
}

// Loss counts what did not reach the queue, or left it unsent.
type Loss struct {
	Reason string `json:"reason"` // overload, disk_error
	Source string `json:"source"` // can:can0
	Unit   string `json:"unit"`   // frames, samples
	Count  uint64 `json:"count"`  // 0: nobody knows how many
}

// Collect is what the configuration collects.
type Collect struct {
	Signals   int       `json:"signals"`   // collected
	Available int       `json:"available"` // that could be
	Catalogue string    `json:"catalogue"` // its hash, the first 16 digits
	Patterns  []Pattern `json:"patterns"`
	Rules     []Rule    `json:"rules"`
	Recorded  []string  `json:"recorded"` // buses whose frames are kept
}

// Pattern is an entry of collect.signals.
type Pattern struct {
	Match        string  `json:"match"`
	Lane         string  `json:"lane"`
	OnChange     bool    `json:"on_change"` // false: every sample
	DeadBand     float64 `json:"dead_band"`
	MinIntervalS float64 `json:"min_interval_s"`
	MaxIntervalS float64 `json:"max_interval_s"`
}

// Rule is an entry of collect.rules.
type Rule struct {
	Name   string `json:"name"`
	Signal string `json:"signal"`
	Above  Number `json:"above"`
	Below  Number `json:"below"`
}

// Update is how updates of the software stand.
type Update struct {
	Phase   string `json:"phase"`   // no launcher, starting, on trial, following, failing, restarting
	Text    string `json:"text"`    // in words
	Running string `json:"running"` // slot
}
