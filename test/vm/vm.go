// Package vm runs a command under a kernel that has CAN, for tests on machines whose own kernel has none: Debian's
// User-Mode Linux, one process on the host's file tree, or Debian's ARM kernels under full emulation. All boot the
// same process 1 (guest/), which makes vcan interfaces that carry classic and FD frames, and powers off afterwards.
//
// A boot that does not get to the command fails the test and shows the console; there is nothing to skip by then. The
// package starts and ends only processes of its own. It knows nothing of what the command does.
package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// Job says what to run in the guest. The zero value of a field takes the default named beside it.
type Job struct {
	Command    []string      // program and arguments; absolute paths of the guest's file tree
	Env        []string      // beside PATH, HOME, TMPDIR and CI
	Dir        string        // where it starts; "/"
	Interfaces []string      // vcan interfaces, up, mtu 72; vcan0 and vcan1
	Modules    []string      // further modules, by path below the kernel's module folder, "net/sched/sch_netem"
	Timeout    time.Duration // for the command; 2 minutes
	Memory     int           // MiB; 512
	Disks      []string      // files that are disks: /dev/ubda, /dev/ubdb … of a User-Mode Linux, /dev/vda of Emulate's machine
	// Steady makes one processor of Emulate's machine, on which each instruction takes 2 ns of the guest's time: what it
	// measures of itself does not depend on what else the host does. The guest does not wait for its timers.
	Steady bool
}

// Result is how a command ended that was run to its end.
type Result struct {
	Exit   int           // its exit code; 124 when it ran into Timeout
	Output string        // standard output and error, as they came
	Boot   time.Duration // from the start of the machine to the start of the command
	Total  time.Duration // to the power-off
}

// canModules are what vcan needs, in order of loading.
var canModules = []string{"net/can/can", "net/can/can-raw", "drivers/net/can/dev/can-dev", "drivers/net/can/vcan"}

// bootTimeout bounds what comes before and after the command, on a busy machine.
const bootTimeout = 3 * time.Minute

// guestJob is what guest/main.go reads.
type guestJob struct {
	Token               string
	Modules, Interfaces []string
	Command, Env        []string
	Dir                 string
	Timeout             time.Duration
}

func (j Job) guest(modules []string, env ...string) guestJob {
	g := guestJob{
		Token: "waybill-vm-" + rand.Text(), Modules: modules, Interfaces: j.Interfaces, Command: j.Command,
		Dir: j.Dir, Timeout: j.Timeout, Env: append(env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CI="+os.Getenv("CI")),
	}
	g.Env = append(g.Env, j.Env...)
	if g.Interfaces == nil {
		g.Interfaces = []string{"vcan0", "vcan1"}
	}
	if g.Dir == "" {
		g.Dir = "/"
	}
	if g.Timeout == 0 {
		g.Timeout = 2 * time.Minute
	}
	return g
}

func (j Job) memory() int {
	if j.Memory == 0 {
		return 512
	}
	return j.Memory
}

// Run runs the job under User-Mode Linux. The guest sees the host's file tree and writes to it as the caller.
func Run(t testing.TB, j Job) Result {
	t.Helper()
	cmd, guest := NewBed(t, j).command(t)
	r, err := boot(cmd, guest)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Bed boots a job once, or again and again on the same disks.
type Bed struct {
	job     Job
	dir     string
	boots   int
	machine func(b *Bed, t testing.TB) (*exec.Cmd, guestJob) // the next boot
}

// NewBed prepares for booting j under User-Mode Linux.
func NewBed(t testing.TB, j Job) *Bed {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		deps.Missing(t, "User-Mode Linux exists for amd64 only, this is %s", runtime.GOARCH)
	}
	folder, init := deps.Folder(t, "uml"), BuildGuest(t, "amd64")
	return &Bed{job: j, dir: t.TempDir(), machine: func(b *Bed, t testing.TB) (*exec.Cmd, guestJob) { return b.uml(t, folder, init) }}
}

// command is the next boot.
func (b *Bed) command(t testing.TB) (*exec.Cmd, guestJob) {
	t.Helper()
	b.boots++
	return b.machine(b, t)
}

func (b *Bed) uml(t testing.TB, folder, init string) (*exec.Cmd, guestJob) {
	guest := b.job.guest(modulePaths(t, filepath.Join(folder, "usr/lib/uml/modules"), b.job.Modules), "HOME="+b.dir, "TMPDIR="+b.dir)
	path := filepath.Join(b.dir, "job.json")
	writeJob(t, path, guest)
	args := []string{
		fmt.Sprintf("mem=%dM", b.job.memory()), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
		"init=" + init, "waybill.job=" + path, "uml_dir=" + b.dir, fmt.Sprintf("umid=guest%d", b.boots),
		"con=null", "con0=null,fd:1", "quiet", "panic=-1",
	}
	for i, disk := range b.job.Disks {
		args = append(args, fmt.Sprintf("ubd%d=%s", i, disk))
	}
	cmd := exec.Command(filepath.Join(folder, "usr/bin/linux.uml"), args...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "TMPDIR="+memoryFolder(b.dir, b.job.memory()))
	return cmd, guest
}

// memoryFolder is where User-Mode Linux keeps the guest's memory, a file: in shared memory if it has the room (a
// container's has 64 MiB, or is not the caller's), else on disk.
func memoryFolder(fallback string, mebibytes int) string {
	var stat syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &stat); err == nil && syscall.Access("/dev/shm", 2) == nil && stat.Bavail*uint64(stat.Bsize) > uint64(mebibytes)<<20 {
		return "/dev/shm"
	}
	return fallback
}

