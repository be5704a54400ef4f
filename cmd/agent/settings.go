package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/credential"
	"github.com/waybill-telematics/waybill/uplink/network"
	"github.com/waybill-telematics/waybill/uplink/profile"
)

// settings is a configuration that was checked: typed, with defaults filled in.
type settings struct {
	Device, Tenant string
	DataDir        string
	LogLevel       slog.Level
	Level          *slog.LevelVar // LogLevel, unless a command has changed it
	LogJSON        bool
	CAN            []canSettings
	GPS            []gpsSettings
	IMU            []imuConfig
	Collect        []pipeline.Collect
	Rules          []pipeline.Threshold
	CommitEvery    time.Duration
	SealEvery      time.Duration
	Queue          queueSettings
	Uplink         uplinkSettings
	Commands       commandSettings
	Power          *powerSettings  // nil: it is always on
	Update         *updateSettings // nil: it stays what it is
	MetricsListen  string          // address, or unix:PATH; empty: nowhere
	Page           pageSettings
	Profile        string
	LogTime        bool // replays whose own stamps are the clock

	dbc map[string][]byte // texts of DBC files by path, so that this can be begun again when they have changed
}

type replaySettings struct {
	File  string  // "-" is standard input
	Speed float64 // 1: as recorded; 0: as fast as it can
	Time  string  // log: its own stamps are the clock; receipt: it is a live source
}

type canSettings struct {
	Bus        string
	Interface  string
	Bitrate    uint32 // bit/s; 0: leave the interface as it is
	ListenOnly bool
	Replay     *replaySettings
	LogBus     string // "" takes every bus of the log
	DBC        []string
	J1939      bool
	Record     recordSettings
	Diagnose   *diagnoseSettings // nil: nothing is sent
}

type uplinkSettings struct {
	Broker              *url.URL // nil: record only
	ClientID            string
	Insecure            bool
	Credentials         credential.Options // Now is the agent's
	User                string
	Proxy               proxySettings
	Links               []network.Link
	BudgetLocal         bool // budgets begin anew at local midnight, not UTC's
	RefusedRetry        time.Duration
	Ack                 uplink.Ack
	Format              map[telemetrypb.Lane]uplink.Format
	KeepAlive           time.Duration
	ReceiptTimeout      time.Duration
	RetryBase, RetryCap time.Duration
	Profile             *profile.Profile // nil: any broker
	PayloadBytes        int
	InFlight            int // 0: the uplink's default
	Drain               time.Duration
}

var laneNames = map[string]telemetrypb.Lane{
	"control":   telemetrypb.Lane_LANE_CONTROL,
	"event":     telemetrypb.Lane_LANE_EVENT,
	"telemetry": telemetrypb.Lane_LANE_TELEMETRY,
	"raw":       telemetrypb.Lane_LANE_RAW,
}

// checker collects what is wrong while it converts.
type checker struct {
	d    *document
	list []problem
}

func (c *checker) fail(text string, path ...any) {
	file, line := c.d.place(path...)
	c.list = append(c.list, problem{file, line, keyPath(path) + ": " + text})
}

// keyPath writes a path as can[0].dbc[1].
func keyPath(path []any) string {
	var key strings.Builder
	for _, p := range path {
		switch p := p.(type) {
		case string:
			if key.Len() > 0 {
				key.WriteByte('.')
			}
			key.WriteString(p)
		case int:
			fmt.Fprintf(&key, "[%d]", p)
		}
	}
	return key.String()
}

