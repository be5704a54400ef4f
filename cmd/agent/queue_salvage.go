package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func queueSalvageCommand() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "salvage DIR --to OUT",
		Short: "Save everything that can be read of a queue as payloads that the fleet takes",
		Long: `Read a queue, sound or damaged, and write all that is not delivered into the folder OUT: unreleased batches as payloads of up
to 64 KiB, byte for byte as the vehicle would have published them, and what was journaled and not sealed as batches of its own.
Damaged segments are searched record by record. DIR is not touched; OUT must be empty or not there, and not inside of DIR.

The store takes each batch once, by its device, epoch, lane and number: what was delivered before is not there twice. The queue
of a vehicle that goes on driving is better left to its agent; of a queue that an agent has open, the journal is left out.

Each file is one JSON object a line with its topic, each loss is one as in "queue verify", and the last line is the sum:

  {"file":"telemetry-9f0c…-000000000007.payload","topic":"wb1/acme/car-7/up/telemetry","batches":12,"samples":5904,"bytes":64012}
  {"finding":"damaged record: checksum","file":"telemetry/000000000004.seg","lane":"telemetry","seqs":[[12,12]],…}
  {"saved":117,"files":31,"samples":57522,"bytes":1876992,"unsealed":2,"lost":1,"findings":1}

Exit 0: everything was saved. 3: something is lost, or may be. 1: DIR cannot be read or OUT not be written.`,
		Example: `  # The memory of a crashed car, mounted read-only: save what it holds, then publish it in the vehicle's name.
  waybill-agent queue salvage /mnt/var/lib/waybill/queue --to saved >saved.jsonl
  jq -r 'select(.topic)|[.topic,.file]|@tsv' saved.jsonl | while IFS=$'\t' read -r topic file; do
    mosquitto_pub -q 1 -t "$topic" -f "saved/$file"; done`,
		Args: oneFolder("queue salvage"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return cli.UsageError(errors.New("queue salvage: want --to OUT, the folder for what is saved; queue verify only looks"))
			}
			if err := salvageTarget(args[0], to); err != nil {
				return err
			}
			s := &salvage{to: to}
			err := withOutput(cmd, func(out *bufio.Writer) error {
				s.lines = json.NewEncoder(out)
				return s.run(args[0], func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "waybill-agent: warning:", text) })
			})
			if err == nil && s.Findings > 0 {
				err = &cli.Error{Code: cli.Findings}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "write the payloads into the new folder `OUT`")
	return cmd
}

// salvageTarget refuses a target that would mix with something else, or change what is read.
func salvageTarget(dir, to string) error {
	from, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	target, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	if target == from || strings.HasPrefix(target, from+string(filepath.Separator)) {
		return cli.UsageError(fmt.Errorf("--to: %s is inside of the queue, which is not to be touched", to))
	}
	names, err := os.ReadDir(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--to: %w", err)
	}
	if len(names) > 0 {
		return fmt.Errorf("--to: %s is not empty; give a new folder, so that nothing is mixed or overwritten", to)
	}
	return nil
}

// salvage is one run of the command, and its last line.
type salvage struct {
	to    string
	lines *json.Encoder
	names [2]string // tenant and device of the batches, for what the journal holds
	err   error     // of a line that could not be written

	Saved    uint64 `json:"saved"`
	Files    int    `json:"files"`
	Samples  uint64 `json:"samples"` // records in the control lane
	Bytes    uint64 `json:"bytes"`
	Unsealed int    `json:"unsealed"` // batches made of the journal, among those saved
	Lost     uint64 `json:"lost"`     // batches
	Findings int    `json:"findings"`
}

// find prints what is not as it should be.
func (s *salvage) find(d buffer.Damage) {
	if !d.Saved {
		s.Findings++
	}
	if !d.Journal {
		s.Lost += d.Batches
	}
	if err := s.lines.Encode(finding(d)); s.err == nil {
		s.err = err
	}
}

func (s *salvage) run(dir string, warn func(string)) error {
	live, err := buffer.InUse(dir)
	if err != nil {
		return err
	}
	q, err := lookInto(dir, s.find)
	if err != nil {
		return err
	}
	defer q.Close()
	if err := os.MkdirAll(s.to, 0o755); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	for _, l := range buffer.Lanes() {
		if err := s.lane(q, l); err != nil {
			return err
		}
	}
	if live {
		warn("an agent has the queue open; what it has not sealed yet is left to it")
	} else if err := s.journal(q); err != nil {
		return err
	}
	folder, err := os.Open(s.to)
	if err == nil {
		err = errors.Join(folder.Sync(), folder.Close())
	}
	return errors.Join(err, s.err, s.lines.Encode(s))
}

