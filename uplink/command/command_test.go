package command

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// noon is the vehicle's time at the start of a test.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// testKey is a key made of one byte.
func testKey(b byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	return ed25519.NewKeyFromSeed(seed)
}

func publicOf(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// handClock is moved by hand; it counts from noon.
type handClock struct {
	mu  sync.Mutex
	now int64
}

func (c *handClock) Boot() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}
func (c *handClock) Wall() time.Time { return noon.Add(time.Duration(c.Boot())) }
func (c *handClock) add(d time.Duration) {
	c.mu.Lock()
	c.now += int64(d)
	c.mu.Unlock()
}

// car is a vehicle that takes commands, its disk a folder.
type car struct {
	t      *testing.T
	dir    string
	clock  *handClock
	doubt  uint64
	key    ed25519.PrivateKey
	o      Options
	r      *Runner
	stop   context.CancelFunc
	done   chan struct{}
	events chan *telemetrypb.CommandResult
	ran    chan string // ids, in the order in which they ran
	hold   chan struct{}
	count  uint64
}

func newCar(t *testing.T) *car {
	c := &car{t: t, dir: t.TempDir(), clock: &handClock{}, key: testKey(1), count: 100,
		events: make(chan *telemetrypb.CommandResult, 1000), ran: make(chan string, 1000)}
	keys := Keys{}
	keys.Add(publicOf(c.key))
	c.o = Options{
		Tenant: "acme", Device: "car-1", Dir: c.dir, Epoch: 7, BootID: [16]byte{9}, BootCount: 3,
		Keys: keys, Allow: []string{"act", "look", "wait", "break"},
		Time: func() (int64, uint64) { return c.clock.Wall().UnixNano(), c.doubt },
		Emit: func(r *telemetrypb.CommandResult) { c.events <- r }, Commit: func(context.Context) error { return nil },
		Write: func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) },
		Clock: c.clock, Log: slog.New(slog.DiscardHandler),
		Handlers: []Handler{
			{Name: "act", Check: func(a map[string]string) error {
				if len(a) > 1 || len(a) == 1 && a["how"] == "" {
					return errors.New("want how")
				}
				return nil
			}, Run: func(_ context.Context, call *Call) (string, error) {
				c.ran <- call.ID
				if call.Arguments["how"] == "badly" {
					return "", errors.New("it went badly")
				}
				return "acted", nil
			}},
			{Name: "look", Harmless: true, Run: func(_ context.Context, call *Call) (string, error) { c.ran <- call.ID; return "seen", nil }},
			{Name: "wait", Run: func(ctx context.Context, call *Call) (string, error) {
				c.ran <- call.ID
				call.Progress(50, "half")
				select {
				case <-c.hold:
					return "waited", nil
				case <-ctx.Done():
					return "", ctx.Err()
				}
			}},
			{Name: "break", Run: func(context.Context, *Call) (string, error) { panic("broken") }},
			{Name: "barred", Run: func(_ context.Context, call *Call) (string, error) { c.ran <- call.ID; return "", nil }},
		},
	}
	return c
}

// start runs it, after the clock has left the ledger's beginning behind.
func (c *car) start() (warning error) {
	c.t.Helper()
	var err error
	if c.r, warning, err = New(c.o); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop, c.done = cancel, make(chan struct{})
	r := c.r
	ended := c.done
	go func() {
		if err := r.Run(ctx); err != nil {
			c.t.Error(err)
		}
		close(ended)
	}()
	c.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return warning
}

func (c *car) end() {
	c.t.Helper()
	c.stop()
	<-c.done
}

// running is a vehicle that began a minute ago.
func running(t *testing.T) *car {
	c := newCar(t)
	c.start()
	c.await("1st", c.send("look", nil)) // the ledger has begun
	c.clock.add(time.Minute)
	return c
}