// check turns a file into settings, or says everything that is wrong with it. Relative paths are taken from the
// file's folder.
func check(d *document) (*settings, error) {
	c := &checker{d: d}
	raw := &d.config
	s := &settings{
		Device:      raw.Device.ID,
		Tenant:      orDefault(raw.Device.Tenant, "default"),
		DataDir:     c.path(orDefault(raw.DataDir, "/var/lib/waybill")),
		CommitEvery: c.duration(raw.Queue.CommitEvery, time.Second, 100*time.Millisecond, time.Minute, "queue", "commit_every"),
		SealEvery:   c.duration(raw.Queue.SealEvery, 5*time.Second, 100*time.Millisecond, 10*time.Minute, "queue", "seal_every"),
	}
	if err := telemetrypb.CheckName("device id", s.Device); err != nil {
		c.fail(fmt.Sprintf("%v; it becomes part of the MQTT topic", err), "device", "id")
	}
	if err := telemetrypb.CheckName("tenant", s.Tenant); err != nil {
		c.fail(err.Error(), "device", "tenant")
	}
	if err := s.LogLevel.UnmarshalText([]byte(orDefault(raw.Log.Level, "info"))); err != nil {
		c.fail(fmt.Sprintf("want debug, info, warn or error, got %q", raw.Log.Level), "log", "level")
	}
	s.Level = &slog.LevelVar{}
	s.Level.Set(s.LogLevel)
	s.LogJSON = c.oneOf(raw.Log.Format, []string{"text", "json"}, "log", "format") == "json"
	c.page(s)
	c.sources(s)
	c.collect(s)
	c.queue(s)
	c.uplink(s)
	c.commands(s)
	c.power(s)
	c.update(s)
	if len(c.list) > 0 {
		slices.SortStableFunc(c.list, func(a, b problem) int { return cmp.Or(cmp.Compare(a.File, b.File), a.Line-b.Line) })
		return nil, &problems{d.file, c.list}
	}
	return s, nil
}

func (c *checker) sources(s *settings) {
	raw := &c.d.config
	if len(raw.CAN)+len(raw.GPS)+len(raw.IMU) == 0 {
		c.fail("no source; name at least one bus under can: or one receiver under gps:", "can")
	}
	live := false
	names := map[string]bool{}
	for i, r := range raw.CAN {
		at := func(key string) []any { return []any{"can", i, key} }
		o := canSettings{Bus: r.Bus, Interface: r.Interface, Bitrate: r.Bitrate, LogBus: r.LogBus, J1939: r.J1939,
			ListenOnly: r.ListenOnly == nil || *r.ListenOnly}
		if o.Bus == "" {
			o.Bus = orDefault(r.Interface, r.LogBus)
		}
		if err := telemetrypb.CheckName("bus name", o.Bus); err != nil {
			c.fail(err.Error()+"; it is the first part of signal names", at("bus")...)
		} else if names[o.Bus] {
			c.fail(fmt.Sprintf("%q is named twice", o.Bus), at("bus")...)
		}
		names[o.Bus] = true
		if (r.Interface == "") == (r.Replay == "") {
			c.fail("want either interface: (SocketCAN) or replay: (a candump log)", at("interface")...)
		}
		if len(r.Interface) > 15 {
			c.fail(fmt.Sprintf("%q is longer than the 15 characters of a Linux interface name", r.Interface), at("interface")...)
		}
		if r.Bitrate != 0 && (r.Bitrate < 5_000 || r.Bitrate > 1_000_000) {
			c.fail(fmt.Sprintf("must be between 5000 and 1000000 bit/s, got %d", r.Bitrate), at("bitrate")...)
		}
		o.Replay = c.replay(r.Replay, r.Speed, r.Time, "can", i)
		live = live || o.Replay == nil || o.Replay.Time == "receipt"
		for j, file := range r.DBC {
			path := c.path(file)
			if _, err := os.Stat(path); err != nil {
				c.fail(err.Error(), "can", i, "dbc", j)
			}
			o.DBC = append(o.DBC, path)
		}
		o.Record = c.record(r.Record, i)
		if len(r.DBC) == 0 && r.Record == nil && !r.J1939 && r.Diagnose == nil {
			c.fail("want at least one DBC file, without which no signal of this bus has a name, or record: all, or j1939: true for its trouble codes alone, or diagnose:", at("dbc")...)
		}
		o.Diagnose = c.diagnosis(&r, o, i)
		s.CAN = append(s.CAN, o)
	}
	live = c.receivers(s, names) || live
	live = c.sensors(s, names) || live
	for i, o := range s.CAN {
		s.LogTime = s.LogTime || o.Replay != nil && o.Replay.Time == "log"
		if live && o.Replay != nil && o.Replay.Time == "log" {
			c.fail("a replay with its own time cannot run beside a live source: there is one clock; set time: receipt", "can", i, "time")
		}
	}
	for i, o := range s.GPS {
		s.LogTime = s.LogTime || o.Replay != nil && o.Replay.Time == "log"
		if live && o.Replay != nil && o.Replay.Time == "log" {
			c.fail("a replay with its own time cannot run beside a live source: there is one clock; set time: receipt", "gps", i, "time")
		}
	}
}

