package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// cloud answers requests with chunks, as badly as it is told to.
type cloud struct {
	t     *testing.T
	data  []byte
	d     *Delivery
	tasks sync.WaitGroup

	mu     sync.Mutex
	r      *rand.Rand
	asked  int64 // bytes
	sent   int64
	answer func(c *cloud, chunks []Chunk) []Chunk // what becomes of the chunks of a request
	fail   error
}

func (c *cloud) Ask(_ context.Context, request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	r, err := DecodeRequest(request)
	if err != nil {
		c.t.Error(err)
		return err
	}
	var chunks []Chunk
	for _, x := range r.Ranges {
		if x.Offset+int64(x.Length) > int64(len(c.data)) {
			c.t.Errorf("asked for %d bytes at %d", x.Length, x.Offset)
			return nil
		}
		c.asked += int64(x.Length)
		for off, end := x.Offset, x.Offset+int64(x.Length); off < end; {
			n := min(int64(r.Chunk)-off%int64(r.Chunk), end-off)
			chunks = append(chunks, Chunk{r.File, off, c.data[off : off+n]})
			off += n
		}
	}
	if c.answer != nil {
		chunks = c.answer(c, chunks)
	}
	c.tasks.Go(func() {
		for _, chunk := range chunks {
			for tries := 0; tries < 100 && len(c.d.chunks.queue) == cap(c.d.chunks.queue); tries++ {
				time.Sleep(time.Millisecond) // as a link would take its time
			}
			_ = c.d.Chunk(chunk.Encode())
			c.mu.Lock()
			c.sent += int64(len(chunk.Bytes))
			c.mu.Unlock()
		}
	})
	return nil
}

func byChunks(t *testing.T, image []byte, change func(*Options), answer func(*cloud, []Chunk) []Chunk) *cloud {
	t.Helper()
	c := &cloud{t: t, data: image, answer: answer, r: rand.New(rand.NewPCG(1, 2))}
	o := options(t.TempDir(), image)
	o.Asker, o.ChunkSilence, o.ChunkWindow = c, time.Second, 128<<10
	if change != nil {
		change(&o)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.d = d
	t.Cleanup(c.tasks.Wait)
	return c
}

func TestChunks(t *testing.T) {
	image := noise(1, oneMiB+77)
	foreign := sha256.Sum256([]byte("another image"))
	for name, answer := range map[string]func(*cloud, []Chunk) []Chunk{
		"in order": nil,
		"shuffled": func(c *cloud, chunks []Chunk) []Chunk {
			c.r.Shuffle(len(chunks), func(i, j int) { chunks[i], chunks[j] = chunks[j], chunks[i] })
			return chunks
		},
		"twice": func(_ *cloud, chunks []Chunk) []Chunk { return append(chunks, chunks...) },
		"with another image's between": func(_ *cloud, chunks []Chunk) (all []Chunk) {
			for _, chunk := range chunks {
				all = append(all, Chunk{foreign, chunk.Offset, make([]byte, len(chunk.Bytes))}, chunk)
			}
			return all
		},
		"with what nobody asked for between": func(c *cloud, chunks []Chunk) (all []Chunk) {
			last := chunks[len(chunks)-1]
			end := min(last.Offset+int64(len(last.Bytes)), int64(len(image)-1))
			for _, chunk := range chunks {
				all = append(all, Chunk{chunk.File, end, image[end : end+1]}, Chunk{chunk.File, int64(len(image)) - 1, make([]byte, 100)},
					Chunk{chunk.File, maxLength, make([]byte, 100)}, Chunk{chunk.File, chunk.Offset, make([]byte, mostChunk+1)}, Chunk{chunk.File, chunk.Offset, nil}, chunk)
			}
			return all
		},
		"a tenth lost": func(c *cloud, chunks []Chunk) (all []Chunk) {
			for _, chunk := range chunks {
				if c.r.IntN(10) > 0 {
					all = append(all, chunk)
				}
			}
			return all
		},
		"cut small": func(_ *cloud, chunks []Chunk) (all []Chunk) {
			for _, chunk := range chunks {
				for len(chunk.Bytes) > 5000 {
					all = append(all, Chunk{chunk.File, chunk.Offset, chunk.Bytes[:5000]})
					chunk.Offset, chunk.Bytes = chunk.Offset+5000, chunk.Bytes[5000:]
				}
				all = append(all, chunk)
			}
			return all
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := byChunks(t, image, func(o *Options) {
				if name == "a tenth lost" {
					o.ChunkSilence = 20 * time.Millisecond
				}
			}, answer)
			run(t, c.d)
			c.tasks.Wait()
			if name != "a tenth lost" && c.asked > int64(len(image))+2*c.d.o.ChunkWindow {
				t.Errorf("asked for %d bytes of an image of %d", c.asked, len(image))
			}
			if err := c.d.Chunk((&Chunk{c.d.id.sum, 0, image[:10]}).Encode()); !errors.Is(err, ErrNotAsked) {
				t.Errorf("a chunk after the end: %v", err)
			}
		})
	}
}

