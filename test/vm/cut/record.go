package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/test/vm/history"
)

// The disks of record: what the agent lives on, the log of its writes, the disk as it was in the beginning, room for
// what changes when a state is looked at.
const (
	liveDisk = "/dev/ubda"
	logDisk  = "/dev/ubdb"
	baseDisk = "/dev/ubdc"
	roomDisk = "/dev/ubdd"
)

// record has the agent live several lives on a disk whose writes and flushes are logged, and what it confirms between
// them; then it replays the log and looks at so many states of the disk, at most.
func record(dir string, programs []string, lives, states int, seed uint64) error {
	sectors, err := sectorsOf(liveDisk)
	if err != nil {
		return err
	}
	device, err := mapDevice("logged", sectors, "log-writes", liveDisk+" "+logDisk)
	if err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk")
	if err := unix.Mount(device.path, disk, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	simulate := exec.Command(programs[1], "drive", "--can", "vcan0", "--speed", "20", "--duration", "24h", "--seed", fmt.Sprint(seed>>1))
	if err := simulate.Start(); err != nil {
		return err
	}
	for life := range lives {
		if err := recordLife(device, agentCommand(dir, programs[0]), 4*time.Second, life == lives-1); err != nil {
			return err
		}
	}
	_ = simulate.Process.Kill()
	_ = simulate.Wait()
	if err := errors.Join(unix.Unmount(disk, 0), device.remove()); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return replay(dir, states, seed)
}

var committedLine = regexp.MustCompile(`msg=committed kind=(\w+) lane=(\w+) seq=(\d+) samples=\d+ total=(\d+)`)

// recordLife runs the agent, for a while from its first commit on, and marks in the log what it confirms.
func recordLife(device *mapped, agent *exec.Cmd, length time.Duration, properly bool) error {
	out, err := agent.StderrPipe()
	if err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	end := syscall.SIGKILL
	if properly {
		end = syscall.SIGTERM
	}
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := committedLine.FindStringSubmatch(lines.Text()); m != nil {
			if timer == nil {
				timer = time.AfterFunc(length, func() { _ = agent.Process.Signal(end) })
				defer timer.Stop()
			}
			if err := device.message("mark " + strings.Join(m[1:], ",")); err != nil {
				return err
			}
		} else if strings.Contains(lines.Text(), "level=ERROR") {
			fmt.Println(lines.Text())
		}
	}
	if err := agent.Wait(); properly && err != nil {
		return fmt.Errorf("the agent: %w", err)
	}
	return nil
}

// replay goes through the log. At a flush, everything in front of it is on the disk; of what comes behind, until the next
// one, any part may be. Looked at are states behind marks, when something was just confirmed, and in front of flushes,
// when most is pending, each without and with some of what is pending.
func replay(dir string, states int, seed uint64) error {
	from, err := os.Open(logDisk)
	if err != nil {
		return err
	}
	defer from.Close()
	log, err := readLog(from)
	if err != nil {
		return err
	}
	base, err := os.OpenFile(baseDisk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer base.Close()
	r := &replayer{
		dir: dir, log: log, base: base, rnd: rand.New(rand.NewPCG(seed, 5)), history: history.History{Aside: true},
	}
	flushes, marks := 0, 0
	for i := range log.entries {
		if log.entries[i].flags&logFlush != 0 {
			flushes++
		}
		if log.entries[i].mark != "" {
			marks++
		}
	}
	for i := range log.entries {
		if err := r.entry(i, states, 2*(flushes+marks)); err != nil {
			return err
		}
	}
	fmt.Printf("replayed entries=%d flushes=%d marks=%d states=%d torn=%d broken=%d held=%d\n",
		len(log.entries), flushes, marks, r.checked, r.torn, r.bad, r.history.Held())
	return nil
}

type replayer struct {
	dir          string
	log          *writeLog
	base         *os.File // the disk at the last flush
	pending      []*logged
	rnd          *rand.Rand
	history      history.History
	checked, bad int
	torn         int // states in which the file system has no valid superblock
}

// entry goes one further, and looks at states of every so many.
func (r *replayer) entry(i, states, of int) error {
	e := &r.log.entries[i]
	if f := strings.Split(e.mark, ","); len(f) == 4 { // the module puts a mark of its own at the end
		r.history.Hear(fmt.Sprintf("msg=committed kind=%s lane=%s seq=%s samples=0 total=%s", f[0], f[1], f[2], f[3]))
	}
	if e.flags&(logFlush|logMark) != 0 {
		for _, some := range []bool{false, true} {
			if r.rnd.IntN(of) >= states || some && len(r.pending) == 0 {
				continue
			}
			if err := r.check(fmt.Sprintf("at entry %d of the log, %d writes pending, some of them done: %v", i, len(r.pending), some), some); err != nil {
				return err
			}
		}
	}
	if e.flags&logFlush == 0 {
		r.pending = append(r.pending, e)
		return nil
	}
	for _, p := range append(r.pending, e) {
		if err := r.log.apply(r.base, p, nil); err != nil {
			return err
		}
	}
	r.pending = r.pending[:0]
	return r.base.Sync()
}

func (r *replayer) check(what string, some bool) error {
	broken, err := r.look(some)
	if some && errors.Is(err, unix.EBADMSG) { // its superblock is torn, and is not what is tried here
		r.torn++
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.checked++; len(broken) > 0 {
		if r.bad++; r.bad <= 3 {
			fmt.Printf("broken %s:\n\t%s\n", what, strings.Join(broken[:min(len(broken), 8)], "\n\t"))
		}
	}
	return nil
}

// look mounts a copy of the base disk, with some of what is pending, and judges the queue on it.
func (r *replayer) look(some bool) (broken []string, err error) {
	sectors, err := sectorsOf(baseDisk)
	if err != nil {
		return nil, err
	}
	// N: what is written to it is forgotten when it is removed.
	state, err := mapDevice("state", sectors, "snapshot", baseDisk+" "+roomDisk+" N 8")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, state.remove()) }()
	if some {
		if err := r.doSome(state.path); err != nil {
			return nil, err
		}
	}
	at := filepath.Join(r.dir, "state")
	if err := unix.Mount(state.path, at, "ext4", 0, ""); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(at, 0)) }()
	s, err := look(at)
	if err != nil {
		return []string{err.Error()}, nil
	}
	return r.history.Judge(s), nil
}

// doSome does some of the pending writes, as a whole or torn.
func (r *replayer) doSome(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	half := func() bool { return r.rnd.IntN(2) == 0 }
	for _, e := range r.pending {
		switch {
		case e.flags&logFUA != 0 || r.rnd.IntN(3) == 0:
			err = errors.Join(err, r.log.apply(f, e, nil))
		case half():
			err = errors.Join(err, r.log.apply(f, e, half))
		}
	}
	return errors.Join(err, f.Sync(), f.Close())
}
