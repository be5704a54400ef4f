package can

import (
	"encoding/binary"
	"math"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// watch is what a Plan knows for the change detection of one message.
type watch struct {
	mask    [MaxLen]byte  // the bits of its signals and of what they hang on
	need    int           // bytes that a frame must have for all of them
	refresh time.Duration // the least of its signals'; 0: none
	any     bool          // it has signals
	every   bool          // one of them has to be decoded from every frame
}

// add takes a signal in, with its multiplexors.
func (w *watch) add(sub Subscription) {
	w.any = true
	w.every = w.every || !sub.OnChange
	if sub.Refresh > 0 && (w.refresh == 0 || sub.Refresh < w.refresh) {
		w.refresh = sub.Refresh
	}
	for s := sub.Signal; s != nil; s = s.Multiplexor {
		w.need = max(w.need, s.lastByte())
		first := s.firstBit()
		for bit := first; bit < min(first+s.Size, 8*MaxLen); bit++ {
			place := bit % 8
			if s.BigEndian {
				place = 7 - place
			}
			w.mask[bit/8] |= 1 << place
		}
	}
}

// Changes decodes the frames of one bus like its Plan, but for those that say nothing new: a frame whose subscribed bits
// are those last decoded of its message yields nothing. That is nearly as cheap as a frame that nobody asked for.
//
// A message is left out so only when all of its subscribed signals allow it (Subscription.OnChange), and never when it
// is longer than a frame, when it ends before one of its signals (it is counted in Counters.Short each time), when its
// time is before that of the frame last decoded, or when Refresh has passed since. Two bit patterns of one value (NaNs,
// 0 and −0) are a change here. The pages of a multiplexed message count as changes of one another.
//
// It belongs to the one goroutine that reads the bus.
type Changes struct {
	plan      *Plan
	list      []change // by number of the message
	unchanged uint64
}

// change is what was last decoded of a message.
type change struct {
	mask, last uint64 // of the first eight bytes
	at         int64  // time of the frame, ns
	limit      uint64 // age from which on it is decoded again, ns; 0: always
	refresh    uint64 // limit, once it was decoded
	rest       []word // of the bytes behind
	need       int    // bytes that a frame must have
}

// word is eight bytes of a longer frame.
type word struct {
	mask, last uint64
	off        int
}

// never is an age that no frame has. Below it the difference of two times is positive: a time that runs back is an age
// beyond it.
const never = math.MaxInt64

// NewChanges makes the state of one reader. Nothing counts as decoded yet.
func (p *Plan) NewChanges() *Changes {
	c := &Changes{plan: p, list: make([]change, len(p.messages))}
	for i := range c.list {
		e, w := &c.list[i], &p.messages[i].watch
		e.need, e.refresh = w.need, never
		if w.refresh > 0 {
			e.refresh = uint64(w.refresh)
		}
		// What can come in several frames is not compared.
		if !w.any || w.every || p.messages[i].long {
			e.need = MaxLen + 1
		}
		e.mask = binary.LittleEndian.Uint64(w.mask[:])
		for off := 8; off < MaxLen; off += 8 {
			if mask := binary.LittleEndian.Uint64(w.mask[off:]); mask != 0 {
				e.rest = append(e.rest, word{mask: mask, off: off})
			}
		}
	}
	return c
}

// Decode appends what Plan.Decode does, unless the frame says nothing new.
func (c *Changes) Decode(f *Frame, dst []telemetrypb.Sample) []telemetrypb.Sample {
	e := c.of(f)
	if e == nil || int(f.Len) < e.need {
		if e != nil {
			e.limit = 0 // what fits in it is decoded: the next frame is compared with nothing
		}
		return c.plan.Decode(f, dst)
	}
	x := binary.LittleEndian.Uint64(f.Data[:8]) & e.mask
	if x == e.last && uint64(f.Time-e.at) < e.limit && (len(e.rest) == 0 || e.sameRest(f)) {
		c.unchanged++
		return dst
	}
	e.last, e.at, e.limit = x, f.Time, e.refresh
	for i := range e.rest {
		w := &e.rest[i]
		w.last = binary.LittleEndian.Uint64(f.Data[w.off:][:8]) & w.mask
	}
	return c.plan.Decode(f, dst)
}

// of is the entry of a data frame, nil when nobody subscribed it.
func (c *Changes) of(f *Frame) *change {
	if f.Flags&(FlagError|FlagRemote|FlagExtended) == 0 {
		if n := c.plan.standard[f.ID&MaxStandardID]; n != 0 {
			return &c.list[n-1]
		}
		return nil
	}
	if f.Flags&(FlagError|FlagRemote) != 0 {
		return nil
	}
	return c.ofExtended(f.ID)
}

func (c *Changes) ofExtended(id uint32) *change {
	if m := c.plan.lookupExtended(id); m != nil {
		return &c.list[m.number]
	}
	return nil
}

// sameRest compares what lies behind the first eight bytes.
func (e *change) sameRest(f *Frame) bool {
	for i := range e.rest {
		w := &e.rest[i]
		if binary.LittleEndian.Uint64(f.Data[w.off:][:8])&w.mask != w.last {
			return false
		}
	}
	return true
}

// DecodeAssembled is Plan.DecodeAssembled; the next frame of the message counts as new.
func (c *Changes) DecodeAssembled(a *Assembled, dst []telemetrypb.Sample) []telemetrypb.Sample {
	if e := c.ofExtended(a.ID); e != nil {
		e.limit = 0
	}
	return c.plan.DecodeAssembled(a, dst)
}

// Forget makes the next frame of every message a new one: for when samples of a frame were lost on their way, or when
// it is not known what was on the bus.
func (c *Changes) Forget() {
	for i := range c.list {
		c.list[i].limit = 0
	}
}

// Unchanged is how many frames said nothing new.
func (c *Changes) Unchanged() uint64 { return c.unchanged }
