//go:build system

// Package cloudbench measures what the fleet needs of a core for a sample, from MQTT through Kafka into PostgreSQL, beside a plain
// COPY of the same rows and beside a generic stream processor on the plain JSON format, in one run.
package cloudbench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/test/cloudtest"
)

// result is one way's figures.
type result struct {
	name         string
	samples      int64
	cpu          time.Duration // of the process that does it; not of broker, Kafka and database
	server       time.Duration // of the database
	kafka, table int64         // bytes on disk
	elapsed      time.Duration
}

// perCore is samples a second of CPU.
func (r *result) perCore() float64 { return float64(r.samples) / r.cpu.Seconds() }

// TestThroughput prints the table of docs/BENCHMARKS.md. It judges no time: what is slow is to be read there.
func TestThroughput(t *testing.T) {
	c := cloudtest.New(t, cloudtest.Options{Postgres: []string{"synchronous_commit = on", "max_wal_size = 4GB"}})
	program := c.Build()
	cars, batches := setting(t, "WAYBILL_BENCH_CARS", 40), setting(t, "WAYBILL_BENCH_BATCHES", 25)
	results := []result{throughFleet(t, c, program, cars, batches, usual), throughFleet(t, c, program, cars, 4*batches, small), copied(t, c), throughGeneric(t, c, 10, 5)}
	first := &results[0]
	t.Logf("%-40s %12s %12s %8s %14s %12s %12s", "", "samples", "per core", "ratio", "server, core", "Kafka B", "table B")
	for _, r := range results {
		if r.samples == 0 {
			continue
		}
		onKafka := "–"
		if r.kafka > 0 {
			onKafka = fmt.Sprintf("%.2f", float64(r.kafka)/float64(r.samples))
		}
		t.Logf("%-40s %12d %12.0f %8.2f %14.0f %12s %12.1f   in %s", r.name, r.samples, r.perCore(), first.perCore()/r.perCore(), float64(r.samples)/r.server.Seconds(),
			onKafka, float64(r.table)/float64(r.samples), r.elapsed.Round(100*time.Millisecond))
	}
}

func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number from 1", name, text)
	}
	return n
}

