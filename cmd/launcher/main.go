// Command waybill-launcher starts the agent from the slot that is to run, and becomes it: same process, same arguments,
// same environment and WAYBILL_SLOT. It rolls an update back that does not work. Updates never replace it, so it is small and does
// nothing else; firmware/slots is where it decides.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/firmware/slots"
)

const help = `waybill-launcher starts the agent from the slot that is to run.

usage: waybill-launcher [ARGUMENT...]   become the agent, with these arguments
       waybill-launcher --status        say what is in the slots and what is on trial
       waybill-launcher --status --json the same as one JSON object
       waybill-launcher --seed FILE     put FILE into slot a, if neither slot has an agent
       waybill-launcher --version       say which build this is
       waybill-launcher --help          say this

An update is on trial until it says that it is healthy. If before that it crashes or is killed 3 times, or cannot be
executed, the launcher starts the agent that was there before, and that update is not tried again. A power cut or
a stop that was asked for is no crash.

Each call with other arguments counts as a start. For a look at a vehicle (version, doctor, check) call the agent itself:
` + slots.DefaultDir + `/current/waybill-agent

environment:
  WAYBILL_FIRMWARE_DIR   the slots' folder, ` + slots.DefaultDir + `
  WAYBILL_FACTORY_AGENT  what is started when no slot has an agent, ` + slots.DefaultFactory + `
  ` + slots.EnvSlot + `           set for the agent: a, b or factory

exit codes: 0 all right, 1 failed, 2 wrong usage; when it starts an agent, that one's.
`

func main() {
	l := launcher{args: os.Args, env: os.Environ(), stdout: os.Stdout, stderr: os.Stderr, exec: syscall.Exec}
	os.Exit(l.run(slots.Options{}))
}

// launcher is what a process is given.
type launcher struct {
	args, env      []string
	stdout, stderr io.Writer
	exec           func(path string, args, env []string) error // returns only when it failed
}

// run becomes the agent, or returns an exit code.
func (l *launcher) run(o slots.Options) int {
	dir := l.variable("WAYBILL_FIRMWARE_DIR", slots.DefaultDir)
	o.Factory = l.variable("WAYBILL_FACTORY_AGENT", slots.DefaultFactory)
	// The journal has its own time, and the clock may be wrong.
	o.Log = slog.New(slog.NewTextHandler(l.stderr, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})).With("program", "waybill-launcher")
	s, err := slots.Open(dir, o)
	if err != nil {
		return l.failed(err)
	}
	ctx := context.Background() // nobody waits for the launcher to end: each wait in it is bounded
	switch args := l.args[1:]; {
	case slices.Equal(args, []string{"--help"}), slices.Equal(args, []string{"-h"}):
		fmt.Fprint(l.stdout, help)
	case slices.Equal(args, []string{"--version"}):
		fmt.Fprintln(l.stdout, "waybill-launcher", firmware.Current())
	case slices.Equal(args, []string{"--status"}), slices.Equal(args, []string{"--status", "--json"}):
		err = l.status(s, len(args) == 2)
	case len(args) == 2 && args[0] == "--seed":
		err = l.seed(ctx, s, dir, args[1])
	case len(args) > 0 && (args[0] == "--status" || args[0] == "--seed"):
		fmt.Fprintf(l.stderr, "waybill-launcher: %s: see waybill-launcher --help\n", strings.Join(args, " "))
		return 2
	default:
		err = s.Launch(ctx, func(start slots.Start) error {
			return l.exec(start.Path, append([]string{start.Path}, args...), l.environment(start.Slot))
		})
	}
	if err != nil {
		return l.failed(err)
	}
	return 0
}

func (l *launcher) failed(err error) int {
	fmt.Fprintln(l.stderr, "waybill-launcher:", err)
	return 1
}

func (l *launcher) variable(name, otherwise string) string {
	for _, v := range l.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok && value != "" {
			return value
		}
	}
	return otherwise
}

// environment is the agent's: ours, and the slot.
func (l *launcher) environment(slot slots.Slot) []string {
	env := slices.DeleteFunc(slices.Clone(l.env), func(v string) bool { return strings.HasPrefix(v, slots.EnvSlot+"=") })
	return append(env, slots.EnvSlot+"="+string(slot))
}

func (l *launcher) seed(ctx context.Context, s *slots.Slots, dir, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	seeded, err := s.Seed(ctx, f, slots.Meta{Length: info.Size()})
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: run it as the agent's user", err)
	case err != nil:
		return err
	case seeded:
		fmt.Fprintln(l.stdout, "slot a holds", path)
	default:
		fmt.Fprintln(l.stdout, "the slots have an agent: nothing changed")
	}
	return nil
}

func (l *launcher) status(s *slots.Slots, asJSON bool) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(l.stdout).Encode(st)
	}
	printStatus(l.stdout, st)
	return nil
}
