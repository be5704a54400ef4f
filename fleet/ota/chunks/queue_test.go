package chunks

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/firmware/delivery"
)

var (
	someSum = Sum{1}
	start   = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
)

func limits(t testing.TB, l Limits) Limits {
	t.Helper()
	l, err := l.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func request(ranges ...delivery.Range) *delivery.Request {
	return &delivery.Request{File: someSum, Chunk: 16 << 10, Ranges: ranges}
}

func TestLimits(t *testing.T) {
	for name, l := range map[string]Limits{
		"a chunk larger than the format has": {ChunkBytes: 64<<10 + 1}, "a chunk of nothing": {ChunkBytes: 10},
		"less to all than to one": {VehicleRate: 1 << 20, TotalRate: 1 << 19}, "less in flight": {VehicleFlight: 8 << 20}, "negative": {Vehicles: -1},
	} {
		if _, err := l.withDefaults(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestRefused: what is not answered, and that it leaves nothing behind.
func TestRefused(t *testing.T) {
	const length = 100_000
	q := newQueue(limits(t, Limits{Vehicles: 3}), start)
	ask := func(name string, known bool, ranges ...delivery.Range) error {
		return q.ask(start, name, name, request(ranges...), length, known)
	}
	many := make([]delivery.Range, 64)
	for i := range many {
		many[i] = delivery.Range{Offset: int64(i), Length: length / 2}
	}
	for i, c := range []struct {
		want error
		err  error
	}{
		{errUnknown, ask("a", false, delivery.Range{Offset: 0, Length: 1})},
		{errOutside, ask("a", true, delivery.Range{Offset: length, Length: 1})},
		{errOutside, ask("a", true, delivery.Range{Offset: 0, Length: length + 1})},
		{errOutside, ask("a", true, delivery.Range{Offset: 0, Length: 10}, delivery.Range{Offset: 1<<62 - 1, Length: 1<<32 - 1})},
		{nil, ask("a", true, many...)}, // they overlap: no byte twice
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%d: %v, want %v", i, c.err, c.want)
		}
	}
	if v := q.vehicles["a"]; v.asked != length/2+63 || len(v.parts) != 64 {
		t.Errorf("%d bytes in %d parts wait after 64 ranges over each other", v.asked, len(v.parts))
	}
	big := newQueue(limits(t, Limits{}), start)
	if err := big.ask(start, "a", "a", request(delivery.Range{Length: 1<<20 + 1}), 1<<30, true); !errors.Is(err, errLimited) {
		t.Errorf("more than a vehicle may ask for: %v", err)
	}
	// A flood of one is refused when its burst is used up; of many, when there is no place.
	refused := 0
	for range 1000 {
		if errors.Is(ask("a", true, delivery.Range{Length: 1}), errLimited) {
			refused++
		}
	}
	if refused < 900 {
		t.Errorf("%d of 1000 requests at once were refused", refused)
	}
	for i := range 10 {
		if err := ask(fmt.Sprint(i), true, delivery.Range{Length: 1}); i >= 2 && !errors.Is(err, errCrowded) {
			t.Errorf("vehicle %d beside three: %v", i+1, err)
		}
	}
}

// TestShares: a vehicle that asks for all it can gets no more than another one; neither, nor all together, more than its rate and what
// may be in flight.
func TestShares(t *testing.T) {
	const length = 64 << 20
	l := limits(t, Limits{VehicleRate: 100_000, TotalRate: 250_000, VehicleFlight: 64 << 10, TotalFlight: 128 << 10, VehicleAsked: 128 << 10})
	q := newQueue(l, start)
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"greedy", "a", "b", "c"}
	got := map[string]int64{}
	var flying []piece
	now := start
	const seconds = 60
	for end := start.Add(seconds * time.Second); now.Before(end); {
		for _, name := range names {
			times := 1
			if name == "greedy" {
				times = 20
			}
			for range times {
				off := r.Int64N(length - 128<<10)
				_ = q.ask(now, name, name, request(delivery.Range{Offset: off, Length: 128 << 10}), length, true) // most are refused
			}
		}
		for {
			p, _, ok := q.next(now)
			if !ok {
				break
			}
			if p.length < 1 || p.length > 16<<10 || p.offset/(16<<10) != (p.offset+int64(p.length)-1)/(16<<10) {
				t.Fatalf("a chunk of %d bytes at %d", p.length, p.offset)
			}
			got[p.vehicle.name] += int64(p.length)
			flying = append(flying, p)
		}
		if q.flight > l.TotalFlight+l.ChunkBytes {
			t.Fatalf("%d bytes in flight", q.flight)
		}
		for _, v := range q.vehicles {
			if v.flight > l.VehicleFlight+l.ChunkBytes || v.asked > l.VehicleAsked || len(v.parts) > maxParts {
				t.Fatalf("%s: %d bytes in flight, %d asked for in %d parts", v.name, v.flight, v.asked, len(v.parts))
			}
		}
		for range r.IntN(8) {
			if len(flying) > 0 {
				q.done(flying[0])
				flying = flying[1:]
			}
		}
		now = now.Add(10 * time.Millisecond)
	}
	var all int64
	for name, n := range got {
		all += n
		if n > (seconds+1)*100_000+64<<10 {
			t.Errorf("%s got %d bytes in %d s", name, n, seconds)
		}
		if n < (seconds-5)*250_000/5 {
			t.Errorf("%s starves: %d bytes in %d s", name, n, seconds)
		}
	}
	if all > (seconds+1)*250_000+64<<10 || all < seconds*200_000 {
		t.Errorf("%d bytes to all in %d s", all, seconds)
	}
}

// TestEverythingAskedIsSent: whatever is asked for, in whatever pieces, each byte of it comes once.
func TestEverythingAskedIsSent(t *testing.T) {
	const length = 200_000
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		q := newQueue(limits(t, Limits{ChunkBytes: 1<<10 + r.IntN(60_000)}), start)
		var want, got [length]bool
		for range 1 + r.IntN(5) {
			req := &delivery.Request{File: someSum, Chunk: uint32(1 + r.IntN(64<<10))}
			for range 1 + r.IntN(10) {
				off := r.Int64N(length)
				n := 1 + r.Int64N(length-off)
				req.Ranges = append(req.Ranges, delivery.Range{Offset: off, Length: uint32(n)})
				for i := off; i < off+n; i++ {
					want[i] = true
				}
			}
			decoded, err := delivery.DecodeRequest(req.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if err := q.ask(start, "a", "a", &decoded, length, true); err != nil {
				t.Fatal(err)
			}
		}
		for now := start; len(q.line) > 0; now = now.Add(time.Second) {
			for {
				p, _, ok := q.next(now)
				if !ok {
					break
				}
				for i := p.offset; i < p.offset+int64(p.length); i++ {
					if got[i] {
						t.Fatalf("seed %d: byte %d comes twice", seed, i)
					}
					got[i] = true
				}
				q.done(p)
			}
		}
		if got != want || q.vehicles["a"].asked != 0 || q.flight != 0 {
			t.Fatalf("seed %d: what comes is not what was asked for", seed)
		}
	}
}

// TestForgetsVehicles: the table does not grow with all who ever asked.
func TestForgetsVehicles(t *testing.T) {
	q := newQueue(limits(t, Limits{Vehicles: 100}), start)
	now, refused := start, 0
	for i := range 10_000 {
		name := fmt.Sprint(i)
		if err := q.ask(now, name, name, request(delivery.Range{Length: 1}), 10, true); err != nil {
			refused++
		}
		if p, _, ok := q.next(now); ok {
			q.done(p)
		}
		if now = now.Add(50 * time.Millisecond); len(q.vehicles) > 100 {
			t.Fatalf("%d vehicles are known", len(q.vehicles))
		}
	}
	if refused > 0 {
		t.Errorf("%d of 10000 were refused at 20 a second", refused)
	}
}