// pile is batches that go into one payload: of one tenant, device, lane and epoch.
type pile struct {
	head    *telemetrypb.Envelope
	name    string
	batches [][]byte
	samples uint64
	size    int
}

// lane saves the batches of one lane.
func (s *salvage) lane(q *buffer.Queue, l buffer.Lane) error {
	var p pile
	err := eachBatch(q, []buffer.Lane{l}, func(r buffer.Record) error {
		if reason := disagrees(r); reason != "" {
			s.find(buffer.Damage{Lane: r.Lane, Epoch: r.Epoch, Seqs: []buffer.Range{{First: r.Seq, Last: r.Seq}}, Batches: 1, Reason: reason})
			return nil
		}
		v, err := telemetrypb.OpenBatch(r.Bytes)
		if err != nil {
			return err
		}
		e := v.Envelope
		s.names = [2]string{e.GetTenant(), e.GetDevice()}
		if h := p.head; h != nil && (p.size+len(r.Bytes) > exportPayload || h.GetTenant() != e.GetTenant() || h.GetDevice() != e.GetDevice() || h.GetEpoch() != e.GetEpoch()) {
			if err := s.write(&p); err != nil {
				return err
			}
		}
		if p.head == nil {
			p.head, p.name = e, fmt.Sprintf("%s-%016x-%012d.payload", r.Lane, r.Epoch, r.Seq)
		}
		p.batches, p.size, p.samples = append(p.batches, r.Bytes), p.size+len(r.Bytes), p.samples+uint64(r.Samples)
		return nil
	})
	return errors.Join(err, s.write(&p))
}

// journal saves what was not sealed, each batch under its own number, as an agent would seal it at its next start.
func (s *salvage) journal(q *buffer.Queue) error {
	list, err := pipeline.ReadJournal(recovered(q), q.Epoch())
	if err != nil {
		return err
	}
	for _, u := range list {
		d := buffer.Damage{Lane: buffer.Lane(u.Head.Lane), Epoch: u.Head.Epoch, Seqs: []buffer.Range{{First: u.Head.Seq, Last: u.Head.Seq}}, Journal: true}
		if u.Damaged > 0 {
			d.Reason = fmt.Sprintf("%d journal entries: %v", u.Damaged, u.Err)
			s.find(d)
		}
		var samples []telemetrypb.Sample
		for _, part := range u.Parts {
			samples = append(samples, part...)
		}
		if len(samples) == 0 {
			continue
		}
		u.Head.Tenant, u.Head.Device = s.names[0], s.names[1]
		b, err := telemetrypb.AppendBatch(nil, &u.Head, samples)
		if err != nil { // without a batch in the queue nobody knows whose it is
			d.Reason, d.Samples = "journal: "+err.Error(), uint64(len(samples))
			s.find(d)
			continue
		}
		v, err := telemetrypb.OpenBatch(b)
		if err != nil {
			return err
		}
		s.Unsealed++
		name := fmt.Sprintf("%s-%016x-%012d.payload", buffer.Lane(u.Head.Lane), u.Head.Epoch, u.Head.Seq)
		if err := s.write(&pile{head: v.Envelope, name: name, batches: [][]byte{b}, samples: uint64(len(samples)), size: len(b)}); err != nil {
			return err
		}
	}
	return nil
}

// write makes a payload's file durable and prints its line; the pile is empty afterwards.
func (s *salvage) write(p *pile) error {
	if len(p.batches) == 0 {
		return nil
	}
	topic := telemetrypb.Topic(p.head.GetTenant(), p.head.GetDevice(), telemetrypb.TopicLane(p.head.GetLane()))
	f, err := os.OpenFile(filepath.Join(s.to, p.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(telemetrypb.AppendPayload(nil, true, nil, p.batches...))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	s.Files++
	s.Saved += uint64(len(p.batches))
	s.Samples += p.samples
	s.Bytes += uint64(p.size)
	line := struct {
		File    string `json:"file"`
		Topic   string `json:"topic"`
		Batches int    `json:"batches"`
		Samples uint64 `json:"samples"`
		Bytes   int    `json:"bytes"`
	}{p.name, topic, len(p.batches), p.samples, p.size}
	*p = pile{}
	return s.lines.Encode(line)
}
