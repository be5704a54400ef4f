//go:build system

// Package day has somebody look at an agent for a whole day of driving, in the time that the machine takes for it.
package day

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/local"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/drive"
	"github.com/waybill-telematics/waybill/test/programs"
)

const config = `
device: {id: day-1}
data_dir: data
can: [{bus: can0, replay: bus, speed: 0, time: receipt, dbc: [car.dbc]}]
collect: {signals: [{match: "*", min_interval: 1s}]}
queue: {max_bytes: 64MiB}
metrics: {listen: "unix:socket"}
`

// memory is what the agent may take at any time of the day, resident, bytes: the bar of docs/BENCHMARKS.md.
const memory = 64 << 20

// TestDay: WAYBILL_DAY_HOURS (2) of a simulated drive go through a real agent, four hundred times as fast, while one viewer follows all the
// time, as the page and `waybill-agent top` do, and another comes and goes. What they see never goes back, and in the end it is
// what was last on the bus, by the drive itself: every frame counted, every signal's value; and the agent has not grown.
func TestDay(t *testing.T) {
	hours := 2
	if text := os.Getenv("WAYBILL_DAY_HOURS"); text != "" {
		var err error
		if hours, err = strconv.Atoi(text); err != nil || hours < 1 || hours > 24 {
			t.Fatalf("WAYBILL_DAY_HOURS=%s: want 1 to 24", text)
		}
	}
	length := time.Duration(hours) * time.Hour
	g := &programs.Group{Folder: t.TempDir()}
	t.Chdir(deps.Root(t))
	if err := g.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer g.KillAll()
	write := func(name, text string) {
		if err := os.WriteFile(g.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("agent.yaml", config)
	write("car.dbc", string(drive.DBC()))
	if err := syscall.Mkfifo(g.Path("bus"), 0o600); err != nil {
		t.Fatal(err)
	}
	bus, err := os.OpenFile(g.Path("bus"), os.O_RDWR, 0) // it has no end while we have it
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	agent, err := g.Start(nil, g.Folder, "agent", "waybill-agent", "run", "-c", "agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	client := local.NewClient("unix:"+g.Path("socket"), "")
	wait(t, "the agent answers", func() bool { _, err := client.State(t.Context()); return err == nil })

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan local.View)
	ended := make(chan error, 2)
	go func() { ended <- follow(ctx, client, seen) }()
	go func() { ended <- comeAndGo(ctx, client) }()
	car := exec.CommandContext(ctx, g.Path("waybill-simulate"), "drive", "--can", g.Path("bus"), "--speed", "400", "--duration", length.String(), "--seed", "7")
	done := make(chan error, 1)
	var summary []byte
	go func() {
		var err error
		summary, err = car.Output()
		done <- err
	}()
	began := time.Now()
	alone := make(chan end, 1)
	go func() { alone <- last(t, length) }()
	var wanted *end // nil: not known yet
	events, finished := 0, false
	deadline := time.After(time.Duration(hours) * 5 * time.Minute)
	for missing := []string{"everything"}; len(missing) > 0; {
		select {
		case v := <-seen:
			events++
			if v.State.Now.RSS > memory {
				t.Fatalf("the agent has %d bytes after %v", v.State.Now.RSS, time.Since(began).Round(time.Second))
			}
			if finished && wanted != nil {
				missing = wanted.missing(&v)
			}
		case e := <-alone:
			wanted = &e
		case err := <-done:
			if err != nil {
				t.Fatalf("the drive: %v", err)
			}
			finished = true
			t.Logf("%d hours took %v: %s", hours, time.Since(began).Round(time.Second), strings.TrimSpace(string(summary)))
		case err := <-ended:
			t.Fatalf("a viewer ended: %v", err)
		case <-deadline:
			t.Fatalf("not seen in the end: %q", missing)
		}
	}
	t.Logf("%d events", events)
	state, err := client.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A FIFO is a live source: where the machine is too slow for a day in minutes, that is a loss, and told.
	for _, l := range state.Losses {
		if l.Reason != "overload" {
			t.Errorf("loss %+v", l)
		}
	}
	if len(state.Alarms) > 0 {
		t.Errorf("alarms %+v", state.Alarms)
	}
	t.Logf("resident: %d bytes", state.Now.RSS)
	if out, err := exec.Command(g.Path("waybill-agent"), "status", "-c", g.Path("agent.yaml")).CombinedOutput(); err != nil || !strings.Contains(string(out), "day-1") {
		t.Errorf("status: %v\n%s", err, out)
	}
	cancel()
	if err := agent.Stop(time.Minute); err != nil {
		t.Error(err)
	}
}

// follow hands out what a viewer knows, from its first event on.
func follow(ctx context.Context, client *local.Client, seen chan<- local.View) error {
	var frames uint64
	return client.Follow(ctx, func(v *local.View) error {
		if len(v.State.Buses) != 1 || v.State.Buses[0].Frames < frames {
			return fmt.Errorf("buses %+v after %d frames", v.State.Buses, frames)
		}
		frames = v.State.Buses[0].Frames
		view := local.View{State: v.State, Signals: v.Signals}
		view.Signals.Signals = append([]local.Signal(nil), v.Signals.Signals...)
		select {
		case seen <- view:
		case <-ctx.Done():
		}
		return nil
	})
}

// comeAndGo is a viewer that looks for three events at a time.
func comeAndGo(ctx context.Context, client *local.Client) error {
	errEnough := errors.New("enough")
	for ctx.Err() == nil {
		events := 0
		err := client.Follow(ctx, func(*local.View) error {
			if events++; events == 3 {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// end is what is on the bus at the end of a drive.
type end struct {
	frames uint64
	values map[string]float64
}

// last drives the same way, alone, and decodes.
func last(t *testing.T, length time.Duration) end {
	t.Helper()
	d, err := drive.New(drive.Options{Seed: 7, Start: time.Now().UTC(), Duration: length})
	if err != nil {
		t.Error(err)
		return end{}
	}
	var subscriptions []can.Subscription
	var names []string
	for _, m := range can.ParseDBC(drive.DBC()).Messages {
		for _, s := range m.Signals {
			subscriptions = append(subscriptions, can.Subscription{ID: uint32(len(names)), Message: m, Signal: s})
			names = append(names, "can0."+m.Name+"."+s.Name)
		}
	}
	plan := can.Compile(subscriptions, can.PlanOptions{})
	e := end{values: map[string]float64{}}
	for {
		event, more := d.Next()
		if !more {
			return e
		}
		if event.Frame == nil {
			continue
		}
		e.frames++
		for _, s := range plan.Decode(event.Frame, nil) {
			signal := subscriptions[s.Signal].Signal
			e.values[names[s.Signal]] = s.Physical(signal.Scale, signal.Offset)
		}
	}
}

// missing says what a viewer does not see, or sees otherwise.
func (e *end) missing(v *local.View) (list []string) {
	if got := v.State.Buses[0].Frames; got != e.frames {
		list = append(list, fmt.Sprintf("%d frames, want %d", got, e.frames))
	}
	values := map[string]float64{}
	for _, s := range v.Signals.Signals {
		values[s.Name] = float64(s.Value.Value)
	}
	for name, want := range e.values {
		if got, there := values[name]; !there || math.Abs(got-want) > 1e-9*math.Max(1, math.Abs(want)) {
			list = append(list, fmt.Sprintf("%s %v, want %v", name, got, want))
		}
	}
	return list
}

func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
