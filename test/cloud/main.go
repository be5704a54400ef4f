// Command cloud starts the real cloud side on this machine, on loopback and free ports: a broker, Kafka, PostgreSQL, two
// processes of waybill-fleet that share the work, and a few simulated vehicles that drive to it. It prints the page's
// address and opens it. Whatever ends it, it lets arrive what is under way, asks the database by SQL whether every counted
// frame is there once, and stops all that it started. Exit code 1: something is missing or there twice.
//
//	CLOUD_SECONDS   how long; default 0: until Ctrl-C
//	CLOUD_VEHICLES  1 to 50, default 4
//	CLOUD_BROKER    tcp://127.0.0.1:PORT of a broker that runs, such as an EMQX; default: a Mosquitto of its own
//
// Broker, Kafka and PostgreSQL come by test/deps into .cache the first time; data and logs are in a temporary folder.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/test/programs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	go func() { <-ctx.Done(); stop() }() // the second signal kills, and what was started dies with this process
	o, err := fromEnvironment(os.Getenv)
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cloud:", err)
		os.Exit(1)
	}
}

// options are what the environment says.
type options struct {
	length   time.Duration // 0: until a signal
	vehicles int
	broker   string // of somebody else; "": our own
}

func fromEnvironment(get func(string) string) (o options, err error) {
	number := func(name string, least, most, usual int) int {
		text := get(name)
		if text == "" {
			return usual
		}
		n, e := strconv.Atoi(text)
		if e != nil || n < least || n > most {
			err = errors.Join(err, fmt.Errorf("%s: want %d to %d, got %q", name, least, most, text))
		}
		return n
	}
	o.length = time.Duration(number("CLOUD_SECONDS", 0, 86400, 0)) * time.Second
	if o.length > 0 && o.length < 10*time.Second {
		err = errors.Join(err, fmt.Errorf("CLOUD_SECONDS: want 0 or at least 10, got %v", o.length.Seconds()))
	}
	o.vehicles = number("CLOUD_VEHICLES", 1, 50, 4)
	if o.broker = get("CLOUD_BROKER"); o.broker != "" {
		u, e := url.Parse(o.broker)
		if e != nil || u.Scheme != "tcp" || u.Port() == "" || !net.ParseIP(u.Hostname()).IsLoopback() {
			err = errors.Join(err, fmt.Errorf("CLOUD_BROKER %q: want tcp://127.0.0.1:PORT, a broker on this machine that lets everybody in", o.broker))
		}
	}
	return o, err
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "waybill-cloud-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // root's database runs as nobody, and has to get to its folder
		return err
	}
	c := &cloud{options: o, Group: programs.Group{Folder: dir}, out: out, parts: &parts{dir: dir}}
	defer func() {
		c.KillAll()
		err = errors.Join(err, c.parts.stop())
		if err == nil {
			err = os.RemoveAll(dir)
			fmt.Fprintln(out, "all stopped")
		} else {
			fmt.Fprintln(out, "all stopped; logs and data are kept in", dir)
		}
	}()
	for _, step := range []func(context.Context) error{c.build, c.startParts, c.startFleet, c.startVehicles} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return err
		}
	}
	c.show()
	if err := c.watch(ctx); err != nil {
		return err
	}
	return c.finish()
}

// cloud is everything that runs. Its fields are set while it starts, by one goroutine.
type cloud struct {
	options
	programs.Group
	out   io.Writer
	parts *parts

	brokerURL, kafka string
	database         database
	page             string // URL
	fleet            []*programs.Process
	status           [2]latest // of each of fleet
	vehicles         []*vehicle
}

// say prints what is done next.
func (c *cloud) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

func (c *cloud) build(ctx context.Context) error {
	c.say("building the agent, the fleet and the car …")
	return c.Build(ctx)
}

// show says where to look, and opens the page where there is a display.
func (c *cloud) show() {
	c.say("\nthe fleet page     %s", c.page)
	c.say("the tables         PGPASSFILE=%s psql -h %s -p %s -U waybill waybill", c.database.passfile, c.database.host, c.database.port)
	c.say("Kafka              %s kafka status --brokers %s", c.Path("waybill-fleet"), c.kafka)
	if c.length > 0 {
		c.say("for %v, or until Ctrl-C\n", c.length)
	} else {
		c.say("until Ctrl-C\n")
	}
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return
	}
	if opener, err := exec.LookPath("xdg-open"); err == nil {
		cmd := exec.Command(opener, c.page)
		if cmd.Start() == nil {
			_ = cmd.Process.Release() // the browser is the person's own, and stays
		}
	}
}

// watch prints a line now and then and begins new drives, until the time is over, a signal comes, or something ends that
// should not.
func (c *cloud) watch(ctx context.Context) error {
	if c.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.length)
		defer cancel()
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	began, before := time.Now(), int64(0)
	c.say("%8s %9s %12s %10s %8s %8s %8s", "time", "vehicles", "samples", "a second", "missing", "lost", "parked")
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := c.goOn(began); err != nil {
				return err
			}
			s := c.status[0].get()
			c.say("%8s %9d %12d %10d %8d %8d %8d", time.Since(began).Round(time.Second), s.Devices, s.Samples, (s.Samples-before)/2, s.Gaps, s.Losses, s.Parked)
			before = s.Samples
		}
	}
}

// goOn looks after what runs.
func (c *cloud) goOn(began time.Time) error {
	list := append([]*programs.Process(nil), c.fleet...)
	for _, v := range c.vehicles {
		list = append(list, v.agent)
	}
	for _, p := range list {
		if p.Ended() {
			return fmt.Errorf("%s ended by itself: %v\n%s", p.Name, p.Err, p.LastWords())
		}
	}
	for _, v := range c.vehicles {
		if !v.car.Ended() || c.length > 0 && time.Since(began) > c.length-5*time.Second {
			continue
		}
		if err := v.summary(); err != nil {
			return err
		}
		if err := c.drive(v); err != nil {
			return err
		}
	}
	return nil
}
