package main

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/pipeline"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// j1939Tap listens to the groups that are collected and makes a sample where the payload of a source address changed.
// What it hears it compares byte by byte, so that what stays the same is neither read nor allocated for. Between two
// samples of one address and group it lets j1939Every pass and keeps the latest payload meanwhile.
//
// The bus's goroutine calls it; tell alone is for another one.
type j1939Tap struct {
	ids    [len(j1939Groups)]uint32
	pgns   [len(j1939Groups)]uint32 // of those that are collected, else noPGN
	format [256]bool                // PDU formats that are of interest: the groups' own and the transport protocol's
	plan   *can.Plan                // of the groups
	parts  *can.Reassembler         // of the plan
	source string                   // what the ledger calls the bus
	ledger *pipeline.Ledger
	due    atomic.Int64 // when the first payload that is kept may be told, frame time, ns; math.MaxInt64: none is kept

	mu    sync.Mutex // guards what follows
	heard [len(j1939Groups)][256]*j1939Heard
}

// noPGN is none that an identifier can have.
const noPGN = math.MaxUint32

// j1939Heard is what one source address said last of one group.
type j1939Heard struct {
	payload []byte
	time    int64 // of the payload's last frame
	slot    int64 // j1939Every runs from here: when a sample was made, or was due
	kept    bool  // the payload is not told yet
}

func (t *j1939Tap) filters() ([]can.Filter, bool) { return t.plan.Filters(), false }

func (t *j1939Tap) take(f *can.Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	if f.Time >= t.due.Load() {
		dst = t.flush(f.Time, dst)
	}
	if f.Flags != can.FlagExtended || !t.format[uint8(f.ID>>16)] {
		return dst
	}
	if whole := t.parts.Take(f); whole != nil {
		return t.hear(whole.ID, whole.Time, whole.Data, dst)
	}
	return t.hear(f.ID, f.Time, f.Payload(), dst)
}

// hear takes a whole payload, of any group.
func (t *j1939Tap) hear(id uint32, time int64, payload []byte, dst []telemetrypb.Sample) []telemetrypb.Sample {
	pgn := can.PGN(id)
	for group := range t.pgns {
		if t.pgns[group] == pgn {
			return t.compare(group, can.SourceAddress(id), time, payload, dst)
		}
	}
	return dst
}

func (t *j1939Tap) compare(group int, address uint8, time int64, payload []byte, dst []telemetrypb.Sample) []telemetrypb.Sample {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.heard[group][address]
	first := h == nil
	if first {
		h = &j1939Heard{slot: time - j1939Every}
		t.heard[group][address] = h
	}
	if first || !bytes.Equal(h.payload, payload) {
		h.payload, h.time, h.kept = append(h.payload[:0], payload...), time, true
	}
	if !h.kept {
		return dst
	}
	// A time that is far back is another recording, which has nothing to wait for.
	if since := time - h.slot; since >= j1939Every || since < -j1939Every {
		h.slot = time
		return t.sample(group, address, h, dst)
	}
	t.due.Store(min(t.due.Load(), h.slot+j1939Every))
	return dst
}

// flush makes the samples that are due. Each has the time of its payload, which is up to j1939Every back.
func (t *j1939Tap) flush(now int64, dst []telemetrypb.Sample) []telemetrypb.Sample {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := int64(math.MaxInt64)
	for group := range t.heard {
		for address, h := range t.heard[group] {
			switch {
			case h == nil || !h.kept:
			case now-h.slot >= j1939Every:
				h.slot += j1939Every
				dst = t.sample(group, uint8(address), h, dst)
			default:
				due = min(due, h.slot+j1939Every)
			}
		}
	}
	t.due.Store(due)
	return dst
}

// sample reads a payload. One that cannot be read counts as lost, once.
func (t *j1939Tap) sample(group int, address uint8, h *j1939Heard, dst []telemetrypb.Sample) []telemetrypb.Sample {
	h.kept = false
	g := &j1939Groups[group]
	text, err := g.text(address, h.payload)
	if err != nil {
		t.ledger.Add(telemetrypb.LossReason_LOSS_UNDECODABLE, t.source, "messages", 1, g.signal+": "+err.Error())
		return dst
	}
	return append(dst, telemetrypb.StringSample(t.ids[group], h.time, text))
}

// tell hands over what is due on a bus that may have gone silent since.
func (t *j1939Tap) tell(now int64, to *pipeline.Source) {
	if now < t.due.Load() {
		return
	}
	chunk := to.Chunk()
	chunk.Samples = t.flush(now, chunk.Samples)
	if !to.Offer(chunk) {
		t.lost()
	}
}

// lost makes everything that was heard be told again, each within j1939Every.
func (t *j1939Tap) lost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := int64(math.MaxInt64)
	for group := range t.heard {
		for _, h := range t.heard[group] {
			if h != nil {
				h.kept = true
				due = min(due, h.slot+j1939Every)
			}
		}
	}
	t.due.Store(due)
}

// end counts the messages under way and tells what is kept, due or not.
func (t *j1939Tap) end(dst []telemetrypb.Sample) []telemetrypb.Sample {
	t.parts.End()
	return t.flush(math.MaxInt64, dst)
}
