package main

import (
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// install is the first boot: an agent in slot a learns of version 2 on the road and installs it once parked; the ignition
// goes off and on while that is on trial.
func (b *bench) install() error {
	if out, err := exec.Command(b.bin("launcher"), "--seed", b.bin("agent")).CombinedOutput(); err != nil {
		return fmt.Errorf("seed: %w: %s", err, out)
	}
	if err := b.car.drives(drivingFor, true); err != nil {
		return err
	}
	if err := b.agent.start(); err != nil {
		return err
	}
	if err := b.until("version 1 runs from slot a", b.runs(slots.A)); err != nil {
		return err
	}
	if err := b.until("it says that it waits for the car to be parked", func(slots.Status) bool {
		return b.agent.said("an update is not installed", "healthy", "parked")
	}); err != nil {
		return err
	}
	st, err := b.status()
	if err != nil || st.Trial != nil || st.Slots[slots.B].Bytes > 0 {
		return fmt.Errorf("installed while the car drives: %w", err)
	}
	if err := b.car.drives(parkedFor, false); err != nil {
		return err
	}
	for n := range b.cycles + 1 {
		if err := b.until(fmt.Sprintf("version 2 runs from slot b, ignition cycle %d", n), b.runs(slots.B)); err != nil {
			return err
		}
		st, err := b.status()
		if err != nil || st.Trial == nil || st.Trial.Starts != n+1 || st.Trial.Crashes > 0 {
			return fmt.Errorf("start %d is not one of a trial that goes on", n+1)
		}
		if n == b.cycles {
			return nil
		}
		if err := b.agent.stop(); err != nil {
			return err
		}
		if err := b.agent.start(); err != nil {
			return err
		}
	}
	return nil
}

// cut is the second boot: the power goes in the middle of the probation.
func (b *bench) cut() error {
	if err := b.start(); err != nil {
		return err
	}
	if err := b.until("version 2 runs from slot b again", b.runs(slots.B)); err != nil {
		return err
	}
	if st, err := b.status(); err != nil || st.Trial == nil {
		return fmt.Errorf("the trial is over: %w", err)
	}
	fmt.Println("cut")
	select {}
}

func (b *bench) start() error {
	if err := b.car.drives(parkedFor, false); err != nil {
		return err
	}
	return b.agent.start()
}

// rest is the third boot: version 2 is committed, and what comes after it is rolled back, each for its own reason.
func (b *bench) rest() error {
	if err := b.start(); err != nil {
		return err
	}
	healthy := b.images["healthy"]
	committed := func(st slots.Status) bool {
		image := st.Slots[slots.B].Image
		return st.Trial == nil && st.Committed == slots.B && image != nil && image.SHA256 == healthy.SHA256 &&
			image.Version == healthy.Version
	}
	if err := b.until("version 2 is committed", committed); err != nil {
		return err
	}
	if err := b.until("its outcome is told", reported); err != nil {
		return err
	}
	if err := b.reads("committed"); err != nil {
		return err
	}
	for _, twin := range []struct{ campaign, reason string }{
		{"crashes", "it ended by itself or was killed 3 times"},
		{"hangs", "it ended by itself or was killed 3 times"},
		{"deaf", "can0"},
	} {
		if _, there := b.images[twin.campaign]; !there {
			continue
		}
		b.lead(twin.campaign)
		for _, step := range []struct {
			what string
			so   func(slots.Status) bool
		}{
			{"the image of " + twin.campaign + " is rolled back", b.rejected(twin.campaign, twin.reason)},
			{"version 2 runs from slot b, and is committed", func(st slots.Status) bool {
				return b.runs(slots.B)(st) && committed(st)
			}},
			{"the rollback of " + twin.campaign + " is told", reported},
		} {
			if err := b.until(step.what, step.so); err != nil {
				return err
			}
		}
	}
	b.lead("again")
	if err := b.until("the same image is not tried again", func(slots.Status) bool {
		return b.agent.said("an update is not installed", "again", "rolled back here before")
	}); err != nil {
		return err
	}
	if st, err := b.status(); err != nil || st.Trial != nil || !committed(st) {
		return fmt.Errorf("it is: %w", err)
	}
	return b.reads("rolled-back")
}

// reads says between which times of which boot the agent read the bus, for the host to look for the frames in the store.
func (b *bench) reads(when string) error {
	clock := func() (t unix.Timespec) { _ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); return t }
	from, heard := clock(), frames()
	if err := b.until("five hundred frames", func(slots.Status) bool { return frames() >= heard+500 }); err != nil {
		return err
	}
	to := clock()
	fmt.Printf("read %s %s %d %d\n", when, strings.ReplaceAll(slots.BootID(), "-", ""), from.Nano(), to.Nano())
	return nil
}
