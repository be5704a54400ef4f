package main

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// canExport is one run of `can export`.
type canExport struct {
	format        string
	buses         []string
	from, to      string
	boottime      bool
	nanoseconds   bool
	catalogueFile string
	configFile    string

	cmd        *cobra.Command
	catalogues map[[16]byte]rawLayout
	clocks     map[[16]byte]*telemetrypb.ClockRecord
	recordings []recording
	known      map[batchIdentity]uint32 // checksum
	devices    map[*buffer.Queue]string // whose it is
	batches    int                      // sound ones, of all lanes
	folders    bool                     // some of the input are folders
	cached     *payloadFile             // the one whose bytes are held
	assembler  telemetrypb.CatalogueAssembler
	first      int64 // --from and --to, ns
	last       int64
	rejected   error // the last batch that gave nothing
	read       int   // batches put together
	samples    []telemetrypb.Sample
	waiting    []waitingFrame
	frames     []can.Frame
	times      map[[16]byte]bool // boots of which it was said how well the time is known
}

// waitingFrame was put together and waits for what may come before it.
type waitingFrame struct {
	can.Frame
	bus  string
	seq  uint64
	part int
}

func canExportCommand() *cobra.Command {
	e := &canExport{}
	cmd := &cobra.Command{
		Use:   "export [DIR|PAYLOAD…]",
		Short: "Write recorded frames as a candump log or as CSV",
		Long: `Write the frames that an agent recorded (record: in its configuration) as candump -L does, one a line:

  (1620692699.796900) can0 18FEF100#1122334455667788
  (1620692699.797600) can0 200##1112233445566778899AABBCC
  (1620692699.798000) can0 123#R8
  (1620692699.799000) can0 20000040#0000000000000000

or with --format csv as time,bus,id,ext,fd,flags,len,data. Times have microseconds, as candump's and canplayer's do; the rest is cut off
unless --nanoseconds is given. For MF4, python-can converts candump logs, given asammdf: can_logconvert drive.log drive.mf4. No Go
library writes it.

DIR is a queue folder, live or not: its unreleased batches and what its journal holds. It is not locked and not changed. PAYLOAD is what was published, or a file
of queue export; "-" or nothing is standard input. Several are taken together; a batch that is there twice counts once.

Frames are sorted by time, boot by boot. Memory is needed for those batches that overlap in time, and some 200 bytes for each batch of the input.

Times are wall time, by the clock records in the input; how sure they are is said on standard error unless it is better than a
millisecond. Frames of a boot without one, and all with --boottime, have seconds of CLOCK_BOOTTIME. --from and --to take RFC 3339 or seconds, as they
are printed.

Which samples are frames is in the catalogue, which is in the queue's control lane until the store has it; --catalogue names one as
batch decode takes it, --config takes the one that a configuration gives.

A batch whose frames cannot be put together is left out whole, with a warning that names it: nothing is printed that was not on the
bus. The exit code is 0 when the input could be read, 1 when it could not, 2 for wrong usage.`,
		Example: `  waybill-agent can export /var/lib/waybill/queue >drive.log
  waybill-agent can export --bus can0 --from 2026-11-23T10:00:00Z /var/lib/waybill/queue | canplayer vcan0=can0
  waybill-agent queue export --to payloads /var/lib/waybill/queue && waybill-agent can export --format csv payloads/*`,
		RunE: e.run,
	}
	cmd.Flags().StringVar(&e.format, "format", "candump", "candump or csv")
	cmd.Flags().StringArrayVar(&e.buses, "bus", nil, "only the frames of bus `NAME`; may be given several times")
	cmd.Flags().StringVar(&e.from, "from", "", "leave out frames before `TIME`")
	cmd.Flags().StringVar(&e.to, "to", "", "leave out frames after `TIME`")
	cmd.Flags().BoolVar(&e.boottime, "boottime", false, "print CLOCK_BOOTTIME, whatever is known of wall time")
	cmd.Flags().BoolVar(&e.nanoseconds, "nanoseconds", false, "print times to the nanosecond")
	cmd.Flags().StringVar(&e.catalogueFile, "catalogue", "", "take the catalogue from `FILE`")
	cmd.Flags().StringVar(&e.configFile, "config", "", "take the catalogue that the configuration `FILE` gives")
	return cmd
}