// Messages that are none do nothing, whenever they come.
func TestChunkThatIsNone(t *testing.T) {
	c := byChunks(t, noise(2, 100), nil, nil)
	for _, b := range [][]byte{nil, {1}, make([]byte, 41), make([]byte, 42), make([]byte, 50), (&Chunk{}).Encode()} {
		if err := c.d.Chunk(b); err == nil {
			t.Errorf("%x is taken", b)
		}
	}
	run(t, c.d)
}

// No mirror answers: messages bring what is missing, into the same blocks. And the other way round.
func TestMirrorsAndChunksShareBlocks(t *testing.T) {
	image := noise(3, oneMiB)
	dir := t.TempDir()
	half(t, dir, image)
	c := byChunks(t, image, func(o *Options) { o.Dir, o.Mirrors = dir, []Mirror{{Base: "http://127.0.0.1:1/"}} }, nil)
	run(t, c.d)
	if want := int64(len(image)/2) + leastBlock; c.asked > want {
		t.Errorf("asked for %d bytes, %d were missing", c.asked, want)
	}

	s := newSite(t, serve(image, ""))
	broken := byChunks(t, image, func(o *Options) { o.Budget = int64(len(image) / 2) }, nil)
	if _, err := broken.d.Run(t.Context()); !errors.Is(err, ErrBudget) {
		t.Fatalf("ends with %v", err)
	}
	broken.tasks.Wait()
	have := broken.d.Progress().Have
	o := broken.d.o
	o.Asker, o.Mirrors, o.Budget = nil, []Mirror{{Base: s.URL}}, 0
	deliver(t, o)
	if have < int64(len(image)/4) || s.sent.Load() > int64(len(image))-have+leastBlock {
		t.Errorf("%d bytes were there, %d were sent", have, s.sent.Load())
	}
}

// A cloud that is silent, or cannot be reached, is asked again with back-off; nothing is lost meanwhile.
func TestCloudThatIsSilent(t *testing.T) {
	image := noise(4, oneMiB)
	silent := 0
	c := byChunks(t, image, func(o *Options) { o.ChunkSilence = 2 * time.Millisecond }, func(c *cloud, chunks []Chunk) []Chunk {
		if silent++; silent%5 > 0 {
			return nil
		}
		return chunks
	})
	c.fail = errors.New("no connection")
	go func() {
		time.Sleep(10 * time.Millisecond)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.fail = nil
	}()
	run(t, c.d)
}

// More chunks than can be written at once do not take memory.
func TestFlood(t *testing.T) {
	image := noise(5, oneMiB)
	c := byChunks(t, image, nil, nil)
	sum := c.d.id.sum
	c.d.chunks.asking.Store(&sum)
	flood, taken := (&Chunk{sum, 0, make([]byte, mostChunk)}).Encode(), 0
	for range 1000 {
		if c.d.Chunk(flood) == nil {
			taken++
		}
	}
	c.d.chunks.asking.Store(nil)
	if taken != queueChunks || c.d.chunks.dropped.Load() != int64(1000-taken) {
		t.Errorf("%d chunks taken, %d dropped", taken, c.d.chunks.dropped.Load())
	}
	run(t, c.d)
}

// TestWindow: what was asked for is what comes in a few seconds, on links of any speed, and never more than is allowed.
func TestWindow(t *testing.T) {
	const most = 256 << 10
	for rate, want := range map[int64][2]int64{ // bytes/s: the least and the most that the window comes to
		2_000: {32 << 10, 32 << 10}, 20_000: {64 << 10, 128 << 10}, 1_000_000: {most, most},
	} {
		window := int64(leastWindow)
		for range 20 {
			window = nextWindow(window, most, time.Duration(window/2)*time.Second/time.Duration(rate))
		}
		if window < want[0] || window > want[1] {
			t.Errorf("a window of %d bytes at %d bytes/s, want %d to %d", window, rate, want[0], want[1])
		}
	}
	if w := nextWindow(1000, 1000, time.Hour); w != 1000 {
		t.Errorf("a window of %d bytes where 1000 are the most", w)
	}
}
