package decoded

import (
	"fmt"

	"github.com/waybill-telematics/waybill/fleet/store"
)

// Format is how rows are written.
type Format string

// The formats.
const (
	JSON  Format = "json"
	Proto Format = "proto"
)

// ParseFormat reads a format's word.
func ParseFormat(s string) (Format, error) {
	if f := Format(s); f == JSON || f == Proto {
		return f, nil
	}
	return "", fmt.Errorf("format %q: want %s or %s", s, JSON, Proto)
}

// Kinds of rows. Each has a topic.
const (
	Samples   = "samples"
	Events    = "events"
	Positions = "positions"
	Losses    = "losses"
)

// Kinds lists them.
func Kinds() []string { return []string{Samples, Events, Positions, Losses} }

// writer appends rows to b. A writer is used by one goroutine.
type writer interface {
	sample(b []byte, of *store.DecodedBatch, s *store.DecodedSample) []byte
	position(b []byte, p *Position) []byte
	loss(b []byte, l *store.DecodedLoss) []byte
}

func (f Format) writer() writer {
	if f == Proto {
		return &protoWriter{}
	}
	return &jsonWriter{}
}

func epochName(e uint64) string { return fmt.Sprintf("%016x", e) }

func uuid(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
