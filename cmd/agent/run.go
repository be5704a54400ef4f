package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/update"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/internal/local/page"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/command"
	"github.com/waybill-telematics/waybill/uplink/credential"
	"github.com/waybill-telematics/waybill/uplink/network"
)

func runCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Collect, keep and deliver, until told to stop",
		Long: `Reads the buses and receivers of the configuration, keeps every chosen sample in the queue, and delivers it to the
broker. Ends on SIGTERM or SIGINT: readers stop, what is in flight is committed, the queue is drained for at most
uplink.drain, the rest waits on disk. A second signal ends it at once. With replays only, it ends by itself when they
are read and delivered. SIGHUP makes it read its configuration anew: a bad one changes nothing and is an alarm.
An update ends it in the same order: the launcher starts the new version; for a whole system it runs
update.installer.reboot when all is closed.`,
		Example: "  waybill-agent run -c /etc/waybill/agent.yaml",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			context.AfterFunc(ctx, stop) // from then on a signal ends the process
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			return runAgain(ctx, file, hangup, os.Stderr)
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "/etc/waybill/agent.yaml", "configuration file")
}

// agent is one run of the vehicle side.
type agent struct {
	settings *settings
	vehicle  *vehicle
	log      *slog.Logger
	metrics  *prometheus.Registry
	clock    clock.Clock
	logClock *clock.Log // set when replays are the clock
	times    *clock.Timekeeper
	boot     boot
	alarms   *alarm.Board
	queue    *buffer.Queue
	pipe     *pipeline.Pipeline
	uplink   *uplink.Uplink // nil: record only
	creds    *credential.Store
	links    *network.Links
	commands *command.Runner          // nil: nobody can send any
	levels   *logLevel                // with commands
	power    *powerControl            // nil: always on
	updates  *updater                 // nil: it stays what it is
	broker   atomic.Pointer[net.Addr] // our end of the connection to it; with update.mqtt
	healths  []func() healthSource    // of what is read: one for each who looks
	sleeps   atomic.Int64             // how far CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, ns
	table    *page.Table              // of the local page
	buses    []*canSource
	located  []*gpsSource
	damage   *damageLedger
	evicts   *evictions
	again    *renewal
	pulses   []*pulse    // of the readers
	renewed  chan string // why a new epoch is to begin; capacity 1
	reloaded chan *setup // a configuration to begin again with; capacity 1

	syncFailed atomic.Bool // the queue did not take the last note of what was delivered
}

// runAgent wires the packages, runs them, and stops them in the order in which data flows.
func runAgent(ctx context.Context, s *settings, v *vehicle, log *slog.Logger, again *renewal) error {
	return newAgent(s, v, log, again).runAll(ctx)
}

func newAgent(s *settings, v *vehicle, log *slog.Logger, again *renewal) *agent {
	a := &agent{settings: s, vehicle: v, log: log, metrics: prometheus.NewRegistry(), clock: clock.System{}, damage: &damageLedger{},
		again: again, renewed: make(chan string, 1), reloaded: make(chan *setup, 1)}
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.sleeps.Store(sleepUnknown)
	if s.LogTime {
		a.logClock = &clock.Log{}
		a.clock = a.logClock
	}
	a.alarms = alarm.NewBoard(a.clock.Boot, log)
	return a
}