// body is a sound command, issued now for ten minutes.
func (c *car) body(name string, arguments map[string]string) *telemetrypb.DownBody {
	c.count++
	now := c.clock.Wall()
	return &telemetrypb.DownBody{
		Tenant: "acme", Device: "car-1", Counter: c.count, Id: fmt.Sprintf("id-%d", c.count),
		IssuedUnixNs: now.UnixNano(), ExpiresUnixNs: now.Add(10 * time.Minute).UnixNano(),
		Body: &telemetrypb.DownBody_Command{Command: &telemetrypb.Command{Name: name, Arguments: arguments}},
	}
}

func (c *car) sign(b *telemetrypb.DownBody) []byte {
	message, err := Sign(c.key, b)
	if err != nil {
		c.t.Fatal(err)
	}
	return message
}

// send offers a sound command and gives its id.
func (c *car) send(name string, arguments map[string]string) string {
	b := c.body(name, arguments)
	c.r.Offer(c.sign(b))
	return b.GetId()
}

// await is the next final result, which is that of id.
func (c *car) await(what, id string) *telemetrypb.CommandResult {
	c.t.Helper()
	for {
		select {
		case r := <-c.events:
			if s := State(r.GetState()); s == Accepted || s == Running {
				continue
			}
			if r.GetId() != id {
				c.t.Fatalf("%s: a result for %q, want one for %q: %v", what, r.GetId(), id, r)
			}
			return r
		case <-time.After(20 * time.Second):
			c.t.Fatalf("%s: no result for %s", what, id)
		}
	}
}

func (c *car) want(what, id string, s State, reason Reason) *telemetrypb.CommandResult {
	c.t.Helper()
	r := c.await(what, id)
	if r.GetState() != string(s) || r.GetReason() != string(reason) || s != Done && r.GetText() == "" {
		c.t.Errorf("%s: %s %q %q, want %s %q", what, r.GetState(), r.GetReason(), r.GetText(), s, reason)
	}
	return r
}

// idle fails if anything ran that was not asked for.
func (c *car) idle(what string) {
	c.t.Helper()
	select {
	case id := <-c.ran:
		c.t.Errorf("%s: %s ran", what, id)
	default:
	}
}

func (c *car) drainRan() (ids []string) {
	for {
		select {
		case id := <-c.ran:
			ids = append(ids, id)
		default:
			return ids
		}
	}
}

func TestACommandRunsOnceAndIsAnswered(t *testing.T) {
	c := running(t)
	c.drainRan()
	b := c.body("act", map[string]string{"how": "well"})
	message := c.sign(b)
	c.r.Offer(message)
	r := c.want("first", b.GetId(), Done, "")
	if r.GetText() != "acted" || r.GetName() != "act" || r.GetBootCount() != 3 || r.GetBootId()[0] != 9 || r.GetCounter() != b.GetCounter() || r.GetBootNs() != c.clock.Boot() {
		t.Errorf("result %v", r)
	}
	for range 3 { // QoS 1, retained, resent
		c.r.Offer(message)
		if again := c.want("repeated", b.GetId(), Done, ""); again.GetText() != "acted" {
			t.Errorf("repeated: %v", again)
		}
	}
	c.end()
	c.start() // also after a restart
	c.clock.add(time.Hour)
	c.r.Offer(message) // and when it has expired
	c.want("after a restart", b.GetId(), Done, "")
	if ran := c.drainRan(); len(ran) != 1 {
		t.Errorf("it ran %d times: %v", len(ran), ran)
	}
	id := c.send("act", map[string]string{"how": "badly"})
	if r := c.want("failing", id, Failed, ReasonError); r.GetText() != "it went badly" {
		t.Error(r)
	}
	c.want("panic", c.send("break", nil), Failed, ReasonError)
	c.want("after a panic", c.send("look", nil), Done, "")
}

