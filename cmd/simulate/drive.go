package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/drive"
)

// driveFlags are the flags of drive, as given.
type driveFlags struct {
	can, gps, bus, start, dbcOut  string
	scenario, link, control, into string
	faults                        []string
	duration                      time.Duration
	speed                         float64
	seed                          uint64
	json, sky                     bool
}

func driveCommand() *cobra.Command {
	var f driveFlags
	cmd := &cobra.Command{
		Use:   "drive --can OUT --gps OUT",
		Short: "Drive: frames to a bus, sentences to a GPS line",
		Long: `Drive: frames to a bus, sentences to a GPS line.

An OUT of --can is socketcan:NAME (or just vcan0, can1), or the path of a file or FIFO that gets candump -L lines.
An OUT of --gps is pty:LINK, a pseudo-terminal that the symbolic link LINK leads to while the drive lasts, or the path of
a file or FIFO that gets NMEA sentences; a file begins with a "# Date:" line.

The same --seed, --start, --duration and --scenario always make the same drive.

Faults come by --fault "AT KIND FOR" at their time, or by --control at once, a line each, from a file, a FIFO, or - for
standard input:

  gps-loss 10s        the receiver has the time and no position
  gps-jump 10s 5000   its position lies 5,000 m too far north
  bus-off 5s          the car's controller leaves the bus: an error frame, silence, an error frame
  dead-zone 30s       nothing passes --link, either way; nor does it in a tunnel

--link 127.0.0.1:1884=127.0.0.1:1883 listens on the first address and passes on to the second, a broker say: give the first
one to the agent. --record keeps what was sent, beside --can and --gps.

At the end one line of JSON says what was sent:
counter_first and counter_last are values of DriveCounter.FrameCounter, which counts the frames of its message, so that a
receiver can prove that none is missing.`,
		Example: `  waybill-simulate drive --can vcan0 --gps pty:/tmp/gps0
  waybill-simulate drive --can vcan0 --scenario mountain --duration 10m --fault "30s bus-off 5s" --record drive1
  echo "dead-zone 20s" > faults.fifo     # of a drive with --control faults.fifo --link 127.0.0.1:1884=127.0.0.1:1883`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			go func() { <-ctx.Done(); stop() }() // the second signal kills
			return simulate(ctx, f, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.can, "can", "", "where frames go")
	flags.StringVar(&f.gps, "gps", "", "where sentences go")
	flags.BoolVar(&f.sky, "sky", false, "with GSV sentences: made-up satellites in view, which do not make the dilution that is told")
	flags.StringVar(&f.bus, "bus", "can0", "name of the bus in candump lines")
	flags.DurationVar(&f.duration, "duration", time.Minute, "length of the drive, 1s to 24h")
	flags.Float64Var(&f.speed, "speed", 1, "times real time; 0: as fast as the files take it")
	flags.StringVar(&f.start, "start", "", "when the drive begins, RFC 3339 (default: now)")
	flags.Uint64Var(&f.seed, "seed", 1, "drives with different seeds differ")
	flags.StringVar(&f.scenario, "scenario", drive.Mixed, "what kind of drive: "+strings.Join(drive.Scenarios(), ", "))
	flags.StringArrayVar(&f.faults, "fault", nil, `a fault, "AT KIND FOR", such as "20s gps-loss 10s"; may be given several times`)
	flags.StringVar(&f.control, "control", "", "where faults are read from while it drives")
	flags.StringVar(&f.link, "link", "", "LISTEN=TARGET: a TCP link that is dead in tunnels and dead zones")
	flags.StringVar(&f.into, "record", "", "folder for drive.log, drive.nmea, car.dbc and summary.json of what was sent; made new")
	flags.StringVar(&f.dbcOut, "dbc-out", "", "also write the DBC file here")
	flags.BoolVar(&f.json, "json", false, "a line of JSON at the beginning of each phase")
	return cmd
}

// check says what is wrong with the flags, and gives the start.
func (f *driveFlags) check(now time.Time) (start time.Time, err error) {
	start = now.UTC().Truncate(time.Millisecond)
	if f.start != "" {
		if start, err = time.Parse(time.RFC3339Nano, f.start); err != nil {
			return start, fmt.Errorf("--start %q: want a time such as 2026-11-22T15:04:05Z", f.start)
		}
	}
	switch {
	case f.can == "" && f.gps == "" && f.into == "":
		return start, errors.New("nothing to do: give --can OUT, --gps OUT, --record FOLDER, or several")
	case f.duration < time.Second || f.duration > 24*time.Hour:
		return start, fmt.Errorf("--duration: must be between 1s and 24h, got %v", f.duration)
	case !(f.speed >= 0) || f.speed > 1e6:
		return start, fmt.Errorf("--speed: must be between 0 and 1000000, got %v", f.speed)
	case f.speed == 0 && (isInterface(f.can) || isPTY(f.gps)):
		return start, errors.New("--speed 0 is for files: a bus and a serial line have a speed of their own")
	case f.bus == "" || len(f.bus) > 15:
		return start, fmt.Errorf("--bus %q: want a name of 1 to 15 bytes", f.bus)
	}
	return start.UTC(), nil
}

// summary is the last line.
type summary struct {
	Summary      bool              `json:"summary"`
	Seed         uint64            `json:"seed"`
	Start        time.Time         `json:"start"`
	Duration     float64           `json:"duration_s"` // driven
	Distance     float64           `json:"distance_m"`
	Frames       uint64            `json:"frames"`
	ByMessage    map[string]uint64 `json:"frames_by_message"`
	CounterFirst uint64            `json:"counter_first"`
	CounterLast  uint64            `json:"counter_last"`
	Sentences    uint64            `json:"sentences"`
	Unread       uint64            `json:"sentences_unread"` // of those, thrown away since nobody read the line
	Epochs       uint64            `json:"epochs"`
	Fixes        uint64            `json:"fixes"`
	Tunnels      []interval        `json:"tunnels"`
}

type interval struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// phaseLine is a line of --json.
type phaseLine struct {
	Phase  string    `json:"phase"`
	At     float64   `json:"at_s"`
	Time   time.Time `json:"time"`
	Frames uint64    `json:"frames"`
}

// simulate drives until the end or until ctx ends; either way the summary tells what was sent.
func simulate(ctx context.Context, f driveFlags, in io.Reader, out, errs io.Writer) (err error) {
	start, err := f.check(time.Now())
	if err != nil {
		return cli.UsageError(err)
	}
	faults, err := parseFaults(f.faults)
	if err != nil {
		return cli.UsageError(err)
	}
	d, err := drive.New(drive.Options{Seed: f.seed, Start: start, Duration: f.duration, Scenario: f.scenario, Faults: faults, Sky: f.sky})
	if err != nil {
		return cli.UsageError(err)
	}
	if f.dbcOut != "" {
		if err := os.WriteFile(f.dbcOut, drive.DBC(), 0o644); err != nil {
			return err
		}
	}
	link, err := openLink(f.link)
	if err != nil {
		return fmt.Errorf("--link: %w", err)
	}
	defer link.Close()
	commands, stop, err := openControl(ctx, f.control, in, errs)
	if err != nil {
		return fmt.Errorf("--control: %w", err)
	}
	defer stop()
	bus, line, err := f.open(ctx, start)
	if err != nil {
		return err
	}
	p := &player{drive: d, start: start, speed: f.speed, bus: bus, line: line, link: link, commands: commands, phases: f.json, out: json.NewEncoder(out)}
	err = p.run(ctx)
	err = errors.Join(err, bus.Close(), line.Close())
	sum := p.summary(f.seed)
	if f.into != "" {
		err = errors.Join(err, writeSummary(f.into, sum))
	}
	return errors.Join(err, p.out.Encode(sum))
}

// open opens what frames and sentences go to.
func (f *driveFlags) open(ctx context.Context, start time.Time) (bus, line, error) {
	bus, err := openBus(ctx, f.can, f.bus)
	if err != nil {
		return nil, nil, fmt.Errorf("--can: %w", err)
	}
	line, err := openLine(ctx, f.gps, start)
	if err == nil && f.into != "" {
		recordedBus, recordedLine, err := record(f.into, f.bus, start)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("--record: %w", err), bus.Close(), line.Close())
		}
		return busTee{bus, recordedBus}, lineTee{line, recordedLine}, nil
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("--gps: %w", err), bus.Close())
	}
	return bus, line, nil
}

