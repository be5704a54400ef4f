package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/command"
)

// The commands of this version.
const (
	commandPing     = "ping"
	commandStatus   = "status"
	commandLogLevel = "set_log_level"
)

var commandNames = []string{commandPing, commandStatus, commandLogLevel}

// commitWait bounds how long a result is waited for on its way to the disk; it stays in memory longer.
const commitWait = 5 * time.Second

// openCommands makes what takes commands; nothing comes before the uplink runs.
func (a *agent) openCommands() error {
	if a.settings.Uplink.Broker == nil || a.logClock != nil {
		return nil // nobody can send one; a recording's time judges no expiry
	}
	s := &a.settings.Commands
	a.levels = &logLevel{level: a.settings.Level, usual: a.settings.LogLevel, log: a.log}
	runner, warning, err := command.New(command.Options{
		Tenant: a.settings.Tenant, Device: a.settings.Device,
		Dir: a.settings.DataDir, Epoch: a.queue.Epoch(), BootID: a.boot.ID, BootCount: a.boot.Count,
		Keys: s.Keys, Allow: s.Allow, MaxLife: s.MaxLife,
		Handlers: []command.Handler{
			{Name: commandPing, Harmless: true, Run: a.ping},
			{Name: commandStatus, Harmless: true, Run: a.tellStatus},
			{Name: commandLogLevel, Check: checkLogLevel, Run: a.levels.set},
		},
		Time: func() (int64, uint64) {
			unix, doubt, _ := a.times.Now(a.clock.Boot())
			return unix, doubt
		},
		Emit: func(r *telemetrypb.CommandResult) {
			a.pipe.Emit(&telemetrypb.Record{Record: &telemetrypb.Record_Result{Result: r}})
		},
		Commit: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, commitWait)
			defer cancel()
			return a.pipe.Commit(ctx, false)
		},
		Write: writeDurably, Clock: a.clock, Log: a.log, Metrics: a.metrics,
		Alarm: func(text string) {
			if text == "" {
				a.alarms.Clear("commands.foreign")
			} else {
				a.alarms.Raise("commands.foreign", text)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("commands: %w", err)
	}
	if warning != nil {
		a.log.Warn("commands", "error", warning)
	}
	a.commands = runner
	return nil
}

// heard takes what the uplink hears beside receipts.
func (a *agent) heard(topic string, payload []byte) {
	if a.commands != nil && topic == telemetrypb.Topic(a.settings.Tenant, a.settings.Device, telemetrypb.TopicCommand) {
		a.commands.Offer(payload)
	}
}

// ping says that the vehicle hears, and how it sees itself in time and version.
func (a *agent) ping(context.Context, *command.Call) (string, error) {
	id := firmware.Current()
	unix, doubt, source := a.times.Now(a.clock.Boot())
	answer := struct {
		Version     string  `json:"version"`
		Hardware    string  `json:"hardware"`
		Boot        string  `json:"boot_id"`
		Boots       uint32  `json:"boots"`
		Up          float64 `json:"up_s"`
		Time        string  `json:"time,omitempty"`
		Uncertainty float64 `json:"uncertainty_s,omitempty"`
		Source      string  `json:"time_source"`
	}{Version: id.Version, Hardware: id.Hardware, Boot: clock.FormatBootID(a.boot.ID), Boots: a.boot.Count,
		Up: float64(a.clock.Boot()/1e6) / 1e3, Source: source.String()}
	if doubt < telemetrypb.Unbounded {
		answer.Time, answer.Uncertainty = time.Unix(0, unix).UTC().Format(time.RFC3339Nano), float64(doubt)/1e9
	}
	text, err := json.Marshal(answer)
	return string(text), err
}

// tellStatus is the retained status as it would be published now, and the uplink's own word.
func (a *agent) tellStatus(context.Context, *command.Call) (string, error) {
	status, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(a.status())
	if err != nil {
		return "", err
	}
	var link string
	if a.uplink != nil {
		link = a.uplink.State().String()
	}
	text, err := json.Marshal(struct {
		Status json.RawMessage `json:"status"`
		Uplink string          `json:"uplink"`
	}{status, link})
	return string(text), err
}

// logLevel changes how much is logged, for a time. It does not outlive the process: a restart goes back to the configuration.
type logLevel struct {
	level *slog.LevelVar
	usual slog.Level
	log   *slog.Logger

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

const (
	usualLogTime = 10 * time.Minute
	mostLogTime  = 24 * time.Hour
)

// logArguments reads {level: debug, for: 10m}.
func logArguments(arguments map[string]string) (level slog.Level, d time.Duration, err error) {
	d = usualLogTime
	for name, value := range arguments {
		switch name {
		case "level":
			err = level.UnmarshalText([]byte(value))
		case "for":
			if d, err = time.ParseDuration(value); err == nil && (d < time.Second || d > mostLogTime) {
				err = fmt.Errorf("must be between 1s and %v, got %v", mostLogTime, d)
			}
		default:
			err = errors.New("want level and for")
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	if arguments["level"] == "" {
		return 0, 0, errors.New("level: want debug, info, warn or error")
	}
	return level, d, nil
}

func checkLogLevel(arguments map[string]string) error {
	_, _, err := logArguments(arguments)
	return err
}

func (l *logLevel) set(_ context.Context, c *command.Call) (string, error) {
	level, d, err := logArguments(c.Arguments)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.level.Set(level)
	l.log.Warn("the log level was changed by a command", "level", level.String(), "for", d)
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.timer == timer { // or a later command has its own
			l.level.Set(l.usual)
			l.log.Warn("the log level is that of the configuration again", "level", l.usual.String())
		}
	})
	l.timer = timer
	return fmt.Sprintf("%s for %v, then %s again, or at a restart", level, d, l.usual), nil
}

// stop leaves no timer behind.
func (l *logLevel) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}
