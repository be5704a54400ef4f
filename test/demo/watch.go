package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/waybill-telematics/waybill/test/programs"
)

// figures are what the agent's metrics say.
type figures struct {
	samples float64 // committed or waiting to be, of telemetry and events
	depth   float64 // batches in the queue
	sent    float64 // batches, resent ones included
	bytes   float64 // to the broker
	memory  float64 // resident, bytes
}

// metrics reads the agent's page.
func (b *bench) metrics(ctx context.Context) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.metricsURL, nil)
	if err != nil {
		return figures{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return figures{}, err
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return figures{}, err
	}
	return figures{
		samples: sum(families["waybill_samples_total"], "event", "telemetry"),
		depth:   sum(families["waybill_queue_batches"]),
		sent:    sum(families["waybill_uplink_batches_sent_total"]),
		bytes:   sum(families["waybill_uplink_bytes_sent_total"]),
		memory:  sum(families["process_resident_memory_bytes"]),
	}, nil
}

// sum adds up a family, of the named lanes or of all.
func sum(family *dto.MetricFamily, lanes ...string) (total float64) {
	for _, m := range family.GetMetric() {
		counts := len(lanes) == 0
		for _, l := range m.GetLabel() {
			for _, lane := range lanes {
				counts = counts || l.GetName() == "lane" && l.GetValue() == lane
			}
		}
		if counts {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return total
}

// watch prints a line a second until the drive is over.
func (b *bench) watch(ctx context.Context, drive time.Duration) {
	fmt.Fprintf(b.out, "\n%6s  %-10s %-8s %11s %8s %8s %9s %6s\n%26s %11s %8s %8s %9s\n", "time", "road", "network", "in", "queued", "sent", "stored", "lost",
		"", "samples", "batches", "batches", "samples")
	every := min(time.Second, drive/10)
	tick := time.NewTicker(every)
	defer tick.Stop()
	started := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.car.Done:
			return
		case <-b.agent.Done:
			return
		case <-tick.C:
			b.line(ctx, time.Since(started))
		}
	}
}

func (b *bench) line(ctx context.Context, at time.Duration) {
	f, err := b.metrics(ctx)
	if err != nil {
		fmt.Fprintf(b.out, "the agent's page: %v\n", err)
		return
	}
	s := b.store.Load().(storeLine)
	network := "up"
	if b.tunnel.Load() {
		network = "DOWN"
	}
	fmt.Fprintf(b.out, "%5.0fs  %-10s %-8s %11.0f %8.0f %8.0f %9d %6d\n", at.Seconds(), b.phase.Load(), network, f.samples, f.depth, f.sent, s.Samples,
		int64(s.Gaps)+s.Losses)
}

// finish lets everything arrive, stops the programs, and compares what was on the bus with what is in the store.
func (b *bench) finish() error {
	if b.car.Err != nil {
		return fmt.Errorf("waybill-simulate: %w; see its log", b.car.Err)
	}
	if b.agent.Ended() {
		return fmt.Errorf("the agent ended by itself: %v", b.agent.Err)
	}
	time.Sleep(2 * time.Second) // what is in the FIFO is read, what is open is sealed
	before, err := b.metrics(context.Background())
	if err != nil {
		return err
	}
	if err := b.agent.Stop(45 * time.Second); err != nil {
		return err
	}
	if err := b.fleet.Stop(15 * time.Second); err != nil {
		return err
	}
	var summary programs.Drive
	select {
	case summary = <-b.summary:
	default:
		return fmt.Errorf("waybill-simulate printed no summary")
	}
	return b.verdict(before, summary)
}

// verdict asks the store, and nobody else.
func (b *bench) verdict(f figures, drive programs.Drive) error {
	rows, err := b.ask("samples", "--signal", "can0.*.FrameCounter")
	if err != nil {
		return err
	}
	seen := map[uint64]int{}
	for _, line := range rows {
		var r struct {
			Raw uint64 `json:"raw"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		seen[r.Raw]++
	}
	missing, twice := 0, 0
	for n := drive.FirstCounter; n <= drive.LastCounter; n++ {
		switch c := seen[n]; {
		case c == 0:
			missing++
		case c > 1:
			twice += c - 1
		}
	}
	s := b.store.Load().(storeLine)
	all, err := b.ask("samples")
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\non the bus  %d frames, %d of them numbered\nin the agent %.0f samples, %.1f MB resident\non the wire %.0f bytes up, %.2f a sample with everything around it\nin the store %d samples in %d batches, %d resent batches recognised\n",
		drive.Frames, drive.LastCounter-drive.FirstCounter+1, f.samples, f.memory/1e6, f.bytes, f.bytes/max(f.samples, 1), len(all), s.Batches, s.Duplicates)
	fmt.Fprintf(b.out, "lost = %d   twice = %d   gaps = %d   losses = %d   rejected = %d   parked = %d\n", missing, twice, s.Gaps, s.Losses, s.Rejected, s.Parked)
	if missing+twice > 0 || s.Gaps > 0 || s.Losses > 0 || s.Rejected > 0 || s.Parked > 0 || len(all) == 0 {
		return fmt.Errorf("something was lost or stored twice")
	}
	if diff := float64(len(all)) - f.samples; diff < 0 || diff > 16 { // a GPS epoch may come between the page and the stop
		return fmt.Errorf("the agent took %.0f samples, the store has %d", f.samples, len(all))
	}
	fmt.Fprintln(b.out, "verdict: every sample is in the store, once")
	return nil
}

// ask runs a listing of waybill-fleet and returns its lines.
func (b *bench) ask(command string, args ...string) ([][]byte, error) {
	cmd := exec.Command(b.Path("waybill-fleet"), append([]string{command, "--db", b.db}, args...)...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("waybill-fleet %s: %w", strings.Join(cmd.Args[1:], " "), err)
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nil, nil
	}
	return bytes.Split(text, []byte("\n")), nil
}
