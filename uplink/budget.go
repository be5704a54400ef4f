package uplink

import "time"

// budget bounds what is in flight on one connection: twice bandwidth times delay, both as PUBACKs show them. The
// bandwidth is the largest rate of delivery of some seconds, since a radio link stalls now and then, the delay the least
// time from sending to PUBACK. More in flight would fill no link better; it would stand in a queue, in the kernel or in
// the network, and what is urgent behind it.
//
// It begins small and doubles with each round trip until the rate grows no more. After that the delay of a link that is
// always full would be that of its queue: when it has not been seen as short for delayWindow, the queue is left to run
// empty, and a small payload sees the delay.
//
// A link that loses packets shows PUBACKs in bunches: one segment that TCP repairs holds up the rest, in either direction, and
// what is in flight says little of what the link would take. While the kernel sends a part of the segments again, it is asked
// instead: it takes the next payload when little is left to send (TCP_NOTSENT_LOWAT), and its own window, which each lost packet
// makes smaller, keeps queues short in the network. Where round trips get long all the same, the losses are those of a queue that
// is full, and the budget holds. Likewise at the beginning, before the rate is known: TCP's slow start is the better judge as long
// as no queue shows and PUBACKs come from where its acknowledgements do, not from behind a proxy that ends the connection.
//
// It is ready when most, places and start are set. It is guarded by Uplink.mu and takes a fixed amount of memory.
type budget struct {
	most   int // bytes: never more in flight
	places int // publishes: never more in flight
	start  int // bytes of a payload until as many were delivered

	delivered   int64     // bytes acknowledged
	deliveredAt time.Time // the last of them; of the first flight's sending where nothing was in flight
	sentAt      time.Time // when the flight that was acknowledged last was sent, or the same
	slackTo     int64     // what is sent before more than this was delivered does not fill the link; slack holds

	slack      bool
	rates      [2]float64 // bytes/s: the largest of this half of the window and of the one before
	turned     time.Time  // when this half began
	delay      time.Duration
	delayAt    time.Time // when it was last seen as short
	delayBytes int       // of the flight that had it
	probing    bool      // the queue is to run empty
	probed     bool      // and the flight that sees the delay is on its way
	known      bool      // the rate has stopped growing
	peak       float64   // the rate that a round must exceed to be one of growth
	flat       int       // rounds in a row without growth
	roundEnd   int64     // the round ends when what was sent after so much was delivered is acknowledged

	// What the kernel knows of the path; 0 where it does not say.
	trip   time.Duration // the shortest of a segment
	path   segments      // all of this connection, as last told
	lately [2]segments   // of this half of lossWindow and of the one before
	since  time.Time     // when this half began
	brief  bool          // a segment's round trip is about as short as it gets: none stands in a queue
	lossy  bool
}

const (
	payloadTime     = time.Second / 32 // what a payload may take on the link
	slowPayloadTime = time.Second / 4  // the same, as long as it is smaller than smallPayload
	smallPayload    = 8 << 10          // bytes
	delayWindow     = 10 * time.Second // and at least 50 delays
	rateWindow      = 3 * time.Second  // half of it, and at least two delays
	growth          = 1.25             // of the rate in a round: less is none
	flatRounds      = 3                // rounds without growth: the link is full
	lossWindow      = 10 * time.Second // half of it, and at least 25 delays: how long a loss counts
	leastLosses     = 2                // a single one may be a hiccup
	lossyPart       = 200              // one segment of so many is sent again, or more: the link loses packets
	queuedTrips     = 2                // the shortest round trip, so often: longer ones are spent in a queue
	nearTrips       = 3                // the same, of a PUBACK: later ones come from behind something else
	leastTime       = time.Millisecond
)

// mark is what a flight notes at its sending.
type mark struct {
	sent        time.Time
	delivered   int64
	deliveredAt time.Time
	sentAt      time.Time
	slack       bool
	probe       bool
}

// launched notes a flight beside flying bytes that have no PUBACK.
func (b *budget) launched(now time.Time, flying int) mark {
	if flying == 0 {
		b.deliveredAt, b.sentAt = now, now
	}
	probe := b.probing && (flying == 0 || flying < b.window(0)) // what is urgent does not wait for the queue to run empty
	b.probed = b.probed || probe
	return mark{sent: now, delivered: b.delivered, deliveredAt: b.deliveredAt, sentAt: b.sentAt, slack: b.slack, probe: probe}
}

// ranDry notes that nothing is sent though the link would take it: how fast what is in flight, and what comes next, is
// delivered says nothing of the link.
func (b *budget) ranDry(flying int) {
	if flying == 0 || flying < b.filled() {
		b.slack, b.slackTo = true, b.delivered+int64(flying)
	}
}

// acked takes a flight's PUBACK.
func (b *budget) acked(now time.Time, m mark, bytes int) {
	b.delivered += int64(bytes)
	b.deliveredAt, b.sentAt = now, m.sent
	if b.delivered > b.slackTo {
		b.slack = false
	}
	// PUBACKs that come in a bunch do not make the link faster than it was fed.
	took := max(now.Sub(m.deliveredAt), m.sent.Sub(m.sentAt), leastTime)
	b.took(now, float64(b.delivered-m.delivered)/took.Seconds(), m.slack)
	b.waited(now, m, bytes)
	if m.slack {
		return
	}
	if m.delivered >= b.roundEnd && !b.known {
		b.roundEnd = b.delivered
		if rate := b.rate(); rate >= growth*b.peak {
			b.peak, b.flat = rate, 0
		} else if b.flat++; b.flat >= flatRounds {
			b.known = true
		}
	}
	if b.known && !b.lossy && now.Sub(b.delayAt) > max(delayWindow, 50*b.delay) {
		b.probing = true
	}
}