// ownGroup gives a machine a process group, which can be ended as a whole; it goes when the test binary is killed.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
}

// boot runs a machine to its power-off and reads from its console how the command went. A machine that did not come to
// the command, or not to the command's end, is an error.
func boot(cmd *exec.Cmd, guest guestJob) (Result, error) {
	console := &console{start: []byte(guest.Token + " start\n")}
	cmd.Stdout, cmd.Stderr = console, console
	ownGroup(cmd)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("boot: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout+guest.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // User-Mode Linux may leave a helper process

	r := Result{Total: time.Since(began)}
	before, after, started := bytes.Cut(console.text.Bytes(), console.start)
	if !started {
		return r, fmt.Errorf("the machine ended (%v, after %v) before it came to %v; its console:\n%s", err, r.Total, guest.Command, before)
	}
	exit := regexp.MustCompile(`\n` + guest.Token + ` exit (-?\d+)\n`).FindSubmatchIndex(after)
	if exit == nil {
		why := fmt.Sprint(err)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			why = "out of time"
		}
		return r, fmt.Errorf("the machine ended (%s, after %v) while it ran %v; its console:\n%s", why, r.Total, guest.Command, after)
	}
	r.Boot = console.started.Sub(began)
	r.Output = string(after[:exit[0]])
	r.Exit, err = strconv.Atoi(string(after[exit[2]:exit[3]]))
	return r, err
}

// console collects what a machine writes and notes when the command started. exec.Cmd writes to it from one goroutine.
type console struct {
	text    bytes.Buffer
	start   []byte
	started time.Time
}

func (c *console) Write(p []byte) (int, error) {
	n, err := c.text.Write(p)
	if c.started.IsZero() && bytes.Contains(c.text.Bytes(), c.start) {
		c.started = time.Now()
	}
	return n, err
}

// BuildGuest builds process 1 for a GOARCH and returns its path.
func BuildGuest(t testing.TB, goarch string) string {
	t.Helper()
	return Build(t, goarch, "build", "./test/vm/guest")
}

// Build runs `go build` or `go test -c` on a package of this repository, static, for a GOARCH (with GOARM=7), and
// returns the binary's path.
func Build(t testing.TB, goarch string, verb, pkg string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg)+"."+goarch)
	args := []string{verb}
	if verb == "test" {
		args = append(args, "-c")
	}
	cmd := deps.Go(t, append(append(args, flags...), "-o", out, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch, "GOARM=7")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
	}
	if _, err := os.Stat(out); err != nil { // `go test -c` builds nothing of a package that has no tests, and says it is well
		t.Fatalf("%v built nothing", cmd.Args)
	}
	return out
}

// modulePaths returns the files of the CAN modules and of further ones in the only kernel's folder below dir.
func modulePaths(t testing.TB, dir string, further []string) []string {
	t.Helper()
	var paths []string
	for _, name := range append(append([]string(nil), canModules...), further...) {
		matches, _ := filepath.Glob(filepath.Join(dir, "*", "kernel", name+".ko"))
		if len(matches) != 1 {
			t.Fatalf("%d files for module %s below %s", len(matches), name, dir)
		}
		paths = append(paths, matches[0])
	}
	return paths
}

func writeJob(t testing.TB, path string, guest guestJob) {
	t.Helper()
	text, err := json.Marshal(guest)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
