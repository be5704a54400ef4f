// Package telemetrypb is the wire of Waybill: the messages of telemetry.proto, and by hand what protobuf cannot
// promise: a batch whose bytes never change, its checksum, its columnar body, and the catalogue's hash.
//
// It is the leaf of the module. It knows nothing of queues, sessions, buses or configuration, reads no clock and
// keeps no state but buffers that are used again. FORMAT.md describes every byte that it writes.
package telemetrypb

import "errors"

// What may be wrong with bytes that came from elsewhere. Every error of this package that speaks of foreign bytes
// wraps one of them.
var (
	// ErrMalformed: the bytes are not what they should be, or say something impossible.
	ErrMalformed = errors.New("malformed")
	// ErrChecksum: the shape is right and the CRC-32C is not: the bytes were damaged.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrNewerFormat: sound, and written for a reader newer than this one. Keep it; do not reject it.
	ErrNewerFormat = errors.New("needs a newer reader")
	// ErrTooLarge: more samples, or larger parts, than the format allows.
	ErrTooLarge = errors.New("too large")
)

// Versions and limits of the format.
const (
	// Format is the version of batches, payloads and catalogues that this package writes, and the highest it reads.
	Format = 1
	// MaxSamples is the most samples one batch holds.
	MaxSamples = 1 << 20
	// MaxRecords is the most records one control batch holds.
	MaxRecords = 1 << 14
	// MaxEnvelope is the most bytes of an envelope.
	MaxEnvelope = 8 << 10
	// MaxName is the most bytes of a tenant or a device id: that of a certificate's common name (RFC 5280, ub-common-name).
	MaxName = 64
	// MaxPayload is the most bytes of a payload that OpenPayload looks at.
	MaxPayload = 32 << 20
	// MaxClocks is the most clock records of one payload.
	MaxClocks = 1 << 10
)
