package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// parts runs what test/deps brings outside of a test: it is what that package asks of one. A failure ends the goroutine
// that asked, as a test's does, so what uses it goes through [parts.do].
type parts struct {
	testing.TB // nil; for its unexported method. What test/deps does not ask of a test is not there
	dir        string

	mu       sync.Mutex // guards what follows
	failures []error
	cleanups []func()
}

// do runs what may fail by [parts.Fatal].
func (p *parts) do(f func()) error {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
	return p.taken()
}

// taken gives the failures since the last time.
func (p *parts) taken() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := errors.Join(p.failures...)
	p.failures = nil
	return err
}

// stop ends what was started, the last first.
func (p *parts) stop() error {
	p.mu.Lock()
	list := p.cleanups
	p.cleanups = nil
	p.mu.Unlock()
	var err error
	for i := len(list) - 1; i >= 0; i-- {
		err = errors.Join(err, p.do(list[i]))
	}
	return err
}

func (p *parts) Helper()             {}
func (p *parts) Logf(string, ...any) {}
func (p *parts) Failed() bool        { return false } // logs stay in their files

func (p *parts) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

func (p *parts) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = append(p.failures, fmt.Errorf(format, args...))
}

func (p *parts) Fatalf(format string, args ...any) { p.Errorf(format, args...); runtime.Goexit() }
func (p *parts) Skipf(format string, args ...any)  { p.Fatalf(format, args...) }
func (p *parts) Fatal(args ...any)                 { p.Fatalf("%s", strings.TrimSuffix(fmt.Sprintln(args...), "\n")) }

func (p *parts) TempDir() string {
	dir, err := os.MkdirTemp(p.dir, "part-")
	if err != nil {
		p.Fatal(err)
	}
	return dir
}

// database is where PostgreSQL is.
type database struct {
	host, port, password   string
	passwordFile, passfile string
}

// startParts fetches broker, Kafka and PostgreSQL where they are not there yet, and starts them.
func (c *cloud) startParts(ctx context.Context) error {
	want := []struct{ group, words string }{
		{"postgresql", "PostgreSQL"}, {"java", "Java"}, {"kafka", "Kafka"},
	}
	if c.broker == "" {
		want = append(want, struct{ group, words string }{"mosquitto", "Mosquitto"})
	}
	for _, w := range want {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := os.Stat(filepath.Join(".cache", "deps", w.group)); err != nil {
			c.say("fetching %s into .cache: the first time only, and it may take minutes …", w.words)
		}
		if err := c.parts.do(func() { deps.Folder(c.parts, w.group) }); err != nil {
			return err
		}
	}
	c.brokerURL = c.broker
	if c.broker == "" {
		if _, err := exec.LookPath("emqx"); err == nil {
			c.say("(an EMQX is installed here: start it, and CLOUD_BROKER=tcp://127.0.0.1:1883 has it take Mosquitto's place)")
		}
		c.say("starting Mosquitto …")
		if err := c.parts.do(func() {
			c.brokerURL = deps.Mosquitto(c.parts, deps.MosquittoOptions{Persistence: true, Config: []string{"max_queued_messages 0"}}).URL()
		}); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.say("starting PostgreSQL …")
	if err := c.parts.do(c.startDatabase); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.say("starting Kafka, one node …")
	if err := c.parts.do(func() { c.kafka = deps.Kafka(c.parts, deps.KafkaOptions{}).Addr }); err != nil {
		return err
	}
	c.say("making its topics …")
	cmd := exec.CommandContext(ctx, c.Path("waybill-fleet"), "kafka", "init", "--brokers", c.kafka, "--partitions", "6", "--replication", "1")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("waybill-fleet kafka init: %w\n%s", err, text)
	}
	return nil
}

func (c *cloud) startDatabase() {
	server := deps.Postgres(c.parts)
	server.Database(c.parts, "waybill")
	host, port, err := net.SplitHostPort(server.Addr)
	if err != nil {
		c.parts.Fatal(err)
	}
	c.database = database{host: host, port: port, password: server.Password, passwordFile: c.Path("database.pw"), passfile: c.Path("pgpass")}
	for file, text := range map[string]string{
		c.database.passwordFile: server.Password + "\n",
		c.database.passfile:     fmt.Sprintf("%s:%s:*:waybill:%s\n", host, port, server.Password),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			c.parts.Fatal(err)
		}
	}
}

// startFleet runs two processes of waybill-fleet, the first of which serves the page, and returns when it does.
func (c *cloud) startFleet(ctx context.Context) error {
	c.say("starting two processes of waybill-fleet that share the work …")
	page, err := freeAddress()
	if err != nil {
		return err
	}
	c.page = "http://" + page + "/"
	for slot := range c.status {
		args := []string{"serve", "--broker", c.brokerURL, "--share", "fleet", "--slots", fmt.Sprint(slot), "--kafka-brokers", c.kafka, "--json", "--every", "1s",
			"--db", fmt.Sprintf("postgres://waybill@%s:%s/waybill", c.database.host, c.database.port), "--db-password-file", c.database.passwordFile}
		if slot == 0 {
			args = append(args, "--page", page)
		}
		p, err := c.Start(c.status[slot].read, c.Folder, fmt.Sprintf("fleet-%d", slot), "waybill-fleet", args...)
		if err != nil {
			return err
		}
		c.fleet = append(c.fleet, p)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.DialTimeout("tcp", page, time.Second)
		if err == nil {
			return conn.Close()
		}
		for _, p := range c.fleet {
			if p.Ended() || time.Now().After(deadline) {
				return fmt.Errorf("%s did not come up:\n%s", p.Name, p.LastWords())
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// freeAddress finds a free port on the loopback.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
