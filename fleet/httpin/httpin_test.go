package httpin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// bed is a server over a store, both real.
type bed struct {
	t     testing.TB
	s     *Server
	store *store.SQLite
	url   string
	http  *http.Client
	stop  func() error
}

func openStore(t testing.TB) *store.SQLite {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "fleet.db"), store.Options{Rand: bytes.NewReader(bytes.Repeat([]byte{7}, 64))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newBed(t testing.TB, o Options) *bed {
	t.Helper()
	s := openStore(t)
	b := serve(t, o, ingest.New(ingest.Options{}, s))
	b.store = s
	return b
}

func serve(t testing.TB, o Options, a ingest.Applier) *bed {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	b := &bed{t: t, s: New(o, a), http: &http.Client{Transport: &http.Transport{}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.url = "http://" + l.Addr().String()
	if o.TLS != nil {
		b.url = "https://" + l.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.s.Run(ctx, l) }()
	b.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		b.http.CloseIdleConnections()
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// post sends a request; header are pairs.
func (b *bed) post(path string, body []byte, header ...string) (*http.Response, []byte) {
	b.t.Helper()
	resp, text, err := b.try(path, body, header...)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, text
}

func (b *bed) try(path string, body []byte, header ...string) (*http.Response, []byte, error) {
	r, err := http.NewRequest(http.MethodPost, b.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", typeProtobuf)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp, text, err
}

// vehicle seals batches.
type vehicle struct {
	t              testing.TB
	tenant, device string
	seq            map[telemetrypb.Lane]uint64
}

func newVehicle(t testing.TB, device string) *vehicle {
	return &vehicle{t, "acme", device, map[telemetrypb.Lane]uint64{}}
}

var catalogue = &telemetrypb.Catalogue{Signals: []*telemetrypb.Signal{{Id: 1, Name: "speed", Type: telemetrypb.ValueType_VALUE_TYPE_UINT}}}

func (v *vehicle) head(l telemetrypb.Lane) *telemetrypb.Head {
	v.seq[l]++
	return &telemetrypb.Head{Tenant: v.tenant, Device: v.device, Epoch: 5, Lane: l, Seq: v.seq[l], BootID: [16]byte{1}, BootCount: 1}
}

func (v *vehicle) control() []byte {
	v.t.Helper()
	data, _ := telemetrypb.EncodeCatalogue(catalogue)
	var records []*telemetrypb.Record
	for _, p := range telemetrypb.SplitCatalogue(data) {
		records = append(records, &telemetrypb.Record{Record: &telemetrypb.Record_Catalogue{Catalogue: p}})
	}
	b, err := telemetrypb.AppendControl(nil, v.head(telemetrypb.Lane_LANE_CONTROL), &telemetrypb.Records{Records: records})
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v *vehicle) telemetry(samples int) []byte {
	v.t.Helper()
	_, hash := telemetrypb.EncodeCatalogue(catalogue)
	h := v.head(telemetrypb.Lane_LANE_TELEMETRY)
	copy(h.Catalogue[:], hash[:])
	var list []telemetrypb.Sample
	for i := range samples {
		list = append(list, telemetrypb.UintSample(1, int64(h.Seq)*1e9+int64(i), uint64(i)))
	}
	b, err := telemetrypb.AppendBatch(nil, h, list)
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func payload(batches ...[]byte) []byte { return telemetrypb.AppendPayload(nil, false, nil, batches...) }

func (v *vehicle) path(lane string) string { return "/v1/" + v.tenant + "/" + v.device + "/" + lane }

func receiptOf(t testing.TB, body []byte) *telemetrypb.Receipt {
	t.Helper()
	r := new(telemetrypb.Receipt)
	if err := proto.Unmarshal(body, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func verdicts(r *telemetrypb.Receipt) (text string) {
	for _, g := range r.Ranges {
		text += fmt.Sprintf("%s %d-%d %s;", telemetrypb.LaneName(g.Lane), g.First, g.Last, g.Verdict.String()[len("VERDICT_"):])
	}
	return text
}

func TestPayloadIsStoredAndReceipted(t *testing.T) {
	b, v := newBed(t, Options{}), newVehicle(t, "car-1")
	telemetry := v.telemetry(10)
	resp, body := b.post(v.path("telemetry"), payload(telemetry))
	if got := verdicts(receiptOf(t, body)); resp.StatusCode != 200 || got != "telemetry 1-1 PARKED;" {
		t.Fatalf("%s %q", resp.Status, got)
	}
	resp, body = b.post(v.path("control"), payload(v.control()), "Accept", typeJSON)
	r := new(telemetrypb.Receipt)
	if err := protojson.Unmarshal(body, r); err != nil || resp.Header.Get("Content-Type") != typeJSON {
		t.Fatalf("%s %s: %v", resp.Status, body, err)
	}
	if got := verdicts(r); got != "control 1-1 STORED;telemetry 1-1 STORED;" {
		t.Errorf("receipt %q", got)
	}
	resp, body = b.post(v.path("telemetry"), payload(telemetry)) // again: a duplicate, receipted again
	if got := verdicts(receiptOf(t, body)); got != "telemetry 1-1 STORED;" {
		t.Errorf("%s %q", resp.Status, got)
	}
	status, _ := proto.Marshal(&telemetrypb.Status{Online: true, Version: "1"})
	if resp, _ := b.post(v.path("status"), status); resp.StatusCode != http.StatusNoContent {
		t.Errorf("status: %s", resp.Status)
	}
	if totals := b.store.Totals(); totals.Batches != 2 || totals.Samples != 10 || totals.Parked != 0 {
		t.Errorf("totals %+v", totals)
	}
	if c := b.s.Counts(); c.Requests != 4 || c.Confirmed != 4 || c.Batches != 2 || c.Duplicates != 1 {
		t.Errorf("counts %+v", c)
	}
}

func TestListOfSealedBatches(t *testing.T) {
	b, one, two := newBed(t, Options{}), newVehicle(t, "car-1"), newVehicle(t, "car-2")
	var body []byte
	for _, batch := range [][]byte{one.control(), one.telemetry(3), one.telemetry(4), two.control(), two.telemetry(5)} {
		body = protowire.AppendBytes(body, batch)
	}
	resp, answer := b.post("/v1/batches", body)
	if resp.StatusCode != 200 {
		t.Fatalf("%s %s", resp.Status, answer)
	}
	var got []string
	for len(answer) > 0 {
		receipt, n := protowire.ConsumeBytes(answer)
		if n < 0 {
			t.Fatalf("not a list of receipts: %x", answer)
		}
		got, answer = append(got, verdicts(receiptOf(t, receipt))), answer[n:]
	}
	if want := "[control 1-1 STORED;telemetry 1-2 STORED; control 1-1 STORED;telemetry 1-1 STORED;]"; fmt.Sprint(got) != want {
		t.Errorf("receipts %v, want %s", got, want)
	}
	// One damaged batch refuses the whole, and nothing of it is applied.
	batch := one.telemetry(1)
	broken := bytes.Clone(batch)
	broken[len(broken)-1] ^= 1
	before := b.store.Totals()
	if resp, _ := b.post("/v1/batches", protowire.AppendBytes(protowire.AppendBytes(nil, batch), broken)); resp.StatusCode != 400 {
		t.Errorf("a damaged batch: %s", resp.Status)
	}
	if b.store.Totals() != before {
		t.Error("something of a refused request was applied")
	}
}

// Each shape carries the same payload; the versions are in docs/INGEST.md.
func TestWebhookShapes(t *testing.T) {
	v := newVehicle(t, "car-1")
	for name, test := range map[string]struct {
		body   func(topic string, payload []byte) string
		query  string
		header []string
	}{
		"EMQX 5 rule, base64": {func(topic string, p []byte) string {
			return fmt.Sprintf(`{"topic":%q,"payload_base64":%q,"clientid":"car-1","username":"car-1","qos":1,"event":"message.publish","publish_received_at":1656397576334}`, topic, base64.StdEncoding.EncodeToString(p))
		}, "", nil},
		"EMQX 5 rule, hex": {func(topic string, p []byte) string {
			return fmt.Sprintf(`{"topic":%q,"payload_hex":%q,"clientid":"car-1","flags":{},"metadata":{"rule_id":"r"}}`, topic, strings.ToUpper(hex.EncodeToString(p)))
		}, "", nil},
		"EMQX 4 plugin": {func(topic string, p []byte) string {
			return fmt.Sprintf(`{"action":"message_publish","from_client_id":"car-1","from_username":"","topic":%q,"qos":1,"retain":false,"payload":%q,"ts":1}`, topic, base64.StdEncoding.EncodeToString(p))
		}, "?payload_encoding=base64", nil},
		"VerneMQ on_publish": {func(topic string, p []byte) string {
			return fmt.Sprintf(`{"username":"car-1","client_id":"car-1","mountpoint":"","qos":1,"topic":%q,"payload":%q,"retain":false}`, topic, base64.StdEncoding.EncodeToString(p))
		}, "", []string{"vernemq-hook", "on_publish"}},
		"a list": {func(topic string, p []byte) string {
			return fmt.Sprintf(`[{"topic":%q,"payload":%q,"payload_encoding":"hex"}]`, topic, hex.EncodeToString(p))
		}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var sent []ingest.Reply
			b := newBed(t, Options{Send: func(_ context.Context, r []ingest.Reply) error { sent = append(sent, r...); return nil }})
			p := payload(v.control())
			topic := telemetrypb.Topic("acme", "car-1", "up/control")
			resp, body := b.post("/v1/webhook"+test.query, []byte(test.body(topic, p)), append(test.header, "Content-Type", "application/json")...)
			if resp.StatusCode != 200 || !json.Valid(body) {
				t.Fatalf("%s %s", resp.Status, body)
			}
			if b.store.Totals().Batches != 1 || len(sent) != 1 || sent[0].Topic != "wb1/acme/car-1/down/receipt" {
				t.Errorf("totals %+v, sent %v", b.store.Totals(), sent)
			}
		})
	}
	b := newBed(t, Options{})
	for text, want := range map[string]int{
		`{"topic":"wb1/acme/car-1/up/control","payload":"\ufffd\ufffd"}`:                                            400, // bytes as text
		`{"topic":"wb1/acme/car-1/down/command","payload_hex":""}`:                                                  400,
		`{"topic":"other","payload_hex":""}`:                                                                        400,
		`{"topic":"wb1/acme/car-1/up/control","payload_hex":"","payload_base64":""}`:                                400,
		`{"action":"client_connected","clientid":"car-1"}`:                                                          400,
		`{"topic":"wb1/acme/car-1/up/telemetry","payload":"{\"format\":1,\"plain\":[]}","event":"message.publish"}`: 204,
		`{`: 400, `[]`: 400, `null`: 400, `{"topic":"wb1/acme/car-1/up/control","payload_hex":""} x`: 400,
	} {
		if resp, body := b.post("/v1/webhook", []byte(text), "Content-Type", "application/json"); resp.StatusCode != want {
			t.Errorf("%s: %s %s, want %d", text, resp.Status, body, want)
		}
	}
	b.s.o.Send = func(context.Context, []ingest.Reply) error { return errors.New("not connected") }
	text := fmt.Sprintf(`{"topic":"wb1/acme/car-1/up/control","payload_hex":%q}`, hex.EncodeToString(payload(v.control())))
	if resp, _ := b.post("/v1/webhook", []byte(text), "Content-Type", "application/json"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a receipt that did not go out: %s", resp.Status)
	}
}

// gate is an Applier that waits, and fails when told.
type gate struct {
	mu      sync.Mutex
	groups  [][]ingest.Message
	fail    bool
	entered chan struct{}
	hold    chan struct{}
}

func (g *gate) Apply(_ context.Context, m []ingest.Message) (replies []ingest.Reply, c ingest.Counts, err error) {
	g.entered <- struct{}{}
	<-g.hold
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail {
		return nil, c, errors.New("the disk is full")
	}
	g.groups = append(g.groups, m)
	for _, m := range m {
		tenant, device, _, _ := telemetrypb.ParseTopic(m.Topic)
		replies = append(replies, ingest.Reply{Topic: telemetrypb.Topic(tenant, device, telemetrypb.TopicReceipt), Receipt: &telemetrypb.Receipt{Store: string(m.Payload), Number: 1}})
	}
	return replies, ingest.Counts{Payloads: uint64(len(m))}, nil
}

// Requests that come while one is applied share the next Apply, two of one device never; each is told its own.
func TestConcurrentRequestsShareAnApply(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 100), hold: make(chan struct{})}
	b := serve(t, Options{GroupWait: 200 * time.Millisecond}, g)
	var wg sync.WaitGroup
	ask := func(device, text string) {
		wg.Go(func() {
			resp, body, err := b.try("/v1/acme/"+device+"/event", []byte(text))
			if err != nil || resp.StatusCode != 200 || receiptOf(t, body).GetStore() != text {
				t.Errorf("%s: %v %v %q", text, resp, err, body)
			}
		})
	}
	ask("car-0", "first")
	<-g.entered
	for i := range 20 {
		ask(fmt.Sprintf("car-%d", i), fmt.Sprint("one ", i))
	}
	ask("car-3", "two 3")
	close(g.hold)
	wg.Wait()
	if len(g.groups) > 5 {
		t.Errorf("22 requests made %d groups", len(g.groups))
	}
	for _, group := range g.groups {
		seen := map[string]bool{}
		for _, m := range group {
			if seen[m.Topic] {
				t.Errorf("%s twice in a group", m.Topic)
			}
			seen[m.Topic] = true
		}
	}
}

// Nothing is confirmed before Apply has returned, a failed one never; a stop waits for what is under way.
func TestConfirmedOnlyWhenDurable(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 100), hold: make(chan struct{})}
	b := serve(t, Options{AnswerWithin: 50 * time.Millisecond}, g)
	resp, _ := b.post("/v1/acme/car-1/event", []byte("x"))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a store that does not answer: %s", resp.Status)
	}
	close(g.hold)
	g.mu.Lock()
	g.fail = true
	g.mu.Unlock()
	if resp, _ := b.post("/v1/acme/car-1/event", []byte("x")); resp.StatusCode != 503 {
		t.Errorf("a store that fails: %s", resp.Status)
	}

	g = &gate{entered: make(chan struct{}, 100), hold: make(chan struct{})}
	b = serve(t, Options{}, g)
	answered := make(chan string, 1)
	go func() {
		resp, _, err := b.try("/v1/acme/car-1/event", []byte("x"))
		if err != nil {
			answered <- err.Error()
			return
		}
		answered <- resp.Status
	}()
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request under way: %v", err)
	case text := <-answered:
		t.Fatalf("answered before Apply returned: %s", text)
	case <-time.After(100 * time.Millisecond):
	}
	close(g.hold)
	if text := <-answered; text != "200 OK" {
		t.Errorf("the request under way: %s", text)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, _, err := b.try("/v1/acme/car-1/event", []byte("x")); err == nil {
		t.Error("a stopped server answers")
	}
}

func TestStreamAnswersAccepted(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 100), hold: make(chan struct{})}
	close(g.hold)
	if resp, body := serve(t, Options{Stream: true}, g).post("/v1/acme/car-1/event", []byte("x")); resp.StatusCode != 202 || len(body) != 0 {
		t.Errorf("%s %q", resp.Status, body)
	}
}

