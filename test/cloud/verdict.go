package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/test/programs"
)

// arriveWithin bounds how long what the agents have delivered may be on its way through Kafka into the tables.
const arriveWithin = 45 * time.Second

// finish stops the cars, lets the agents deliver what they hold, and compares what the cars sent with what the tables have.
func (c *cloud) finish() error {
	c.say("\nstopping: the cars first, then the agents, which deliver what they hold …")
	var cars, agents []*programs.Process
	for _, v := range c.vehicles {
		cars, agents = append(cars, v.car), append(agents, v.agent)
	}
	if err := programs.StopAll(cars, 15*time.Second); err != nil {
		return err
	}
	for _, v := range c.vehicles {
		if err := v.summary(); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second) // what is in the FIFOs is read, what is open is sealed
	if err := programs.StopAll(agents, 45*time.Second); err != nil {
		return err
	}
	err := errors.Join(c.verdict(), programs.StopAll(c.fleet, 30*time.Second))
	c.say("taken by the first process %d payloads, by the second %d", c.status[0].get().Payloads, c.status[1].get().Payloads)
	return err
}

// verdict asks the database until all is there, and nobody else.
func (c *cloud) verdict() error {
	ctx, cancel := context.WithTimeout(context.Background(), arriveWithin+15*time.Second)
	defer cancel()
	config, err := pgx.ParseConfig(fmt.Sprintf("postgres://waybill@%s:%s/waybill", c.database.host, c.database.port))
	if err != nil {
		return err
	}
	config.Password = c.database.password
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for deadline := time.Now().Add(arriveWithin); ; time.Sleep(500 * time.Millisecond) {
		have, err := numbered(ctx, conn)
		if err != nil {
			return err
		}
		wrong := c.compare(have)
		if wrong == nil {
			break
		}
		if time.Now().After(deadline) {
			return wrong
		}
	}
	var samples, vehicles int64
	if err := conn.QueryRow(ctx, `SELECT count(*), count(DISTINCT device) FROM readings`).Scan(&samples, &vehicles); err != nil {
		return err
	}
	for _, v := range c.vehicles {
		frames, counted := int64(0), int64(0)
		for _, s := range v.over {
			frames, counted = frames+s.Frames, counted+s.Counted()
		}
		c.say("%s  %d frames on the bus in %d drives, %d of them numbered: each is in the table once", v.name, frames, len(v.over), counted)
	}
	c.say("in PostgreSQL  %d samples of %d vehicles\nverdict: every numbered frame is in the store, once", samples, vehicles)
	return nil
}

// numbered gives for each vehicle and number how often the table has it.
func numbered(ctx context.Context, conn *pgx.Conn) (map[string]map[int64]int, error) {
	rows, err := conn.Query(ctx, `SELECT device, value::bigint, count(*) FROM readings WHERE name = 'can0.DriveCounter.FrameCounter' GROUP BY 1, 2`)
	if err != nil {
		return nil, err
	}
	have := map[string]map[int64]int{}
	var device string
	var number int64
	var times int
	_, err = pgx.ForEachRow(rows, []any{&device, &number, &times}, func() error {
		if have[device] == nil {
			have[device] = map[int64]int{}
		}
		have[device][number] = times
		return nil
	})
	return have, err
}

// compare says what is wrong; nil when every number is there as often as it was sent, and none else. Each drive begins to count anew.
func (c *cloud) compare(have map[string]map[int64]int) (err error) {
	for _, v := range c.vehicles {
		left := have[v.name] // what is too many in the end
		sent, missing, tooMany := int64(0), 0, 0
		for _, s := range v.over {
			sent += s.Counted()
			for n := int64(s.FirstCounter); n < int64(s.FirstCounter)+s.Counted(); n++ {
				if left[n] == 0 {
					missing++
					continue
				}
				left[n]--
			}
		}
		for _, times := range left {
			tooMany += times
		}
		if missing+tooMany > 0 {
			err = errors.Join(err, fmt.Errorf("%s sent %d numbered frames; of them the table lacks %d, and has %d too many", v.name, sent, missing, tooMany))
		}
	}
	return err
}
