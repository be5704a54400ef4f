//go:build system

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/cloudtest"
)

// share is a process's part of the work, as its metrics say.
type share struct {
	slots, partitions int
	batches           float64
}

func shareOf(p *cloudtest.Process) share {
	m := p.Metrics()
	return share{int(m["waybill_fleet_slots"]), int(m["waybill_fleet_kafka_partitions"]), m["waybill_fleet_batches_total"]}
}

// TestRolling: under the load of 40 vehicles two processes of the fleet share four slots of the subscription and four
// partitions of Kafka's topic; one is killed, and its share moves to the other; four share; each of them is
// stopped and started again, then each killed and started again. Each process took a part, nothing is lost, nothing is
// there twice, by SQL.
func TestRolling(t *testing.T) {
	const whole = 4
	c := cloudtest.New(t, cloudtest.Options{Partitions: whole, Slots: whole})
	program := c.Build()
	var processes []*cloudtest.Process
	add := func() {
		processes = append(processes, c.Process(program, fmt.Sprintf("fleet-%d", len(processes)), c.Auto()))
	}
	// settled waits until some processes have all of the work together, and each at least so much of it.
	settled := func(what string, least int, list ...*cloudtest.Process) {
		t.Helper()
		began := time.Now()
		for {
			slots, partitions, each := 0, 0, true
			var shares []share
			for _, p := range list {
				s := shareOf(p)
				shares = append(shares, s)
				slots, partitions, each = slots+s.slots, partitions+s.partitions, each && s.slots >= least && s.partitions >= least
			}
			if slots == whole && partitions == whole && each {
				t.Logf("%s after %.1f s: %+v", what, time.Since(began).Seconds(), shares)
				return
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("never: %s: %+v", what, shares)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	// works waits until each has stored batches that nobody had, since it started.
	works := func(list ...*cloudtest.Process) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); slices.ContainsFunc(list, func(p *cloudtest.Process) bool { return shareOf(p).batches == 0 }); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a process stores nothing")
			}
		}
	}

	add()
	add()
	settled("two share", whole/2, processes...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var fleet []*cloudtest.Vehicle
	var driving sync.WaitGroup
	for i := range 40 {
		v := c.Vehicle(fmt.Sprintf("car-%04d", i))
		fleet = append(fleet, v)
		driving.Go(func() {
			if err := v.Drive(ctx, rand.New(rand.NewPCG(1, uint64(i))), 400*time.Millisecond, 20); err != nil {
				t.Error(err)
			}
		})
	}
	works(processes...)

	processes[0].Kill()
	settled("the other has a killed one's share", whole, processes[1])
	processes[0].Start()
	add()
	add()
	settled("four share", 1, processes...)
	works(processes...)

	for _, p := range processes {
		p.Stop()
		others := slices.DeleteFunc(slices.Clone(processes), func(o *cloudtest.Process) bool { return o == p })
		settled("without "+p.Name+", stopped", 1, others...)
		p.Start()
		for deadline := time.Now().Add(time.Minute); shareOf(p).slots == 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s was started again, and has nothing to do after a minute", p.Name)
			}
		}
	}
	settled("each stopped and started again", 1, processes...)
	works(processes...)
	for _, p := range processes { // the next before the group has noticed
		p.Kill()
		time.Sleep(2 * time.Second)
		p.Start()
	}
	settled("all killed, one after another", 1, processes...)
	works(processes...)
	cancel()
	driving.Wait()
	for deadline := time.Now().Add(time.Minute); len(held(fleet)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not released after a minute: %v", held(fleet))
		}
	}
	for _, p := range processes {
		p.Stop() // and wants it to end well
	}
	batches, samples := cloudtest.Compare(t, c.Connect(), fleet)
	raw := c.Raw(t, "wb1.raw")
	t.Logf("%d batches and %d samples, each once; on the raw topic %d batches, %d of them repeats", batches, samples, raw.Batches, raw.Repeats)
}
