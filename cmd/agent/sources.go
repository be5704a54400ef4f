package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/gps/imu"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// reader is the task of one bus or receiver.
type reader struct {
	name string
	run  func(context.Context) error
}

// Chunks that may wait for the pipeline: of a bus under full load 64 frames each, so that half a second of a stalled
// pipeline costs nothing.
const sourceDepth = 64

// gather is how long frames may wait in the kernel for others, so that a busy bus costs a wake-up for many and not one
// for each: docs/BENCHMARKS.md has what other times cost.
const gather = 10 * time.Millisecond

// chunkSamples is when a replay hands over what it has; it does so before each wait as well.
const chunkSamples = 256

// retryAfter is the wait before a source that went away is tried again.
const retryAfter = time.Second

// readers makes the tasks of every source.
func (a *agent) readers() []reader {
	var list []reader
	var buses []*canSource
	for i, bus := range a.settings.CAN {
		source := a.pipe.Source("can:"+bus.Bus, sourceDepth)
		plan := a.vehicle.plans[i]
		parts := can.NewReassembler(plan, can.ReassemblerOptions{})
		bus := &canSource{agent: a, canSettings: bus, plan: plan, changes: plan.NewChanges(), parts: parts, source: source, number: uint8(i),
			pulse: a.pulse("can " + bus.Bus)}
		run := bus.runSocket
		if bus.Replay != nil {
			run = bus.runReplay
		}
		list = append(list, reader{"can " + bus.Bus, run})
		a.healths = append(a.healths, func() healthSource { return &busHealth{bus: bus} })
		buses = append(buses, bus)
		for _, f := range a.vehicle.features[i] {
			t, tasks := f.attach(bus)
			if t != nil {
				bus.taps = append(bus.taps, t)
			}
			list = append(list, tasks...)
		}
	}
	for i, receiver := range a.settings.GPS {
		source := a.pipe.Source("gps:"+receiver.Name, sourceDepth)
		receiver := newGPSSource(a, receiver, i, source)
		a.located = append(a.located, receiver)
		list = append(list, reader{"gps " + receiver.Name, receiver.run})
		a.healths = append(a.healths, func() healthSource { return &receiverHealth{receiver: receiver} })
	}
	for _, s := range a.settings.IMU {
		sensor := imuSource{agent: a, imuConfig: s, ids: imu.ChooseIDs(s.Name, a.vehicle.selection.ID), source: a.pipe.Source("imu:"+s.Name, sourceDepth),
			pulse: a.pulse("imu " + s.Name)}
		list = append(list, reader{"imu " + s.Name, sensor.run})
	}
	a.tellUnread()
	a.metrics.MustRegister(newCANMetrics(buses))
	a.buses = buses
	return list
}

// canSource reads one bus.
type canSource struct {
	*agent
	canSettings
	plan    *can.Plan
	changes *can.Changes
	parts   *can.Reassembler
	source  *pipeline.Source
	taps    []tap
	number  uint8
	pulse   *pulse

	counts  busCounts
	retell  atomic.Bool // somebody looks: what a frame repeats is to be told once more
	monitor *busMonitor // nil: a replay
}

// lossName is what the ledger calls the bus.
func (c *canSource) lossName() string { return "can:" + c.Bus }

// runSocket reads an interface. One that is down, or not there yet, is an alarm and is tried again; how long it could
// not be read stands in the ledger when it is over, since nobody can count what was on the bus meanwhile.
func (c *canSource) runSocket(ctx context.Context) error {
	alarmName := "can." + c.Bus
	down, why := c.again.unread[c.lossName()], reloadDetail // since when, CLOCK_BOOTTIME; 0: it is read
	tell := func() {
		if down == 0 {
			return
		}
		c.pipe.Ledger().AddLoss(&telemetrypb.Loss{
			Reason: telemetrypb.LossReason_LOSS_BUS_DOWN, Source: c.lossName(), Unit: "frames", CountUnknown: true,
			FirstNs: down, LastNs: c.clock.Boot(), Detail: why,
		})
		down = 0
	}
	for ctx.Err() == nil {
		err := c.readSocket(ctx, func() {
			c.alarms.Clear(alarmName)
			tell()
		})
		if ctx.Err() != nil {
			break
		}
		if down == 0 {
			down = c.clock.Boot()
		}
		why = err.Error()
		c.alarms.Raise(alarmName, fmt.Sprintf("interface %s cannot be read: %v; is it up? `ip link show %s`", c.Interface, err, c.Interface))
		sleep(ctx, retryAfter)
	}
	tell()
	return nil
}

