package sim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const (
	eventSignal = "can0.Motion.Event"
	textSignal  = "can0.Motion.Text"
)

// plant is a bug that is put in for once, to see that it is found.
type plant string

const (
	soundAgent    plant = ""
	ackOnToken    plant = "acknowledge on token"  // the broker's PUBACK, or what paho takes for it, releases
	releaseOnSend plant = "delete before receipt" // what is read for sending is released
	wallClock     plant = "wall clock in a batch"
	awakeClock    plant = "monotonic clock in a batch"
	lieOfCommit   plant = "commit before it is durable"
)

// week is a vehicle, a broker and a store in one bubble of time, and a script of what befalls them, all from a seed. A
// week is lived in an hour or two: time passes by itself while the computer is awake, and at once while it is not.
type week struct {
	t      testing.TB
	seed   uint64
	plant  plant
	dir    string
	random *rand.Rand // of the script, which is one goroutine
	script []string
	began  time.Time

	machine *machine
	broker  *mqttBroker
	fleet   *fleet
	backup  *memState
	disk    *disk
	agent   *agent
	boots   int
	process int

	selection *pipeline.Selection
	names     map[uint32]string
	receiver  bool
	booting   time.Time // when the receiver may be heard: a late first fix

	sealEvery    time.Duration
	inFlight     int
	payloadBytes int

	truths      map[string][]weekTruth
	kills       map[int]killed          // by process
	perilous    []peril                 // what is to come in this drive, soonest first
	restored    map[string]map[int]bool // samples that the store had and its copy had not
	wasRestored bool
	recalls     bool             // the queue keeps what is released, and a restored store may ask for it
	rows        []*store.Reading // what the store has in the end
	losses      []store.LossEntry
	forgotten   []store.LossEntry // the store had them before it was restored
	totals      store.Totals
	trace       uint64 // of what was published, when
	bad         error  // the first thing that should never have been sent; guarded by broker.mu
}

// weekTruth is when a sample was taken, and by whom.
type weekTruth struct {
	truth
	at      time.Time // in the bubble
	process int
}

// killed is the end of a process, and from when on it may have lost what it took.
type killed struct {
	at, from time.Time
	trouble  bool // the disk had refused commits
}

func (w *week) say(format string, args ...any) {
	w.script = append(w.script, time.Since(w.began).Round(time.Second).String()+" "+fmt.Sprintf(format, args...))
}

func (w *week) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.random.Int64N(int64(high-low)))
}

func (w *week) chance(percent int) bool { return w.random.IntN(100) < percent }

// liveWeek runs the week of a seed. Real parts: every nth week has bbolt's files and SQLite in the place of memory.
func liveWeek(t *testing.T, seed uint64, p plant, real bool) (w *week) {
	random := rand.New(rand.NewPCG(seed, 77))
	w = &week{t: t, seed: seed, plant: p, dir: t.TempDir(), random: random, truths: map[string][]weekTruth{}, kills: map[int]killed{},
		restored: map[string]map[int]bool{}, names: map[uint32]string{}}
	synctest.Test(t, func(t *testing.T) { w.live(t, real) })
	return w
}

