//go:build system

// Package soak lets many vehicles commit samples for a while, and kills everything between them and the table at random:
// the broker, Kafka, the database and the processes of the fleet. In the end everything is there, once.
package soak

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/cloudtest"
)

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, text)
	}
	return n
}

// part is what can be killed and started again.
type part struct {
	name  string
	kill  func()
	start func()
	kills int
}

// TestSoak: WAYBILL_SOAK_VEHICLES (200) commit samples for WAYBILL_SOAK_SECONDS (30), while two of three processes of
// the fleet, Mosquitto, Kafka and PostgreSQL are killed, in the order of WAYBILL_SOAK_SEED. The third process lives through all of it, and must
// have let go of what it took for that. In the end SQL finds each committed sample once, and no vehicle holds a batch.
func TestSoak(t *testing.T) {
	vehicles := setting(t, "WAYBILL_SOAK_VEHICLES", 200)
	length := time.Duration(setting(t, "WAYBILL_SOAK_SECONDS", 30)) * time.Second
	seed := setting(t, "WAYBILL_SOAK_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WAYBILL_SOAK_SEED=%d, %d vehicles, %s", seed, vehicles, length)
	rng := rand.New(rand.NewPCG(seed, 7))

	c := cloudtest.New(t, cloudtest.Options{})
	program := c.Build()
	var processes []*cloudtest.Process
	for i := range 3 {
		processes = append(processes, c.Process(program, fmt.Sprintf("fleet-%d", i), c.Auto()))
	}
	witness := processes[2]

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var fleet []*cloudtest.Vehicle
	var driving sync.WaitGroup
	for i := range vehicles {
		v := c.Vehicle(fmt.Sprintf("car-%04d", i))
		fleet = append(fleet, v)
		random := rand.New(rand.NewPCG(seed, 1000+i))
		driving.Go(func() {
			if err := v.Drive(ctx, random, 4*time.Second, 80); err != nil {
				t.Error(err)
			}
		})
	}
	for deadline := time.Now().Add(2 * time.Minute); slices.ContainsFunc(fleet, func(v *cloudtest.Vehicle) bool { return v.State().BatchesReleased == 0 }); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not every vehicle has a receipt after two minutes: %v", held(fleet))
		}
	}
	before := witness.Use()

	parts := []*part{
		{name: "broker", kill: c.Broker.Kill, start: c.Broker.Start},
		{name: "kafka", kill: c.Kafka.Kill, start: c.Kafka.Start},
		{name: "database", kill: c.Database.Kill, start: c.Database.Start},
		{name: "fleet-0", kill: processes[0].Kill, start: processes[0].Start},
		{name: "fleet-1", kill: processes[1].Kill, start: processes[1].Start},
	}
	began := time.Now()
	for time.Since(began) < length {
		accident(t, rng, parts, began)
		time.Sleep(time.Duration(2000+rng.IntN(8000)) * time.Millisecond)
	}
	cancel()
	driving.Wait()
	stopped := time.Now()
	told := stopped
	for deadline := stopped.Add(3*time.Minute + length); ; time.Sleep(50 * time.Millisecond) {
		left := held(fleet)
		if len(left) == 0 {
			break
		}
		if time.Since(told) > 20*time.Second {
			told = time.Now()
			t.Logf("%5.1f s after the last commit still held: %v", time.Since(stopped).Seconds(), left)
		}
		if time.Now().After(deadline) {
			explain(t, c, fleet)
			t.Fatalf("not released after %s: %v", time.Since(stopped), left)
		}
	}
	drained := time.Since(stopped)
	for _, p := range processes {
		if !p.Running() {
			t.Errorf("%s has ended by itself", p.Name)
		}
	}
	after := witness.Use()

	batches, samples := cloudtest.Compare(t, c.Connect(), fleet)
	raw := c.Raw(t, "wb1.raw")
	var resent, losses uint64
	for _, v := range fleet {
		s := v.State()
		resent, losses = resent+s.BatchesResent, losses+s.Losses
	}
	kills := map[string]int{}
	for _, p := range parts {
		kills[p.name] = p.kills
	}
	t.Logf("%d vehicles, killed %v, connections lost %d; %d batches and %d samples, each once; drained %.1f s after the last commit",
		vehicles, kills, losses, batches, samples, drained.Seconds())
	t.Logf("on the raw topic %d batches in %d records, %d of them repeats; vehicles sent %d again", raw.Batches, raw.Records, raw.Repeats, resent)
	t.Logf("the process that was not killed: %s before, %s after", before, after)
	if after.Goroutines > 2*before.Goroutines {
		t.Errorf("goroutines: %d, %d before", after.Goroutines, before.Goroutines)
	}
	if after.Files > before.Files+32 {
		t.Errorf("open files: %d, %d before", after.Files, before.Files)
	}
	for name, n := range kills {
		if n == 0 && length >= 5*time.Minute {
			t.Errorf("%s was never killed", name)
		}
	}
}

// accident kills one part, or two or all of them at once, and starts them again after a while, in any order.
func accident(t *testing.T, rng *rand.Rand, parts []*part, began time.Time) {
	hit := slices.Clone(parts)
	rng.Shuffle(len(hit), func(i, j int) { hit[i], hit[j] = hit[j], hit[i] })
	switch n := rng.IntN(20); {
	case n == 0:
	case n < 6:
		hit = hit[:2]
	default:
		hit = hit[:1]
	}
	down := time.Duration(rng.IntN(3000)) * time.Millisecond
	var names []string
	for _, p := range hit {
		p.kill()
		p.kills++
		names = append(names, p.name)
	}
	t.Logf("%5.1f s: killed %s, for %s", time.Since(began).Seconds(), strings.Join(names, ", "), down)
	time.Sleep(down)
	rng.Shuffle(len(hit), func(i, j int) { hit[i], hit[j] = hit[j], hit[i] })
	for _, p := range hit {
		p.start()
	}
}

// explain says of some vehicles why they may wait: what their uplinks say, and what the table has of theirs.
func explain(t *testing.T, c *cloudtest.Cloud, fleet []*cloudtest.Vehicle) {
	conn, shown := c.Connect(), 0
	for _, v := range fleet {
		if v.Held() == 0 || shown == 10 {
			continue
		}
		shown++
		var stored int
		if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM batches b JOIN devices d ON d.id = b.device WHERE d.device = $1", v.Name).Scan(&stored); err != nil {
			t.Error(err)
		}
		s := v.State()
		t.Logf("%s committed %d batches, %d are in the table, it holds %d: %+v", v.Name, len(v.Committed), stored, v.Held(), s)
	}
}

// held says which vehicles hold how many batches.
func held(fleet []*cloudtest.Vehicle) map[string]int {
	left := map[string]int{}
	for _, v := range fleet {
		if n := v.Held(); n > 0 {
			left[v.Name] = n
		}
	}
	if len(left) > 10 {
		names := slices.Sorted(maps.Keys(left))
		for _, name := range names[10:] {
			left["others"] += left[name]
			delete(left, name)
		}
	}
	return left
}