func (c *checker) replay(file string, speed *float64, time, section string, index int) *replaySettings {
	if file == "" {
		if speed != nil {
			c.fail("is for replay: only", section, index, "speed")
		}
		if time != "" {
			c.fail("is for replay: only", section, index, "time")
		}
		return nil
	}
	r := &replaySettings{File: file, Speed: 1, Time: c.oneOf(time, []string{"log", "receipt"}, section, index, "time")}
	if file != "-" {
		r.File = c.path(file)
		if _, err := os.Stat(r.File); err != nil {
			c.fail(err.Error(), section, index, "replay")
		}
	}
	if speed != nil {
		r.Speed = *speed
	}
	if !(r.Speed >= 0 && r.Speed <= 1e6) {
		c.fail(fmt.Sprintf("must be between 0 (as fast as it can) and 1000000, got %g", r.Speed), section, index, "speed")
	}
	return r
}

func (c *checker) collect(s *settings) {
	raw := &c.d.config.Collect
	recorded := slices.ContainsFunc(s.CAN, func(bus canSettings) bool { return bus.Record.on() })
	if len(raw.Signals) == 0 && !recorded {
		c.fail(`collects nothing; name signals, as in "- match: '*'"`, "collect", "signals")
	}
	for i, r := range raw.Signals {
		at := func(key string) []any { return []any{"collect", "signals", i, key} }
		o := pipeline.Collect{Match: r.Match, Lane: telemetrypb.Lane_LANE_TELEMETRY, DeadBand: r.DeadBand}
		if r.Match == "" {
			c.fail("want a pattern over signal names, such as can0.*.VehicleSpeed", at("match")...)
		}
		if lane := c.oneOf(r.Lane, []string{"telemetry", "event"}, at("lane")...); lane == "event" {
			o.Lane = telemetrypb.Lane_LANE_EVENT
		}
		o.OnChange = c.oneOf(r.Sample, []string{"on_change", "every"}, at("sample")...) == "on_change"
		if r.DeadBand < 0 || math.IsNaN(r.DeadBand) || math.IsInf(r.DeadBand, 0) {
			c.fail(fmt.Sprintf("must be 0 or more, in the signal's unit, got %g", r.DeadBand), at("dead_band")...)
		}
		if r.DeadBand > 0 && !o.OnChange {
			c.fail("a dead band needs sample: on_change", at("dead_band")...)
		}
		o.MinInterval = c.duration(r.MinInterval, 0, 0, time.Hour, at("min_interval")...)
		o.MaxInterval = c.duration(r.MaxInterval, 0, 0, 24*time.Hour, at("max_interval")...)
		if o.MaxInterval > 0 && o.MaxInterval < o.MinInterval {
			c.fail(fmt.Sprintf("must not be below min_interval (%v), got %v", o.MinInterval, o.MaxInterval), at("max_interval")...)
		}
		s.Collect = append(s.Collect, o)
	}
	names := map[string]bool{}
	for i, r := range raw.Rules {
		at := func(key string) []any { return []any{"collect", "rules", i, key} }
		if err := telemetrypb.CheckName("rule name", r.Name); err != nil {
			c.fail(err.Error(), at("name")...)
		} else if names[r.Name] {
			c.fail(fmt.Sprintf("%q is named twice", r.Name), at("name")...)
		}
		names[r.Name] = true
		if r.Signal == "" {
			c.fail("want the full name of one signal, such as can0.Motion.VehicleSpeed", at("signal")...)
		}
		if r.Above == nil && r.Below == nil {
			c.fail("want above: or below:, in the signal's unit", at("above")...)
		}
		if r.Hysteresis < 0 || math.IsNaN(r.Hysteresis) {
			c.fail(fmt.Sprintf("must be 0 or more, in the signal's unit, got %g", r.Hysteresis), at("hysteresis")...)
		}
		s.Rules = append(s.Rules, pipeline.Threshold{Name: r.Name, Signal: r.Signal, Above: r.Above, Below: r.Below, Hysteresis: r.Hysteresis})
	}
}

