package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// use is what the kernel accounts for a process.
type use struct {
	CPU    float64 `json:"cpu_s"`    // on the processor (schedstat)
	User   float64 `json:"user_s"`   // of it (stat, in steps of 10 ms)
	System float64 `json:"system_s"` // likewise
	Waits  float64 `json:"waits"`    // times that a thread of it gave up the processor to wait
	Calls  float64 `json:"calls"`    // system calls, in another stretch of time
}

// result is what measure found.
type result struct {
	Sent     summary `json:"sent"`    // while the processor's time was measured
	Counted  summary `json:"counted"` // while system calls were counted
	Agent    use     `json:"agent"`
	Candump  use     `json:"candump"`
	Lines    int     `json:"lines"`   // that candump wrote
	Samples  uint64  `json:"samples"` // in the agent's queue, of telemetry
	AgentLog string  `json:"agent_log"`
}

// program is one of the two under test.
type program struct {
	cmd    *exec.Cmd
	before use
}

// measure runs the agent, and candump if it is named, on a bus that is sent to, and takes the difference of what the
// kernel accounts for each before and after.
func measure(o *options) (r result, err error) {
	var dump *program
	if o.candump != "" {
		out, err := os.Create("dump.log")
		if err != nil {
			return r, err
		}
		defer out.Close()
		if dump, err = start(out, o.candump, "-L", o.name); err != nil {
			return r, err
		}
	}
	log, err := os.Create("agent.log")
	if err != nil {
		return r, err
	}
	defer log.Close()
	agent, err := start(log, o.agent, "run", "-c", o.config)
	if err != nil {
		return r, err
	}
	time.Sleep(2 * time.Second)

	agent.note()
	dump.note()
	if r.Sent, err = sendAll(o, o.seconds); err != nil {
		return r, err
	}
	time.Sleep(500 * time.Millisecond)
	r.Agent, r.Candump = agent.used(), dump.used()

	if dump != nil {
		if err := countCalls(true); err != nil {
			return r, err
		}
		if r.Counted, err = sendAll(o, o.seconds/4); err != nil {
			return r, err
		}
		time.Sleep(500 * time.Millisecond)
		calls, err := callsByThread()
		if err := errors.Join(err, countCalls(false)); err != nil {
			return r, err
		}
		r.Agent.Calls, r.Candump.Calls = agent.sum(calls), dump.sum(calls)
	}
	if err := agent.stop(syscall.SIGTERM); err != nil {
		return r, fmt.Errorf("agent: %w", err)
	}
	if dump != nil {
		_ = dump.stop(syscall.SIGINT) // its exit code says that it was interrupted
		if r.Lines, err = lines("dump.log"); err != nil {
			return r, err
		}
	}
	text, err := os.ReadFile("agent.log")
	if r.AgentLog = string(text); err != nil {
		return r, err
	}
	r.Samples, err = queued("data/queue")
	return r, err
}

// queued counts the samples of a queue's telemetry lane.
func queued(dir string) (samples uint64, err error) {
	queue, err := buffer.Open(dir, buffer.Options{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer queue.Close()
	for from := uint64(1); ; {
		record, err := queue.Next(buffer.Lane(telemetrypb.Lane_LANE_TELEMETRY), from)
		if errors.Is(err, buffer.ErrEmpty) {
			return samples, nil
		}
		if err != nil {
			return samples, err
		}
		view, err := telemetrypb.OpenBatch(record.Bytes)
		if err != nil {
			return samples, err
		}
		list, err := view.Samples(nil)
		if err != nil {
			return samples, err
		}
		samples, from = samples+uint64(len(list)), record.Seq+1
	}
}

// sendAll fills the first bus, and the second one if asked.
func sendAll(o *options, seconds float64) (summary, error) {
	second := make(chan error, 1)
	if o.second == "" {
		second <- nil
	} else {
		go func() {
			_, err := send(o.second, 0x300, o.rate, seconds, o.all)
			second <- err
		}()
	}
	s, err := send(o.name, uint32(o.base), o.rate, seconds, o.all)
	return s, errors.Join(err, <-second)
}

func start(out io.Writer, name string, args ...string) (*program, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if out, ok := out.(*os.File); ok && strings.HasSuffix(out.Name(), "agent.log") {
		cmd.Stderr = out
	}
	return &program{cmd: cmd}, cmd.Start()
}

func (p *program) stop(s syscall.Signal) error {
	return errors.Join(p.cmd.Process.Signal(s), p.cmd.Wait())
}

func (p *program) note() {
	if p != nil {
		p.before = p.now()
	}
}

func (p *program) used() use {
	if p == nil {
		return use{}
	}
	u := p.now()
	return use{CPU: u.CPU - p.before.CPU, User: u.User - p.before.User, System: u.System - p.before.System, Waits: u.Waits - p.before.Waits}
}

// now reads /proc of the process and of its threads.
func (p *program) now() (u use) {
	folder := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	text, _ := os.ReadFile(folder + "/stat")
	// The name, in parentheses, may hold anything; utime is the 14th field.
	_, rest, _ := strings.Cut(string(text), ") ")
	if fields := strings.Fields(rest); len(fields) > 12 {
		u.User, u.System = number(fields[11])/100, number(fields[12])/100
	}
	threads, _ := filepath.Glob(folder + "/task/*")
	for _, t := range threads {
		text, _ = os.ReadFile(t + "/schedstat")
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			u.CPU += number(fields[0]) / 1e9
		}
		text, _ = os.ReadFile(t + "/status")
		if m := regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s*(\d+)`).FindSubmatch(text); m != nil {
			u.Waits += number(string(m[1]))
		}
	}
	return u
}

func number(text string) float64 {
	n, _ := strconv.ParseFloat(text, 64)
	return n
}

// The kernel counts system calls by thread in a histogram of its tracing.
const (
	tracing  = "/sys/kernel/tracing"
	sysEnter = tracing + "/events/raw_syscalls/sys_enter"
)

func countCalls(on bool) error {
	word := "hist:keys=common_pid:size=4096\n"
	if on {
		if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("tracefs: %w", err)
		}
	} else {
		word = "!" + word
	}
	return os.WriteFile(sysEnter+"/trigger", []byte(word), 0o600)
}

func callsByThread() (map[string]float64, error) {
	text, err := os.ReadFile(sysEnter + "/hist")
	calls := map[string]float64{}
	for _, m := range regexp.MustCompile(`common_pid:\s*(\d+) *} hitcount:\s*(\d+)`).FindAllStringSubmatch(string(text), -1) {
		calls[m[1]] = number(m[2])
	}
	return calls, err
}

// sum adds up what belongs to the threads of the process.
func (p *program) sum(calls map[string]float64) (n float64) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.cmd.Process.Pid))
	for _, t := range threads {
		n += calls[filepath.Base(t)]
	}
	return n
}

func lines(name string) (n int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); n++ {
	}
	return n, nil
}
