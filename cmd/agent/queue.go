package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func queueCommand() *cobra.Command {
	return cli.Group("queue", "Look into a queue folder, live or not, without changing it", queueListCommand(), queueVerifyCommand(), queueExportCommand(), queueSalvageCommand())
}

// oneFolder takes exactly one argument.
func oneFolder(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return cli.UsageError(fmt.Errorf("%s: want one queue folder, got %d arguments", name, len(args)))
		}
		return nil
	}
}

// lookInto opens a queue to be looked at; damage is called for what cannot be read.
func lookInto(dir string, damage func(buffer.Damage)) (*buffer.Queue, error) {
	q, err := buffer.Open(dir, buffer.Options{ReadOnly: true, OnDamage: damage})
	if errors.Is(err, buffer.ErrNewerFormat) {
		return nil, fmt.Errorf("%w; look at it with the waybill-agent that wrote it, or a newer one", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; give the folder that holds control, telemetry and the other lanes", err)
	}
	return q, isQueue(dir)
}

// isQueue refuses a folder that holds something else: that it has no batches would be true and misleading.
func isQueue(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := parseLane(n.Name()); err == nil || n.Name() == "meta" {
			return nil
		}
		if n.Name() == "queue" && n.IsDir() {
			return fmt.Errorf("%s is no queue folder, but holds one: give %s", dir, filepath.Join(dir, "queue"))
		}
	}
	for _, n := range names {
		if n.Name() != "lock" && n.Name() != "lost+found" {
			return fmt.Errorf("%s is no queue folder: it holds %s and neither meta nor a lane", dir, n.Name())
		}
	}
	return nil
}

// seqRanges prints as [[first,last],…].
type seqRanges []buffer.Range

func (s seqRanges) MarshalJSON() ([]byte, error) {
	pairs := make([][2]uint64, len(s))
	for i, r := range s {
		pairs[i] = [2]uint64{r.First, r.Last}
	}
	return json.Marshal(pairs)
}

type laneLine struct {
	Lane     string `json:"lane"`
	Epoch    string `json:"epoch"`
	Segments int    `json:"segments"`
	Batches  uint64 `json:"batches"`
	Bytes    uint64 `json:"bytes"`
	Samples  uint64 `json:"samples"`
	Oldest   uint64 `json:"oldest"`
	Newest   uint64 `json:"newest"`
	Next     uint64 `json:"next"`
	Disk     int64  `json:"disk_bytes"`
	Clean    bool   `json:"clean_stop"`
	At       string `json:"last_commit,omitempty"`
}

type segmentLine struct {
	Lane      string    `json:"lane"`
	Segment   uint64    `json:"segment"`
	File      string    `json:"file"`
	Epoch     string    `json:"epoch"`
	Batches   uint64    `json:"batches"`
	Stored    uint64    `json:"stored"`
	Bytes     uint64    `json:"bytes"`
	Samples   uint64    `json:"samples"`
	Seqs      seqRanges `json:"seqs"`
	Journal   seqRanges `json:"journal"`
	Commits   [2]uint64 `json:"commits"`
	FirstNS   int64     `json:"first_ns"`
	LastNS    int64     `json:"last_ns"`
	FileBytes int64     `json:"file_bytes"`
	Disk      int64     `json:"disk_bytes"`
	Damaged   bool      `json:"damaged,omitempty"`
}

func queueListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls DIR",
		Short: "Print one JSON object for each lane and each segment",
		Long: `Print one JSON object a line: each lane, then its segments, oldest first.

  {"lane":"telemetry","epoch":"9f0c…","segments":2,"batches":118,"bytes":1893376,…,"oldest":7,"newest":124,"next":125,…}
  {"lane":"telemetry","segment":4,"file":"telemetry/000000000004.seg","seqs":[[1,63]],"batches":57,"stored":63,…}

batches are those not released; stored, bytes and samples of a segment count the released ones too. first_ns and last_ns are CLOCK_BOOTTIME.
Nothing is locked and nothing is written: a live queue may be looked at. What cannot be read is a warning on standard error.`,
		Args: oneFolder("queue ls"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := lookInto(args[0], func(d buffer.Damage) { fmt.Fprintln(cmd.ErrOrStderr(), "waybill-agent: warning:", d) })
			if err != nil {
				return err
			}
			defer q.Close()
			return withOutput(cmd, func(out *bufio.Writer) error { return listQueue(out, q) })
		},
	}
}