// player sends the events of a drive at their time.
type player struct {
	drive    *drive.Drive
	start    time.Time
	speed    float64
	bus      bus
	line     line
	link     *link
	commands <-chan drive.Fault
	phases   bool
	out      *json.Encoder
	at       time.Duration // of the last event
}

func (p *player) summary(seed uint64) summary {
	s := p.drive.Summary()
	sum := summary{
		Summary: true, Seed: seed, Start: p.start, Duration: p.at.Seconds(), Distance: math.Round(s.Distance), Frames: s.Frames, ByMessage: s.ByMessage,
		CounterFirst: s.FirstCounter, CounterLast: s.LastCounter, Sentences: s.Sentences, Unread: p.line.Unread(), Epochs: s.Epochs, Fixes: s.Fixes,
		Tunnels: []interval{},
	}
	for _, t := range s.Tunnels {
		if t.From < p.at {
			sum.Tunnels = append(sum.Tunnels, interval{p.start.Add(t.From), p.start.Add(min(t.To, p.at))})
		}
	}
	return sum
}

func (p *player) run(ctx context.Context) error {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case f := <-p.commands:
			p.drive.Inject(f)
		default:
		}
		e, ok := p.drive.Next()
		if !ok {
			return nil
		}
		if p.speed > 0 {
			due := time.Duration(float64(e.At) / p.speed)
			// Frames that are due within a millisecond go together: timers are no finer.
			if wait := due - time.Since(began); wait > time.Millisecond {
				if err := p.flush(); err != nil {
					return err
				}
				timer.Reset(wait)
				select {
				case <-ctx.Done():
					return nil
				case <-timer.C:
				}
			}
		}
		if err := p.send(ctx, e); err != nil {
			return err
		}
		p.drive.Sent(&e)
		p.at = e.At
	}
	return nil
}

func (p *player) send(ctx context.Context, e drive.Event) error {
	at := p.start.Add(e.At)
	switch {
	case e.Frame != nil:
		if err := p.bus.Send(ctx, at, e.Frame); err != nil {
			return fmt.Errorf("--can: %w", err)
		}
	case e.Sentences != nil:
		if err := p.line.Send(e.Sentences); err != nil {
			return fmt.Errorf("--gps: %w", err)
		}
	case e.Network != "":
		p.link.dead(e.Network == "dead")
	case p.phases:
		if err := p.flush(); err != nil {
			return err
		}
		return p.out.Encode(phaseLine{e.Phase, e.At.Seconds(), at, p.drive.Summary().Frames})
	}
	return nil
}

func (p *player) flush() error { return errors.Join(p.bus.Flush(), p.line.Flush()) }

// bus takes frames.
type bus interface {
	Send(ctx context.Context, at time.Time, f *can.Frame) error
	Flush() error
	Close() error
}

// line takes sentences.
type line interface {
	Send(sentences []byte) error
	Unread() uint64 // sentences that nobody read
	Flush() error
	Close() error
}
