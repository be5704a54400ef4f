package uplink

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/buffer"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// part is the share of a lane that a class of the drain order takes.
type part uint8

const (
	whole   part = iota
	live         // committed since the connection began
	backlog      // older
)

type class struct {
	lane telemetrypb.Lane
	part part
}

// drainOrder is what goes first: control, events, what is new (the fleet sees the car now), then the backlog. Within
// a class the oldest goes first.
func drainOrder() [6]class {
	return [...]class{
		{telemetrypb.Lane_LANE_CONTROL, whole}, {telemetrypb.Lane_LANE_EVENT, whole},
		{telemetrypb.Lane_LANE_TELEMETRY, live}, {telemetrypb.Lane_LANE_RAW, live},
		{telemetrypb.Lane_LANE_TELEMETRY, backlog}, {telemetrypb.Lane_LANE_RAW, backlog},
	}
}

// parcel is one batch on its way into a payload.
type parcel struct {
	key     key
	held    held
	bytes   []byte
	plain   *telemetrypb.PlainBatch // nil: it goes in columns
	clock   *telemetrypb.ClockRecord
	boot    [16]byte
	backlog bool
	size    int // bytes in the payload
}

// load is a payload being packed: parcels of one lane, one form and one of live or backlog.
type load struct {
	parcels []parcel
	large   bool // a trial of the broker's limit
	clocks  map[[16]byte]*telemetrypb.ClockRecord
	size    int
}

// fits says whether another parcel may join; the first always may.
func (l *load) fits(p *parcel, limit int) bool {
	if len(l.parcels) == 0 {
		return true
	}
	first := &l.parcels[0]
	if (first.plain == nil) != (p.plain == nil) || first.backlog != p.backlog {
		return false
	}
	size := l.size + p.size
	if _, there := l.clocks[p.boot]; !there {
		if len(l.clocks) >= telemetrypb.MaxClocks {
			return false
		}
		size += proto.Size(p.clock)
	}
	return size <= limit
}

func (l *load) put(p parcel) {
	if l.clocks == nil {
		l.clocks = map[[16]byte]*telemetrypb.ClockRecord{}
	}
	if _, there := l.clocks[p.boot]; !there {
		l.clocks[p.boot] = p.clock
		l.size += proto.Size(p.clock)
	}
	l.parcels = append(l.parcels, p)
	l.size += p.size
}

// encode makes the publish. Clock records follow the order of the batches.
func (l *load) encode(json bool) ([]byte, error) {
	var clocks []*telemetrypb.ClockRecord
	done := map[[16]byte]bool{}
	for i := range l.parcels {
		p := &l.parcels[i]
		if !done[p.boot] && l.clocks[p.boot] != nil {
			clocks = append(clocks, l.clocks[p.boot])
		}
		done[p.boot] = true
	}
	first := &l.parcels[0]
	if first.plain != nil {
		plain := make([]*telemetrypb.PlainBatch, len(l.parcels))
		for i := range l.parcels {
			plain[i] = l.parcels[i].plain
		}
		return telemetrypb.AppendPlainPayload(nil, json, first.backlog, clocks, plain...)
	}
	batches := make([][]byte, len(l.parcels))
	for i := range l.parcels {
		batches[i] = l.parcels[i].bytes
	}
	return telemetrypb.AppendPayload(make([]byte, 0, l.size+64), first.backlog, clocks, batches...), nil
}

// nextUnsent finds the oldest batch of a lane within lo…hi that is not on its way, or ok = false.
func (u *Uplink) nextUnsent(l buffer.Lane, lo, hi uint64) (rec buffer.Record, ok bool) {
	for from := lo; ; {
		u.mu.Lock()
		from, ok = u.win.lanes[l].nextFree(from)
		u.mu.Unlock()
		if !ok || from > hi {
			return rec, false
		}
		rec, err := u.queue.Next(l, from)
		switch {
		case errors.Is(err, buffer.ErrEmpty):
			return rec, false
		case err != nil:
			u.setTrouble(fmt.Sprintf("the queue's lane %s cannot be read from batch %d: %v", laneName(l), from, err))
			return rec, false
		case rec.Seq > hi:
			return rec, false
		}
		u.mu.Lock()
		free, _ := u.win.lanes[l].nextFree(rec.Seq)
		u.mu.Unlock()
		if free == rec.Seq {
			u.endTrouble()
			return rec, true
		}
		from = rec.Seq
	}
}

// nextFree skips what is on its way, parked, set aside, too large or unreadable.
func (l *lane) nextFree(from uint64) (seq uint64, ok bool) {
	for seq = from; ; from = seq {
		for _, set := range [...]*intervals{&l.taken, &l.parked, &l.aside, &l.reach.large, &l.unread} {
			if seq, ok = set.nextFree(seq); !ok {
				return 0, false
			}
		}
		if seq == from {
			return seq, true
		}
	}
}

// gather packs what a class has to send, up to limit bytes.
func (u *Uplink) gather(c class, limit int) *load {
	l := buffer.Lane(c.lane)
	u.mu.Lock()
	liveFrom := u.win.lanes[l].liveFrom
	u.mu.Unlock()
	lo, hi := uint64(0), uint64(math.MaxUint64)
	switch c.part {
	case live:
		lo = liveFrom
	case backlog:
		hi = liveFrom - 1
	}
	cargo := &load{}
	if u.barred(l) {
		return cargo
	}
	for lo <= hi {
		rec, ok := u.nextUnsent(l, lo, hi)
		if !ok {
			break
		}
		p, err := u.open(rec)
		if err != nil {
			u.setUnreadable(rec, err)
			continue
		}
		if u.tooLarge(p) {
			continue
		}
		p.backlog = rec.Seq < liveFrom
		if !cargo.fits(p, limit) {
			break
		}
		cargo.put(*p)
		if rec.Seq == math.MaxUint64 {
			break
		}
		lo = rec.Seq + 1
	}
	return cargo
}

