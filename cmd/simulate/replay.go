package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
)

type replayFlags struct {
	onto  []string
	speed float64
	loops int
}

func replayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay LOG [--onto BUS=OUT]",
		Short: "Play a candump log onto buses, at any speed",
		Long: `Play a candump log (candump -L, or what candump prints) onto buses, with the distances in time that it has, times --speed.

--onto BUS=OUT says where the frames of a bus of the log go: socketcan:NAME (or just vcan0, can1), or the path of a file or FIFO that
gets candump -L lines. A bus that no --onto names goes to the interface of its name. Where the log's time goes back, the next frame
goes at once. Error frames of the log go with the others where they go into a file, and are left out on an interface: what a
controller says cannot be sent. At the end one line of JSON says what was played.`,
		Example: `  waybill-simulate replay drive.log --onto can0=vcan0 --speed 10
  zstd -dc long.log.zst | waybill-simulate replay - --onto can0=vcan0 --onto can1=vcan1`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.UsageError(errors.New("want one LOG, or - for standard input"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // the second signal kills
			return replay(ctx, args[0], f, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.onto, "onto", nil, "BUS=OUT; may be given several times")
	flags.Float64Var(&f.speed, "speed", 1, "times real time; 0: as fast as it is taken")
	flags.IntVar(&f.loops, "loops", 1, "how often the log is played; 0: until told to stop")
	return cmd
}

// replayed is the last line of a replay.
type replayed struct {
	Summary  bool              `json:"summary"`
	Frames   map[string]uint64 `json:"frames"`   // by bus of the log
	LeftOut  uint64            `json:"left_out"` // error frames, on interfaces
	Rejected uint64            `json:"rejected"` // lines that are none of candump's
	Duration float64           `json:"duration_s"`
}

// replay plays until the log's end, or until ctx ends.
func replay(ctx context.Context, path string, f replayFlags, in io.Reader, out, errs io.Writer) (err error) {
	onto := map[string]string{}
	for _, text := range f.onto {
		name, to, found := strings.Cut(text, "=")
		if !found || name == "" || to == "" {
			return cli.UsageError(fmt.Errorf("--onto %q: want BUS=OUT, such as can0=vcan0", text))
		}
		onto[name] = to
	}
	switch {
	case !(f.speed >= 0) || f.speed > 1e6:
		return cli.UsageError(fmt.Errorf("--speed: must be between 0 and 1000000, got %v", f.speed))
	case f.loops < 0:
		return cli.UsageError(fmt.Errorf("--loops: must be 0 or above, got %d", f.loops))
	case path == "-" && f.loops != 1:
		return cli.UsageError(errors.New("--loops: standard input is played once"))
	}
	r := &replayer{onto: onto, speed: f.speed, buses: map[string]bus{}, errs: errs, sum: replayed{Summary: true, Frames: map[string]uint64{}}}
	began := time.Now()
	for n := 0; err == nil && ctx.Err() == nil && (f.loops == 0 || n < f.loops); n++ {
		var frames bool
		if frames, err = r.file(ctx, path, in); err == nil && !frames {
			break // an empty log over and over is a loop that does nothing
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.buses)) {
		err = errors.Join(err, r.buses[name].Close())
	}
	r.sum.Duration = time.Since(began).Seconds()
	return errors.Join(err, json.NewEncoder(out).Encode(r.sum))
}

// replayer plays a log.
type replayer struct {
	onto  map[string]string
	speed float64
	buses map[string]bus
	errs  io.Writer
	sum   replayed
}

// file plays the log once, and says whether there was a frame in it.
func (r *replayer) file(ctx context.Context, path string, in io.Reader) (frames bool, err error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer f.Close()
		in = f
	}
	log := can.NewScanner(bufio.NewReaderSize(in, 64<<10))
	log.OnReject = func(e *can.LineError) { fmt.Fprintln(r.errs, "waybill-simulate: warning:", e) }
	defer func() { r.sum.Rejected += log.Rejected() }()
	var due time.Duration // of the next frame, since the replay of this file began
	var last int64
	began, timer := time.Now(), time.NewTimer(0)
	defer timer.Stop()
	for log.Scan() && ctx.Err() == nil {
		at, stamped := log.Time()
		if stamped && last != 0 && at > last && r.speed > 0 {
			due += time.Duration(float64(at-last) / r.speed)
		}
		if stamped {
			last = at
		}
		// Frames that are due within a millisecond go together: timers are no finer.
		if wait := due - time.Since(began); wait > time.Millisecond {
			if err := r.flush(); err != nil {
				return frames, err
			}
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return frames, nil
			case <-timer.C:
			}
		}
		frames = true
		if err := r.send(ctx, log.Bus(), at, log.Frame()); err != nil {
			return frames, err
		}
	}
	return frames, log.Err()
}

func (r *replayer) send(ctx context.Context, name string, at int64, f *can.Frame) error {
	b := r.buses[name]
	if b == nil {
		to := r.onto[name]
		if to == "" {
			to = socketPrefix + name
		}
		var err error
		if b, err = openBus(ctx, to, name); err != nil {
			return fmt.Errorf("bus %s of the log: %w; --onto %s=OUT sends it elsewhere", name, err, name)
		}
		r.buses[name] = b
	}
	if _, live := b.(*socketBus); live && f.Flags&can.FlagError != 0 {
		r.sum.LeftOut++
		return nil
	}
	if err := b.Send(ctx, time.Unix(0, at), f); err != nil {
		return err
	}
	r.sum.Frames[name]++
	return nil
}

func (r *replayer) flush() (err error) {
	for _, b := range r.buses {
		err = errors.Join(err, b.Flush())
	}
	return err
}