func (w *week) live(t *testing.T, real bool) {
	w.t = t
	defer func() {
		if r := recover(); r != nil {
			panic(fmt.Sprintf("seed %d: %v\n%v", w.seed, r, w.script))
		}
	}()
	w.began = time.Now()
	w.machine = &machine{plant: w.plant, last: w.began, world: &world{start: built.Add(w.between(24*time.Hour, 300*24*time.Hour)),
		ppm: w.random.Int64N(101) - 50, random: w.random}}
	var signals []*telemetrypb.Signal
	for _, name := range []string{canSignal, eventSignal} {
		signals = append(signals, &telemetrypb.Signal{Name: name, Type: telemetrypb.ValueType_VALUE_TYPE_UINT})
	}
	signals = append(signals, &telemetrypb.Signal{Name: textSignal, Type: telemetrypb.ValueType_VALUE_TYPE_STRING})
	var err error
	if w.selection, err = pipeline.Choose(signals, []pipeline.Collect{{Match: eventSignal, Lane: telemetrypb.Lane_LANE_EVENT}, {Match: "*"}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range signals {
		id, _ := w.selection.ID(s.Name)
		w.names[id] = s.Name
	}
	w.sealEvery = w.between(2*time.Second, 30*time.Second)
	w.inFlight = 1 + w.random.IntN(10)
	w.payloadBytes = 1 << (10 + w.random.IntN(7))
	w.disk = newDisk(w.dir, w.seed, real)
	w.broker = newMQTTBroker(w.between(5*time.Millisecond, 400*time.Millisecond))
	if w.recalls = w.plant == soundAgent && !real && w.seed%3 == 0; w.recalls {
		w.disk.memory.Keep()
		w.broker.statuses = true
	}
	trace := fnv.New64a()
	w.broker.see = func(topic string, payload []byte) {
		fmt.Fprintf(trace, "%d %s %d\n", time.Since(w.began), topic, len(payload))
		w.trace = trace.Sum64()
		if !ours(topic) {
			return
		}
		if err := w.disk.sent(payload); err != nil && w.bad == nil {
			w.bad = err
		}
	}
	var s store.Store = newMemStore()
	if real {
		if s, err = store.Open(context.Background(), filepath.Join(w.dir, "fleet.db"), store.Options{Rand: randomBytes{rand.New(rand.NewPCG(w.seed, 6))}}); err != nil {
			t.Fatal(err)
		}
	}
	w.fleet = &fleet{broker: w.broker, store: s, think: w.between(10*time.Millisecond, 2*time.Second), seed: w.seed,
		ingest: ingest.New(ingest.Options{Now: func() time.Time { return built }}, s)}
	ctx, cancel := context.WithCancel(context.Background())
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		w.fleet.run(ctx)
	}()

	w.power()
	for range 3 + w.random.IntN(5) {
		d := w.between(time.Minute, 20*time.Minute)
		w.perils(d)
		w.drive(d)
		w.park()
	}
	w.repair()

	cancel()
	<-worked
	w.broker.each((*end).reset)
	w.broker.serving.Wait()
	if err := errors.Join(w.collect(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// power is a boot of the computer; the agent starts with it. Its clock says 1970, and the receiver needs a while.
func (w *week) power() {
	w.machine.now()
	w.machine.mu.Lock()
	w.machine.restart()
	w.machine.mu.Unlock()
	w.boots++
	w.receiver = true
	w.booting = time.Now().Add(w.between(time.Second, 10*time.Minute))
	w.begin()
}

func (w *week) begin() {
	w.process++
	w.agent = startAgent(w.t, w)
}

// cut ends the process with a SIGKILL or the computer's power.
func (w *week) cut() {
	d := w.disk
	d.mu.Lock()
	now := time.Now()
	k := killed{at: now, from: now.Add(-commitEvery - d.took), trouble: !d.trouble.IsZero() || d.full}
	if !d.began.IsZero() { // what is in the commit under way was taken no later than its beginning
		k.from = d.began.Add(-commitEvery - d.took)
	}
	if !d.trouble.IsZero() {
		k.from = d.trouble.Add(-commitEvery)
	}
	if d.full {
		k.from = k.from.Add(-2 * d.slow)
	}
	d.began, d.took = time.Time{}, 0
	d.mu.Unlock()
	w.kills[w.process] = k
	w.broker.each((*end).reset)
	w.agent.kill(w.t)
}

// statusEvery is how often the vehicle says how it is.
const statusEvery = 10 * time.Minute

// commitEvery is the pipeline's default.
const commitEvery = time.Second

// drive lets time pass: samples, fixes, and what goes wrong.
func (w *week) drive(d time.Duration) {
	w.say("drive %v", d.Round(time.Second))
	next := struct{ sample, clock time.Time }{time.Now(), time.Now()}
	for until := time.Now().Add(d); time.Now().Before(until); {
		at := until
		for _, t := range []time.Time{next.sample, next.clock} {
			if t.Before(at) {
				at = t
			}
		}
		if len(w.perilous) > 0 && w.perilous[0].at.Before(at) {
			at = w.perilous[0].at
		}
		time.Sleep(time.Until(at))
		now := time.Now()
		if len(w.perilous) > 0 && !now.Before(w.perilous[0].at) {
			p := w.perilous[0]
			w.perilous = w.perilous[1:]
			p.befall()
			synctest.Wait()
		}
		if !now.Before(next.sample) {
			w.sample(canSignal)
			if w.chance(5) {
				synctest.Wait()
				w.sample(eventSignal)
			}
			synctest.Wait()
			synctest.Wait()
			next.sample = now.Add(w.between(200*time.Millisecond, 9*time.Second))
		}
		if !now.Before(next.clock) {
			w.clocks()
			next.clock = now.Add(5 * time.Second)
		}
	}
	if w.chance(50) { // else what has not ended goes on in the next drive
		w.calm()
	}
}

// clocks tells the timekeeper what the clocks and the receiver say.
func (w *week) clocks() {
	m := w.machine
	m.now()
	w.agent.times.System(m.reading())
	synctest.Wait()
	if w.receiver && time.Now().After(w.booting) {
		boot := m.Boot()
		w.agent.times.Fix(boot, boot, m.unix()+int64(w.between(-70*time.Millisecond, 70*time.Millisecond)), uint64(80*time.Millisecond))
	}
}

// sample takes one.
func (w *week) sample(name string) {
	m := w.machine
	m.now()
	id, _ := w.selection.ID(name)
	serial := len(w.truths[name])
	w.truths[name] = append(w.truths[name], weekTruth{truth{m.unix(), m.Boot(), w.boots}, time.Now(), w.process})
	s := telemetrypb.UintSample(id, m.stamp(), uint64(serial))
	if name == textSignal {
		filler := make([]byte, 600+w.random.IntN(1000))
		for i := range filler {
			filler[i] = byte(' ' + w.random.IntN(95))
		}
		s = telemetrypb.StringSample(id, s.Time, fmt.Sprintf("%0*d", textSerial, serial)+string(filler))
	}
	if name == eventSignal {
		w.agent.pipe.Raise(name, s)
		return
	}
	chunk := w.agent.can.Chunk()
	chunk.Samples = append(chunk.Samples, s)
	w.agent.can.Offer(chunk)
}

// park is what follows a drive: the agent stays up a while, then it is suspended, ends, or is cut off.
func (w *week) park() {
	time.Sleep(w.between(time.Second, 3*time.Minute))
	rests := w.chance(30)
	if rests {
		w.agent.uplink.Rest("parked")
		time.Sleep(w.between(0, 2*time.Second))
	}
	d := w.between(10*time.Minute, 30*time.Hour)
	switch w.random.IntN(4) {
	case 0, 1:
		w.suspend(d)
	case 2:
		w.say("off in order, %v", d.Round(time.Second))
		k := time.Now()
		if !w.agent.stop(w.t, w.machine.Boot()) {
			w.kills[w.process] = killed{at: time.Now(), from: k.Add(-time.Hour), trouble: true}
		}
		w.away(d)
		w.power()
		return
	default:
		w.say("power cut, %v", d.Round(time.Second))
		w.cut()
		w.away(d)
		w.power()
		return
	}
	if rests {
		w.agent.uplink.Wake()
	}
}

// suspend stops the computer's time but for CLOCK_BOOTTIME, which the kernel reckons.
func (w *week) suspend(d time.Duration) {
	wrong := w.between(-time.Second, time.Second)
	w.say("suspend %v, reckoned wrong by %v", d.Round(time.Second), wrong)
	w.broker.each((*end).deafen) // the broker has given it up long before it wakes
	w.machine.now()
	w.machine.mu.Lock()
	w.machine.sleep(d, wrong)
	w.machine.mu.Unlock()
	w.agent.times.System(w.machine.reading())
	synctest.Wait()
	if w.chance(70) {
		w.agent.uplink.Renew()
	}
}

// away is time without the computer.
func (w *week) away(d time.Duration) {
	w.machine.now()
	w.machine.mu.Lock()
	w.machine.off(d)
	w.machine.mu.Unlock()
}

// repair puts everything right, and lets the vehicle deliver all it has.
func (w *week) repair() {
	w.say("repaired")
	w.calm()
	w.receiver, w.booting = true, time.Now()
	w.drive(3 * time.Minute)
	w.calm()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Hour)
	defer cancel()
	for round := 0; ; round++ {
		err := w.agent.pipe.Commit(ctx, true)
		if err == nil {
			err = w.agent.uplink.Drain(ctx)
		}
		if err != nil {
			w.t.Errorf("P1: %v; %v", err, w.agent.uplink.State())
			break
		}
		if w.recalls { // each round of asking takes a status
			for range 5 {
				time.Sleep(statusEvery + 10*time.Second)
				if err := w.agent.uplink.Drain(ctx); err != nil {
					w.t.Errorf("P1: %v; %v", err, w.agent.uplink.State())
				}
			}
		}
		time.Sleep(10 * time.Second) // what the losses and the receipts still have to say
		if round > 0 {
			break
		}
	}
	w.agent.stop(w.t, w.machine.Boot())
}

// String is the week as its seed made it.
func (w *week) String() string {
	return fmt.Sprintf("seed %d: published %016x, %d ppm, a batch every %v, %d in flight, payloads of %d bytes\n\t%s", w.seed, w.trace, w.machine.ppm,
		w.sealEvery, w.inFlight, w.payloadBytes, strings.Join(w.script, "\n\t"))
}
