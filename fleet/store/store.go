// Package store keeps what vehicles delivered: every batch once under its key (device, epoch, lane, seq), its samples
// with exact raw values, the clocks that date them, the loss ledger, and what could not be taken, set aside.
//
// It knows tables, keys and transactions. It knows no MQTT and no verdicts, and decodes no batch: package ingest
// decides what is stored, parked or rejected, and drives a Tx. Store is the seam behind which another database follows.
package store

import (
	"context"
	"errors"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Errors that callers tell apart.
var (
	// ErrLocked: another process writes to this store.
	ErrLocked = errors.New("the store is in use by another process")
	// ErrSchema: the file is a store of another version, or no store at all.
	ErrSchema = errors.New("not a store that this version can read")
)

// Key is the identity of a batch within its device.
type Key struct {
	Epoch uint64
	Lane  telemetrypb.Lane
	Seq   uint64 // from 1, below 2^63
}

// State is what became of a batch that has its key in the store.
type State uint8

// The states of a batch.
const (
	StateStored     State = 1 // decoded, its samples or records are in the tables
	StateParked     State = 2 // its bytes are kept until they can be read
	StateSuperseded State = 3 // a thinned copy whose originals had all arrived: nothing of it is needed
	StateRejected   State = 4 // sound as a whole and unreadable inside: its bytes are a dead letter
)

// String is the word that listings use.
func (s State) String() string {
	switch s {
	case StateStored:
		return "stored"
	case StateParked:
		return "parked"
	case StateSuperseded:
		return "superseded"
	case StateRejected:
		return "rejected"
	}
	return "unknown"
}

// Form is how a batch came.
type Form uint8

// The forms of a batch.
const (
	FormColumns Form = 1 // byte for byte as the vehicle sealed it
	FormPlain   Form = 2 // rendered: identity and checksum are those of the batch it was rendered from
)

// Batch is the row of one batch.
type Batch struct {
	Key
	CRC        uint32 // CRC-32C of the columnar batch, whatever the form
	SHA256     []byte // of the columnar batch's bytes; nil with FormPlain
	BootID     [16]byte
	BootCount  uint32
	Catalogue  [16]byte // zero: none
	FirstNS    int64    // CLOCK_BOOTTIME, ns
	SpanNS     uint64
	Samples    uint32
	Form       Form
	State      State
	Reason     string // parked, rejected: why
	Bytes      []byte // parked only: the batch as it came
	Supersedes []*telemetrypb.SeqRange
	Received   time.Time
}

// Outcome is what inserting a key found.
type Outcome uint8

// The outcomes.
const (
	OutcomeNew       Outcome = 1
	OutcomeDuplicate Outcome = 2 // the same batch is there already
	OutcomeConflict  Outcome = 3 // the key is taken by other bytes
	OutcomeFull      Outcome = 4 // nothing was stored: the device is at one of its Limits, which Put.Reason names
)

// Put is the answer to inserting a batch.
type Put struct {
	ID        int64 // of the row that holds the key
	Outcome   Outcome
	State     State    // duplicate: how the first one stands
	Reason    string   // likewise: why it is parked or rejected
	Catalogue [16]byte // likewise: what it waits for, when parked
}

// Parked is a batch that waits.
type Parked struct {
	ID int64
	Key
	CRC   uint32
	Bytes []byte
}

// ReasonCatalogue is Batch.Reason of what waits for its catalogue, and ReasonFormat of what needs a newer reader.
const (
	ReasonCatalogue = "catalogue"
	ReasonFormat    = "format"
)

// Signal is a signal of a catalogue with its row.
type Signal struct {
	Row  int64
	Spec *telemetrypb.Signal
}

// Catalogue is a catalogue that the store knows completely. It must not be changed.
type Catalogue struct {
	Row    int64
	Hash   [32]byte
	ByID   map[uint32]Signal
	ByName map[string]Signal
}

// Time is a dated instant; Source NONE means that nothing is known.
type Time struct {
	UnixNS        int64
	UncertaintyNS uint64 // half width
	Source        telemetrypb.TimeSource
}

// KindBlob marks bytes; it continues the kinds of a sample, which has no such kind.
const KindBlob = telemetrypb.KindString + 1

// Scalar is one exact value. KindNone: there is none.
type Scalar struct {
	Kind telemetrypb.Kind
	Bits uint64 // as in telemetrypb.Sample
	Text string // KindString, KindBlob
}

// Row is one sample.
type Row struct {
	Index  uint32 // place within its batch
	Signal int64  // row of the signal
	BootNS int64  // CLOCK_BOOTTIME, ns
	Time   Time
	Raw    Scalar // KindNone: a plain batch did not carry it
	Value  Scalar // physical; KindNone for text
	Label  string // only where no catalogue can give it
}

// DeadLetter is something that could not be taken, kept for a person to look at.
type DeadLetter struct {
	Topic  string
	Reason string // one word: malformed, conflict, foreign, topic, clock, catalogue
	Detail string
	Bytes  []byte // as they came; the store keeps a bounded head of them
	At     time.Time
}

// Tx is one transaction of the writer. What it changed is visible to others, and counted, only when Update returned nil.
// Device, PutPart, NamedSignal, PutClock, PutLoss, PutEpoch and PutResult return ErrLimit when Limits has no room, and then
// have stored nothing.
type Tx interface {
	// Device gives the row of a device and makes it when it is new.
	Device(tenant, device string, now time.Time) (int64, error)
	// PutBatch inserts the key first, so that nothing is ever stored twice.
	PutBatch(device int64, b *Batch) (Put, error)
	// Settle ends the parking of a batch: its kept bytes go. reason says why it was rejected.
	Settle(batch int64, s State, reason string) error
	// ParkedFor lists the batches of a device that wait for a catalogue, oldest first.
	ParkedFor(device int64, catalogue [16]byte) ([]Parked, error)
	// AllStored says whether every seq of the ranges is stored.
	AllStored(device int64, epoch uint64, lane telemetrypb.Lane, ranges []*telemetrypb.SeqRange) (bool, error)

	// Catalogue looks a catalogue up by the first 16 bytes of its hash; nil when it is not known.
	Catalogue(device int64, short [16]byte) (*Catalogue, error)
	// PutPart keeps a part. When it completes its catalogue, the whole is returned; a set of parts that does not
	// make up its hash is removed and reported as ErrParts.
	PutPart(device int64, p *telemetrypb.CataloguePart, now time.Time) (*Catalogue, error)
	// NamedSignal gives the row of a signal that came without a catalogue.
	NamedSignal(device int64, name, unit string) (int64, error)
	PutSamples(batch int64, rows []Row) error
	// Yield takes out of thinned copies what the batch, whose samples are stored, holds as their original; or out of
	// the batch, when it is such a copy, what is there already. It says how many samples went.
	Yield(device, batch int64, b *Batch) (uint64, error)

	// Clock gives the clock record of a boot, nil when none is known.
	Clock(device int64, boot [16]byte) (*telemetrypb.ClockRecord, error)
	PutClock(device int64, c *telemetrypb.ClockRecord, now time.Time) error
	// PutRetiming notes that the samples of a boot that were taken at `from` (CLOCK_BOOTTIME ns) or later are to be
	// dated again. NextRetiming finds such work.
	PutRetiming(device int64, boot [16]byte, from int64) error
	NextRetiming() (r Retiming, ok bool, err error)
	// Retime goes on with the work noted for a boot, for about `most` samples. It says how many of them changed, and
	// whether the work is done.
	Retime(device int64, boot [16]byte, most int, date func(bootNS int64) Time) (changed int64, done bool, err error)

	PutLoss(device, batch int64, index int, l *telemetrypb.Loss) error
	PutEpoch(device int64, e *telemetrypb.Epoch, now time.Time) error
	PutInfo(device, batch int64, index int, bootCount uint32, i *telemetrypb.DeviceInfo) error
	// PutResult keeps of several results of one id the one that says most.
	PutResult(device int64, r *telemetrypb.CommandResult, now time.Time) error
	PutStatus(device int64, s *telemetrypb.Status, now time.Time) error
	PutDeadLetter(d *DeadLetter) error

	// NextReceipt counts the receipts of a device, from 1.
	NextReceipt(device int64) (uint64, error)

	// Position gives the offset of a Kafka partition that comes next: everything before it is stored. found is false where
	// nothing of the partition was.
	Position(topic string, partition int32) (next int64, found bool, err error)
	// Advance moves it from what Position gave (−1: not found) to `to`, with what this transaction stores. It is ErrFenced, and
	// the transaction must fail, where somebody else has moved it meanwhile: of two consumers of one partition one commits.
	Advance(topic string, partition int32, from, to int64) error
}

// ErrParts: the parts of a catalogue do not make up its hash. The transaction goes on.
var ErrParts = errors.New("the parts do not make up the catalogue")

// Store is a store. It is safe for use from several goroutines. The SQLite one has one writer at a time; another may let
// several transactions run at once, and run f again where one was in the other's way.
type Store interface {
	// Name and Generation stand in receipts. The generation is random, and another one once the store was restored
	// from a copy: it may lack what it has confirmed.
	Name() string
	Generation() uint64
	// Update runs f in one transaction, which is durable when Update returns nil and without any trace otherwise.
	Update(ctx context.Context, f func(Tx) error) error

	// Lacks lists what of a device's numbers neither came nor is accounted for, up to the highest that is known and to
	// those that the device says to have given: at most `most` ranges, those of the control lane first, and whether
	// there are more.
	Lacks(device int64, given []Given, most int) (list []Lack, more bool)

	// Totals counts what is committed.
	Totals() Totals
	// Positions are the offsets of a Kafka topic that come next, by partition; a partition of which nothing is stored is missing.
	Positions(ctx context.Context, topic string) (map[int32]int64, error)
	Devices(ctx context.Context) ([]Device, error)
	Gaps(ctx context.Context) ([]Gap, error)
	Losses(ctx context.Context, device string) ([]LossEntry, error)
	DeadLetters(ctx context.Context) ([]DeadEntry, error)
	// Results are the answers to commands, the newest first; device and id restrict when they are not empty.
	Results(ctx context.Context, device, id string) ([]Result, error)
	// Samples calls f for each reading that fits, oldest first, until f fails.
	Samples(ctx context.Context, q Query, f func(*Reading) error) error
	Close() error
}
