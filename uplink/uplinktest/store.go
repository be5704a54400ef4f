package uplinktest

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Key names a batch at the store.
type Key struct {
	Device string
	Epoch  uint64
	Lane   telemetrypb.Lane
	Seq    uint64
}

// Stored is one batch as it first arrived.
type Stored struct {
	Key
	CRC     uint32
	Backlog bool // its payload's flag
	Plain   bool
	Payload int // number of the payload that brought it, from 1
	Clocks  []*telemetrypb.ClockRecord
	Samples int
}

// Answer is what a store says of a batch.
type Answer struct {
	Verdict telemetrypb.Verdict
	Reason  string
	Want    []byte // parked: the missing catalogue
}

// Store takes what vehicles publish, keeps each batch once, and sends receipts. All methods are safe for use from
// several goroutines.
type Store struct {
	addr  string
	id    string
	stop  chan struct{}
	tasks sync.WaitGroup
	inbox chan paho.Message

	mu       sync.Mutex // guards what follows
	client   paho.Client
	silent   bool
	lie      func(*telemetrypb.ReceiptRange)
	answer   func(*telemetrypb.Envelope) Answer
	seen     map[Key]uint32 // crc of what was stored
	order    []Stored
	parked   []*telemetrypb.ReceiptRange
	parkedOf map[*telemetrypb.ReceiptRange]string // topic for its receipt
	waiting  map[Key]Stored                       // parked
	statuses []*telemetrypb.Status
	payloads int
	again    int
	number   uint64
	errors   []error

	generation uint64
}

// NewStore attaches a store to a broker under a client id of its own; see Attached. It attaches again when the
// connection is lost.
func NewStore(addr, id string) *Store {
	s := &Store{
		addr: addr, id: id, stop: make(chan struct{}), inbox: make(chan paho.Message, 1024),
		seen: map[Key]uint32{}, parkedOf: map[*telemetrypb.ReceiptRange]string{},
		waiting: map[Key]Stored{}, generation: 1,
	}
	s.tasks.Go(s.stay)
	s.tasks.Go(s.work)
	return s
}

// Close detaches the store.
func (s *Store) Close() {
	close(s.stop)
	s.tasks.Wait()
}

// Silence keeps receipts back while on. What arrives meanwhile is stored.
func (s *Store) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// Lie falsifies receipt ranges before they are sent; nil: honest.
func (s *Store) Lie(f func(*telemetrypb.ReceiptRange)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = f
}

// Judge decides verdicts; nil: everything is stored.
func (s *Store) Judge(f func(*telemetrypb.Envelope) Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// Unpark stores what was parked and says so.
func (s *Store) Unpark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = nil
	for k, stored := range s.waiting {
		s.seen[k] = stored.CRC
		s.order = append(s.order, stored)
		delete(s.waiting, k)
	}
	for _, r := range s.parked {
		r.Verdict, r.WantCatalogue = telemetrypb.Verdict_VERDICT_STORED, nil
		s.sendLocked(s.parkedOf[r], []*telemetrypb.ReceiptRange{r})
	}
	s.parked = nil
}

// Send sends a receipt of the caller's making to a vehicle.
func (s *Store) Send(tenant, device string, ranges ...*telemetrypb.ReceiptRange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sendLocked(telemetrypb.Topic(tenant, device, telemetrypb.TopicReceipt), ranges)
}

// SetGeneration makes the store one of another generation; it begins with 1.
func (s *Store) SetGeneration(g uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation = g
}

// Attached says whether the store is connected and subscribed: what is published before is not for it.
func (s *Store) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client != nil
}

// Order lists the stored batches in the order of their first arrival.
func (s *Store) Order() []Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// Len is how many batches are stored.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.order)
}

// Duplicates is how many batches came again, byte for byte.
func (s *Store) Duplicates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.again
}

// Payloads is how many payloads came.
func (s *Store) Payloads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payloads
}

// Statuses lists the status messages that came.
func (s *Store) Statuses() []*telemetrypb.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.statuses)
}

// Err is the first thing that should never have come: a batch that does not open, one key with two contents.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errors) == 0 {
		return nil
	}
	return s.errors[0]
}

// stay keeps a connection to the broker, with a session that the broker keeps.
func (s *Store) stay() {
	for {
		lost := make(chan struct{})
		o := paho.NewClientOptions().AddBroker("tcp://" + s.addr).SetClientID(s.id).SetCleanSession(false).
			SetAutoReconnect(false).SetProtocolVersion(4).SetConnectTimeout(time.Second).SetWriteTimeout(time.Second)
		o.SetConnectionLostHandler(func(paho.Client, error) { close(lost) })
		o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
			select {
			case s.inbox <- m:
			case <-s.stop:
			}
		})
		client := paho.NewClient(o)
		token := client.Connect()
		<-token.Done()
		if token.Error() == nil && s.subscribe(client) {
			s.mu.Lock()
			s.client = client
			s.mu.Unlock()
			select {
			case <-lost:
			case <-s.stop:
			}
			s.mu.Lock()
			s.client = nil
			s.mu.Unlock()
		}
		client.Disconnect(50)
		select {
		case <-s.stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Store) subscribe(client paho.Client) bool {
	token := client.Subscribe(telemetrypb.TopicRoot+"/+/+/up/+", 1, nil)
	select {
	case <-token.Done():
		return token.Error() == nil
	case <-time.After(time.Second):
	case <-s.stop:
	}
	return false
}