// throughFleet publishes sealed batches, one each as a vehicle that is online does, and takes what one process of the fleet needs
// until all are stored.
func throughFleet(t *testing.T, c *cloudtest.Cloud, program string, cars, batches, ticks int) result {
	t.Helper()
	s := newSource(t, fmt.Sprintf("car%d", ticks), ticks)
	list := make([]message, 0, cars*batches)
	for n := range batches {
		for car := range cars {
			list = append(list, s.batch(car, n+1, false))
		}
	}
	conn := c.Connect()
	const tables = "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent IN ('samples'::regclass, 'batches'::regclass)"
	process := c.Process(program, "fleet", []string{"--slots", "0-3"})
	p := newPublisher(t, c.Broker.URL(), fmt.Sprintf("bench-%d", ticks))
	eventually(t, "the fleet is subscribed", func() bool { return process.Metrics()["waybill_fleet_connected"] == 1 })
	stored := func() (n int64) {
		if err := conn.QueryRow(context.Background(), "SELECT coalesce(sum(samples), 0)::bigint FROM totals").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	known := func() (n int) {
		if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM catalogues").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	had, before := known(), stored()
	for car := range cars {
		p.publish(s.announcement(car))
	}
	eventually(t, "the vehicles are known", func() bool { return known() == had+cars })
	table := relation(t, conn, tables)
	kafka, server, cpu, began := onDisk(t, c.Kafka.Dir, "wb1.raw-"), serverCPU(t, c), process.Metrics()["process_cpu_seconds_total"], time.Now()
	for _, m := range list {
		p.publish(m)
	}
	want := int64(cars) * int64(batches) * int64(s.samples())
	eventually(t, "all is stored", func() bool { return stored() == before+want })
	time.Sleep(1500 * time.Millisecond) // receipts, and the offset told to Kafka
	r := result{name: fmt.Sprintf("waybill-fleet, %d samples a batch", s.samples()), samples: want, elapsed: time.Since(began) - 1500*time.Millisecond}
	r.cpu = time.Duration((process.Metrics()["process_cpu_seconds_total"] - cpu) * float64(time.Second))
	r.server, r.kafka = serverCPU(t, c)-server, onDisk(t, c.Kafka.Dir, "wb1.raw-")-kafka
	process.Stop()
	r.table = relation(t, conn, tables) - table
	return r
}

// row is one of samples.
type row struct {
	day                                        time.Time
	idx                                        int32
	batch, signal, boot, wall, uncertain, bits int64
	value                                      float64
	source, kind                               int16
}

// copied writes the rows that the fleet stored by COPY, as pgx has it, into a table of the same columns without index or
// partition, in as many transactions as messages would make.
func copied(t *testing.T, c *cloudtest.Cloud) result {
	t.Helper()
	const most, each = 500_000, 100_000
	ctx, conn := context.Background(), c.Connect()
	columns := []string{"day", "idx", "batch", "signal", "boot_ns", "wall_ns", "uncertainty", "bits", "value", "time_source", "kind", "raw", "label"}
	from, err := conn.Query(ctx, fmt.Sprintf("SELECT day, idx, batch, signal, boot_ns, wall_ns, uncertainty, bits, value, time_source, kind FROM samples LIMIT %d", most))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := pgx.CollectRows(from, func(line pgx.CollectableRow) (r row, err error) {
		err = line.Scan(&r.day, &r.idx, &r.batch, &r.signal, &r.boot, &r.wall, &r.uncertain, &r.bits, &r.value, &r.source, &r.kind)
		return r, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE copied (LIKE samples INCLUDING DEFAULTS)"); err != nil {
		t.Fatal(err)
	}
	server, own, began := serverCPU(t, c), ownCPU(t), time.Now()
	for left := rows; len(left) > 0; {
		part := left[:min(each, len(left))]
		left = left[len(part):]
		values := make([]any, len(columns))
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, columns, pgx.CopyFromSlice(len(part), func(i int) ([]any, error) {
			r := &part[i]
			copy(values, []any{r.day, r.idx, r.batch, r.signal, r.boot, r.wall, r.uncertain, r.bits, r.value, r.source, r.kind, []byte{}, ""})
			return values, nil
		})); err != nil {
			t.Fatal(err)
		}
	}
	return result{name: "COPY by pgx of the same rows", samples: int64(len(rows)), cpu: ownCPU(t) - own, server: serverCPU(t, c) - server, elapsed: time.Since(began),
		table: relation(t, conn, "SELECT pg_total_relation_size('copied')")}
}

// publisher is an MQTT client with a window as vehicles have together.
type publisher struct {
	t      *testing.T
	client mqtt.Client
	open   []mqtt.Token
}

// newPublisher connects; the name is its client id, of which a broker has one.
func newPublisher(t *testing.T, broker, name string) *publisher {
	t.Helper()
	p := &publisher{t: t, client: mqtt.NewClient(mqtt.NewClientOptions().AddBroker(broker).SetClientID(name).SetProtocolVersion(4))}
	p.await(p.client.Connect())
	t.Cleanup(func() { p.client.Disconnect(100) })
	return p
}

func (p *publisher) await(token mqtt.Token) {
	p.t.Helper()
	if !token.WaitTimeout(time.Minute) || token.Error() != nil {
		p.t.Fatalf("MQTT: %v", token.Error())
	}
}

func (p *publisher) publish(m message) {
	p.t.Helper()
	if p.open = append(p.open, p.client.Publish(m.topic, 1, false, m.payload)); len(p.open) > 100 {
		p.await(p.open[0])
		p.open = p.open[1:]
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func relation(t *testing.T, conn *pgx.Conn, query string) (bytes int64) {
	t.Helper()
	if err := conn.QueryRow(context.Background(), query).Scan(&bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// onDisk is what the log files of a topic hold; their indexes are laid out ahead, and do not count.
func onDisk(t *testing.T, dir, topic string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".log") && strings.HasPrefix(filepath.Base(filepath.Dir(path)), topic) {
			info, err := d.Info()
			if err != nil {
				return err
			}
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// ownCPU is what this process has used, user and system.
func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is what the database's processes have used: those that run, and those that ended and were waited for.
func serverCPU(t *testing.T, c *cloudtest.Cloud) (sum time.Duration) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.Database.Dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	for _, file := range stats {
		pid := filepath.Base(filepath.Dir(file))
		user, system, ended, parent, ok := times(pid)
		switch {
		case ok && pid == first:
			sum += user + system + ended
		case ok && parent == first:
			sum += user + system
		}
	}
	return sum
}

// times reads /proc/PID/stat: what a process used itself, and its children that have ended (proc(5), fields 14 to 17).
func times(pid string) (user, system, ended time.Duration, parent string, ok bool) {
	line, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	_, rest, found := strings.Cut(string(line), ") ")
	words := strings.Fields(rest)
	if err != nil || !found || len(words) < 15 {
		return 0, 0, 0, "", false
	}
	at := func(i int) time.Duration {
		n, _ := strconv.ParseInt(words[i], 10, 64)
		return time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100
	}
	return at(11), at(12), at(13) + at(14), words[1], true
}
