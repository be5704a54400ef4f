// Package drive is a made-up electric car on a made-up road: the frames of its bus and the sentences of its GPS
// receiver, in the order of time and always the same for a seed. It is what waybill-simulate plays and what end-to-end
// tests count against.
//
// It knows the layouts of can and gps and nothing of agents, queues or brokers. It reads no clock and opens no device.
package drive

import (
	"bytes"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/gps"
)

// DBC describes the car's bus. It is ours to give away.
//
//go:embed demo.dbc
var dbcText []byte

// DBC is the text of the DBC file that describes the bus.
func DBC() []byte { return append([]byte(nil), dbcText...) }

// tick is the resolution of the model: the cycle time of the fastest message.
const tick = 10 * time.Millisecond

// epochTicks is the distance of two GPS epochs, in ticks: 1 s.
const epochTicks = int(time.Second / tick)

// slot is how far frames of one tick are apart: about a frame of 8 bytes at 500 kbit/s.
const slot = 250 * time.Microsecond

// Options of a Drive.
type Options struct {
	Seed     uint64
	Start    time.Time     // of the drive, UTC
	Duration time.Duration // a multiple of 10 ms; at least 1 s
	Scenario string        // one of Scenarios; Mixed if empty
	Faults   []Fault
	Sky      bool // the receiver tells of the satellites in view, too
}

// Event is one thing that happens: a frame, a GPS epoch, the beginning of a phase, or the network's going and coming.
type Event struct {
	At        time.Duration // since the start
	Frame     *can.Frame    // valid until the next call of Next; Time is not set
	Sentences []byte        // likewise: the sentences of one epoch, each with CR LF
	Fix       bool          // with Sentences: they have a position
	Place     gps.Fix       // with Sentences: what they say; Boot is not set
	Phase     string        // a phase begins
	Network   string        // "dead": in a tunnel or a dead zone; "back"

	message string // of Frame
	counter uint64 // value of FrameCounter in it; 0: it has none
}

// Interval is a stretch of the drive, from its start.
type Interval struct {
	From time.Duration
	To   time.Duration
}

// Summary is what a drive has sent so far.
type Summary struct {
	Frames       uint64
	ByMessage    map[string]uint64
	FirstCounter uint64 // of FrameCounter; 0: none was sent
	LastCounter  uint64
	Sentences    uint64
	Epochs       uint64 // of the receiver
	Fixes        uint64 // epochs with a position
	Tunnels      []Interval
	Distance     float64 // m
}

// Drive is one drive. It is not safe for use from several goroutines.
type Drive struct {
	o        Options
	messages []cyclic
	model    *model
	phases   []phase

	ticks   int // done
	total   int
	phase   int // index; -1 before the first
	faults  []Fault
	busOff  bool
	dead    bool
	queue   []Event
	frames  []can.Frame // recycled, one for each message
	text    []byte      // recycled
	summary Summary
}

// cyclic is a message with its period.
type cyclic struct {
	message *can.Message
	every   int // ticks
	signals []sender
	mux     *can.Signal
	count   uint64 // frames sent
}

// sender gives the physical value of a signal. frame is the number of the frame of its message, from 1.
type sender struct {
	signal *can.Signal
	value  func(s *state, frame uint64) float64
}

// New prepares a drive.
func New(o Options) (*Drive, error) {
	if o.Duration < time.Second {
		return nil, fmt.Errorf("duration: must be at least 1s, got %v", o.Duration)
	}
	if y := o.Start.Year(); y < 1990 || y > 2079 {
		return nil, fmt.Errorf("start: NMEA dates have two digits for the year; want 1990 to 2079, got %d", y)
	}
	if o.Scenario == "" {
		o.Scenario = Mixed
	}
	parts := scenarios[o.Scenario]
	if parts == nil {
		return nil, fmt.Errorf("scenario %q: there are %s", o.Scenario, strings.Join(Scenarios(), ", "))
	}
	db := can.ParseDBC(dbcText)
	d := &Drive{o: o, model: newModel(o.Seed), phases: plan(parts, o.Duration), faults: slices.Clone(o.Faults), total: int(o.Duration / tick), phase: -1}
	if o.Scenario == "charging" {
		d.model.state.charge -= 0.6 // whoever charges comes with less
	}
	d.summary.ByMessage = map[string]uint64{}
	for _, m := range db.Messages {
		c, err := cycle(db, m)
		if err != nil {
			return nil, fmt.Errorf("demo.dbc:%d: message %s: %w", m.Line, m.Name, err)
		}
		d.messages = append(d.messages, c)
	}
	d.frames = make([]can.Frame, len(d.messages))
	for _, p := range d.phases {
		if p.tunnel {
			d.summary.Tunnels = append(d.summary.Tunnels, Interval{p.from, p.to})
		}
	}
	return d, nil
}

// cycle finds out how often a message is sent and where its values come from.
func cycle(db *can.Database, m *can.Message) (cyclic, error) {
	c := cyclic{message: m}
	text := db.Definitions["GenMsgCycleTime"].Default
	if a, own := m.Attributes["GenMsgCycleTime"]; own {
		text = a.Text
	}
	ms, err := strconv.Atoi(text)
	if err != nil || ms < 10 || ms%10 != 0 {
		return c, fmt.Errorf("cycle time %q: want a multiple of 10 ms", text)
	}
	c.every = ms / 10
	for _, s := range m.Signals {
		value := values[s.Name]
		if value == nil {
			return c, fmt.Errorf("signal %s: the model has no value for it", s.Name)
		}
		if s.Switch {
			c.mux = s
		}
		c.signals = append(c.signals, sender{s, value})
	}
	return c, nil
}