func (c *canSource) readSocket(ctx context.Context, opened func()) error {
	if c.Bitrate > 0 {
		if err := can.BringUp(c.Interface, can.LinkOptions{Bitrate: c.Bitrate, ListenOnly: c.ListenOnly}); err != nil {
			return fmt.Errorf("bringing it up with %d bit/s: %w", c.Bitrate, err)
		}
	}
	filters := c.filters()
	c.counts.filtered.Store(filters != nil)
	socket, err := can.Open(c.Interface, can.ReaderOptions{Bus: c.number, Filters: filters, Gather: gather, Clock: c.clock, Log: c.log})
	if err != nil {
		return err
	}
	opened()
	c.counts.open(socket)
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer func() {
		c.counts.close()
		stop()
		_ = socket.Close()
		s := socket.Stats()
		c.log.Info("bus closed", "bus", c.Bus, "frames", s.Frames, "unchanged", c.changes.Unchanged(), "drops", s.Drops, "errors", s.Errors,
			"unstamped", s.Unstamped, "clamped", s.Clamped)
	}()
	defer c.pulse.rest()
	return c.readFrames(pulsed{socket, c.pulse})
}

// readFrames is the hot path: frames in, samples out, nothing allocated in between.
func (c *canSource) readFrames(frames can.FrameReader) error {
	buf := make([]can.Frame, 64)
	for {
		n, drops, err := frames.Read(buf)
		if drops > 0 {
			c.pipe.Ledger().Add(telemetrypb.LossReason_LOSS_KERNEL_DROP, c.lossName(), "frames", drops, "")
		}
		chunk := c.source.Chunk()
		c.tellAgain()
		for i := range buf[:n] {
			chunk.Samples = c.decode(&buf[i], chunk.Samples)
		}
		if err != nil {
			chunk.Samples = c.end(chunk.Samples)
		}
		c.offer(chunk)
		c.countUndecodable()
		if err != nil {
			return err
		}
	}
}

// decode appends the samples of a frame that says something new, of the message that it is the last part of, and those of the taps.
func (c *canSource) decode(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	dst = c.changes.Decode(f, dst)
	if whole := c.parts.Take(f); whole != nil {
		dst = c.changes.DecodeAssembled(whole, dst)
	}
	for _, t := range c.taps {
		dst = t.take(f, dst)
	}
	return dst
}

// tellAgain has every message decoded once more, if somebody looks: nobody knows yet what does not change.
func (c *canSource) tellAgain() {
	if c.retell.Load() && c.retell.Swap(false) {
		c.changes.Forget()
	}
}

// end closes what is under way when the reading ends, and appends what the taps held back.
func (c *canSource) end(dst []telemetrypb.Sample) []telemetrypb.Sample {
	c.parts.End()
	c.changes.Forget() // nobody knows what will have been on the bus until it is read again
	for _, t := range c.taps {
		if t, ok := t.(changeTap); ok {
			dst = t.end(dst)
		}
	}
	return dst
}

// offer hands a chunk over, or loses it: then what it held has to be told again, even by a frame that repeats it.
func (c *canSource) offer(chunk *pipeline.Chunk) {
	if c.source.Offer(chunk) {
		return
	}
	c.changes.Forget()
	for _, t := range c.taps {
		if t, ok := t.(changeTap); ok {
			t.lost()
		}
	}
}

// countUndecodable moves the counts of frames that were too short, and of messages that were not whole, into the ledger.
func (c *canSource) countUndecodable() {
	if n := c.plan.Counters.Short.Load(); n > 0 {
		c.plan.Counters.Short.Add(-n)
		c.counts.short.Add(n)
		c.pipe.Ledger().Add(telemetrypb.LossReason_LOSS_UNDECODABLE, c.lossName(), "frames", n, "shorter than the DBC file says")
	}
	c.parts.Incomplete.Drain(func(why can.Reason, messages uint64) {
		c.pipe.Ledger().Add(telemetrypb.LossReason_LOSS_UNDECODABLE, c.lossName(), "messages", messages, why.String())
	})
}

