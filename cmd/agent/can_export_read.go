package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// rawLayout are the recorded buses of a catalogue.
type rawLayout []rawBus

type rawBus struct {
	bus string
	ids rawIDs
}

// layoutOf finds the recorded buses in a catalogue.
func layoutOf(c *telemetrypb.Catalogue) rawLayout {
	var layout rawLayout
	names := rawNames()
	for _, signal := range c.GetSignals() {
		bus, ok := strings.CutPrefix(signal.GetSource(), rawSource(""))
		if !ok || telemetrypb.CheckName("bus", bus) != nil || signal.GetMessage() != rawMessage(bus) || len(layout) > 255 {
			continue
		}
		at := slices.IndexFunc(layout, func(b rawBus) bool { return b.bus == bus })
		if at < 0 {
			at = len(layout)
			layout = append(layout, rawBus{bus: bus})
		}
		for i, id := range layout[at].ids.all() {
			if signal.GetName() == rawMessage(bus)+"."+names[i] {
				*id = signal.GetId()
			}
		}
	}
	return layout
}

// recording is a batch of the raw lane, or the journal entry of one that is not sealed yet, and where it is read again.
type recording struct {
	device    string // tenant/device; empty in a journal, which belongs to the folder's
	boot      [16]byte
	bootCount uint32
	catalogue [16]byte
	epoch     uint64
	seq       uint64
	first     int64 // CLOCK_BOOTTIME of its earliest sample
	queue     *buffer.Queue
	file      *payloadFile
	at        int // number in the payload
	journal   []telemetrypb.Sample
	part      int // number in the journal
}

// batchIdentity is what a batch is known by, whatever it came in.
type batchIdentity struct {
	device     string
	epoch, seq uint64
}

// String names the batch in a warning.
func (r *recording) String() string {
	return fmt.Sprintf("batch of %s, epoch %016x, lane raw, seq %d", r.device, r.epoch, r.seq)
}

func (r *recording) sameBoot(o *recording) bool { return r.device == o.device && r.boot == o.boot }

func (r *recording) compare(o *recording) int {
	return cmp.Or(strings.Compare(r.device, o.device), cmp.Compare(r.bootCount, o.bootCount), bytes.Compare(r.boot[:], o.boot[:]),
		cmp.Compare(r.first, o.first), cmp.Compare(r.seq, o.seq), cmp.Compare(r.part, o.part))
}

// payloadFile is a file with a payload, read again when its batches are due.
type payloadFile struct {
	name    string
	payload telemetrypb.PayloadView
	held    bool
	stream  bool // standard input: held to the end
}

// gather looks through the input: catalogues, clock records, and which batches there are. closeAll is to be called in any
// case.
func (e *canExport) gather(args []string) (closeAll func(), err error) {
	e.catalogues, e.clocks = map[[16]byte]rawLayout{}, map[[16]byte]*telemetrypb.ClockRecord{}
	e.known, e.times, e.devices = map[batchIdentity]uint32{}, map[[16]byte]bool{}, map[*buffer.Queue]string{}
	var queues []*buffer.Queue
	closeAll = func() {
		for _, q := range queues {
			_ = q.Close() // only looked at
		}
	}
	if err := e.namedCatalogues(); err != nil {
		return closeAll, err
	}
	if len(args) == 0 {
		args = []string{"-"}
	}
	for _, name := range args {
		if name != "-" {
			info, err := os.Stat(name)
			if err != nil {
				return closeAll, err
			}
			if info.IsDir() {
				q, err := lookInto(name, func(d buffer.Damage) { e.warn(d) })
				if err != nil {
					return closeAll, err
				}
				queues, e.folders = append(queues, q), true
				if err := e.addQueue(q); err != nil {
					return closeAll, err
				}
				continue
			}
		}
		if err := e.addPayload(&payloadFile{name: name, stream: name == "-"}); err != nil {
			return closeAll, err
		}
	}
	// A journal is behind the batches: one that was sealed meanwhile may have come as a payload.
	for _, q := range queues {
		if err := e.addJournal(q); err != nil {
			return closeAll, err
		}
	}
	return closeAll, nil
}

// namedCatalogues are those of --catalogue and --config.
func (e *canExport) namedCatalogues() error {
	if e.catalogueFile != "" {
		c, hash, err := readCatalogue(e.catalogueFile)
		if err != nil {
			return err
		}
		e.catalogues[[16]byte(hash[:16])] = layoutOf(c)
	}
	if e.configFile != "" {
		_, v, err := load(e.configFile)
		if err != nil {
			return err
		}
		e.catalogues[v.selection.ShortHash()] = layoutOf(v.selection.Catalogue())
	}
	return nil
}