func (e *canExport) run(cmd *cobra.Command, args []string) error {
	e.cmd = cmd
	if e.format != "candump" && e.format != "csv" {
		return cli.UsageError(fmt.Errorf("--format: want candump or csv, got %q", e.format))
	}
	var err error
	if e.first, err = parseWhen(e.from, math.MinInt64); err != nil {
		return cli.UsageError(fmt.Errorf("--from: %w", err))
	}
	if e.last, err = parseWhen(e.to, math.MaxInt64); err != nil {
		return cli.UsageError(fmt.Errorf("--to: %w", err))
	}
	closeAll, err := e.gather(args)
	defer closeAll()
	if err != nil {
		return err
	}
	if len(e.recordings) == 0 && e.rejected == nil && (e.folders || e.batches > 0) {
		e.warn("there are no recorded frames in it; set record: for a bus in the agent's configuration")
	}
	return withOutput(cmd, func(out *bufio.Writer) error {
		if err := e.write(out); err != nil {
			return err
		}
		if e.rejected != nil && e.read == 0 {
			return e.rejected
		}
		if e.rejected != nil {
			e.warn(e.rejected)
		}
		return nil
	})
}

// parseWhen reads RFC 3339 or seconds, ns.
func parseWhen(text string, otherwise int64) (int64, error) {
	if text == "" {
		return otherwise, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t.UnixNano(), nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(math.Abs(seconds) < 9e9) {
		return 0, fmt.Errorf("want RFC 3339, such as 2026-11-23T10:00:00Z, or seconds, got %q", text)
	}
	return int64(math.Round(seconds*1e6)) * 1e3, nil
}

// warn says something on standard error.
func (e *canExport) warn(what any) {
	fmt.Fprintln(e.cmd.ErrOrStderr(), "waybill-agent: warning:", what)
}

// reject notes a batch that gives nothing. The last one is the error if all are such.
func (e *canExport) reject(err error) {
	if e.rejected != nil {
		e.warn(e.rejected)
	}
	e.rejected = err
}

// write puts the batches together in the order of their first frames, and writes a frame when no later batch can hold
// one before it.
func (e *canExport) write(out *bufio.Writer) error {
	slices.SortStableFunc(e.recordings, func(a, b recording) int { return a.compare(&b) })
	emit := e.candump(out)
	if e.format == "csv" {
		emit = e.csv(out)
	}
	for i := range e.recordings {
		r := &e.recordings[i]
		if i > 0 && !r.sameBoot(&e.recordings[i-1]) {
			if err := e.flush(&e.recordings[i-1], math.MaxInt64, emit); err != nil {
				return err
			}
		}
		if err := e.flush(r, r.first, emit); err != nil {
			return err
		}
		if err := e.take(r); err != nil {
			e.reject(fmt.Errorf("%v: %w", r, err))
			continue
		}
		e.read++
	}
	if n := len(e.recordings); n > 0 {
		return e.flush(&e.recordings[n-1], math.MaxInt64, emit)
	}
	return nil
}

// take puts the frames of one batch among the waiting ones, or none of them.
func (e *canExport) take(r *recording) error {
	samples, err := e.load(r)
	if err != nil {
		return err
	}
	layout := e.catalogues[r.catalogue]
	frames, used := e.frames[:0], 0
	for i := range layout {
		if frames, err = layout[i].ids.frames(frames, samples, uint8(i)); err != nil {
			return fmt.Errorf("bus %s: %w", layout[i].bus, err)
		}
		for _, id := range layout[i].ids.all() {
			used += len(column(samples, *id))
		}
	}
	e.frames = frames
	if used != len(samples) {
		e.warn(fmt.Sprintf("%v: %d samples that are no recorded frames", r, len(samples)-used))
	}
	for i := range frames {
		bus := layout[frames[i].Bus].bus
		if len(e.buses) == 0 || slices.Contains(e.buses, bus) {
			e.waiting = append(e.waiting, waitingFrame{frames[i], bus, r.seq, r.part})
		}
	}
	// A bus has its batches in the order of their numbers; between buses there is none.
	slices.SortStableFunc(e.waiting, func(a, b waitingFrame) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.bus, b.bus), cmp.Compare(a.seq, b.seq), cmp.Compare(a.part, b.part))
	})
	return nil
}

