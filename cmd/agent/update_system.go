package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/waybill-telematics/waybill/firmware/install"
	"github.com/waybill-telematics/waybill/firmware/update"
	"github.com/waybill-telematics/waybill/internal/clock"
)

const (
	// rebootCommandTime bounds the command that has the machine start anew.
	rebootCommandTime = time.Minute
	// rebootWait is how long the agent waits to be ended with the machine before it collects again.
	rebootWait = 2 * time.Minute
	// rebootPause is how long no other start is asked for after one that did not come: each costs a stop of the agent.
	rebootPause = time.Hour
)

// errReboot ends a run of the agent after which the machine is to be started anew.
var errReboot = errors.New("the machine is to be started anew")

// openSystem makes the whole system a place for images, where the configuration names who installs them.
func (u *updater) openSystem() error {
	s := u.set.Installer
	if s == nil {
		return nil
	}
	installer, err := u.newInstaller()
	if err == nil {
		u.system, err = update.NewSystem(update.SystemOptions{
			Path: u.path("system.json"), Installer: installer, Reboot: u.reboot, BootID: clock.FormatBootID(u.boot.ID),
			Write: writeDurably, Log: u.log,
		})
	}
	if err != nil {
		return fmt.Errorf("update.installer: %w", err)
	}
	return nil
}

func (u *updater) newInstaller() (install.Installer, error) {
	s := u.set.Installer
	switch {
	case s.RAUC:
		return install.NewRAUC(install.RAUCOptions{Logger: u.log}), nil
	case s.SWUpdate != nil:
		o := *s.SWUpdate
		o.Logger = u.log
		return install.NewSWUpdate(o)
	}
	return install.NewHook(install.HookOptions{Command: s.Hook, Lock: u.path("install.lock"), Logger: u.log})
}

// reboot ends the agent; the command is run when all is stopped and closed.
func (u *updater) reboot(context.Context) error {
	if err := u.again.noReboot(time.Now()); err != nil {
		return err
	}
	u.stop(errReboot)
	return nil
}

// noReboot says why no start of the machine is asked for now.
func (r *renewal) noReboot(now time.Time) error {
	if r.rebootErr == nil || now.Sub(r.rebootAt) >= rebootPause {
		return nil
	}
	return fmt.Errorf("%w; it is asked again %v later", r.rebootErr, rebootPause)
}

// restartMachine runs the command and waits to be ended. An error says why the machine still runs.
func restartMachine(ctx context.Context, command []string) error {
	if ctx.Err() != nil {
		return nil
	}
	bound, cancel := context.WithTimeout(ctx, rebootCommandTime)
	defer cancel()
	cmd := exec.CommandContext(bound, command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // ours may hold secrets
	cmd.WaitDelay = time.Second
	text, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update.installer.reboot: %q: %w: %.256q", command, err, text)
	}
	if sleep(ctx, rebootWait) {
		return fmt.Errorf("update.installer.reboot: %q: %s later the machine still runs", command, rebootWait)
	}
	return nil
}