// Next gives the next event. ok is false at the end of the drive.
func (d *Drive) Next() (e Event, ok bool) {
	for len(d.queue) == 0 {
		if d.ticks == d.total {
			return Event{}, false
		}
		d.advance()
	}
	e = d.queue[0]
	d.queue = d.queue[1:]
	return e, true
}

// Sent enters an event into the summary: the caller has sent it. A drive that is broken off then tells the truth.
func (d *Drive) Sent(e *Event) {
	switch {
	case e.Frame != nil && e.Frame.Flags&can.FlagError != 0: // made by a controller, not sent by a node
	case e.Frame != nil:
		d.summary.Frames++
		d.summary.ByMessage[e.message]++
		if e.counter != 0 {
			d.summary.LastCounter = e.counter
			if d.summary.FirstCounter == 0 {
				d.summary.FirstCounter = e.counter
			}
		}
	case e.Sentences != nil:
		d.summary.Sentences += uint64(bytes.Count(e.Sentences, []byte("\n")))
		d.summary.Epochs++
		if e.Fix {
			d.summary.Fixes++
		}
	}
}

// Summary is what Sent was told up to now.
func (d *Drive) Summary() Summary {
	s := d.summary
	s.Distance = d.model.state.distance
	return s
}

// advance does one tick.
func (d *Drive) advance() {
	at := time.Duration(d.ticks) * tick
	d.queue = d.queue[:0]
	for d.phase+1 < len(d.phases) && d.phases[d.phase+1].from <= at {
		d.phase++
		d.queue = append(d.queue, Event{At: at, Phase: d.phases[d.phase].name})
	}
	s := d.model.step(&d.phases[d.phase], at)
	sent := 0
	silent := d.change(at)
	for i := range d.messages {
		if silent {
			break
		}
		c := &d.messages[i]
		if d.ticks%c.every != 0 {
			continue
		}
		c.count++
		counter := d.pack(c, &d.frames[i], s)
		d.queue = append(d.queue, Event{At: at + time.Duration(sent)*slot, Frame: &d.frames[i], message: c.message.Name, counter: counter})
		sent++
	}
	if d.ticks%epochTicks == epochTicks/2 { // not in step with the bus
		fix := d.fix(s, at)
		d.queue = append(d.queue, Event{At: at + time.Duration(sent)*slot, Sentences: d.epoch(fix), Fix: d.sky(at), Place: fix})
	}
	d.ticks++
}

// pack fills a frame with the values of now, and gives the value of FrameCounter if it is in it.
func (d *Drive) pack(c *cyclic, f *can.Frame, s *state) (counter uint64) {
	*f = can.Frame{ID: c.message.ID, Len: uint8(c.message.Length)}
	if c.message.Extended {
		f.Flags = can.FlagExtended
	}
	group := uint64(0)
	if c.mux != nil {
		group = Raw(c.mux, values[c.mux.Name](s, c.count))
	}
	for _, sender := range c.signals {
		if sender.signal.Multiplexor != nil && !within(group, sender.signal.Ranges) {
			continue
		}
		raw := Raw(sender.signal, sender.value(s, c.count))
		Pack(f.Data[:f.Len], sender.signal, raw)
		if sender.signal.Name == counterSignal {
			counter = raw
		}
	}
	return counter
}

func within(value uint64, ranges []can.MuxRange) bool {
	for _, r := range ranges {
		if value >= r.First && value <= r.Last {
			return true
		}
	}
	return false
}

// sky says whether the receiver sees it.
func (d *Drive) sky(at time.Duration) bool {
	return !d.phases[d.phase].tunnel && d.standing(GPSLoss, at) == nil
}

// fix is what the receiver knows now. In a tunnel it keeps the time and has no position.
func (d *Drive) fix(s *state, at time.Duration) gps.Fix {
	f := gps.Fix{
		Time:   d.o.Start.Add(at).UnixNano(),
		Fields: gps.HasTime | gps.HasSatellites | gps.HasQuality,
		Mode:   gps.ModeNoFix,
	}
	if d.sky(at) {
		f.Mode, f.Quality, f.Satellites = gps.Mode3D, gps.QualityGNSS, s.satellites
		f.Latitude, f.Longitude = gps.NanoDegrees(s.latitude), gps.NanoDegrees(s.longitude)
		if jump := d.standing(GPSJump, at); jump != nil {
			f.Latitude += gps.NanoDegrees(jump.Metres / metresPerDegree)
		}
		f.Altitude, f.Separation = s.altitude, geoidSeparation
		f.Speed, f.Track, f.HDOP = s.speed, s.heading, s.dilution
		f.PDOP, f.VDOP = s.dilution*1.7, s.dilution*1.4
		f.Fields |= gps.HasPosition | gps.HasAltitude | gps.HasSeparation | gps.HasSpeed | gps.HasTrack | gps.HasHDOP | gps.HasPDOP | gps.HasVDOP
	}
	return f
}

// epoch writes it.
func (d *Drive) epoch(f gps.Fix) []byte {
	d.text = gps.AppendGGA(d.text[:0], f)
	d.text = gps.AppendGSA(d.text, f)
	if d.o.Sky {
		d.text = gps.AppendGSV(d.text, inView(f))
	}
	d.text = gps.AppendRMC(d.text, f)
	return d.text
}