// flush writes the waiting frames of r's boot that are before a time.
func (e *canExport) flush(r *recording, before int64, emit func(*waitingFrame, int64) error) error {
	n := 0
	for n < len(e.waiting) && (e.waiting[n].Time < before || before == math.MaxInt64) {
		f := &e.waiting[n]
		if at := e.wall(r, f.Time); at >= e.first && at <= e.last {
			if !e.nanoseconds {
				at -= (at%1000 + 1000) % 1000
			}
			if err := emit(f, at); err != nil {
				return fmt.Errorf("writing the result: %w", err)
			}
		}
		n++
	}
	e.waiting = slices.Delete(e.waiting, 0, n)
	return nil
}

// wall is the time to print.
func (e *canExport) wall(r *recording, boot int64) int64 {
	if e.boottime {
		return boot
	}
	unix, uncertainty, source := e.clocks[r.boot].WallTime(boot)
	if !e.times[r.boot] {
		e.times[r.boot] = true
		switch {
		case source == telemetrypb.TimeSource_TIME_SOURCE_NONE:
			e.warn(fmt.Sprintf("boot %x: wall time is not known; its frames have seconds of CLOCK_BOOTTIME", r.boot))
		case uncertainty >= uint64(1000*time.Hour):
			e.warn(fmt.Sprintf("boot %x: nobody vouches for the wall time (source %v)", r.boot, source))
		case uncertainty > uint64(time.Millisecond):
			e.warn(fmt.Sprintf("boot %x: wall time is known to ±%v (source %v)", r.boot, time.Duration(uncertainty), source))
		}
	}
	if source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		return boot
	}
	return unix
}

func (e *canExport) candump(out io.Writer) func(*waitingFrame, int64) error {
	var line []byte
	return func(f *waitingFrame, at int64) error {
		line = can.AppendLog(line[:0], at, f.bus, &f.Frame)
		_, err := out.Write(line)
		return err
	}
}

func (e *canExport) csv(out io.Writer) func(*waitingFrame, int64) error {
	w := csv.NewWriter(out)
	begun := false
	return func(f *waitingFrame, at int64) error {
		if !begun {
			begun = true
			if err := w.Write([]string{"time", "bus", "id", "ext", "fd", "flags", "len", "data"}); err != nil {
				return err
			}
		}
		id, flags := fmt.Sprintf("%03X", f.ID), ""
		if f.Extended() || f.Flags&can.FlagError != 0 {
			id = fmt.Sprintf("%08X", f.ID)
		}
		for _, name := range []struct {
			flag can.Flags
			word string
		}{{can.FlagError, "error"}, {can.FlagRemote, "remote"}, {can.FlagBRS, "brs"}, {can.FlagESI, "esi"}} {
			if f.Flags&name.flag != 0 {
				if flags != "" {
					flags += " "
				}
				flags += name.word
			}
		}
		err := w.Write([]string{string(can.AppendSeconds(nil, at)), f.bus, id, strconv.FormatBool(f.Extended()),
			strconv.FormatBool(f.Flags&can.FlagFD != 0), flags, strconv.Itoa(int(f.Len)), fmt.Sprintf("%X", f.Payload())})
		w.Flush() // into out, which is buffered
		return cmp.Or(err, w.Error())
	}
}
