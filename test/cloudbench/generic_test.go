//go:build system

package cloudbench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/cloudtest"
	"github.com/waybill-telematics/waybill/test/deps"
)

// The two halves of the pipeline that somebody would put together for it: from the broker to a topic, and from there a row
// a sample, 2,000 rows an INSERT. Nothing keeps a message that comes twice from being stored twice.
const toKafka = `
http: { enabled: false }
logger: { level: ERROR }
input:
  mqtt: { urls: [ "%s" ], topics: [ "wb1/+/+/up/telemetry" ], qos: 1, client_id: generic, clean_session: false }
output:
  kafka_franz:
    seed_brokers: [ "%s" ]
    topic: generic.raw
    key: ${! json("plain.0.tenant") }/${! json("plain.0.device") }
    batching: { count: 16, period: 50ms }
`

const toTable = `
http: { enabled: false }
logger: { level: ERROR }
input:
  kafka_franz: { seed_brokers: [ "%s" ], topics: [ generic.raw ], consumer_group: generic }
pipeline:
  threads: 1
  processors:
    - mapping: |
        root = this.plain.map_each(batch -> batch.samples.map_each(sample -> sample.merge({
          "tenant": batch.tenant, "device": batch.device, "epoch": batch.epoch, "lane": batch.lane, "seq": batch.seq
        }))).flatten()
    - unarchive: { format: json_array }
output:
  sql_insert:
    driver: postgres
    dsn: "%s"
    table: generic
    columns: [ tenant, device, epoch, lane, seq, idx, name, unit, time_ns, uncertainty, boot_ns, value ]
    args_mapping: |
      root = [ this.tenant, this.device, this.epoch.number(), this.lane, this.seq.number(), this.index.or(0), this.name, this.unit,
        this.timeUnixNs.number(), this.timeUncertaintyNs.number(), this.bootNs.number(), this.number ]
    max_in_flight: 1
`

const genericTable = `CREATE TABLE generic (tenant text, device text, epoch bigint, lane text, seq bigint, idx int, name text, unit text, time_ns bigint,
    uncertainty bigint, boot_ns bigint, value double precision)`

// throughGeneric sends the same samples, fewer of them, as JSON through benthos. It has no figures where benthos cannot be built.
func throughGeneric(t *testing.T, c *cloudtest.Cloud, cars, batches int) (r result) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "generic")
	build := exec.Command("go", "build", "-mod=mod", "-o", program, ".")
	build.Dir = filepath.Join(deps.Root(t), "test", "bench-pipeline")
	if out, err := build.CombinedOutput(); err != nil {
		t.Logf("no comparison with a generic pipeline, it cannot be built: %v\n%s", err, out[max(0, len(out)-1000):])
		return r
	}
	conn := c.Connect()
	if _, err := conn.Exec(context.Background(), genericTable); err != nil {
		t.Fatal(err)
	}
	c.Topic("generic.raw", 4)
	var halves []*exec.Cmd
	for name, text := range map[string]string{
		"to-kafka.yaml": fmt.Sprintf(toKafka, c.Broker.URL(), c.Kafka.Addr),
		"to-table.yaml": fmt.Sprintf(toTable, c.Kafka.Addr, c.Database.URL("postgres")+"?sslmode=disable"),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-c", path)
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		halves = append(halves, cmd)
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	used := func() (sum time.Duration) {
		for _, cmd := range halves {
			user, system, _, _, _ := times(strconv.Itoa(cmd.Process.Pid))
			sum += user + system
		}
		return sum
	}
	count := func() (n int64) {
		if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM generic").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	s, p := newSource(t, "plain", usual), newPublisher(t, c.Broker.URL(), "bench-plain")
	// Both halves are at work once one batch has passed: before it is subscribed, the broker has nobody to keep it for.
	eventually(t, "the pipeline runs", func() bool {
		p.publish(s.batch(0, 1, true))
		time.Sleep(2 * time.Second)
		return count() > 0
	})
	before := count()
	for last := int64(-1); before != last; before = count() { // all that was sent to begin with is there
		last = before
		time.Sleep(time.Second)
	}
	kafka, server, cpu, began := onDisk(t, c.Kafka.Dir, "generic.raw-"), serverCPU(t, c), used(), time.Now()
	for n := range batches {
		for car := range cars {
			p.publish(s.batch(car, n+2, true))
		}
	}
	r.samples = int64(cars) * int64(batches) * int64(s.samples())
	eventually(t, "all is in the generic table", func() bool { return count() >= before+r.samples })
	r.name, r.elapsed, r.cpu = "benthos 4.27.0, JSON, sql_insert", time.Since(began), used()-cpu
	r.server, r.kafka = serverCPU(t, c)-server, onDisk(t, c.Kafka.Dir, "generic.raw-")-kafka
	r.table = relation(t, conn, "SELECT pg_total_relation_size('generic')") * r.samples / count()
	return r
}
