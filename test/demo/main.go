// Command demo shows the whole way on one machine with nothing installed but Go: a simulated car drives through a
// tunnel that cuts its network; agent, broker and store run beside it; the terminal shows what is collected, queued,
// sent, stored and lost. It ends with a verdict, and with exit code 1 if anything was lost or stored twice.
//
// DEMO_SECONDS is the length of the drive, default 60.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/test/programs"
	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func seconds() (time.Duration, error) {
	text := os.Getenv("DEMO_SECONDS")
	if text == "" {
		return time.Minute, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 5 || n > 86400 {
		return 0, fmt.Errorf("DEMO_SECONDS: want 5 to 86400, got %q", text)
	}
	return time.Duration(n) * time.Second, nil
}

func run(ctx context.Context, out io.Writer) (err error) {
	drive, err := seconds()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "waybill-demo-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			fmt.Fprintln(out, "logs and queue are kept in", dir)
		}
	}()
	b := &bench{Group: programs.Group{Folder: dir}, out: out}
	defer b.KillAll()
	fmt.Fprintln(out, "building …")
	if err := b.Build(ctx); err != nil {
		return err
	}
	if err := b.startAll(ctx, drive); err != nil {
		return err
	}
	defer b.link.Close()
	b.watch(ctx, drive)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return b.finish()
}

// bench is the machine's side of the demo: the four programs and the link between two of them.
type bench struct {
	programs.Group
	out io.Writer

	fleet, agent, car *programs.Process
	link              *uplinktest.Proxy
	metricsURL        string
	db                string
	tunnel            atomic.Bool
	phase             atomic.Value // string
	summary           chan programs.Drive
	store             atomic.Value // storeLine
}

// storeLine is what waybill-fleet serve --json prints each interval.
type storeLine struct {
	Batches    int64  `json:"batches"`
	Samples    int64  `json:"samples"`
	Duplicates uint64 `json:"duplicates"`
	Gaps       uint64 `json:"gaps"`
	Losses     int64  `json:"losses"`
	Rejected   uint64 `json:"rejected"`
	Parked     int64  `json:"parked"`
}

// agentConfig is what the agent has beside what all have.
const agentConfig = `  keep_alive: 3s
  receipt_timeout: 5s
  retry_cap: 1s
metrics: {listen: "%s"}
`

// startAll runs broker and store, then the agent, then the car.
func (b *bench) startAll(ctx context.Context, drive time.Duration) error {
	broker, metrics, page, err := freeAddresses()
	if err != nil {
		return err
	}
	b.db = b.Path("fleet.db")
	b.phase.Store("start")
	b.store.Store(storeLine{})
	if b.fleet, err = b.Start(b.onFleet, b.Folder, "waybill-fleet", "waybill-fleet", "serve", "--embedded-broker", broker, "--broker", "tcp://"+broker, "--insecure",
		"--db", b.db, "--json", "--every", "500ms", "--page", page); err != nil {
		return err
	}
	if b.link, err = uplinktest.NewProxy(broker); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "the fleet page, while this runs: http://%s/\n", page)
	fmt.Fprintf(b.out, "the car's own page, while this runs: http://%s/\n", metrics)
	b.metricsURL = "http://" + metrics + "/metrics"
	if err := os.WriteFile(b.Path("agent.yaml"), programs.AgentConfig("demo-car", b.link.Addr(), fmt.Sprintf(agentConfig, metrics)), 0o600); err != nil {
		return err
	}
	if err := syscall.Mkfifo(b.Path("can0.fifo"), 0o600); err != nil {
		return err
	}
	if err := b.writeDBC(ctx); err != nil {
		return err
	}
	if b.agent, err = b.Start(nil, b.Folder, "waybill-agent", "waybill-agent", "run", "-c", b.Path("agent.yaml")); err != nil {
		return err
	}
	if err := b.awaitAgent(ctx); err != nil {
		return err
	}
	b.summary = make(chan programs.Drive, 1)
	b.car, err = b.Start(b.onCar, b.Folder, "waybill-simulate", "waybill-simulate", "drive", "--can", b.Path("can0.fifo"), "--gps", "pty:"+b.Path("gps0"),
		"--duration", drive.String(), "--json", "--sky")
	return err
}

// freeAddresses finds three free ports on the loopback.
func freeAddresses() (broker, metrics, page string, err error) {
	var addrs [3]string
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", "", err
		}
		defer l.Close()
		addrs[i] = l.Addr().String()
	}
	return addrs[0], addrs[1], addrs[2], nil
}

func (b *bench) onFleet(line []byte) {
	var s storeLine
	if json.Unmarshal(line, &s) == nil {
		b.store.Store(s)
	}
}

// onCar follows the drive: in the tunnel there is no network.
func (b *bench) onCar(line []byte) {
	var phase struct {
		Phase string `json:"phase"`
	}
	if json.Unmarshal(line, &phase) == nil && phase.Phase != "" {
		b.phase.Store(phase.Phase)
		if tunnel := phase.Phase == "tunnel"; tunnel != b.tunnel.Swap(tunnel) {
			if tunnel {
				b.link.Freeze()
			} else {
				b.link.Thaw()
			}
		}
		return
	}
	var s programs.Drive
	if json.Unmarshal(line, &s) == nil && s.Frames > 0 {
		b.summary <- s
	}
}

// writeDBC asks the car for its DBC file.
func (b *bench) writeDBC(ctx context.Context) error {
	text, err := exec.CommandContext(ctx, b.Path("waybill-simulate"), "dbc").Output()
	if err != nil {
		return fmt.Errorf("waybill-simulate dbc: %w", err)
	}
	return os.WriteFile(b.Path("demo.dbc"), text, 0o600)
}

// awaitAgent waits until the agent answers on its page.
func (b *bench) awaitAgent(ctx context.Context) error {
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := b.metrics(ctx); err == nil {
			return nil
		}
		if b.agent.Ended() || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the agent did not come up:\n%s", b.agent.LastWords())
		}
	}
}
