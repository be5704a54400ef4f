package postgres

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What one round of the benchmark stores: batches of a sealed payload's size, in one transaction.
const (
	benchBatches = 50
	benchRows    = 1000
)

// cpu is what this process has used, in seconds.
func cpu() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for a wrong argument only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// serverCPU is what the server's process for a connection has used, in seconds.
func serverCPU(pid uint32) float64 {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(line), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return math.NaN()
	}
	user, _ := strconv.ParseFloat(words[11], 64)
	system, _ := strconv.ParseFloat(words[12], 64)
	return (user + system) / 100 // USER_HZ
}

func benchSamples(rows []store.Row, signals []int64, seq uint64) {
	for i := range rows {
		v := store.Scalar{Kind: telemetrypb.KindInt, Bits: uint64(i * 37 % 4096)}
		at := int64(seq)*1e9 + int64(i)*1e6
		rows[i] = store.Row{Index: uint32(i), Signal: signals[i%len(signals)], BootNS: at,
			Time: store.Time{UnixNS: storetest.Now.UnixNano() + at, UncertaintyNS: 1e6, Source: 3},
			Raw:  v, Value: store.Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(float64(v.Bits) * 0.25)}}
	}
}

// BenchmarkPutSamples: samples by way of a store's transaction, beside COPY of the same rows into a table without any index:
// what this process needs of a core for them (cpu), what the server's process does, and bytes on disk.
func BenchmarkPutSamples(b *testing.B) {
	p := quick(b)
	// With roles, every tenth sample is one of speed or ignition, which are found by time as well.
	for _, names := range [][]string{{"can0.A."}, {"can0.A.", "Vehicle.Speed", ".ignition"}} {
		b.Run([]string{"store", "", "store-roles"}[len(names)-1], func(b *testing.B) {
			url := fresh(b, p)
			s := open(b, url, options())
			rows := make([]store.Row, benchRows)
			var signals []int64
			if err := s.Update(context.Background(), func(tx store.Tx) error {
				d, err := tx.Device("acme", "car-1", storetest.Now)
				for i := 0; err == nil && i < 40; i++ {
					var g int64
					name := fmt.Sprint("can0.A.", i)
					if len(names) > 1 && i%10 == 0 {
						name = fmt.Sprint(i, names[1+i/10%2])
					}
					g, err = tx.NamedSignal(d, name, "")
					signals = append(signals, g)
				}
				return err
			}); err != nil {
				b.Fatal(err)
			}
			c, err := s.pool.Acquire(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			pid := c.Conn().PgConn().PID()
			c.Release()
			seq := uint64(0)
			b.ReportAllocs()
			before, server := cpu(), serverCPU(pid)
			for b.Loop() {
				if err := s.Update(context.Background(), func(tx store.Tx) error {
					for range benchBatches {
						seq++
						d, err := tx.Device("acme", "car-1", storetest.Now)
						if err != nil {
							return err
						}
						batch := storetest.Batch(seq, uint32(seq))
						batch.Samples = benchRows
						p, err := tx.PutBatch(d, batch)
						if err != nil {
							return err
						}
						benchSamples(rows, signals, seq)
						if err := tx.PutSamples(p.ID, rows); err != nil {
							return err
						}
						if _, err := tx.Yield(d, p.ID, batch); err != nil {
							return err
						}
						if _, err := tx.NextReceipt(d); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			report(b, url, "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'samples'::regclass", cpu()-before, serverCPU(pid)-server)
		})
	}
	for _, way := range []string{"copy", "copy-pgx"} {
		b.Run(way, func(b *testing.B) {
			url := fresh(b, p)
			ctx := context.Background()
			c, err := pgx.Connect(ctx, url)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close(ctx)
			columns := "day date, idx integer, batch bigint, signal bigint, boot_ns bigint, wall_ns bigint, uncertainty bigint, bits bigint, value double precision, time_source smallint, kind smallint, raw bytea, label text, by_time boolean"
			if _, err := c.Exec(ctx, "CREATE TABLE samples ("+columns+")"); err != nil {
				b.Fatal(err)
			}
			names := []string{"day", "idx", "batch", "signal", "boot_ns", "wall_ns", "uncertainty", "bits", "value", "time_source", "kind", "raw", "label", "by_time"}
			rows := make([]store.Row, benchRows)
			seq := uint64(0)
			var buffer copyBuffer
			pid := c.PgConn().PID()
			b.ReportAllocs()
			before, server := cpu(), serverCPU(pid)
			for b.Loop() {
				if way == "copy" {
					for range benchBatches {
						seq++
						benchSamples(rows, []int64{1, 2, 3}, seq)
						buffer.add(1, int64(seq), rows, nil)
					}
					t := tx{ctx: ctx, conn: c, samples: buffer}
					if err := t.flushSamples(); err != nil {
						b.Fatal(err)
					}
					buffer = t.samples
					continue
				}
				n, values := 0, make([]any, len(names))
				if _, err := c.CopyFrom(ctx, pgx.Identifier{"samples"}, names, pgx.CopyFromFunc(func() ([]any, error) {
					if n == benchBatches*benchRows {
						return nil, nil
					}
					if n%benchRows == 0 {
						seq++
						benchSamples(rows, []int64{1, 2, 3}, seq)
					}
					r := &rows[n%benchRows]
					n++
					copy(values, []any{storetest.Now, int32(r.Index), int64(seq), r.Signal, r.BootNS, r.Time.UnixNS, int64(r.Time.UncertaintyNS), int64(r.Raw.Bits),
						math.Float64frombits(r.Value.Bits), int16(r.Time.Source), int16(r.Raw.Kind), []byte{}, "", false})
					return values, nil
				})); err != nil {
					b.Fatal(err)
				}
			}
			report(b, url, "SELECT pg_total_relation_size('samples')", cpu()-before, serverCPU(pid)-server)
		})
	}
}

func report(b *testing.B, url, size string, own, server float64) {
	n := float64(b.N) * benchBatches * benchRows
	b.ReportMetric(n/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(n/own, "samples/cpu-s")
	b.ReportMetric(n/server, "samples/server-cpu-s")
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close(context.Background())
	var bytes, rows float64
	if err := c.QueryRow(context.Background(), "SELECT ("+size+")::double precision, (SELECT count(*) FROM samples)::double precision").Scan(&bytes, &rows); err != nil || rows == 0 {
		b.Fatal(rows, err)
	}
	b.ReportMetric(bytes/rows, "disk-B/sample")
}