func TestWhatIsRefused(t *testing.T) {
	c := running(t)
	c.drainRan()
	stranger := testKey(2)
	change := func(name string, f func(*telemetrypb.DownBody)) func() (string, []byte) {
		return func() (string, []byte) {
			b := c.body(name, nil)
			f(b)
			return b.GetId(), c.sign(b)
		}
	}
	taken := c.count
	for _, one := range []struct {
		name   string
		reason Reason
		make   func() (string, []byte)
	}{
		{"another device", ReasonDevice, change("act", func(b *telemetrypb.DownBody) { b.Device = "car-2" })},
		{"another tenant", ReasonDevice, change("act", func(b *telemetrypb.DownBody) { b.Tenant = "other" })},
		{"every device", ReasonDevice, change("act", func(b *telemetrypb.DownBody) { b.Device = "+" })},
		{"no device", ReasonDevice, change("act", func(b *telemetrypb.DownBody) { b.Device = "" })},
		{"unknown key", ReasonKey, func() (string, []byte) {
			b := c.body("act", nil)
			m, _ := Sign(stranger, b)
			return b.GetId(), m
		}},
		{"a known key's name on another's signature", ReasonSignature, func() (string, []byte) {
			b := c.body("act", nil)
			m, _ := Sign(stranger, b)
			var down telemetrypb.Down
			_ = proto.Unmarshal(m, &down)
			id := IDOf(publicOf(c.key))
			down.KeyId = id[:]
			m, _ = proto.Marshal(&down)
			return b.GetId(), m
		}},
		{"a signature without the domain", ReasonSignature, func() (string, []byte) {
			b := c.body("act", nil)
			signed, _ := proto.Marshal(b)
			id := IDOf(publicOf(c.key))
			m, _ := proto.Marshal(&telemetrypb.Down{Signed: signed, KeyId: id[:], Signature: ed25519.Sign(c.key, signed)})
			return b.GetId(), m
		}},
		{"a changed body", ReasonSignature, func() (string, []byte) {
			b := c.body("look", nil)
			var down telemetrypb.Down
			_ = proto.Unmarshal(c.sign(b), &down)
			b.Body = &telemetrypb.DownBody_Command{Command: &telemetrypb.Command{Name: "act"}}
			down.Signed, _ = proto.Marshal(b)
			m, _ := proto.Marshal(&down)
			return b.GetId(), m
		}},
		{"expired", ReasonExpired, change("act", func(b *telemetrypb.DownBody) {
			b.IssuedUnixNs -= int64(2 * time.Minute)
			b.ExpiresUnixNs = c.clock.Wall().UnixNano()
		})},
		{"harmless and expired", ReasonExpired, change("look", func(b *telemetrypb.DownBody) {
			b.IssuedUnixNs -= int64(2 * time.Minute)
			b.ExpiresUnixNs = c.clock.Wall().UnixNano()
		})},
		{"of tomorrow", ReasonEarly, change("act", func(b *telemetrypb.DownBody) {
			b.IssuedUnixNs += int64(time.Hour)
			b.ExpiresUnixNs += int64(time.Hour)
		})},
		{"immortal", ReasonLife, change("act", func(b *telemetrypb.DownBody) { b.ExpiresUnixNs = 1<<63 - 1 })},
		{"expires before it is issued", ReasonMalformed, change("act", func(b *telemetrypb.DownBody) { b.ExpiresUnixNs = b.IssuedUnixNs - 1 })},
		{"no counter", ReasonMalformed, change("act", func(b *telemetrypb.DownBody) { b.Counter = 0 })},
		{"the last counter again", ReasonCounter, change("act", func(b *telemetrypb.DownBody) { b.Counter = taken; b.Id = "other" })},
		{"a lower counter", ReasonCounter, change("act", func(b *telemetrypb.DownBody) { b.Counter = taken - 1 })},
		{"a condition of a later version", ReasonNewer, change("act", func(b *telemetrypb.DownBody) {
			b.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 20, protowire.VarintType), 1))
		})},
		{"a campaign", ReasonNewer, change("act", func(b *telemetrypb.DownBody) { b.Body = &telemetrypb.DownBody_Campaign{Campaign: []byte("x")} })},
	} {
		c.clock.add(time.Minute) // more than the rate of answers
		id, message := one.make()
		c.r.Offer(message)
		r := c.want(one.name, id, Refused, one.reason)
		if unbelieved := one.reason == ReasonKey || one.reason == ReasonSignature; unbelieved && r.GetCounter() != 0 {
			t.Errorf("%s: counter %d in an answer", one.name, r.GetCounter())
		}
		c.idle(one.name)
	}
	if last := c.r.ledger.last(IDOf(publicOf(c.key))); last != taken { // Run rests: every answer was awaited
		t.Errorf("what was refused has moved the counter from %d to %d", taken, last)
	}
	c.clock.add(time.Minute)
	c.want("not allowed", c.send("barred", nil), Refused, ReasonNotAllowed)
	c.want("unknown", c.send("nonsense", nil), Refused, ReasonUnknown)
	c.want("arguments", c.send("act", map[string]string{"a": "b"}), Refused, ReasonArguments)
	c.want("arguments of one without any", c.send("look", map[string]string{"a": "b"}), Refused, ReasonArguments)
	c.idle("not permitted")
	c.want("and a good one", c.send("act", nil), Done, "")
}