// A sender that never finishes a body is cut off, and others are served meanwhile; one device cannot take all places.
func TestSlowClients(t *testing.T) {
	b := newBed(t, Options{ReadTimeout: 300 * time.Millisecond, MaxRequests: 8})
	var slow []net.Conn
	for range 4 { // the half, as one sender may
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /v1/acme/car-9/event HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\nabc", typeProtobuf)
		slow = append(slow, c)
	}
	for _, c := range slow {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		text, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(text), "HTTP/1.1 4") {
			t.Errorf("a slow body was answered %q", text)
		}
	}
	v := newVehicle(t, "car-1")
	if resp, _ := b.post(v.path("control"), payload(v.control())); resp.StatusCode != 200 {
		t.Errorf("another: %s", resp.Status)
	}
	s := newShares(8, 100)
	for i := range deviceRequests + 1 {
		if ok, mine := s.begin("a", deviceRequests); ok != (i < deviceRequests) || mine == ok {
			t.Errorf("request %d of a sender: %v %v", i, ok, mine)
		}
	}
	if ok, _ := s.begin("b", deviceRequests); !ok {
		t.Error("another sender has no place")
	}
	if !s.hold("a", 50) || s.hold("a", 1) || !s.hold("b", 40) {
		t.Error("one sender holds more than the half, or another nothing")
	}
}
