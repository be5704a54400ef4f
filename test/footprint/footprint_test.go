// Package footprint measures what the agent takes of a head unit: its size, its memory with full buses and a full queue, and how
// long after its start it reads. It has benchmarks alone.
package footprint

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/can"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/drive"
)

// build makes a program as `make cross` does.
func build(b *testing.B, goarch, to string) {
	b.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./cmd/agent")
	cmd.Dir, cmd.Env = deps.Root(b), append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+goarch, "GOARM=7")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

// BenchmarkBinary is the size of the agent, stripped.
func BenchmarkBinary(b *testing.B) {
	for _, goarch := range []string{"arm", "arm64", "amd64"} {
		b.Run(goarch, func(b *testing.B) {
			to := filepath.Join(b.TempDir(), "agent")
			build(b, goarch, to)
			info, err := os.Stat(to)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(info.Size())/1e6, "MB")
		})
	}
}

const config = `
device: {id: full-1}
data_dir: data
can:
  - {bus: can0, replay: can0, speed: 0, time: receipt, dbc: [car.dbc]}
  - {bus: can1, replay: can1, speed: 0, time: receipt, dbc: [car.dbc]}
  - {bus: can2, replay: can2, speed: 0, time: receipt, dbc: [car.dbc]}
collect: {signals: [{match: "*"}]}
queue: {max_bytes: 2GiB}
uplink: {broker: "mqtt://127.0.0.1:9", insecure: true, drain: 100ms}
metrics: {listen: "unix:socket"}
`

// vehicle is a folder with a configuration, its buses and a program.
type vehicle struct {
	dir, program string
	buses        []*os.File
}

func newVehicle(b *testing.B) *vehicle {
	b.Helper()
	v := &vehicle{dir: b.TempDir()}
	v.program = filepath.Join(v.dir, "waybill-agent")
	build(b, "", v.program)
	for name, text := range map[string]string{"agent.yaml": config, "car.dbc": string(drive.DBC())} {
		if err := os.WriteFile(filepath.Join(v.dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 3 {
		name := filepath.Join(v.dir, fmt.Sprintf("can%d", i))
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			b.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		v.buses = append(v.buses, f)
	}
	return v
}

// fill has so many bytes wait in the queue, in batches of 16 KiB.
func (v *vehicle) fill(b *testing.B, bytes int) {
	b.Helper()
	q, err := buffer.Open(filepath.Join(v.dir, "data", "queue"), buffer.Options{Rand: rand.Reader, MaxBytes: 2 << 30})
	if err != nil {
		b.Fatal(err)
	}
	lane := buffer.Lane(telemetrypb.Lane_LANE_TELEMETRY)
	noise := make([]byte, 16<<10)
	if _, err := rand.Read(noise); err != nil {
		b.Fatal(err)
	}
	for done := 0; done < bytes; {
		var batches []buffer.Record
		for range 64 {
			batches = append(batches, buffer.Record{Lane: lane, Seq: q.Reserve(lane), Samples: 1000, Bytes: noise})
			done += len(noise)
		}
		if err := q.Commit(batches, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
}

// start runs the agent until the benchmark ends.
func (v *vehicle) start(b *testing.B) *exec.Cmd {
	b.Helper()
	cmd := exec.Command(v.program, "run", "-c", "agent.yaml")
	cmd.Dir = v.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return cmd
}

func stop(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart is the time from exec to the first frame that is read, with nothing in the queue and with 1 GiB.
func BenchmarkStart(b *testing.B) {
	for name, backlog := range map[string]int{"empty": 0, "1GiB": 1 << 30} {
		b.Run(name, func(b *testing.B) {
			v := newVehicle(b)
			if backlog > 0 {
				v.fill(b, backlog)
			}
			best := time.Hour
			var sum time.Duration
			for b.Loop() {
				if _, err := v.buses[0].WriteString("(1.000000) can0 101#0102030405060708\n"); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				cmd := v.start(b)
				for {
					waits, err := unix.IoctlGetInt(int(v.buses[0].Fd()), unix.TIOCINQ)
					if err != nil {
						b.Fatal(err)
					}
					if waits == 0 {
						break
					}
					time.Sleep(100 * time.Microsecond)
				}
				took := time.Since(began)
				best, sum = min(best, took), sum+took
				stop(b, cmd)
			}
			b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms-to-first-frame")
			b.ReportMetric(float64(best.Microseconds())/1000, "ms-best")
		})
	}
}

// busRate is a full bus of 500 kbit/s, in frames of 8 bytes a second.
const busRate = 4000

// BenchmarkMemory is the agent's memory with three full buses and 1 GiB in the queue, its greatest over ten seconds.
func BenchmarkMemory(b *testing.B) {
	v := newVehicle(b)
	v.fill(b, 1<<30)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i, bus := range v.buses {
		go feed(ctx, bus, fmt.Sprintf("can%d", i), uint64(i))
	}
	cmd := v.start(b)
	time.Sleep(3 * time.Second)
	var anon, all float64
	for b.Loop() {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			a, r := memory(b, cmd.Process.Pid)
			anon, all = max(anon, a), max(all, r)
		}
	}
	cancel()
	stop(b, cmd)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(anon, "MB-RssAnon")
	b.ReportMetric(all, "MB-VmRSS")
}

// feed writes the frames of a drive to a bus, as many a second as fit on it.
func feed(ctx context.Context, bus *os.File, name string, seed uint64) {
	d, err := drive.New(drive.Options{Seed: seed, Start: time.Now(), Duration: time.Hour})
	if err != nil {
		return
	}
	var text []byte
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if n%40 == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / busRate)))
		}
		e, more := d.Next()
		if !more {
			return
		}
		if e.Frame == nil {
			continue
		}
		text = can.AppendLog(text[:0], time.Now().UnixNano(), name, e.Frame)
		if _, err := bus.Write(text); err != nil {
			return
		}
	}
}

// memory is what a process has in memory, MB (proc_pid_status(5)).
func memory(b *testing.B, pid int) (anon, all float64) {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
		switch name {
		case "RssAnon":
			anon = kib * 1024 / 1e6
		case "VmRSS":
			all = kib * 1024 / 1e6
		}
	}
	return anon, all
}
