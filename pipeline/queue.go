package pipeline

import (
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Sealed is a batch as it will be stored and sent.
type Sealed struct {
	Lane        telemetrypb.Lane
	Seq         uint64
	Samples     uint32 // samples, or records in the control lane
	First, Last int64  // CLOCK_BOOTTIME of the earliest and the latest sample, ns
	Bytes       []byte
	Lost        []Numbers // see Commit
}

// Numbers are sequence numbers of a lane.
type Numbers struct {
	Lane        telemetrypb.Lane
	First, Last uint64
}

// Journal is what of a batch that is not sealed yet is to survive a crash. All entries of one (lane, seq) together,
// in the order in which they were committed, are the batch as far as it had come.
type Journal struct {
	Lane      telemetrypb.Lane
	Seq       uint64
	Epoch     uint64 // where Seq was reserved, which is an older one after a new epoch began; 0: the queue's
	BootID    [16]byte
	BootCount uint32
	Catalogue [16]byte // short hash
	Bytes     []byte   // see AppendJournal
}

// Queue is the durable store below the pipeline.
type Queue interface {
	// Epoch is where the sequence numbers of Reserve count.
	Epoch() uint64
	// Reserve is the next sequence number of a lane. One that was committed, in a batch or in the journal, is never
	// given again, crashes included.
	Reserve(telemetrypb.Lane) uint64
	// Commit makes all of it durable, and keeps neither the slices nor their bytes. After an error those batches that Stored
	// does not know come again under the same sequence numbers with the same bytes, a part of them first, or are given up, a lane's
	// oldest first; journal entries come again with the same or more samples. It is called from one goroutine at a time,
	// at times while another one calls Reserve.
	//
	// A control batch may name numbers that were given and will never be stored (Sealed.Lost), since its records say that they
	// are lost. Once it is durable, and not before, they are never given again; it is durable before any batch above them is.
	Commit([]Sealed, []Journal) error
	// Stored says whether a batch of a commit that failed is durable all the same, or even released again.
	Stored(l telemetrypb.Lane, seq uint64) bool
}