// runReplay reads a candump log. With its own time it is a file and may wait for the pipeline; as a live source it
// may not, like a bus.
func (c *canSource) runReplay(ctx context.Context) error {
	chunk := c.source.Chunk()
	flush := func() error {
		if c.Replay.Time == "receipt" {
			c.offer(chunk)
		} else if err := c.source.Send(ctx, chunk); err != nil {
			return err // told to stop
		}
		chunk = c.source.Chunk()
		c.countUndecodable()
		c.tellAgain()
		return nil
	}
	// What was read is handed over before the next read, which may wait.
	input, err := openReplay(ctx, c.Replay.File, flush)
	if err != nil {
		return err
	}
	defer input.Close()
	lines := can.NewScanner(input)
	lines.OnReject = func(e *can.LineError) {
		c.log.Warn("candump log", "file", c.Replay.File, "error", e)
		c.pipe.Ledger().Add(telemetrypb.LossReason_LOSS_UNDECODABLE, c.lossName(), "lines", 1, "not a line of candump")
	}
	var pace pacer
	for lines.Scan() {
		if c.LogBus != "" && lines.Bus() != c.LogBus {
			continue
		}
		frame := lines.Frame()
		frame.Bus = c.number
		stamp, stamped := lines.Time()
		if stamped && c.Replay.Speed > 0 {
			if wait := pace.until(stamp, c.Replay.Speed); wait > 0 {
				if err := flush(); err != nil {
					return nil // told to stop
				}
				if !sleep(ctx, wait) {
					break
				}
			}
		}
		switch {
		case c.Replay.Time == "receipt":
			frame.Time = c.clock.Boot()
		case !stamped:
			return fmt.Errorf("%s:%d: the line has no time; set time: receipt, or record with candump -L", c.Replay.File, lines.Line())
		default:
			frame.Time = c.stamp(stamp)
		}
		c.counts.replayed.Add(1)
		chunk.Samples = c.decode(frame, chunk.Samples)
		if len(chunk.Samples) >= chunkSamples {
			if err := flush(); err != nil {
				return nil
			}
		}
	}
	chunk.Samples = c.end(chunk.Samples)
	if err := flush(); err != nil {
		return nil
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", c.Replay.File, err)
	}
	c.log.Info("replay read", "bus", c.Bus, "file", c.Replay.File, "lines", lines.Line(), "rejected", lines.Rejected())
	return nil
}

// stamp dates a sample by the log's clock; the first stamp of all makes the clock record.
func (a *agent) stamp(unixNS int64) int64 {
	bootNS, first := a.logClock.Stamp(unixNS)
	if first {
		a.times.Replay(a.logClock.Anchor())
	}
	return bootNS
}

// pacer spreads a log over time as it was recorded.
type pacer struct {
	started time.Time
	first   int64
}

// until is how long a stamp is still away. A pause under a millisecond is none: it would cost more than it is worth.
func (p *pacer) until(stamp int64, speed float64) time.Duration {
	if p.started.IsZero() {
		p.started, p.first = time.Now(), stamp
		return 0
	}
	wait := time.Duration(float64(stamp-p.first)/speed) - time.Since(p.started)
	if wait < time.Millisecond {
		return 0
	}
	return wait
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// openReplay opens a log, a FIFO or, as "-", standard input, so that the end of ctx ends a read under way.
// before is called before each read.
func openReplay(ctx context.Context, name string, before func() error) (io.ReadCloser, error) {
	file := os.Stdin
	if name != "-" {
		// Non-blocking: opening a FIFO does not wait for its writer, and reads go through the runtime's poller.
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		file = os.NewFile(uintptr(fd), name)
	}
	r := &replayFile{File: file, ctx: ctx, before: before}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	r.fifo = name != "-" && info.Mode()&os.ModeNamedPipe != 0
	r.stop = context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	return r, nil
}

// replayFile reads a log. A FIFO without a writer is not at its end: the bench's next writer goes on where the last
// one stopped.
type replayFile struct {
	*os.File
	ctx    context.Context
	before func() error
	fifo   bool
	stop   func() bool
}

// fifoPoll is how often a FIFO without a writer is looked at.
const fifoPoll = 20 * time.Millisecond

func (r *replayFile) Read(p []byte) (int, error) {
	if err := r.before(); err != nil {
		return 0, err
	}
	for {
		n, err := r.File.Read(p)
		if n > 0 || !r.fifo || !errors.Is(err, io.EOF) {
			return n, err
		}
		if !sleep(r.ctx, fifoPoll) {
			return 0, io.EOF
		}
	}
}

func (r *replayFile) Close() error {
	r.stop()
	return r.File.Close()
}
