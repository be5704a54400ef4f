package deps

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// FlinkOptions of a Flink.
type FlinkOptions struct {
	Dir    string            // keeps the jobs' checkpoints, one folder a job; "": a temporary folder
	SQL    string            // the folder of sources.sql and of one JOB.sql for each job
	Jobs   []string          // in the order in which they are submitted
	Values map[string]string // for the ${NAME} of the files
}

// FlinkCluster is a whole Flink in one process, running the jobs of SQL files. It is killed when the test ends, and what
// it said is shown when the test failed.
type FlinkCluster struct {
	Dir string
	CPU time.Duration // that killed processes took

	t    testing.TB
	o    FlinkOptions
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has been waited for
}

// Flink starts a cluster and returns when all its jobs run.
func Flink(t testing.TB, o FlinkOptions) *FlinkCluster {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	f := &FlinkCluster{Dir: o.Dir, t: t, o: o}
	t.Cleanup(func() {
		f.Kill()
		if t.Failed() {
			t.Logf("log of flink:\n%s", tail(f.output(), 8<<10))
		}
	})
	f.Start()
	return f
}

// Start runs the cluster again after Kill. Every job goes on from its last checkpoint.
func (f *FlinkCluster) Start() {
	f.t.Helper()
	jars, java := filepath.Join(Folder(f.t, "flink"), "jars"), filepath.Join(Folder(f.t, "java"), "java")
	args := []string{"-Xms128m", "-Xmx640m", "-XX:MaxMetaspaceSize=256m", "-XX:MaxDirectMemorySize=192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"}
	for _, name := range []string{"lang", "net", "io", "nio", "text", "time", "util", "util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"} {
		args = append(args, "--add-opens=java.base/java."+name+"=ALL-UNNAMED") // as Flink's own configuration has it
	}
	args = append(args, "-cp", filepath.Join(jars, "*"), filepath.Join(Root(f.t), "test", "deps", "Flink.java"), f.o.Dir, f.o.SQL)
	for name, value := range f.o.Values {
		args = append(args, name+"="+value)
	}
	cmd := exec.Command(java, append(args, f.o.Jobs...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	complaints, err := os.OpenFile(filepath.Join(f.Dir, "flink.out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer complaints.Close()
	cmd.Stderr = complaints
	said, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatalf("flink: %v", err)
	}
	done, runs := make(chan struct{}), make(chan bool, 1)
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if lines.Text() == "running" {
				runs <- true
			}
		}
		_ = cmd.Wait()
	}()
	f.cmd, f.done = cmd, done
	select {
	case <-runs:
	case <-done:
		f.t.Fatalf("flink ended at once:\n%s", tail(f.output(), 8<<10))
	case <-time.After(4 * time.Minute):
		f.t.Fatalf("flink does not start:\n%s", tail(f.output(), 8<<10))
	}
}

// Kill ends the cluster at once, as a power cut would.
func (f *FlinkCluster) Kill() {
	if f.cmd == nil {
		return
	}
	_ = f.cmd.Process.Kill()
	<-f.done
	f.CPU += f.cmd.ProcessState.UserTime() + f.cmd.ProcessState.SystemTime()
	f.cmd = nil
}

// Memory is what the cluster has had in memory at most, as the kernel says it: "612340 kB".
func (f *FlinkCluster) Memory() string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		if peak, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(peak)
		}
	}
	return "unknown"
}

// Checkpoints is the number of whole checkpoints that a job has.
func (f *FlinkCluster) Checkpoints(job string) int {
	f.t.Helper()
	found, err := filepath.Glob(filepath.Join(f.Dir, job, "*", "chk-*", "_metadata"))
	if err != nil {
		f.t.Fatal(err)
	}
	return len(found)
}

func (f *FlinkCluster) output() []byte {
	said, _ := os.ReadFile(filepath.Join(f.Dir, "flink.out"))
	var lines [][]byte
	for line := range bytes.Lines(said) {
		if !strings.Contains(string(line), " WARN ") {
			lines = append(lines, line)
		}
	}
	return bytes.Join(lines, nil)
}