// runAll opens everything, runs it, and closes it.
func (a *agent) runAll(ctx context.Context) (err error) {
	s, v, log := a.settings, a.vehicle, a.log
	told := false // to stop
	defer func() {
		if a.updates != nil {
			a.updates.stopped(told, err)
		}
	}()
	if err := a.openQueue(); err != nil {
		return err
	}
	defer func() {
		if closeErr := a.queue.Close(); closeErr != nil {
			log.Error("closing the queue", "error", closeErr)
			err = errors.Join(err, fmt.Errorf("closing the queue: %w", closeErr))
		}
	}()
	if err := a.openPipeline(); err != nil {
		return err
	}
	if err := a.openCommands(); err != nil {
		return err
	}
	if err := a.openUplink(); err != nil {
		return err
	}
	if err := a.openPower(); err != nil {
		return err
	}
	readers := a.readers()
	a.openReload()
	if err := a.openUpdate(); err != nil {
		return err
	}
	stopPage, err := a.servePage()
	if err != nil {
		return err
	}
	defer stopPage()
	for _, w := range v.warnings {
		log.Warn("DBC", "at", w)
	}
	log.Info("running", "version", firmware.Current().Version, "device", s.Device, "epoch", fmt.Sprintf("%016x", a.queue.Epoch()),
		"boot", clock.FormatBootID(a.boot.ID), "boots", a.boot.Count, "signals", v.selection.Len()-v.own-len(s.Rules), "of", v.available)
	told, err = a.runTasks(ctx, readers)
	return err
}

// runTasks runs until ctx ends, a task fails, or every replay is read. Each stage ends before the next one is told to. told
// says that it ends because ctx did.
func (a *agent) runTasks(ctx context.Context, readers []reader) (told bool, err error) {
	var (
		failed       = make(chan error, len(readers)+16)
		readerCtx    = newStage(ctx)
		clockStage   = newStage(context.WithoutCancel(ctx))
		commandStage = newStage(context.WithoutCancel(ctx))
		pipeStage    = newStage(context.WithoutCancel(ctx))
		uplinkStage  = newStage(context.WithoutCancel(ctx))
	)
	for _, r := range readers {
		readerCtx.start(failed, r.name, r.run)
	}
	if a.logClock == nil {
		clockStage.start(failed, "clock", a.keepTime())
		clockStage.start(failed, "clock steps", a.watchSteps)
	}
	if a.power != nil {
		for _, task := range a.power.tasks() {
			commandStage.start(failed, task.name, task.run)
		}
	}
	if a.commands != nil {
		commandStage.start(failed, "commands", a.commands.Run)
	}
	commandStage.start(failed, "configuration", a.watchReload)
	if a.updates != nil {
		commandStage.start(failed, "update", a.updates.run)
	}
	pipeStage.start(failed, "pipeline", a.pipe.Run)
	if a.uplink != nil {
		uplinkStage.start(failed, "uplink", a.uplink.Run)
		uplinkStage.start(failed, "links", func(ctx context.Context) error { return a.links.Run(ctx, a.uplink) })
		uplinkStage.start(failed, "credentials", a.watchCredentials())
	}
	uplinkStage.start(failed, "queue", a.often(10*time.Second, func() {
		if a.uplink != nil {
			a.keepReleases(a.queue.SyncLate)
		}
		a.watchQuota()
		a.keepBoot()
	}))
	a.again.ready = true
	uplinkStage.start(failed, "watchdog", a.feedWatchdog)
	a.notify(daemon.SdNotifyReady)

	var cause error
	restart := false // as another version
	select {
	case <-ctx.Done():
		told = true
		a.log.Info("stopping: told to")
	case cause = <-failed:
		if restart = errors.Is(cause, update.ErrRestart) || errors.Is(cause, errReboot); restart {
			a.log.Info("stopping: another version is to be started", "why", cause)
		} else {
			a.log.Error("stopping: a task failed", "error", cause)
		}
	case a.again.reason = <-a.renewed:
		cause = errNewEpoch
		a.log.Error("stopping, to begin again with a new epoch", "reason", a.again.reason)
	case a.again.next = <-a.reloaded:
		cause = errReload
		a.log.Info("stopping, to begin again with another configuration")
	case <-readerCtx.ended():
		a.log.Info("stopping: everything is read")
	}
	if cause != errReload {
		a.notify(daemon.SdNotifyStopping)
	}
	a.noteUnread()
	readerCtx.stop()
	clockStage.stop()
	commandStage.stop() // while their results can still be committed
	if a.levels != nil {
		a.levels.stop()
	}
	pipeStage.stop()
	if a.uplink != nil && !a.quiet() && cause != errNewEpoch && cause != errReload {
		a.drain(ctx, restart)
	}
	uplinkStage.stop()
	a.keepBoot()
	for {
		select {
		case err := <-failed:
			cause = errors.Join(cause, err)
		default:
			a.log.Info("stopped", "left", a.depth())
			return told, cause
		}
	}
}

