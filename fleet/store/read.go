package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Device is one line of a listing.
type Device struct {
	Tenant    string     `json:"tenant"`
	Device    string     `json:"device"`
	FirstSeen time.Time  `json:"first_seen"`
	LastSeen  time.Time  `json:"last_seen"`
	Online    *bool      `json:"online,omitempty"` // as its last status said; absent: none came
	Version   string     `json:"version,omitempty"`
	Receipts  int64      `json:"receipts"`
	Losses    int64      `json:"losses"`
	Lanes     []LaneInfo `json:"lanes"`
}

// LaneInfo is one sequence of numbers of a device.
type LaneInfo struct {
	Epoch      string `json:"epoch"` // 16 hexadecimal digits
	Lane       string `json:"lane"`
	Batches    int64  `json:"batches"`
	Samples    int64  `json:"samples"` // records in the control lane
	Parked     int64  `json:"parked"`
	Rejected   int64  `json:"rejected"`
	Superseded int64  `json:"superseded"`
	Last       uint64 `json:"last_seq"`
	Missing    uint64 `json:"missing"`
}

// Gap is a run of numbers that never came and that nothing accounts for.
type Gap struct {
	Tenant string `json:"tenant"`
	Device string `json:"device"`
	Epoch  string `json:"epoch"`
	Lane   string `json:"lane"`
	Range
}

// LossEntry is one entry of a vehicle's loss ledger.
type LossEntry struct {
	Tenant       string  `json:"tenant"`
	Device       string  `json:"device"`
	Reason       string  `json:"reason"`
	Source       string  `json:"source,omitempty"`
	Count        uint64  `json:"count"`
	CountIsBound bool    `json:"count_is_bound,omitempty"`
	CountUnknown bool    `json:"count_unknown,omitempty"`
	Unit         string  `json:"unit,omitempty"`
	BootID       string  `json:"boot_id,omitempty"`
	FirstNS      int64   `json:"first_boot_ns,omitempty"`
	LastNS       int64   `json:"last_boot_ns,omitempty"`
	Epoch        string  `json:"epoch,omitempty"`
	Lane         string  `json:"lane,omitempty"`
	Seqs         []Range `json:"seqs,omitempty"`
	Arrived      uint64  `json:"arrived,omitempty"` // of Seqs, batches that came all the same: arrival wins
	Detail       string  `json:"detail,omitempty"`
}