func (c *checker) uplink(s *settings) {
	raw := &c.d.config.Uplink
	u := &s.Uplink
	at := func(key string) []any { return []any{"uplink", key} }
	*u = uplinkSettings{
		ClientID: orDefault(raw.ClientID, s.Device), Insecure: raw.Insecure,
		User:           raw.User,
		Format:         map[telemetrypb.Lane]uplink.Format{},
		KeepAlive:      c.duration(raw.KeepAlive, 15*time.Second, time.Second, 10*time.Minute, at("keep_alive")...),
		ReceiptTimeout: c.duration(raw.ReceiptTimeout, 45*time.Second, time.Second, time.Hour, at("receipt_timeout")...),
		RetryBase:      c.duration(raw.RetryBase, 2*time.Second, 100*time.Millisecond, time.Minute, at("retry_base")...),
		RetryCap:       c.duration(raw.RetryCap, 5*time.Minute, 100*time.Millisecond, time.Hour, at("retry_cap")...),
		PayloadBytes:   int(c.size(raw.PayloadBytes, 64<<10, 1<<10, 256<<10, at("payload_bytes")...)),
		Drain:          c.duration(raw.Drain, 10*time.Second, 0, 10*time.Minute, at("drain")...),
	}
	if u.RetryCap < u.RetryBase {
		c.fail(fmt.Sprintf("must not be below retry_base (%v), got %v", u.RetryBase, u.RetryCap), at("retry_cap")...)
	}
	u.Ack = uplink.AckReceipt
	if c.oneOf(raw.Ack, []string{"receipt", "puback"}, at("ack")...) == "puback" {
		u.Ack = uplink.AckPuback
	}
	for name, format := range raw.Format {
		lane, ok := laneNames[name]
		if !ok {
			c.fail("want a lane: control, event, telemetry or raw", "uplink", "format", name)
		}
		switch c.oneOf(format, []string{"columns", "plain", "json"}, "uplink", "format", name) {
		case "plain":
			u.Format[lane] = uplink.FormatPlain
		case "json":
			u.Format[lane] = uplink.FormatJSON
		}
	}
	c.credentials(u)
	c.links(u)
	if raw.Broker == "" {
		return
	}
	broker, err := url.Parse(raw.Broker)
	if err != nil || broker.Host == "" {
		c.fail("want a URL such as mqtts://broker.example.com:8883", at("broker")...)
		return
	}
	if broker.User != nil {
		c.fail("no user or password in the URL, where logs would show it; use user: and password_file:", at("broker")...)
	}
	switch broker.Scheme {
	case "mqtts", "ssl", "tls", "wss":
	case "mqtt", "tcp", "ws":
		if !u.Insecure {
			c.fail(fmt.Sprintf("%s: is not encrypted; use mqtts: or, on a bench only, set insecure: true", broker.Scheme), at("broker")...)
		}
	default:
		c.fail(fmt.Sprintf("want mqtts, mqtt, wss or ws, got %q", broker.Scheme), at("broker")...)
	}
	u.Broker = broker
	c.profile(s)
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// path takes a relative path from the configuration file's folder.
func (c *checker) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(c.d.file), name)
}

// oneOf checks a word; empty is the first choice.
func (c *checker) oneOf(word string, choices []string, path ...any) string {
	if word == "" {
		return choices[0]
	}
	if !slices.Contains(choices, word) {
		c.fail(fmt.Sprintf("want %s, got %q", strings.Join(choices, " or "), word), path...)
	}
	return word
}

func (c *checker) duration(text string, fallback, low, high time.Duration, path ...any) time.Duration {
	if text == "" {
		return fallback
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		c.fail(fmt.Sprintf("want a number with a unit, such as 500ms, 5s or 2m, got %q", text), path...)
		return fallback
	}
	if d < low || d > high {
		c.fail(fmt.Sprintf("must be between %v and %v, got %v", low, high, d), path...)
	}
	return d
}

// size reads a number of bytes: plain, or with KiB to TiB (powers of 1024) or kB to TB (powers of 1000).
func (c *checker) size(text string, fallback, low, high int64, path ...any) int64 {
	if text == "" {
		return fallback
	}
	units := []struct {
		name string
		size float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}
	for _, u := range units {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
			if err != nil {
				break
			}
			if bytes := n * u.size; bytes >= float64(low) && bytes <= float64(high) {
				return int64(bytes)
			}
			c.fail(fmt.Sprintf("must be between %d and %d bytes, got %s", low, high, text), path...)
			return fallback
		}
	}
	c.fail(fmt.Sprintf("want bytes, such as 16MiB or 1GiB, got %q", text), path...)
	return fallback
}