// drain delivers what is queued: without a bound after a replay, which has all the time there is, else, or in a hurry, for
// at most the configured time.
func (a *agent) drain(ctx context.Context, hurry bool) {
	bound := ctx
	if hurry || !a.replaysOnly() || ctx.Err() != nil {
		var cancel context.CancelFunc
		bound, cancel = context.WithTimeout(context.WithoutCancel(ctx), a.settings.Uplink.Drain)
		defer cancel()
	}
	if err := a.uplink.Drain(bound); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		a.log.Warn("drain", "error", err)
	}
	a.keepReleases(a.queue.Sync)
}

// stage is a group of tasks that end together.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

func newStage(parent context.Context) *stage {
	s := &stage{}
	s.ctx, s.cancel = context.WithCancel(parent)
	return s
}

func (s *stage) start(failed chan<- error, name string, run func(context.Context) error) {
	s.tasks.Go(func() {
		if err := run(s.ctx); err != nil && s.ctx.Err() == nil {
			failed <- fmt.Errorf("%s: %w", name, err)
		}
	})
}

// stop cancels the tasks and waits for them.
func (s *stage) stop() {
	s.cancel()
	s.tasks.Wait()
}

// ended is closed when every task has ended by itself. It is for a stage with at least one task.
func (s *stage) ended() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(done)
	}()
	return done
}

// openQueue takes the data folder: its lock, the queue, and the number of this boot.
func (a *agent) openQueue() error {
	s := a.settings
	if err := os.MkdirAll(s.DataDir, 0o750); err != nil && !buffer.Trouble(err) { // of which the queue makes an alarm
		return fmt.Errorf("data_dir: %w; make it writable for the user that runs the agent", err)
	}
	a.evicts = &evictions{alarms: a.alarms, log: a.log}
	var err error
	a.queue, err = buffer.Open(filepath.Join(s.DataDir, "queue"), buffer.Options{
		SegmentBytes: s.Queue.SegmentBytes,
		MaxBytes:     s.Queue.MaxBytes,
		LaneBytes:    s.Queue.LaneBytes,
		MinFree:      s.Queue.MinFree,
		KeepReleased: s.Queue.Keep,
		OnEvict:      a.evicts.evict,
		Thin:         s.Queue.ThinEvery > 1,
		LockTimeout:  2 * time.Second,
		Rand:         rand.Reader,
		Now:          time.Now,
		Log:          a.log,
		Metrics:      a.metrics,
		OnDamage:     a.damage.add,
		NewEpoch:     a.again.reason,
	})
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := a.again.opened(s.DataDir, a.queue); err != nil {
		a.log.Warn("what the journal held cannot be noted; a queue that is put back could send it twice", "error", err)
	}
	id, err := a.bootID()
	if err != nil {
		return errors.Join(err, a.queue.Close())
	}
	var warning error
	a.boot, warning, err = nextBoot(s.DataDir, id)
	if err != nil {
		return errors.Join(fmt.Errorf("counting boots: %w", err), a.queue.Close())
	}
	if warning != nil {
		a.log.Warn("boot count", "error", warning)
	}
	if err := a.openTime(); err != nil {
		return errors.Join(err, a.queue.Close())
	}
	return nil
}

// bootID is the kernel's, or a made-up one for a replay, whose time is its own.
func (a *agent) bootID() (id [16]byte, err error) {
	if a.logClock != nil {
		_, err = rand.Read(id[:])
		return id, err
	}
	return clock.BootID()
}

