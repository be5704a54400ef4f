package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/internal/local"
)

func topCommand() *cobra.Command {
	var f askFlags
	cmd := &cobra.Command{
		Use:   "top [-c FILE]",
		Short: "Show the running agent live: signals, buses, receivers, queue, uplink",
		Long: `Fills the terminal with what waybill-agent status says and with the collected signals, once a second, until q. It works
over ssh, and goes on by itself when the agent restarts. The agent keeps values only while somebody looks.

  q, Ctrl-C     end                    /          search: type part of a name, Enter keeps it, Esc drops it
  up, down, j, k, PgUp, PgDn  scroll   o          order: as configured, by name, by rate`,
		Example: "  waybill-agent top\n  ssh -t car waybill-agent top",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
				return cli.UsageError(errors.New("top needs a terminal (ssh -t); waybill-agent status prints once"))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGHUP, os.Interrupt)
			defer stop()
			return top(ctx, client, os.Stdin, os.Stdout)
		},
	}
	f.add(cmd)
	return cmd
}

// What a terminal of the kind of a VT100 with xterm's alternate screen is told (ECMA-48).
const (
	screenBegin = "\x1b[?1049h\x1b[?25l" // alternate screen, no cursor
	screenEnd   = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineClear   = "\x1b[K"
	screenRest  = "\x1b[J"
	bold        = "\x1b[1m"
	reverse     = "\x1b[7m"
	plain       = "\x1b[0m"
)

// top shows the agent until q or the end of ctx, and leaves the terminal as it was.
func top(ctx context.Context, client *local.Client, in, out *os.File) error {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() {
		_, _ = io.WriteString(out, screenEnd) // nobody is left to tell
		_ = term.Restore(int(in.Fd()), before)
	}()
	if _, err := io.WriteString(out, screenBegin); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	watcher := &watcher{changed: make(chan struct{}, 1)}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	tasks.Go(func() { watcher.run(ctx, client) })

	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan byte, 64)
	go readKeys(in, keys) // it ends with the process: a read of a terminal cannot be called back
	s := &topScreen{}
	for {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width < 1 || height < 1 {
			width, height = 80, 24 // what does not say is that
		}
		if _, err := out.Write(s.draw(watcher.look(), width, height)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case <-watcher.changed:
		case key, ok := <-keys:
			for open := true; open; {
				if !ok || s.press(key) {
					return nil
				}
				select {
				case key, ok = <-keys: // those of one sequence come together
				case <-time.After(5 * time.Millisecond):
					open = false
				}
			}
			s.settle()
		}
	}
}

// readKeys hands over what is typed until the terminal is gone.
func readKeys(in io.Reader, keys chan<- byte) {
	defer close(keys)
	var buf [64]byte
	for {
		n, err := in.Read(buf[:])
		for _, b := range buf[:n] {
			keys <- b
		}
		if err != nil {
			return
		}
	}
}

// watcher follows the agent. It is safe for use from several goroutines.
type watcher struct {
	changed chan struct{} // capacity 1: something is new

	mu    sync.Mutex
	state *local.State // nil: nothing is known yet
	rows  []topRow
	fault string // why nothing new comes; "": it does
}

// topRow is a signal.
type topRow struct {
	name, value, unit string
	rate              float64 // samples/s
	ageS              float64 // < 0: not seen
	history           []local.Number
}

// lookAgain is the wait before an agent that went away is asked again.
const lookAgain = time.Second

func (w *watcher) run(ctx context.Context, client *local.Client) {
	for ctx.Err() == nil {
		err := client.Follow(ctx, func(v *local.View) error {
			w.take(v)
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		w.fault = err.Error()
		w.mu.Unlock()
		w.tell()
		sleep(ctx, lookAgain)
	}
}

// take copies what a View has, which is the follower's.
func (w *watcher) take(v *local.View) {
	state := v.State
	rows := make([]topRow, len(v.Signals.Signals))
	for i := range v.Signals.Signals {
		s := &v.Signals.Signals[i]
		rows[i] = topRow{name: s.Name, unit: s.Unit, rate: s.Rate, ageS: -1, value: s.Text, history: slices.Clone(s.History)}
		if s.AtMS > 0 {
			rows[i].ageS = float64(max(v.Signals.BootMS-s.AtMS, 0)) / 1000
			if s.Value.Value.Known() {
				rows[i].value = words(fmt.Sprintf("%.6g", float64(s.Value.Value)), s.Text)
			}
		}
	}
	w.mu.Lock()
	w.state, w.rows, w.fault = &state, rows, ""
	w.mu.Unlock()
	w.tell()
}

func (w *watcher) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// look is what is known; nobody changes it any more.
func (w *watcher) look() topView {
	w.mu.Lock()
	defer w.mu.Unlock()
	return topView{w.state, w.rows, w.fault}
}

// topView is what the screen shows.
type topView struct {
	state *local.State
	rows  []topRow
	fault string
}
