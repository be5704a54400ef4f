package httpin

import (
	"sync"
	"time"
)

// maxBuckets bounds the memory of rates: about 10 MB. Those that have been quiet long enough to be full again are the
// first to go, and nothing is lost with them.
const maxBuckets = 1 << 16

// bucket is a token bucket: it fills with rate up to burst, and a request takes one.
type bucket struct {
	level float64
	at    time.Time
}

// buckets are token buckets by name. They are safe for use from several goroutines.
type buckets struct {
	rate  float64 // a second
	burst float64
	most  int // buckets

	mu   sync.Mutex // guards list
	list map[string]*bucket
}

func newBuckets(rate float64, burst int) *buckets {
	return &buckets{rate: rate, burst: float64(max(burst, 1)), most: maxBuckets, list: map[string]*bucket{}}
}

// take takes one from the bucket of a name, or says after how long there is one.
func (b *buckets) take(name string, now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.list[name]
	if k == nil {
		if len(b.list) >= b.most {
			b.sweepLocked(now)
		}
		k = &bucket{level: b.burst, at: now}
		b.list[name] = k
	}
	k.level = min(b.burst, k.level+max(0, now.Sub(k.at).Seconds())*b.rate)
	k.at = now
	if k.level < 1 {
		return time.Duration((1 - k.level) / b.rate * float64(time.Second))
	}
	k.level--
	return 0
}

// sweepLocked makes room, so much that it is not needed again soon: buckets that are full again go, and if these are too few,
// any.
func (b *buckets) sweepLocked(now time.Time) {
	for name, k := range b.list {
		if k.level+now.Sub(k.at).Seconds()*b.rate >= b.burst {
			delete(b.list, name)
		}
	}
	for name := range b.list {
		if len(b.list) <= b.most*3/4 {
			return
		}
		delete(b.list, name)
	}
}
