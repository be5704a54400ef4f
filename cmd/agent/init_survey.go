package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/gps"
)

// survey is what init found.
type survey struct {
	Buses     []foundBus      `json:"buses"`
	Receivers []foundReceiver `json:"receivers"`
}

// foundBus is an interface, or a bus of a log.
type foundBus struct {
	Name   string `json:"name"`
	Log    string `json:"log,omitempty"`  // "": an interface
	Down   string `json:"down,omitempty"` // why it was not listened to
	Frames int    `json:"frames"`
	IDs    int    `json:"ids"`
	J1939  bool   `json:"j1939"`
	Taken  []fit  `json:"taken"`  // the DBC files that explain it
	Ranked []fit  `json:"ranked"` // all of them
	heard  *heard
	state  can.LinkState
}

// foundReceiver is a receiver that speaks.
type foundReceiver struct {
	Serial string `json:"serial,omitempty"`
	Baud   int    `json:"baud,omitempty"` // bit/s
	GPSD   string `json:"gpsd,omitempty"`
	Log    string `json:"log,omitempty"`
	Fix    bool   `json:"fix"`
}

// surveyor looks around. It sends nothing.
type surveyor struct {
	listen  time.Duration
	dbc     []string
	logs    []string // candump logs in place of interfaces
	gpsLogs []string // NMEA logs in place of receivers
	serial  []string // beside those that are looked for
	gpsd    string   // host:port
	say     func(format string, args ...any)
}

// run listens to everything at once.
func (s *surveyor) run(ctx context.Context) (*survey, error) {
	files, err := readDBCs(s.dbc, func(text string) { s.say("%s", text) })
	if err != nil {
		return nil, err
	}
	result := &survey{}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if len(s.logs)+len(s.gpsLogs) > 0 {
		for _, log := range s.logs {
			if err := result.readLog(log); err != nil {
				return nil, fmt.Errorf("--log: %w", err)
			}
		}
		for _, log := range s.gpsLogs {
			result.Receivers = append(result.Receivers, foundReceiver{Log: log})
		}
	} else {
		tasks.Go(func() { result.Receivers = s.receivers(ctx) })
		s.interfaces(ctx, result)
	}
	for i := range result.Buses {
		b := &result.Buses[i]
		b.Frames, b.IDs, b.J1939 = b.heard.frames, len(b.heard.ids), b.heard.looksJ1939()
		b.Taken, b.Ranked = choose(b.heard, files)
	}
	tasks.Wait()
	return result, nil
}

// interfaces listens to those that are up.
func (s *surveyor) interfaces(ctx context.Context, result *survey) {
	var links can.LinkReader
	defer links.Close()
	list, err := links.List()
	if err != nil {
		s.say("%v", err)
	}
	for _, l := range list {
		b := foundBus{Name: l.Name, heard: newHeard(), state: l}
		if !l.Up {
			b.Down = "it is down"
		}
		result.Buses = append(result.Buses, b)
	}
	var tasks sync.WaitGroup
	for i := range result.Buses {
		b := &result.Buses[i]
		if b.Down != "" {
			continue
		}
		s.say("listening to %s for %v", b.Name, s.listen)
		tasks.Go(func() {
			h, err := hear(ctx, b.Name, s.listen)
			if err != nil {
				b.Down = err.Error()
			}
			if h != nil {
				b.heard = h
			}
		})
	}
	tasks.Wait()
}

// readLog reads a candump log: each of its buses is one.
func (s *survey) readLog(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := can.NewScanner(f)
	place := map[string]int{}
	for lines.Scan() {
		i, known := place[lines.Bus()]
		if !known {
			i = len(s.Buses)
			place[lines.Bus()] = i
			s.Buses = append(s.Buses, foundBus{Name: lines.Bus(), Log: name, heard: newHeard()})
		}
		s.Buses[i].heard.take(lines.Frame())
	}
	if len(place) == 0 && lines.Err() == nil {
		return fmt.Errorf("%s: no frame in it; candump -L writes such logs", name)
	}
	return lines.Err()
}

// usualDevices are where receivers are found. Names by id come first: they survive replugging.
var usualDevices = []string{"/dev/serial/by-id/*", "/dev/ttyACM*", "/dev/ttyUSB*"}