// segments counts those with data.
type segments struct{ sent, again uint32 }

// learned takes what the kernel says of the connection: the shortest round trip of a segment and the usual one, and how many
// were sent. What is less than before is another connection's, or nothing.
func (b *budget) learned(now time.Time, trip, usual time.Duration, all segments) {
	if all.sent < b.path.sent || all.again < b.path.again {
		return
	}
	b.trip = trip
	if half := max(lossWindow/2, 25*b.delay); now.Sub(b.since) >= half {
		b.lately[1] = b.lately[0]
		if now.Sub(b.since) >= 2*half {
			b.lately[1] = segments{}
		}
		b.lately[0], b.since = segments{}, now
	}
	b.lately[0].sent += all.sent - b.path.sent
	b.lately[0].again += all.again - b.path.again
	b.path = all
	again := b.lately[0].again + b.lately[1].again
	b.brief = usual <= queuedTrips*trip
	b.lossy = b.brief && again >= leastLosses && again >= (b.lately[0].sent+b.lately[1].sent)/lossyPart
}

// took takes a rate of delivery. One that was not the link's own can only raise the estimate.
func (b *budget) took(now time.Time, rate float64, slack bool) {
	if slack {
		if rate > b.rate() {
			b.rates[0] = rate
		}
		return
	}
	if age, half := now.Sub(b.turned), max(rateWindow, 2*b.delay); age >= half {
		b.rates[1] = b.rates[0]
		if age >= 2*half {
			b.rates[1] = 0
		}
		b.rates[0], b.turned = 0, now
	}
	b.rates[0] = max(b.rates[0], rate)
}

// waited takes the time from a flight's sending to its PUBACK.
func (b *budget) waited(now time.Time, m mark, bytes int) {
	d := max(now.Sub(m.sent), leastTime)
	seen, least := b.bare(d, bytes), b.bare(b.delay, b.delayBytes)
	switch {
	case b.delay == 0, seen <= least, m.probe:
		b.delay, b.delayAt, b.delayBytes = d, now, bytes
		if m.probe {
			b.probing, b.probed = false, false
		}
	case seen <= least+least/8:
		b.delayAt = now
	}
}

// bare is a delay without the transmission of the payload that it was measured with. Until the link was full once, the rate
// does not tell how long that was, and after it a rate that is too low must not make the delay nothing: one payload in
// each round trip would look like a slow link, and stay so. It is never shorter than a segment's trip.
func (b *budget) bare(d time.Duration, bytes int) time.Duration {
	if !b.known {
		return d
	}
	return max(d-b.time(bytes), d/4, min(b.trip, d))
}

// rate is the bandwidth, in bytes/s; 0: nothing was delivered yet.
func (b *budget) rate() float64 { return max(b.rates[0], b.rates[1]) }

// time is how long the link takes for so many bytes.
func (b *budget) time(bytes int) time.Duration {
	rate := b.rate()
	if rate <= 0 {
		return 0
	}
	return time.Duration(float64(bytes) / rate * float64(time.Second))
}

// amount is what the link takes in a time, in bytes and never above most.
func (b *budget) amount(d time.Duration) int { return int(min(b.rate()*d.Seconds(), float64(b.most))) }

// payload is how large a payload may be. On a slow link it takes a fraction of a second, on a faster one a thirtieth,
// since the link is filled to the payload; below smallPayload what is around the batches would weigh too much. So many
// as may be in flight fill the link twice.
func (b *budget) payload() int {
	n := max(b.amount(payloadTime), min(b.amount(slowPayloadTime), smallPayload), 2*b.filled()/b.places)
	switch {
	case b.probing && !b.probed:
		return minPayload
	case b.delivered < int64(b.start):
		n = max(n, b.start)
	}
	return max(n, minPayload)
}

// filled is bandwidth times delay: the bytes that fill the link.
func (b *budget) filled() int { return b.amount(b.bare(b.delay, b.delayBytes)) }

// window is how many bytes may be in flight. A payload goes as a whole and is acknowledged as a whole, so that two of them
// are more or less there.
func (b *budget) window(two int) int {
	full := b.filled()
	switch {
	case b.probing:
		return full / 4 * 3
	case !b.known:
		return min(max(3*full, two), b.most)
	}
	return min(max(2*full, full+full/4+two), b.most)
}

// open says that the kernel judges how much the link takes.
func (b *budget) open() bool {
	return b.lossy && !b.probing || !b.known && b.brief && b.trip > 0 && b.delay <= nearTrips*b.trip
}

// room says whether another payload may follow what is in flight, and if not, how long that will be so when no PUBACK
// comes. A batch that is larger than a payload should be goes all the same; where such a one is large beside the link, the
// next follows when it is about to be through, not when its PUBACK is back.
func (b *budget) room(now time.Time, payload int, flying []*flight) (ok bool, wait time.Duration) {
	bytes, size := 0, payload
	for _, f := range flying {
		bytes += f.bytes
		size = max(size, f.bytes)
	}
	over := bytes + size - b.window(size+payload)
	switch {
	case bytes == 0, over <= 0, b.open() && bytes+size <= b.most:
		return true, 0
	case b.filled() > size || b.probing || b.rate() <= 0 || over > size || bytes+size > b.most:
		return false, 0
	}
	began := flying[0].mark.sent
	if b.deliveredAt.After(began) {
		began = b.deliveredAt
	}
	wait = began.Add(b.time(over)).Sub(now)
	return wait <= 0, max(wait, 0)
}
