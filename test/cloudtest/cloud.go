// Package cloudtest runs the cloud side whole for tests: a real broker that keeps its sessions, a real Kafka, a real PostgreSQL, and
// processes of the real waybill-fleet between them; and the vehicles before it, each the real uplink over the real queue.
//
// What vehicles committed is written down on their side, so that the tables can be compared with it by SQL alone.
package cloudtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/test/deps"
)

// Options of a Cloud.
type Options struct {
	Partitions int      // of Kafka's raw topic; 0: 4
	Slots      int      // of the shared subscription, all processes together; 0: 4
	Postgres   []string // further lines of postgresql.conf
}

// Cloud is broker, Kafka and database, with the topics made.
type Cloud struct {
	Broker   *deps.Broker
	Kafka    *deps.KafkaNode
	Database *deps.PostgreSQL

	o        Options
	t        testing.TB
	dir      string
	password string // file
}

// New starts the three.
func New(t testing.TB, o Options) *Cloud {
	t.Helper()
	if o.Partitions == 0 {
		o.Partitions = 4
	}
	if o.Slots == 0 {
		o.Slots = 4
	}
	c := &Cloud{o: o, t: t, dir: t.TempDir()}
	c.Broker = deps.Mosquitto(t, deps.MosquittoOptions{Persistence: true, Config: []string{
		"max_queued_messages 0", "max_inflight_messages 200", "autosave_interval 5", "log_type none", "log_type error", "log_type warning",
	}})
	c.Kafka = deps.Kafka(t, deps.KafkaOptions{})
	c.Database = deps.Postgres(t, append([]string{"fsync = on", "max_connections = 100"}, o.Postgres...)...)
	c.password = filepath.Join(c.dir, "password")
	if err := os.WriteFile(c.password, []byte(c.Database.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// TopicArgs are the arguments of waybill-fleet that make the topics.
func (c *Cloud) TopicArgs() []string {
	return []string{"kafka", "init", "--brokers", c.Kafka.Addr, "--partitions", fmt.Sprint(c.o.Partitions), "--replication", "1"}
}

// ServeArgs are the arguments of a waybill-fleet between the three. The slots of the shared subscription are to follow:
// "--slots", "0", or what Auto gives.
func (c *Cloud) ServeArgs(more ...string) []string {
	return append([]string{"serve", "--broker", c.Broker.URL(), "--share", "fleet", "--kafka-brokers", c.Kafka.Addr, "--json",
		"--db", "postgres://waybill@" + c.Database.Addr + "/postgres", "--db-password-file", c.password, "--retry", "50ms", "--device-samples", "0"}, more...)
}

// Auto are the arguments by which processes share the slots among themselves.
func (c *Cloud) Auto() []string {
	return []string{"--slots", "auto", "--slot-count", fmt.Sprint(c.o.Slots), "--slot-folder", filepath.Join(c.dir, "slots")}
}

// Connect gives a connection to the database, until the test ends.
func (c *Cloud) Connect() *pgx.Conn {
	c.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, c.Database.URL("postgres"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn
}

// Build makes waybill-fleet and makes the topics with it.
func (c *Cloud) Build() (program string) {
	c.t.Helper()
	program = filepath.Join(c.dir, "waybill-fleet")
	if out, err := deps.Go(c.t, "build", "-o", program, "./cmd/fleet").CombinedOutput(); err != nil {
		c.t.Fatalf("go build: %v\n%s", err, out)
	}
	if out, err := exec.Command(program, c.TopicArgs()...).CombinedOutput(); err != nil {
		c.t.Fatalf("kafka init: %v\n%s", err, out)
	}
	return program
}

// freeAddress is one of the loopback that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
