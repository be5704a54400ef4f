package chunks

import (
	"errors"
	"slices"
	"time"

	"github.com/waybill-telematics/waybill/firmware/delivery"
)

// Why a request is not answered. A vehicle asks again, or elsewhere.
var (
	errUnknown = errors.New("no file of the repository has this SHA-256")
	errOutside = errors.New("a range is not within the file")
	errLimited = errors.New("the vehicle asks for too much, or too often")
	errCrowded = errors.New("more vehicles ask than are served at once")
)

// part is what is to be sent of a file.
type part struct {
	sum    Sum
	offset int64
	length int64
	chunk  int64
}

// vehicle is one that has asked.
type vehicle struct {
	name     string // tenant/device
	topic    string // of its chunks
	parts    []part
	asked    int64 // bytes of them
	flight   int
	bytes    bucket
	requests bucket
	waits    bool // it stands in the queue's line
}

// queue says what is sent next. Vehicles with something to send stand in line, and each gets one chunk in its turn. It is for one
// goroutine.
type queue struct {
	l        Limits
	vehicles map[string]*vehicle
	line     []*vehicle
	flight   int
	bytes    bucket
	swept    time.Time
}

func newQueue(l Limits, now time.Time) *queue {
	return &queue{l: l, vehicles: map[string]*vehicle{}, bytes: newBucket(l.TotalRate, l.TotalRate, now)}
}

// ask takes a request for a file of some length; known false is a file that is not there.
func (q *queue) ask(now time.Time, name, topic string, r *delivery.Request, length int64, known bool) error {
	v := q.vehicles[name]
	if v == nil {
		if len(q.vehicles) >= q.l.Vehicles && !q.sweep(now) {
			return errCrowded
		}
		v = &vehicle{name: name, topic: topic, bytes: newBucket(q.l.VehicleRate, q.l.VehicleRate, now),
			requests: newBucket(max(1, q.l.VehicleRate/requestEvery), requestBurst, now)}
		q.vehicles[name] = v
	}
	if v.requests.wait(now) > 0 {
		return errLimited
	}
	v.requests.spend(1)
	if !known {
		return errUnknown
	}
	add, err := v.fresh(r, length, q.l)
	if err != nil {
		return err
	}
	for _, p := range add {
		v.asked += p.length
	}
	v.parts = append(v.parts, add...)
	if len(v.parts) > 0 && !v.waits {
		v.waits = true
		q.line = append(q.line, v)
	}
	return nil
}

// fresh is what a request adds to what waits. One that is partly wrong is refused whole.
func (v *vehicle) fresh(r *delivery.Request, length int64, l Limits) (add []part, err error) {
	asked := v.asked
	chunk := int64(min(max(int(r.Chunk), minChunk), l.ChunkBytes))
	for _, x := range r.Ranges {
		n := int64(x.Length)
		if x.Offset > length || n > length-x.Offset {
			return nil, errOutside
		}
		if n > l.VehicleAsked {
			return nil, errLimited
		}
		left := []part{{r.File, x.Offset, n, chunk}}
		for _, p := range slices.Concat(v.parts, add) { // asked for already
			left = without(left, p)
		}
		for _, p := range left {
			asked += p.length
		}
		if add = append(add, left...); asked > l.VehicleAsked || len(v.parts)+len(add) > maxParts {
			return nil, errLimited
		}
	}
	return add, nil
}

// without takes what p has out of a list.
func without(list []part, p part) (left []part) {
	for _, x := range list {
		if x.sum != p.sum || x.offset >= p.offset+p.length || p.offset >= x.offset+x.length {
			left = append(left, x)
			continue
		}
		if before := p.offset - x.offset; before > 0 {
			left = append(left, part{x.sum, x.offset, before, x.chunk})
		}
		if after := x.offset + x.length - (p.offset + p.length); after > 0 {
			left = append(left, part{x.sum, p.offset + p.length, after, x.chunk})
		}
	}
	return left
}

// piece is one message to be.
type piece struct {
	vehicle *vehicle
	sum     Sum
	offset  int64
	length  int
}

// next is what may be sent now. Where nothing may, it says how long that is so if nothing is acknowledged; 0: until something is, or is asked for.
func (q *queue) next(now time.Time) (p piece, wait time.Duration, ok bool) {
	if len(q.line) == 0 || q.flight >= q.l.TotalFlight {
		return p, 0, false
	}
	if wait := q.bytes.wait(now); wait > 0 {
		return p, wait, false
	}
	for range q.line {
		v := q.line[0]
		q.line = append(q.line[1:], v)
		if v.flight >= q.l.VehicleFlight {
			continue
		}
		if w := v.bytes.wait(now); w > 0 {
			if wait == 0 || w < wait {
				wait = w
			}
			continue
		}
		return q.take(v), 0, true
	}
	return p, wait, false
}

// take cuts a chunk off what waits for the vehicle that is last in line. Chunks end where multiples of their length do.
func (q *queue) take(v *vehicle) piece {
	first := &v.parts[0]
	n := min(first.length, first.chunk-first.offset%first.chunk)
	p := piece{v, first.sum, first.offset, int(n)}
	first.offset, first.length, v.asked = first.offset+n, first.length-n, v.asked-n
	if first.length == 0 {
		v.parts = v.parts[1:]
	}
	if len(v.parts) == 0 {
		v.parts, v.waits = nil, false
		q.line = q.line[:len(q.line)-1]
	}
	q.flight, v.flight = q.flight+p.length, v.flight+p.length
	v.bytes.spend(float64(p.length + overhead))
	q.bytes.spend(float64(p.length + overhead))
	return p
}

// done takes a piece out of what is in flight.
func (q *queue) done(p piece) {
	q.flight -= p.length
	p.vehicle.flight -= p.length
}

// forget drops all that waits or is in flight: the connection has ended. What each vehicle has had of its rate stays.
func (q *queue) forget() {
	for _, v := range q.vehicles {
		v.parts, v.asked, v.flight, v.waits = nil, 0, 0, false
	}
	q.line, q.flight = nil, 0
}

// sweep forgets vehicles that are as new, and says whether there is room.
func (q *queue) sweep(now time.Time) bool {
	if now.Sub(q.swept) < time.Second {
		return false
	}
	q.swept = now
	for name, v := range q.vehicles {
		if !v.waits && v.flight == 0 && v.bytes.full(now) && v.requests.full(now) {
			delete(q.vehicles, name)
		}
	}
	return len(q.vehicles) < q.l.Vehicles
}
