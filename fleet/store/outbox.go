package store

import (
	"context"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// OutboxShards is how many parts an outbox has. A device is of one part for ever.
const OutboxShards = 16

// Outbox is what of a store is to stand on the decoded topics and does not yet. Once switched on, each transaction that stores samples
// or losses, or dates samples again, leaves a note of it in the same commit, whichever process runs it. It is safe for use from
// several goroutines.
//
// Notes of one device are read in the order of their commits. They are not numbered without gaps, and a later one may be seen before an
// earlier one of another device: who reads them says of each that it is done.
type Outbox interface {
	// Name and Generation are the store's.
	Name() string
	Generation() uint64
	// SwitchOn begins the outbox, and says whether it was off. Everything committed afterwards is noted, nothing before.
	SwitchOn(ctx context.Context) (begun bool, err error)
	// Backfill notes what was committed before the outbox was switched on and received on or after the day (UTC); what an earlier
	// Backfill has noted is left out. It says how many notes it made.
	Backfill(ctx context.Context, from time.Time) (notes int64, err error)
	// Lease is a relay's part in sharing the shards with others.
	Lease(ctx context.Context) (Lease, error)
	// Pending says which of the shards have notes.
	Pending(ctx context.Context, shards []int) ([]int, error)
	// Next reads the oldest notes of a shard with what they name: about `samples` samples at most, or one batch.
	Next(ctx context.Context, shard, samples int) (*Carry, error)
	// Done deletes notes, provided that the store is of this generation: after a restore a note may have another's number.
	Done(ctx context.Context, shard int, generation uint64, notes []int64) error
	// Backlog is how many notes there are (counted up to BacklogMost), and when the oldest was made; zero: there is none.
	Backlog(ctx context.Context) (notes int64, oldest time.Time, err error)
}

// BacklogMost is where counting of notes ends.
const BacklogMost = 1_000_000

// Lease shares shards among relays, so that they do not get in each other's way. It does not make them safe: a relay whose connection
// to the database is lost has lost its shards and may not know it yet. It is not safe for use from several goroutines.
type Lease interface {
	// Relays is how many relays there are, this one included.
	Relays(ctx context.Context) (int, error)
	// Take takes a shard that nobody has.
	Take(ctx context.Context, shard int) (bool, error)
	Give(ctx context.Context, shard int) error
	Close()
}

// Carry is what some notes name, as it stands now. Of several notes of one batch it is there once.
type Carry struct {
	Generation uint64
	Notes      []int64
	Batches    []DecodedBatch // without those that were erased since
	Losses     []DecodedLoss
}

// DecodedBatch are the samples of a batch.
type DecodedBatch struct {
	Tenant, Device string
	Key
	BootID   [16]byte
	Received time.Time
	Samples  []DecodedSample // by index
}

// DecodedSample is one sample with its names.
type DecodedSample struct {
	Index      uint32
	Name, Unit string
	BootNS     int64 // CLOCK_BOOTTIME, ns
	Dated      bool  // WallNS and UncertaintyNS are known
	WallNS     int64 // Unix ns
	// UncertaintyNS is the half width.
	UncertaintyNS int64
	HasValue      bool
	Value         float64 // physical
	HasText       bool
	Text          string // of text as it is, of bytes hexadecimal
	Label         string // "": none
}

// DecodedLoss is a record of the loss ledger. Key and Index are those of the record itself, in the control lane.
type DecodedLoss struct {
	Tenant, Device string
	Key
	Index    int64
	Of       telemetrypb.Lane // of what is lost; unspecified: of no lane
	Source   string
	Reason   telemetrypb.LossReason
	Count    int64
	Unit     string
	Detail   string
	Received time.Time
}