func (s *Store) work() {
	for {
		select {
		case m := <-s.inbox:
			s.mu.Lock()
			if err := s.takeLocked(m.Topic(), m.Payload()); err != nil {
				s.errors = append(s.errors, err)
			}
			s.mu.Unlock()
		case <-s.stop:
			return
		}
	}
}

// takeLocked takes one publish in.
func (s *Store) takeLocked(topic string, payload []byte) error {
	tenant, device, rest, err := telemetrypb.ParseTopic(topic)
	if err != nil {
		return err
	}
	if rest == telemetrypb.TopicRequest { // not the store's
		return nil
	}
	if rest == telemetrypb.TopicStatus {
		status := new(telemetrypb.Status)
		if err := proto.Unmarshal(payload, status); err != nil {
			return fmt.Errorf("status: %w", err)
		}
		s.statuses = append(s.statuses, status)
		return nil
	}
	view, err := telemetrypb.OpenPayload(payload)
	if err != nil {
		return fmt.Errorf("%s: %w", topic, err)
	}
	s.payloads++
	var ranges []*telemetrypb.ReceiptRange
	take := func(e *telemetrypb.Envelope, plain bool, samples int) error {
		if e.GetDevice() != device || telemetrypb.TopicLane(e.GetLane()) != rest {
			return fmt.Errorf("%s: a batch of device %s, lane %s", topic, e.GetDevice(), telemetrypb.LaneName(e.GetLane()))
		}
		stored := Stored{
			Key: Key{device, e.GetEpoch(), e.GetLane(), e.GetSeq()}, CRC: e.GetCrc32C(), Backlog: view.Backlog, Plain: plain,
			Payload: s.payloads, Clocks: view.Clocks, Samples: samples,
		}
		answer := Answer{Verdict: telemetrypb.Verdict_VERDICT_STORED}
		if s.answer != nil {
			answer = s.answer(e)
		}
		crc, known := s.seen[stored.Key]
		switch {
		case known && crc != stored.CRC:
			return fmt.Errorf("batch %v came with checksum %08x and %08x", stored.Key, crc, stored.CRC)
		case known:
			s.again++
		case answer.Verdict == telemetrypb.Verdict_VERDICT_STORED:
			s.seen[stored.Key] = stored.CRC
			s.order = append(s.order, stored)
		case answer.Verdict == telemetrypb.Verdict_VERDICT_PARKED:
			s.waiting[stored.Key] = stored
		}
		ranges = extend(ranges, e, answer)
		return nil
	}
	for _, b := range view.Batches {
		v, err := telemetrypb.OpenBatch(b)
		if err != nil {
			return fmt.Errorf("%s: %w", topic, err)
		}
		if err := take(v.Envelope, false, int(v.Envelope.GetSamples())); err != nil {
			return err
		}
	}
	for _, p := range view.Plain {
		e := &telemetrypb.Envelope{Device: p.Device, Epoch: p.Epoch, Lane: p.Lane, Seq: p.Seq, Crc32C: p.Crc32C, Catalogue: p.Catalogue}
		if err := take(e, true, len(p.Samples)); err != nil {
			return err
		}
	}
	s.answerLocked(telemetrypb.Topic(tenant, device, telemetrypb.TopicReceipt), ranges)
	return nil
}

// extend adds a batch to the ranges of its payload: a range is one run of consecutive seqs with one answer.
func extend(ranges []*telemetrypb.ReceiptRange, e *telemetrypb.Envelope, a Answer) []*telemetrypb.ReceiptRange {
	if n := len(ranges); n > 0 {
		r := ranges[n-1]
		if r.Epoch == e.GetEpoch() && r.Lane == e.GetLane() && r.Last+1 == e.GetSeq() && r.Verdict == a.Verdict &&
			r.Reason == a.Reason && bytes.Equal(r.WantCatalogue, a.Want) {
			r.Last, r.Count, r.CrcXor = e.GetSeq(), r.Count+1, r.CrcXor^e.GetCrc32C()
			return ranges
		}
	}
	return append(ranges, &telemetrypb.ReceiptRange{
		Epoch: e.GetEpoch(), Lane: e.GetLane(), First: e.GetSeq(), Last: e.GetSeq(), Count: 1, CrcXor: e.GetCrc32C(),
		Verdict: a.Verdict, Reason: a.Reason, WantCatalogue: a.Want,
	})
}

func (s *Store) answerLocked(topic string, ranges []*telemetrypb.ReceiptRange) {
	for _, r := range ranges {
		if r.Verdict == telemetrypb.Verdict_VERDICT_PARKED {
			kept := proto.Clone(r).(*telemetrypb.ReceiptRange)
			s.parked = append(s.parked, kept)
			s.parkedOf[kept] = topic
		}
		if s.lie != nil {
			s.lie(r)
		}
	}
	if !s.silent {
		s.sendLocked(topic, ranges)
	}
}

// sendLocked publishes a receipt; without a connection it is lost, and the vehicle asks again.
func (s *Store) sendLocked(topic string, ranges []*telemetrypb.ReceiptRange) {
	if s.client == nil {
		return
	}
	s.number++
	b, err := proto.Marshal(&telemetrypb.Receipt{Store: s.id, Generation: s.generation, Number: s.number, Ranges: ranges, MaxFormat: telemetrypb.Format})
	if err != nil {
		s.errors = append(s.errors, err)
		return
	}
	s.client.Publish(topic, 1, false, b)
}