func (a *agent) openPipeline() error {
	s := a.settings
	a.table = a.vehicle.table()
	var err error
	a.pipe, err = pipeline.New(pipeline.Options{
		Tenant: s.Tenant, Device: s.Device,
		BootID: a.boot.ID, BootCount: a.boot.Count,
		Info: &telemetrypb.DeviceInfo{
			BootNs: a.clock.Boot(), Mode: "normal",
			Versions: map[string]string{"waybill-agent": firmware.Current().Version},
		},
		CommitEvery: s.CommitEvery, SealEvery: s.SealEvery, MemoryBytes: int(s.Queue.Memory),
		ErrFull:       buffer.ErrFull,
		OnCommitError: a.diskFails,
		OnCommitOK:    func() { a.alarms.Clear(alarmDisk) },
		OnEvent:       a.vehicle.openGates,
		OnSamples:     a.table.Take,
		Clock:         a.clock,
		Log:           a.log,
		Metrics:       a.metrics,
	}, a.vehicle.selection, pipelineQueue{a.queue})
	if err != nil {
		return err
	}
	a.damage.attach(a.pipe.Ledger())
	a.evicts.Evictor = pipeline.Evictor{Tenant: s.Tenant, Device: s.Device, BootID: a.boot.ID, BootCount: a.boot.Count,
		Every: s.Queue.ThinEvery, BatchBytes: 16 << 10, Ledger: a.pipe.Ledger()}
	a.alarms.Watch(func(al alarm.Alarm) {
		text := al.Name
		if al.Raised {
			text += ": " + al.Text
		}
		a.pipe.Raise(alarmSignal, telemetrypb.StringSample(0, a.clock.Boot(), text))
	})
	if parent, ok := a.queue.Parent(); ok {
		a.pipe.Emit(epochRecord(a.settings.Device, a.queue, parent))
	}
	if !a.queue.CleanStop() {
		a.pipe.Ledger().AddLoss(&telemetrypb.Loss{
			Reason: telemetrypb.LossReason_LOSS_UNCLEAN_STOP, Source: "agent", Unit: "samples", CountUnknown: true,
			Detail: fmt.Sprintf("the process before this one did not stop by itself: what it had not committed is gone, at most %v of samples, and what was in memory if its disk failed", s.CommitEvery),
		})
	}
	if err := a.pipe.Recover(recovered(a.queue)); err != nil {
		return fmt.Errorf("recovering the journal: %w", err)
	}
	if a.logClock == nil {
		a.times.Start()
		a.readClock()
	}
	return nil
}

// often makes a task of something that is done again and again, more rarely while the vehicle is quiet.
func (a *agent) often(d time.Duration, do func()) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			pause := d
			if a.quiet() {
				pause = max(d, sparse)
			}
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
				do()
			}
		}
	}
}

// keepReleases notes on disk what was delivered while nothing is committed that would carry it, so that a parked car
// gives its disk back and a restart resends little.
func (a *agent) keepReleases(sync func() error) {
	err := sync()
	if failed := err != nil; a.syncFailed.Swap(failed) != failed && failed {
		a.log.Warn("the queue could not note what was delivered; a restart sends it again, to be deduplicated", "error", err)
	}
}

func (a *agent) replaysOnly() bool {
	for _, c := range a.settings.CAN {
		if c.Replay == nil {
			return false
		}
	}
	for _, g := range a.settings.GPS {
		if g.Replay == nil {
			return false
		}
	}
	return len(a.settings.IMU) == 0
}

func (a *agent) depth() string {
	var batches, bytes uint64
	for _, lane := range a.queue.Stats().Lanes {
		batches += lane.Batches
		bytes += lane.Bytes
	}
	return fmt.Sprintf("%d batches, %d bytes", batches, bytes)
}

// notify tells systemd, if it started us.
func (a *agent) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.log.Warn("systemd notification", "error", err)
	}
}
