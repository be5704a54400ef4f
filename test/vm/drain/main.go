// Command drain measures, in a guest of package vm, what the uplink gets out of a poor link beside what plain TCP gets out of
// one like it. Links are pairs of veth interfaces with netem at both ends, from this process's network namespace to that
// of a child, where broker, store and the plain sink are. Half of the links carry an uplink that drains a backlog, the
// other half one TCP connection that is written to without a pause, all at the same time. It prints the outcome as one
// line of JSON.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	line    line
	pairs   int
	seconds float64
	batches int
	far     bool
}

// line is what befalls packets, in each direction.
type line struct {
	delay   time.Duration
	loss    float64 // the part that is lost
	rate    int     // bytes a second, 0: as fast as it goes
	packets int     // that are on their way or wait; more are dropped
}

// summary is what is printed.
type summary struct {
	Early      counted `json:"early"` // at a fifth of the time: connected, and TCP past its slow start
	Late       counted `json:"late"`  // when the time was up
	Congestion string  `json:"congestion"`
	Payload    []int   `json:"payload"` // what an uplink's payload may hold at the end
	Losses     uint64  `json:"losses"`  // of connections
	Resent     uint64  `json:"resent"`  // batches
	Left       int     `json:"left"`    // batches in the emptiest queue
	Busy       float64 `json:"busy"`    // the part of the time that the guest's processor was
}

// counted is what has arrived at the far end, in bytes, one number a link.
type counted struct {
	Seconds float64 `json:"seconds"`
	Plain   []int   `json:"plain"`
	Uplink  []int   `json:"uplink"` // of batches in the store
	batches []int
}

func main() {
	var o options
	flag.DurationVar(&o.line.delay, "delay", 300*time.Millisecond, "of packets, each way")
	flag.Float64Var(&o.line.loss, "loss", 0.02, "part of the packets that is lost, each way")
	flag.IntVar(&o.line.rate, "rate", 0, "bytes a second, each way; 0: as fast as it goes")
	flag.IntVar(&o.line.packets, "packets", 10000, "packets on their way or waiting, each way")
	flag.IntVar(&o.pairs, "pairs", 1, "links for each of the two")
	flag.Float64Var(&o.seconds, "seconds", 10, "how long")
	flag.IntVar(&o.batches, "batches", 100, "batches of about 16 KiB in the backlog of an uplink")
	flag.BoolVar(&o.far, "far", false, "be the far end (the program starts it itself)")
	flag.Parse()
	var answer any
	var err error
	if o.far {
		err = far(&o)
	} else {
		answer, err = near(&o)
	}
	if err == nil && answer != nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "drain: %v\n", err)
		os.Exit(1)
	}
}

// other is the child at the far end: it answers each line with one line.
type other struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	said *bufio.Reader
}

// startOther starts this program once more, in a network namespace of its own.
func startOther(o *options) (*other, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append(os.Args[1:], "-far")...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("far end: %w", err)
	}
	return &other{cmd, in, bufio.NewReader(out)}, nil
}

func (c *other) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		return "", err
	}
	answer, err := c.said.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the far end did not answer %q: %w", line, err)
	}
	return strings.TrimSpace(answer), nil
}

// end lets the child end.
func (c *other) end() error {
	_ = c.in.Close()
	return c.cmd.Wait()
}

// equip gives one end of link i its address and its faults.
func (o *options) equip(name string, i, end int) error {
	if err := addAddress(name, net.IPv4(10, 9, byte(i), byte(end))); err != nil {
		return err
	}
	if err := setUp(name); err != nil {
		return err
	}
	return spoil(name, o.line)
}

// links are numbered: first the uplinks', then the plain ones.
func (o *options) links() int { return 2 * o.pairs }

// connect makes all links to the child.
func (o *options) connect(child *other) error {
	for i := range o.links() {
		if err := addVeth(fmt.Sprintf("near%d", i), fmt.Sprintf("far%d", i), child.cmd.Process.Pid); err != nil {
			return err
		}
		if err := o.equip(fmt.Sprintf("near%d", i), i, 1); err != nil {
			return err
		}
	}
	if answer, err := child.ask("equip"); err != nil || answer != "ready" {
		return fmt.Errorf("far end: %s, %w", answer, err)
	}
	time.Sleep(100 * time.Millisecond) // carriers come up
	return nil
}
