package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// frameKey is an identifier without flag bits.
type frameKey struct {
	id       uint32
	extended bool
}

// heardID is what came under one identifier.
type heardID struct {
	frames  int
	longest int // bytes
}

// heard is what was on a bus for a while: data frames.
type heard struct {
	ids    map[frameKey]*heardID
	frames int
}

func newHeard() *heard { return &heard{ids: map[frameKey]*heardID{}} }

func (h *heard) take(f *can.Frame) {
	if f.Flags&(can.FlagError|can.FlagRemote) != 0 {
		return
	}
	key := frameKey{f.ID, f.Extended()}
	one := h.ids[key]
	if one == nil {
		one = &heardID{}
		h.ids[key] = one
	}
	one.frames++
	one.longest = max(one.longest, int(f.Len))
	h.frames++
}

// hear listens to an interface. It sends nothing.
func hear(ctx context.Context, name string, long time.Duration) (*heard, error) {
	reader, err := can.Open(name, can.ReaderOptions{})
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = reader.Close() })
	defer stop()
	h, frames := newHeard(), make([]can.Frame, 64)
	for {
		n, _, err := reader.Read(frames)
		for i := range frames[:n] {
			h.take(&frames[i])
		}
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, fs.ErrClosed) {
				return h, nil
			}
			return h, err
		}
	}
}