// DeadEntry is one dead letter.
type DeadEntry struct {
	ID     int64     `json:"id"`
	Topic  string    `json:"topic"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"`
	Size   int64     `json:"size"` // bytes of the whole
	Bytes  []byte    `json:"bytes"`
	Times  int64     `json:"times"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Query says which samples are wanted; a zero field does not restrict.
type Query struct {
	Tenant, Device string
	Signal         string    // pattern with * and ?, over the whole name
	From, To       time.Time // From ≤ time < To; samples of unknown time fit only when both are zero
	Limit          int64
}

// Reading is one sample as a person reads it.
type Reading struct {
	Tenant, Device string
	Key
	Index  uint32
	BootID [16]byte
	BootNS int64
	Time   Time
	Signal string
	Unit   string
	Raw    Scalar
	Value  Scalar
	Label  string
}

func epochName(e uint64) string { return fmt.Sprintf("%016x", e) }

// deviceNames maps rows to names.
func (s *SQLite) deviceNames(ctx context.Context) (map[int64]deviceKey, error) {
	names := map[int64]deviceKey{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var id int64
		var k deviceKey
		if err := rows.Scan(&id, &k.tenant, &k.device); err != nil {
			return err
		}
		names[id] = k
		return nil
	}, "SELECT id, tenant, device FROM devices")
	return names, err
}

// Devices lists the devices with what there is of each.
func (s *SQLite) Devices(ctx context.Context) ([]Device, error) {
	var list []Device
	place := map[int64]int{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		d := Device{Lanes: []LaneInfo{}}
		var id, first, last int64
		var online sql.NullBool
		if err := rows.Scan(&id, &d.Tenant, &d.Device, &first, &last, &online, &d.Version, &d.Receipts, &d.Losses); err != nil {
			return err
		}
		d.FirstSeen, d.LastSeen = time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
		if online.Valid {
			d.Online = &online.Bool
		}
		place[id] = len(list)
		list = append(list, d)
		return nil
	}, `SELECT d.id, d.tenant, d.device, d.first_seen, d.last_seen, s.online, coalesce(s.version, ''), d.receipts,
	      (SELECT count(*) FROM losses l WHERE l.device = d.id)
	    FROM devices d LEFT JOIN status s ON s.device = d.id ORDER BY d.tenant, d.device`)
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var l LaneInfo
		var device, epoch, lane, last int64
		if err := rows.Scan(&device, &epoch, &lane, &l.Batches, &l.Samples, &l.Parked, &l.Rejected, &l.Superseded, &last); err != nil {
			return err
		}
		l.Epoch, l.Lane, l.Last = epochName(uint64(epoch)), telemetrypb.LaneName(telemetrypb.Lane(lane)), uint64(last)
		l.Missing = s.missing(laneKey{device, uint64(epoch), telemetrypb.Lane(lane)})
		if i, known := place[device]; known { // else it came between the two queries
			list[i].Lanes = append(list[i].Lanes, l)
		}
		return nil
	}, `SELECT device, epoch, lane, count(*), coalesce(sum(CASE WHEN state = 1 THEN samples ELSE 0 END), 0), sum(state = 2), sum(state = 4), sum(state = 3), max(seq)
	    FROM batches GROUP BY device, epoch, lane ORDER BY device, min(id), lane`)
	return list, err
}

func (s *SQLite) missing(k laneKey) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.cover.lanes[k]
	if l == nil {
		return 0
	}
	for _, r := range l.accounted.Missing(l.last()) {
		n += r.Last - r.First + 1
	}
	return n
}

// Gaps lists what never came and is not accounted for.
func (s *SQLite) Gaps(ctx context.Context) ([]Gap, error) {
	names, err := s.deviceNames(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []Gap{}
	for _, k := range s.cover.keys() {
		l := s.cover.lanes[k]
		for _, r := range l.accounted.Missing(l.last()) {
			d := names[k.device]
			list = append(list, Gap{d.tenant, d.device, epochName(k.epoch), telemetrypb.LaneName(k.lane), r})
		}
	}
	return list, nil
}

// Losses lists the loss ledgers; an empty device means all.
func (s *SQLite) Losses(ctx context.Context, device string) ([]LossEntry, error) {
	list := []LossEntry{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var l LossEntry
		var row, reason, count, epoch, lane int64
		var boot []byte
		var seqs string
		if err := rows.Scan(&row, &l.Tenant, &l.Device, &reason, &l.Source, &count, &l.CountIsBound, &l.CountUnknown, &l.Unit, &boot,
			&l.FirstNS, &l.LastNS, &epoch, &lane, &seqs, &l.Detail); err != nil {
			return err
		}
		l.Reason, l.Count = telemetrypb.LossReason(reason).String(), uint64(count)
		if len(boot) > 0 {
			l.BootID = fmt.Sprintf("%x", boot)
		}
		if err := json.Unmarshal([]byte(seqs), &l.Seqs); err != nil {
			return fmt.Errorf("loss record: seqs %q: %w", seqs, err)
		}
		if len(l.Seqs) > 0 {
			l.Epoch, l.Lane = epochName(uint64(epoch)), telemetrypb.LaneName(telemetrypb.Lane(lane))
			s.mu.Lock()
			if c := s.cover.lanes[laneKey{row, uint64(epoch), telemetrypb.Lane(lane)}]; c != nil {
				for _, r := range l.Seqs {
					l.Arrived += c.arrived.Within(r.First, r.Last)
				}
			}
			s.mu.Unlock()
		}
		list = append(list, l)
		return nil
	}, `SELECT l.device, d.tenant, d.device, l.reason, l.source, l.count, l.count_is_bound, l.count_unknown, l.unit, l.boot_id, l.first_ns, l.last_ns,
	      l.epoch, l.lane, l.seqs, l.detail
	    FROM losses l JOIN devices d ON d.id = l.device WHERE ?1 = '' OR d.device = ?1 ORDER BY d.tenant, d.device, l.batch, l.idx`, device)
	return list, err
}

// DeadLetters lists what could not be taken, oldest first.
func (s *SQLite) DeadLetters(ctx context.Context) ([]DeadEntry, error) {
	list := []DeadEntry{}
	err := eachRow(ctx, s.db, func(rows *sql.Rows) error {
		var d DeadEntry
		var first, last int64
		if err := rows.Scan(&d.ID, &d.Topic, &d.Reason, &d.Detail, &d.Size, &d.Bytes, &d.Times, &first, &last); err != nil {
			return err
		}
		d.First, d.Last = time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
		list = append(list, d)
		return nil
	}, "SELECT id, topic, reason, detail, size, bytes, times, first_at, last_at FROM dead_letters ORDER BY id")
	return list, err
}

// Samples reads samples, oldest first, those of unknown time before all others.
func (s *SQLite) Samples(ctx context.Context, q Query, f func(*Reading) error) error {
	query := `SELECT d.tenant, d.device, b.epoch, b.lane, b.seq, s.idx, b.boot_id, s.boot_ns, s.wall_ns, s.uncertainty, s.time_source,
	      g.name, g.unit, g.scale, g.offset, g.labels, s.kind, s.raw, s.value, s.label
	    FROM samples s JOIN batches b ON b.id = s.batch JOIN devices d ON d.id = b.device JOIN signals g ON g.id = s.signal WHERE 1`
	var args []any
	where := func(condition string, arg any) {
		query += " AND " + condition
		args = append(args, arg)
	}
	if q.Tenant != "" {
		where("d.tenant = ?", q.Tenant)
	}
	if q.Device != "" {
		where("d.device = ?", q.Device)
	}
	if q.Signal != "" {
		where("g.name GLOB ?", q.Signal)
	}
	if !q.From.IsZero() {
		where("s.wall_ns >= ?", q.From.UnixNano())
	}
	if !q.To.IsZero() {
		where("s.wall_ns < ?", q.To.UnixNano())
	}
	query += " ORDER BY s.wall_ns, d.id, b.boot_count, s.boot_ns, s.batch, s.idx"
	if q.Limit > 0 {
		query += " LIMIT ?"
		args = append(args, q.Limit)
	}
	return eachRow(ctx, s.db, func(rows *sql.Rows) error {
		r, err := scanReading(rows)
		if err != nil {
			return err
		}
		return f(r)
	}, query, args...)
}

func scanReading(rows *sql.Rows) (*Reading, error) {
	var r Reading
	var epoch, lane, seq, index, source, kind int64
	var boot []byte
	var wall, doubt sql.NullInt64
	var scale, offset float64
	var labels string
	var label sql.NullString
	var raw, value any
	if err := rows.Scan(&r.Tenant, &r.Device, &epoch, &lane, &seq, &index, &boot, &r.BootNS, &wall, &doubt, &source,
		&r.Signal, &r.Unit, &scale, &offset, &labels, &kind, &raw, &value, &label); err != nil {
		return nil, err
	}
	r.Key, r.Index = Key{uint64(epoch), telemetrypb.Lane(lane), uint64(seq)}, uint32(index)
	copy(r.BootID[:], boot)
	r.Time = Time{wall.Int64, uint64(doubt.Int64), telemetrypb.TimeSource(source)}
	var err error
	if r.Raw, err = scalarFrom(telemetrypb.Kind(kind), raw); err != nil {
		return nil, fmt.Errorf("sample %s/%016x/%d/%d/%d: %w", r.Device, r.Epoch, r.Lane, r.Seq, r.Index, err)
	}
	r.Value = valueFrom(r.Raw, value, scale, offset)
	r.Label = label.String
	if labels != "" && r.Label == "" {
		r.Label = labelOf(labels, r.Raw)
	}
	return &r, nil
}

// valueFrom is the physical value: from the raw one, which is exact, and where that was not carried from its column.
func valueFrom(raw Scalar, column any, scale, offset float64) Scalar {
	switch raw.Kind {
	case telemetrypb.KindInt, telemetrypb.KindUint, telemetrypb.KindFloat:
		return ValueOf(telemetrypb.Sample{Kind: raw.Kind, Bits: raw.Bits}, scale, offset)
	case telemetrypb.KindNone:
	default:
		return Scalar{}
	}
	switch v := column.(type) {
	case int64:
		return Scalar{Kind: telemetrypb.KindInt, Bits: uint64(v)}
	case float64:
		return Scalar{Kind: telemetrypb.KindFloat, Bits: math.Float64bits(v)}
	case []byte:
		if s, err := scalarFrom(telemetrypb.KindFloat, v); err == nil {
			return s
		}
	}
	return Scalar{}
}

// labelOf finds an enum label in signals.labels.
func labelOf(labels string, raw Scalar) string {
	if raw.Kind != telemetrypb.KindInt && (raw.Kind != telemetrypb.KindUint || raw.Bits > math.MaxInt64) {
		return ""
	}
	var m map[string]string
	if json.Unmarshal([]byte(labels), &m) != nil {
		return ""
	}
	return m[strconv.FormatInt(int64(raw.Bits), 10)]
}