func listQueue(out io.Writer, q *buffer.Queue) error {
	enc := json.NewEncoder(out)
	stats, segments := q.Stats(), q.Segments()
	for _, l := range buffer.Lanes() {
		s := stats.Lanes[l]
		line := laneLine{
			Lane: l.String(), Epoch: fmt.Sprintf("%016x", q.Epoch()), Segments: s.Segments, Batches: s.Batches, Bytes: s.Bytes,
			Oldest: s.Oldest, Newest: s.Newest, Next: s.Next, Clean: q.CleanStop(),
		}
		if !stats.LastCommit.IsZero() {
			line.At = stats.LastCommit.UTC().Format("2006-01-02T15:04:05.000Z07:00")
		}
		for _, seg := range segments {
			if seg.Lane == l {
				line.Samples += seg.Samples
				line.Disk += seg.DiskBytes
			}
		}
		if err := enc.Encode(line); err != nil {
			return err
		}
		for _, seg := range segments {
			if seg.Lane != l {
				continue
			}
			err := enc.Encode(segmentLine{
				Lane: l.String(), Segment: seg.Number, File: seg.File, Epoch: fmt.Sprintf("%016x", seg.Epoch),
				Batches: seg.Batches, Stored: seg.Stored, Bytes: seg.Bytes, Samples: seg.Samples, Seqs: seg.Seqs, Journal: seg.Journal,
				Commits: [2]uint64{seg.First, seg.Last}, FirstNS: seg.FirstTime, LastNS: seg.LastTime,
				FileBytes: seg.FileBytes, Disk: seg.DiskBytes, Damaged: seg.Damaged,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

type findingLine struct {
	Finding string    `json:"finding"`
	File    string    `json:"file"`
	Lane    string    `json:"lane"`
	Epoch   string    `json:"epoch"`
	Seqs    seqRanges `json:"seqs"`
	Batches uint64    `json:"batches"`
	Samples uint64    `json:"samples"`
	Saved   bool      `json:"saved,omitempty"` // damaged, and all of it was found
}

func finding(d buffer.Damage) findingLine {
	return findingLine{
		Finding: d.Reason, File: d.File, Lane: d.Lane.String(), Epoch: fmt.Sprintf("%016x", d.Epoch), Seqs: d.Seqs,
		Batches: d.Batches, Samples: d.Samples, Saved: d.Saved,
	}
}

func queueVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Read every batch and check it; exit 3 when something is damaged",
		Long: `Read every segment by its structure and every unreleased batch to its last byte, against its checksum; open each batch's envelope
and compare it with the place where it stands. Each finding is one JSON object a line, the last line says what was sound:

  {"finding":"damaged record: checksum","file":"telemetry/000000000004.seg","lane":"telemetry","seqs":[[12,12]],…}
  {"verified":117,"bytes":1876992,"findings":1}

A finding with "saved":true costs nothing: the file is damaged and all of its batches were found. One without seqs may cost batches
that nobody knows of: what was appended last.

Exit 0: all is sound. 3: there are findings. 1: the folder cannot be read.`,
		Args: oneFolder("queue verify"),
		RunE: func(cmd *cobra.Command, args []string) error {
			findings := 0
			err := withOutput(cmd, func(out *bufio.Writer) (err error) {
				findings, err = verifyQueue(cmd, out, args[0])
				return err
			})
			if err == nil && findings > 0 {
				err = &cli.Error{Code: cli.Findings}
			}
			return err
		},
	}
}

func verifyQueue(cmd *cobra.Command, out io.Writer, dir string) (findings int, err error) {
	enc := json.NewEncoder(out)
	var sound, size uint64
	find := func(d buffer.Damage) {
		findings++
		if encErr := enc.Encode(finding(d)); encErr != nil && err == nil {
			err = encErr
		}
	}
	q, openErr := lookInto(dir, find)
	if openErr != nil {
		return findings, openErr
	}
	defer q.Close()
	progress := queueProgress(cmd, q, "queue verify")
	defer progress.End()
	walkErr := eachBatch(q, buffer.Lanes(), func(r buffer.Record) error {
		progress.Add(len(r.Bytes))
		if reason := disagrees(r); reason != "" {
			find(buffer.Damage{Lane: r.Lane, Epoch: r.Epoch, Seqs: []buffer.Range{{First: r.Seq, Last: r.Seq}}, Batches: 1, Reason: reason})
			return nil
		}
		sound++
		size += uint64(len(r.Bytes))
		return nil
	})
	if err = errors.Join(err, walkErr); err != nil {
		return findings, err
	}
	return findings, enc.Encode(map[string]any{"verified": sound, "bytes": size, "findings": findings})
}

// disagrees says in what a batch's own envelope differs from what the queue says of it; empty = in nothing.
func disagrees(r buffer.Record) string {
	v, err := telemetrypb.OpenBatch(r.Bytes)
	if err != nil {
		return "envelope: " + err.Error()
	}
	e := v.Envelope
	if e.GetSeq() != r.Seq || e.GetEpoch() != r.Epoch || buffer.Lane(e.GetLane()) != r.Lane {
		return fmt.Sprintf("the envelope says epoch %016x, lane %s, seq %d; the queue epoch %016x, lane %s, seq %d",
			e.GetEpoch(), buffer.Lane(e.GetLane()), e.GetSeq(), r.Epoch, r.Lane, r.Seq)
	}
	return ""
}

// queueProgress is that of a walk through all of a queue.
func queueProgress(cmd *cobra.Command, q *buffer.Queue, what string) *cli.Progress {
	var size uint64
	for _, lane := range q.Stats().Lanes {
		size += lane.Bytes
	}
	return cli.NewProgress(cmd.ErrOrStderr(), cmd.OutOrStdout(), what, int64(size))
}

// eachBatch reads every unreleased batch of some lanes, in order.
func eachBatch(q *buffer.Queue, lanes []buffer.Lane, each func(buffer.Record) error) error {
	for _, l := range lanes {
		for from := uint64(0); ; {
			r, err := q.Next(l, from)
			if errors.Is(err, buffer.ErrEmpty) {
				break
			}
			if err == nil {
				err = each(r)
			}
			if err != nil {
				return err
			}
			from = r.Seq + 1
		}
	}
	return nil
}

// exportPayload is about how large an exported payload gets, as on a good link.
const exportPayload = 64 << 10

func queueExportCommand() *cobra.Command {
	var laneName, to string
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "Write the unreleased batches as payloads, as they would be published",
		Long: `Write the unreleased batches, oldest first, as payloads of up to 64 KiB. With --to each payload is a file of that folder, named by lane, epoch and
first seq, and all lanes are written unless --lane says which. Without, the payloads of one lane (telemetry unless --lane says which) go to standard
output one behind the other, which is one payload again. Damaged batches are left out with a warning on standard error.`,
		Example: `  waybill-agent queue export --to /tmp/payloads /var/lib/waybill/queue
  waybill-agent queue export --lane event /var/lib/waybill/queue | waybill-agent batch decode`,
		Args: oneFolder("queue export"),
		RunE: func(cmd *cobra.Command, args []string) error {
			lanes := []buffer.Lane{buffer.Telemetry}
			if laneName != "" {
				l, err := parseLane(laneName)
				if err != nil {
					return cli.UsageError(err)
				}
				lanes[0] = l
			} else if to != "" {
				lanes = buffer.Lanes()
			}
			q, err := lookInto(args[0], func(d buffer.Damage) { fmt.Fprintln(cmd.ErrOrStderr(), "waybill-agent: warning:", d) })
			if err != nil {
				return err
			}
			defer q.Close()
			if to == "" {
				return withOutput(cmd, func(out *bufio.Writer) error {
					return exportQueue(q, lanes, func(_ buffer.Record, payload []byte) error {
						_, err := out.Write(payload)
						return err
					})
				})
			}
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			progress := queueProgress(cmd, q, "queue export")
			defer progress.End()
			return exportQueue(q, lanes, func(first buffer.Record, payload []byte) error {
				progress.Add(len(payload))
				name := fmt.Sprintf("%s-%016x-%012d.payload", first.Lane, first.Epoch, first.Seq)
				return os.WriteFile(filepath.Join(to, name), payload, 0o644)
			})
		},
	}
	cmd.Flags().StringVar(&laneName, "lane", "", "only the lane `NAME`: control, event, telemetry or raw")
	_ = cmd.RegisterFlagCompletionFunc("lane", cobra.FixedCompletions([]string{"control", "event", "telemetry", "raw"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVar(&to, "to", "", "write files to `FOLDER` instead of standard output")
	return cmd
}

func parseLane(name string) (buffer.Lane, error) {
	for _, l := range buffer.Lanes() {
		if l.String() == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("--lane: want control, event, telemetry or raw, got %q", name)
}

// exportQueue groups batches of one lane and epoch into payloads.
func exportQueue(q *buffer.Queue, lanes []buffer.Lane, write func(first buffer.Record, payload []byte) error) error {
	var first buffer.Record
	var batches [][]byte
	size := 0
	flush := func() error {
		if len(batches) == 0 {
			return nil
		}
		err := write(first, telemetrypb.AppendPayload(nil, true, nil, batches...))
		batches, size = batches[:0], 0
		return err
	}
	err := eachBatch(q, lanes, func(r buffer.Record) error {
		if len(batches) > 0 && (size+len(r.Bytes) > exportPayload || r.Lane != first.Lane || r.Epoch != first.Epoch) {
			if err := flush(); err != nil {
				return err
			}
		}
		if len(batches) == 0 {
			first = r
		}
		batches, size = append(batches, r.Bytes), size+len(r.Bytes)
		return nil
	})
	return errors.Join(err, flush())
}