func TestWithoutKeysEverythingIsRefused(t *testing.T) {
	c := newCar(t)
	c.o.Keys, c.o.Allow = nil, nil
	c.start()
	c.want("no key", c.send("look", nil), Refused, ReasonKey)
	c.idle("no key")
}

func TestBytesThatAreNoEnvelope(t *testing.T) {
	c := running(t)
	message := c.sign(c.body("act", nil))
	c.drainRan()
	for n := range message { // truncated at every byte
		c.r.Offer(message[:n])
		for len(c.r.inbox) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for i := range message { // and with one bit of each byte flipped
		bad := append([]byte{}, message...)
		bad[i] ^= 1 << (i % 8)
		c.r.Offer(bad)
		for len(c.r.inbox) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	c.r.Offer(make([]byte, maxEnvelope*4))
	c.r.Offer(nil)
	c.idle("damaged")
	if answers := len(c.events); answers > refuseBurst {
		t.Errorf("%d answers to noise", answers)
	}
	for len(c.events) > 0 {
		<-c.events
	}
	c.r.Offer(message)
	for r := range c.events {
		if r.GetState() == string(Done) {
			break
		}
	}
}

func TestTheClock(t *testing.T) {
	c := newCar(t)
	c.doubt = telemetrypb.Unbounded
	c.start()
	early := c.body("act", nil)
	message := c.sign(early)
	c.r.Offer(message)
	c.want("nobody knows the time", early.GetId(), Refused, ReasonClock)
	c.want("harmless all the same", c.send("look", nil), Done, "")
	// Now the time is known, and the ledger begins: what was issued before may have been taken by a ledger that is lost.
	c.count++
	c.doubt = uint64(time.Second)
	before := c.body("act", nil)
	c.r.Offer(c.sign(before))
	c.want("issued before the ledger", before.GetId(), Refused, ReasonLedger)
	c.clock.add(30 * time.Second)
	c.want("issued after it", c.send("act", nil), Done, "")
	// An expiry within the doubt.
	c.doubt = uint64(11 * time.Minute)
	c.want("it may have expired", c.send("act", nil), Refused, ReasonExpired)
}

func TestALostLedgerAcceptsNoReplay(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(*car)
	}{
		{"gone", func(c *car) { _ = os.Remove(filepath.Join(c.dir, ledgerFile)) }},
		{"flipped", func(c *car) {
			file := filepath.Join(c.dir, ledgerFile)
			data, _ := os.ReadFile(file)
			data[len(data)/2] ^= 1
			_ = os.WriteFile(file, data, 0o600)
		}},
		{"cut", func(c *car) {
			file := filepath.Join(c.dir, ledgerFile)
			data, _ := os.ReadFile(file)
			_ = os.WriteFile(file, data[:len(data)-9], 0o600)
		}},
		{"unreadable", func(c *car) {
			file := filepath.Join(c.dir, ledgerFile)
			_ = os.Remove(file)
			_ = os.Mkdir(file, 0o700) // a read of it fails, and so does a write until it is gone
			write := c.o.Write
			c.o.Write = func(path string, data []byte) error { _ = os.Remove(path); return write(path, data) }
		}},
		{"empty", func(c *car) { _ = os.WriteFile(filepath.Join(c.dir, ledgerFile), nil, 0o600) }},
		{"an older copy beside a new queue", func(c *car) {
			l, _ := openLedger(c.dir, 7, c.o.Write)
			_ = l.change(func(p *page) { p.Last, p.Entries = nil, nil })
			c.o.Epoch = 8
		}},
	} {
		c := running(t)
		b := c.body("act", nil)
		message := c.sign(b)
		c.r.Offer(message)
		c.want(damage.name, b.GetId(), Done, "")
		c.end()
		c.drainRan()
		damage.do(c)
		if warning := c.start(); (warning == nil) != (damage.name == "gone") {
			t.Errorf("%s: warning %v", damage.name, warning)
		}
		c.r.Offer(message)
		c.want(damage.name, b.GetId(), Refused, ReasonLedger)
		c.idle(damage.name)
		c.clock.add(time.Minute)
		c.want(damage.name+", later", c.send("act", nil), Done, "")
		c.end()
	}
}

func TestADiskThatRefusesRunsNothing(t *testing.T) {
	c := newCar(t)
	var fails bool
	var mu sync.Mutex
	write := c.o.Write
	c.o.Write = func(path string, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if fails {
			return errors.New("no space left on device")
		}
		return write(path, data)
	}
	c.start()
	c.await("first", c.send("look", nil))
	c.clock.add(time.Minute)
	c.drainRan()
	mu.Lock()
	fails = true
	mu.Unlock()
	b := c.body("act", nil)
	message := c.sign(b)
	c.r.Offer(message)
	c.want("full disk", b.GetId(), Refused, ReasonDisk)
	c.idle("full disk")
	mu.Lock()
	fails = false
	mu.Unlock()
	c.r.Offer(message)
	c.want("the same, with room", b.GetId(), Done, "")
}

func TestReorderedCommandsAreNotRun(t *testing.T) {
	c := running(t)
	first, second := c.body("act", nil), c.body("act", nil)
	c.drainRan()
	c.r.Offer(c.sign(second))
	c.want("the later one", second.GetId(), Done, "")
	c.r.Offer(c.sign(first))
	c.want("the earlier one", first.GetId(), Refused, ReasonCounter)
	if ran := c.drainRan(); len(ran) != 1 || ran[0] != second.GetId() {
		t.Errorf("ran %v", ran)
	}
}

func TestLongCommandsTellHowFarTheyAre(t *testing.T) {
	c := running(t)
	c.hold = make(chan struct{})
	for range together {
		c.send("wait", nil)
	}
	for range together {
		<-c.ran
		if r := <-c.events; r.GetState() != string(Accepted) && r.GetState() != string(Running) {
			t.Errorf("%v", r)
		}
	}
	c.want("one too many", c.send("look", nil), Refused, ReasonBusy)
	close(c.hold)
	half := 0
	for n := 0; n < together; {
		switch r := <-c.events; State(r.GetState()) {
		case Running:
			if half++; r.GetPercent() != 50 || r.GetText() != "half" {
				t.Errorf("%v", r)
			}
		case Done:
			n++
		}
	}
}

func TestAnEndInterruptsWhatRuns(t *testing.T) {
	c := running(t)
	c.hold = make(chan struct{})
	id := c.send("wait", nil)
	for r := range c.events {
		if r.GetState() == string(Running) {
			break
		}
	}
	c.end()
	c.want("at the end", id, Failed, ReasonInterrupted)
	c.start()
	c.want("afterwards it works", c.send("look", nil), Done, "")
}
