//go:build system

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/test/cloudtest"
)

// TestThroughKafka: from a real broker through a real Kafka into PostgreSQL by two processes that share the work, while
// each of them, Kafka and the database are killed. What vehicles have receipts for is in the tables, once, by SQL.
func TestThroughKafka(t *testing.T) {
	const cars, batches, perBatch = 4, 150, 20
	cloud := cloudtest.New(t, cloudtest.Options{})
	if text, code := run(cloud.TopicArgs()...); code != cli.OK {
		t.Fatalf("exit code %d: %s", code, text)
	}
	start := func(slot int) *exec.Cmd {
		return child(t, io.Discard, cloud.ServeArgs("--slots", fmt.Sprint(slot), "--every", "1s")...)
	}
	processes := []*exec.Cmd{start(0), start(1)}
	var fleet []*car
	for i := range cars {
		fleet = append(fleet, newCar(t, cloud.Broker.Addr, fmt.Sprintf("car-%d", i+1), batches, perBatch))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	kills := map[string]int{}
	accidents := []string{"process 0", "kafka", "process 1", "database", "process 0", "process 1"}
	began := time.Now()
	for round := 0; ; round++ {
		left := 0
		for _, c := range fleet {
			left += c.resend(rng, 8)
		}
		if left == 0 && len(accidents) == 0 {
			break
		}
		if time.Since(began) > 4*time.Minute {
			t.Fatalf("%d batches without a receipt after %v", left, kills)
		}
		if round%12 == 11 && len(accidents) > 0 {
			what := accidents[0]
			accidents = accidents[1:]
			kills[what]++
			switch what {
			case "kafka":
				cloud.Kafka.Kill()
				cloud.Kafka.Start()
			case "database":
				cloud.Database.Kill()
				cloud.Database.Start()
			default:
				i := int(what[len(what)-1] - '0')
				if err := processes[i].Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = processes[i].Wait()
				processes[i] = start(i)
			}
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("%v, all receipts after %s", kills, time.Since(began).Round(time.Second))
	ctx, conn := context.Background(), cloud.Connect()
	rows, err := conn.Query(ctx, `SELECT device, count(*), count(DISTINCT value), min(value)::bigint, max(value)::bigint
	    FROM readings WHERE name = 'can0.DriveCounter.FrameCounter' GROUP BY device`)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		var device string
		var all, distinct, least, most int64
		if err := rows.Scan(&device, &all, &distinct, &least, &most); err != nil {
			t.Fatal(err)
		}
		n++
		if all != batches*perBatch || distinct != all || least != 1 || most != all {
			t.Errorf("%s: %d samples, %d different ones, from %d to %d, want %d from 1 on", device, all, distinct, least, most, batches*perBatch)
		}
	}
	if err := rows.Err(); err != nil || n != cars {
		t.Errorf("%d vehicles in the table, want %d; %v", n, cars, err)
	}
	for _, c := range fleet {
		c.mu.Lock()
		if len(c.faults) > 0 {
			t.Errorf("%s: %v", c.name, c.faults)
		}
		c.mu.Unlock()
	}
}