// receivers finds a gpsd and receivers on serial lines. With a gpsd, which reads them itself, lines are left alone.
func (s *surveyor) receivers(ctx context.Context) (found []foundReceiver) {
	if conn, err := net.DialTimeout("tcp", s.gpsd, time.Second); err == nil {
		_ = conn.Close() // it carried nothing
		s.say("listening to gpsd at %s for %v", s.gpsd, s.listen)
		heard, err := listenTo(ctx, gpsSettings{GPSD: &gpsdConfig{Address: s.gpsd}}, s.listen, false)
		if err == nil && heard.counters.Sentences > 0 {
			return []foundReceiver{{GPSD: s.gpsd, Fix: heard.valid}}
		}
		s.say("gpsd at %s reports no receiver", s.gpsd)
	}
	devices := serialDevices(s.serial)
	list := make([]*foundReceiver, len(devices))
	var tasks sync.WaitGroup
	for i, device := range devices {
		s.say("listening to %s at the usual rates", device)
		tasks.Go(func() { list[i] = s.serialReceiver(ctx, device) })
	}
	tasks.Wait()
	for _, r := range list {
		if r != nil {
			found = append(found, *r)
		}
	}
	return found
}

// serialDevices are the named ones and those in the usual places, each once.
func serialDevices(named []string) (devices []string) {
	seen := map[string]bool{}
	for _, pattern := range slices.Concat(named, usualDevices) {
		names, _ := filepath.Glob(pattern) // the patterns are sound; a name is one that finds itself
		for _, name := range names {
			if target, err := filepath.EvalSymlinks(name); err == nil && !seen[target] {
				seen[target] = true
				devices = append(devices, name)
			}
		}
	}
	return devices
}

// serialReceiver tries the usual rates; nil: no receiver.
func (s *surveyor) serialReceiver(ctx context.Context, device string) *foundReceiver {
	for _, rate := range usualBauds {
		g := gpsSettings{Serial: device, Baud: rate}
		heard, err := listenTo(ctx, g, rateListen, true)
		if err != nil || heard.err != nil && heard.counters == (gps.Counters{}) {
			return nil // it cannot be read
		}
		if heard.counters.Sentences >= 2 {
			heard, err = listenTo(ctx, g, s.listen, false)
			return &foundReceiver{Serial: device, Baud: rate, Fix: err == nil && heard.valid}
		}
	}
	return nil
}

// errNothing: a configuration needs a source.
var errNothing = errors.New("there is no CAN interface that is up, and no receiver speaks: bring an interface up (sudo " +
	"ip link set can0 up type can bitrate 500000 listen-only on), " +
	"or begin with recordings: --log FILE, as candump -L writes them")

// summary tells what was found.
func (s *survey) summary(out io.Writer) {
	for _, b := range s.Buses {
		switch {
		case b.Down != "":
			fmt.Fprintf(out, "%s: %s\n", b.Name, b.Down)
			continue
		case b.Frames == 0:
			fmt.Fprintf(out, "%s: no frame came\n", b.Name)
			continue
		}
		fmt.Fprintf(out, "%s: %d frames of %d ids\n", b.Name, b.Frames, b.IDs)
		for i, f := range b.Ranked {
			mark := "  "
			if b.takes(f) {
				mark = "* "
			} else if i >= shownFits || f.Right == 0 {
				continue
			}
			fmt.Fprintf(out, "  %s%s\n", mark, f)
		}
	}
	for _, r := range s.Receivers {
		fmt.Fprintf(out, "%s\n", r)
	}
}

func (b *foundBus) takes(f fit) bool {
	return slices.ContainsFunc(b.Taken, func(t fit) bool { return t.File == f.File })
}

// shownFits are so many of a bus's ranked files.
const shownFits = 5

func (r foundReceiver) String() string {
	fix := ", no fix yet"
	if r.Fix {
		fix = ", with a fix"
	}
	switch {
	case r.GPSD != "":
		return "receiver of gpsd at " + r.GPSD + fix
	case r.Log != "":
		return "receiver recorded in " + r.Log
	}
	return fmt.Sprintf("receiver on %s at %d bit/s%s", r.Serial, r.Baud, fix)
}