// addQueue looks through a queue: the control lane first, since it is ahead of what needs it.
func (e *canExport) addQueue(q *buffer.Queue) error {
	for _, lane := range []buffer.Lane{buffer.Control, buffer.Raw} {
		err := eachBatch(q, []buffer.Lane{lane}, func(r buffer.Record) error {
			e.addBatch(r.Bytes, recording{queue: q}, fmt.Sprintf("batch of epoch %016x, lane %v, seq %d", r.Epoch, r.Lane, r.Seq))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addJournal takes what of the raw lane is committed and not sealed yet.
func (e *canExport) addJournal(q *buffer.Queue) error {
	list, err := pipeline.ReadJournal(recovered(q), q.Epoch())
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Head.Lane != telemetrypb.Lane_LANE_RAW {
			continue
		}
		r := recording{device: e.devices[q], boot: u.Head.BootID, bootCount: u.Head.BootCount, catalogue: u.Head.Catalogue, epoch: u.Head.Epoch, seq: u.Head.Seq}
		id := batchIdentity{r.device, r.epoch, r.seq}
		if _, twice := e.known[id]; twice {
			continue
		}
		e.known[id] = 0
		if u.Damaged > 0 {
			e.reject(fmt.Errorf("%v: %d journal entries: %w", &r, u.Damaged, u.Err))
		}
		for i, part := range u.Parts {
			if len(part) > 0 {
				r.journal, r.part = part, i
				r.first = slices.MinFunc(part, func(a, b telemetrypb.Sample) int { return cmp.Compare(a.Time, b.Time) }).Time
				e.recordings = append(e.recordings, r)
			}
		}
	}
	return nil
}

// addPayload looks through a payload.
func (e *canExport) addPayload(f *payloadFile) error {
	if err := e.hold(f); err != nil {
		return err
	}
	for _, c := range f.payload.Clocks {
		e.addClock(c)
	}
	if len(f.payload.Plain) > 0 {
		e.warn(f.name + ": batches in format plain or json have no frames; record and export in columns")
	}
	for i, b := range f.payload.Batches {
		e.addBatch(b, recording{file: f, at: i}, fmt.Sprintf("%s: batch %d of %d", f.name, i+1, len(f.payload.Batches)))
	}
	return nil
}

// hold reads a payload into memory, in place of the one before.
func (e *canExport) hold(f *payloadFile) error {
	if f.held {
		return nil
	}
	in, name, err := openInput(e.cmd, []string{f.name})
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, telemetrypb.MaxPayload+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) == 0 {
		f.held = true
		return nil
	}
	if f.payload, err = telemetrypb.OpenPayload(data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f.held = true
	if !f.stream {
		if e.cached != nil {
			e.cached.payload, e.cached.held = telemetrypb.PayloadView{}, false
		}
		e.cached = f
	}
	return nil
}

// addBatch takes note of a batch: the records of the control lane at once, one of the raw lane for later.
func (e *canExport) addBatch(b []byte, r recording, name string) {
	view, err := telemetrypb.OpenBatch(b)
	if err != nil {
		e.reject(fmt.Errorf("%s: %w", name, err))
		return
	}
	env := view.Envelope
	e.batches++
	r.device = env.GetTenant() + "/" + env.GetDevice()
	if r.queue != nil {
		e.devices[r.queue] = r.device
	}
	switch env.GetLane() {
	case telemetrypb.Lane_LANE_CONTROL:
		records, err := view.Records()
		if err != nil {
			e.reject(fmt.Errorf("%s: %w", name, err))
			return
		}
		e.addRecords(records, name)
		return
	case telemetrypb.Lane_LANE_RAW:
	default:
		return
	}
	r.boot, r.bootCount = [16]byte(env.GetBootId()), env.GetBootCount()
	copy(r.catalogue[:], env.GetCatalogue())
	r.epoch, r.seq, r.first = env.GetEpoch(), env.GetSeq(), env.GetFirstNs()
	id := batchIdentity{r.device, r.epoch, r.seq}
	if sum, twice := e.known[id]; twice {
		if sum != env.GetCrc32C() {
			e.warn(fmt.Sprintf("%v: there are two with different contents; the later one is left out", &r))
		}
		return
	}
	e.known[id] = env.GetCrc32C()
	if env.GetSamples() > 0 {
		e.recordings = append(e.recordings, r)
	}
}

func (e *canExport) addRecords(records *telemetrypb.Records, name string) {
	for _, record := range records.GetRecords() {
		if c := record.GetClock(); c != nil {
			e.addClock(c)
		}
		part := record.GetCatalogue()
		if part == nil {
			continue
		}
		c, hash, err := e.assembler.Add(part)
		if err != nil {
			e.warn(fmt.Sprintf("%s: catalogue: %v", name, err))
		} else if c != nil {
			e.catalogues[[16]byte(hash[:16])] = layoutOf(c)
		}
	}
}

// addClock keeps the highest revision of each boot.
func (e *canExport) addClock(c *telemetrypb.ClockRecord) {
	if len(c.GetBootId()) != 16 {
		return
	}
	boot := [16]byte(c.GetBootId())
	if old := e.clocks[boot]; old == nil || c.GetRevision() > old.GetRevision() {
		e.clocks[boot] = c
	}
}

// load reads the samples of a batch.
func (e *canExport) load(r *recording) ([]telemetrypb.Sample, error) {
	if layout, known := e.catalogues[r.catalogue]; !known {
		return nil, fmt.Errorf("its catalogue %x is not in the input; name it with --catalogue or --config", r.catalogue)
	} else if len(layout) == 0 {
		return nil, errors.New("its catalogue has no recorded bus")
	}
	if r.journal != nil {
		return r.journal, nil
	}
	var b []byte
	if r.queue != nil {
		record, err := r.queue.Next(buffer.Raw, r.seq)
		if err == nil && record.Seq != r.seq || errors.Is(err, buffer.ErrEmpty) {
			err = errors.New("it was delivered and removed meanwhile")
		}
		if err != nil {
			return nil, err
		}
		b = record.Bytes
	} else {
		if err := e.hold(r.file); err != nil {
			return nil, err
		}
		if r.at >= len(r.file.payload.Batches) {
			return nil, fmt.Errorf("%s: %w", r.file.name, fs.ErrNotExist)
		}
		b = r.file.payload.Batches[r.at]
	}
	view, err := telemetrypb.OpenBatch(b)
	if err != nil {
		return nil, err
	}
	if view.Envelope.GetSeq() != r.seq || view.Envelope.GetEpoch() != r.epoch {
		return nil, errors.New("its place holds another one now")
	}
	e.samples, err = view.Samples(e.samples[:0])
	return e.samples, err
}