// gatherSuspect packs one batch that breaks connections, if one is due: the heaviest, then the oldest.
func (u *Uplink) gatherSuspect(now time.Time) *load {
	var due []key
	weight := map[key]int{}
	u.mu.Lock()
	for k, s := range u.win.suspects {
		if u.win.due(k, s, now) {
			due = append(due, k)
			weight[k] = s.weight
		}
	}
	u.mu.Unlock()
	for len(due) > 0 {
		heaviest := 0
		for i, k := range due {
			if h := due[heaviest]; weight[k] > weight[h] || weight[k] == weight[h] && (k.lane < h.lane || k.lane == h.lane && k.seq < h.seq) {
				heaviest = i
			}
		}
		k := due[heaviest]
		due[heaviest] = due[len(due)-1]
		due = due[:len(due)-1]
		rec, err := u.queue.Next(k.lane, k.seq)
		if err != nil || rec.Seq != k.seq { // evicted meanwhile, or set aside by the queue
			u.mu.Lock()
			u.win.released(k.lane, k.seq, k.seq)
			u.mu.Unlock()
			continue
		}
		p, err := u.open(rec)
		if err != nil {
			u.setUnreadable(rec, err)
			continue
		}
		u.mu.Lock()
		p.backlog = rec.Seq < u.win.lanes[k.lane].liveFrom
		u.mu.Unlock()
		cargo := &load{}
		cargo.put(*p)
		return cargo
	}
	return u.gatherLarge(now)
}

// open reads a batch's envelope and, where its lane is published in plain, renders it.
func (u *Uplink) open(rec buffer.Record) (*parcel, error) {
	view, err := telemetrypb.OpenBatch(rec.Bytes)
	if err != nil && !errors.Is(err, telemetrypb.ErrNewerFormat) {
		return nil, err
	}
	e := view.Envelope
	if rec.Epoch != 0 && e.GetEpoch() != rec.Epoch || e.GetLane() != telemetrypb.Lane(rec.Lane) || e.GetSeq() != rec.Seq {
		return nil, fmt.Errorf("it calls itself epoch %016x, lane %s, seq %d", e.GetEpoch(), telemetrypb.LaneName(e.GetLane()), e.GetSeq())
	}
	p := &parcel{
		key:   key{rec.Lane, rec.Seq},
		held:  held{epoch: e.GetEpoch(), crc: e.GetCrc32C(), size: uint32(len(rec.Bytes)), samples: e.GetSamples(), first: e.GetFirstNs(), last: e.LastNs()},
		bytes: rec.Bytes,
		size:  len(rec.Bytes) + 8,
	}
	if len(e.GetBootId()) == len(p.boot) {
		p.boot = [16]byte(e.GetBootId())
		if u.o.Clocks != nil {
			p.clock = u.o.Clocks(p.boot)
		}
	}
	if err == nil { // a batch of a newer format can be sent, not rendered
		u.render(p, view)
	}
	return p, nil
}

// render makes the plain form of a parcel. Where that cannot be, the batch goes in columns: nothing is kept back
// because a tool would not understand it.
func (u *Uplink) render(p *parcel, view telemetrypb.BatchView) {
	format := u.o.Format(view.Envelope.GetLane())
	if format != FormatPlain && format != FormatJSON {
		return
	}
	var catalogue *telemetrypb.Catalogue
	if view.Envelope.GetCodec() != telemetrypb.Codec_CODEC_RECORDS {
		if short := view.Envelope.GetCatalogue(); len(short) == 16 && u.o.Catalogue != nil {
			catalogue = u.o.Catalogue([16]byte(short))
		}
		if catalogue == nil {
			u.count.unrendered.Add(1)
			return
		}
	}
	plain, err := telemetrypb.RenderPlain(view, catalogue, p.clock)
	size := proto.Size(plain)
	if err == nil && format == FormatJSON {
		var text []byte
		text, err = telemetrypb.AppendPlainPayload(nil, true, false, nil, plain)
		size = len(text)
	}
	if err == nil && size > maxRendered {
		err = fmt.Errorf("%d samples render to %d bytes, brokers commonly take %d", view.Envelope.GetSamples(), size, maxRendered)
	}
	if err != nil {
		u.count.unrendered.Add(1)
		u.o.Log.Warn("batch goes in columns", "format", string(format), "lane", telemetrypb.LaneName(view.Envelope.GetLane()), "seq", p.key.seq, "error", err)
		return
	}
	p.plain, p.size = plain, size+8
}

// setUnreadable keeps a batch that cannot be sent out of the way. It stays in the queue.
func (u *Uplink) setUnreadable(rec buffer.Record, err error) {
	u.count.unreadable.Add(1)
	u.mu.Lock()
	u.win.lanes[rec.Lane].unread.add(rec.Seq, rec.Seq)
	u.mu.Unlock()
	u.o.Log.Error("batch in the queue cannot be sent", "lane", laneName(rec.Lane), "seq", rec.Seq, "error", err)
	u.o.Alarms.Raise(alarmUnreadable, fmt.Sprintf("batch %d of lane %s cannot be sent and stays in the queue: %v", rec.Seq, laneName(rec.Lane), err))
}

func laneName(l buffer.Lane) string { return telemetrypb.LaneName(telemetrypb.Lane(l)) }
