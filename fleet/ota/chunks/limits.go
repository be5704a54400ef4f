package chunks

import (
	"fmt"
	"time"
)

// Limits of one process. Zero values take the defaults that are named.
type Limits struct {
	ChunkBytes  int     // of an image in one message, 1 KiB to 64 KiB; below the broker's packet limit by 200 bytes. Default 64 KiB
	VehicleRate float64 // bytes/s to one vehicle, lasting. Default 256 KiB/s
	TotalRate   float64 // to all of them. Default 16 MiB/s
	// Bytes that were published and have no PUBACK: to one vehicle, and to all. Defaults 256 KiB and 4 MiB.
	VehicleFlight, TotalFlight int
	// VehicleAsked is what a vehicle may have asked for and not been sent, in bytes. Default 1 MiB, which is the most that vehicles ask for.
	VehicleAsked int64
	// Vehicles is how many may be known at once: those that wait, and those whose rate is counted still. Default 10,000.
	Vehicles int
}

const (
	maxChunk = 64 << 10
	minChunk = 1 << 10 // smaller ones would cost more than they bring

	overhead = 256 // bytes that a message costs beside those of the image: what is around it, the broker's work

	maxParts     = 256 // ranges that wait for one vehicle
	requestBytes = 4 << 10
	requestEvery = 16 << 10 // one request for so many bytes of the rate
	requestBurst = 64
)

func (l Limits) withDefaults() (Limits, error) {
	orElse(&l.ChunkBytes, maxChunk)
	orElse(&l.VehicleRate, 256<<10)
	orElse(&l.TotalRate, 16<<20)
	orElse(&l.VehicleFlight, 256<<10)
	orElse(&l.TotalFlight, 4<<20)
	orElse(&l.VehicleAsked, 1<<20)
	orElse(&l.Vehicles, 10_000)
	switch {
	case l.ChunkBytes < minChunk || l.ChunkBytes > maxChunk:
		return l, fmt.Errorf("chunks of %d bytes: want %d to %d", l.ChunkBytes, minChunk, maxChunk)
	case l.VehicleRate < minChunk || l.TotalRate < l.VehicleRate:
		return l, fmt.Errorf("rates of %.0f bytes/s to a vehicle and %.0f to all: want at least %d, and no less to all than to one",
			l.VehicleRate, l.TotalRate, minChunk)
	case l.VehicleFlight < minChunk || l.TotalFlight < l.VehicleFlight:
		return l, fmt.Errorf("%d bytes in flight to a vehicle and %d to all: want at least %d, and no less to all than to one", l.VehicleFlight, l.TotalFlight, minChunk)
	case l.VehicleAsked < minChunk || l.Vehicles < 1:
		return l, fmt.Errorf("%d bytes asked for by each of %d vehicles: want at least %d and 1",
			l.VehicleAsked, l.Vehicles, minChunk)
	}
	return l, nil
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// bucket lets through what a rate allows, and a second's worth at once. It may go into debt by one thing, which is then waited for.
type bucket struct {
	rate, most float64
	level      float64
	at         time.Time
}

func newBucket(rate, most float64, now time.Time) bucket { return bucket{rate, most, most, now} }

func (b *bucket) fill(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.level, b.at = min(b.most, b.level+b.rate*d.Seconds()), now
	}
}

// wait is how long until something may go; 0: now.
func (b *bucket) wait(now time.Time) time.Duration {
	if b.fill(now); b.level > 0 {
		return 0
	}
	return time.Duration(-b.level/b.rate*float64(time.Second)) + time.Millisecond
}

func (b *bucket) spend(n float64) { b.level -= n }

func (b *bucket) full(now time.Time) bool { b.fill(now); return b.level >= b.most }
