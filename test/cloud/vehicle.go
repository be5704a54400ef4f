package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/test/drive"
	"github.com/waybill-telematics/waybill/test/programs"
)

// oneDrive is how long a drive is at most: it has a town, a motorway and a tunnel, and then the next one begins.
const oneDrive = 5 * time.Minute

// vehicle is an agent and the car that it sits in.
type vehicle struct {
	name   string
	number int
	agent  *programs.Process
	car    *programs.Process // that of the last drive
	drives int               // begun
	sent   chan programs.Drive
	over   []programs.Drive // of the drives that are
}

// uplinkConfig is what agents have beside what all have.
const uplinkConfig = "  keep_alive: 15s\n  receipt_timeout: 20s\n  retry_cap: 2s\n"

// startVehicles starts agents and cars, each of its own seed.
func (c *cloud) startVehicles(ctx context.Context) error {
	c.say("starting %d vehicles …", c.options.vehicles)
	for n := 1; n <= c.options.vehicles && ctx.Err() == nil; n++ {
		v, err := c.startVehicle(n)
		if err != nil {
			return err
		}
		c.vehicles = append(c.vehicles, v)
	}
	return ctx.Err()
}

func (c *cloud) startVehicle(n int) (*vehicle, error) {
	v := &vehicle{name: fmt.Sprintf("car-%02d", n), number: n, sent: make(chan programs.Drive, 1)}
	folder := c.Path(v.name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	err := errors.Join(
		os.WriteFile(c.Path(v.name, "agent.yaml"), programs.AgentConfig(v.name, strings.TrimPrefix(c.brokerURL, "tcp://"), uplinkConfig), 0o600),
		os.WriteFile(c.Path(v.name, "demo.dbc"), drive.DBC(), 0o600),
		syscall.Mkfifo(c.Path(v.name, "can0.fifo"), 0o600))
	if err != nil {
		return nil, err
	}
	if v.agent, err = c.Start(nil, folder, v.name+"-agent", "waybill-agent", "run", "-c", "agent.yaml"); err != nil {
		return nil, err
	}
	return v, c.drive(v)
}

// drive begins a vehicle's next drive.
func (c *cloud) drive(v *vehicle) (err error) {
	length := oneDrive
	if c.length > 0 {
		length = min(length, c.length)
	}
	v.car, err = c.Start(v.onCar, c.Path(v.name), v.name, "waybill-simulate", "drive", "--can", "can0.fifo", "--gps", "pty:gps0",
		"--seed", fmt.Sprint(v.number+100*v.drives), "--duration", length.String())
	v.drives++
	return err
}

// summary takes what the car said when its drive was over.
func (v *vehicle) summary() error {
	if v.car.Err != nil {
		return fmt.Errorf("%s: %w:\n%s", v.name, v.car.Err, v.car.LastWords())
	}
	select {
	case s := <-v.sent:
		v.over = append(v.over, s)
		return nil
	default:
		return fmt.Errorf("%s: waybill-simulate printed no summary", v.name)
	}
}

func (v *vehicle) onCar(line []byte) {
	var s programs.Drive
	if json.Unmarshal(line, &s) == nil && s.Frames > 0 {
		v.sent <- s // one a drive, and it is taken before the next
	}
}
