package httpin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/fleet/ingest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// The media types that are spoken. Protobuf is what is answered when Accept asks for no JSON.
const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
)

// request is what one request asks to be applied.
type request struct {
	messages []ingest.Message
	list     bool // answered with a list of receipts, not with one
	webhook  bool // the vehicles are on a broker
}

// ServeHTTP answers
//
//	POST /v1/TENANT/DEVICE/LANE   a payload, as vehicles publish it; LANE also status, result
//	POST /v1/batches              sealed batches, each after its length as a varint
//	POST /v1/webhook              what a broker forwards (webhook.go)
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.tally(func(c *Counts) { c.Requests++ })
	err := s.serve(w, r)
	if err == nil {
		s.tally(func(c *Counts) { c.Confirmed++ })
		return
	}
	p := new(problem)
	if !errors.As(err, &p) {
		p = busy(http.StatusServiceUnavailable, 0, "nothing is confirmed: %v; send again", err)
	}
	s.tally(func(c *Counts) {
		switch p.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			c.Unauthorized++
		case http.StatusTooManyRequests:
			c.Limited++
		case http.StatusServiceUnavailable:
			c.Busy++
		default:
			c.Refused++
		}
	})
	s.o.Log.Debug("request not confirmed", "status", p.status, "from", r.RemoteAddr, "why", p.detail)
	p.write(w)
}

func (s *Server) tally(f func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
}

// serve is one request; the error is a *problem, or something passing.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) error {
	parse, err := s.route(r)
	if err != nil {
		return err
	}
	who, refused := s.authenticate(r)
	if refused != nil {
		return refused
	}
	most := deviceRequests
	if who.device == "" {
		most = max(1, s.o.MaxRequests/2)
		if wait := s.tokens.take(who.name, s.o.Now()); wait > 0 {
			return busy(http.StatusTooManyRequests, wait, "too many requests with these credentials: %v a second, at most", s.o.TokenRate)
		}
	}
	switch ok, mine := s.held.begin(who.name, most); {
	case mine:
		return busy(http.StatusTooManyRequests, 0, "%d requests with these credentials are under way; wait for an answer", most)
	case !ok:
		return busy(http.StatusServiceUnavailable, 0, "%d requests are under way; send again", s.o.MaxRequests)
	}
	defer s.held.end(who.name)
	body, release, err := s.body(w, r, who.name)
	defer release()
	if err != nil {
		return err
	}
	q, err := parse(r, body)
	if err != nil {
		return err
	}
	if len(q.messages) == 0 {
		return refuse(http.StatusBadRequest, "there is nothing in the body")
	}
	j := &job{messages: q.messages, topics: map[string]struct{}{}, done: make(chan outcome, 1)}
	var order []string // topics of receipts, in the order of the request
	for _, m := range q.messages {
		tenant, device, err := vehicleOf(m.Topic)
		if err != nil {
			return refuse(http.StatusBadRequest, "%v", err)
		}
		if refused := who.may(tenant, device); refused != nil {
			return refused
		}
		topic := telemetrypb.Topic(tenant, device, telemetrypb.TopicReceipt)
		j.bytes += len(m.Payload)
		if _, known := j.topics[topic]; !known {
			j.topics[topic], order = struct{}{}, append(order, topic)
		}
	}
	for _, topic := range order {
		if wait := s.devices.take(topic, s.o.Now()); wait > 0 && !q.webhook {
			return busy(http.StatusTooManyRequests, wait, "too many requests for one device: %v a second, at most; put more batches into one", s.o.DeviceRate)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.o.AnswerWithin)
	defer cancel()
	replies, err := s.group.do(ctx, j)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return busy(http.StatusServiceUnavailable, s.o.AnswerWithin/4, "the store lags: no answer within %v; send again", s.o.AnswerWithin)
	case err != nil:
		s.o.Log.Warn("a request could not be applied", "from", r.RemoteAddr, "err", err)
		return busy(http.StatusServiceUnavailable, 0, "nothing is confirmed: the store does not take it now; send again")
	}
	if q.webhook && s.o.Send != nil {
		if err := s.o.Send(ctx, replies); err != nil {
			return busy(http.StatusServiceUnavailable, 0, "the receipts do not reach the vehicles: %v; send again", err)
		}
	}
	return s.answer(w, r, q, order, replies)
}

// route finds what a path takes.
func (s *Server) route(r *http.Request) (func(*http.Request, []byte) (request, error), error) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var parse func(*http.Request, []byte) (request, error)
	switch {
	case r.URL.Path == "/v1/batches":
		parse = parseBatches
	case r.URL.Path == "/v1/webhook":
		parse = parseWebhook
	case len(parts) == 4 && parts[0] == "v1":
		topic := telemetrypb.Topic(parts[1], parts[2], "up/"+parts[3])
		if _, _, err := vehicleOf(topic); err != nil {
			return nil, refuse(http.StatusNotFound, "path: %v", err)
		}
		parse = func(r *http.Request, body []byte) (request, error) {
			if err := wantType(r, typeProtobuf, "application/protobuf", "application/octet-stream", typeJSON); err != nil {
				return request{}, err
			}
			return request{messages: []ingest.Message{{Topic: topic, Payload: body}}}, nil
		}
	default:
		return nil, refuse(http.StatusNotFound, "want /v1/TENANT/DEVICE/LANE, /v1/batches or /v1/webhook")
	}
	if r.Method != http.MethodPost {
		return nil, refuse(http.StatusMethodNotAllowed, "only POST is known here")
	}
	return parse, nil
}

// vehicleOf says whose topic it is, and refuses those that vehicles do not publish to.
func vehicleOf(topic string) (tenant, device string, err error) {
	tenant, device, rest, err := telemetrypb.ParseTopic(topic)
	if err != nil {
		return "", "", err
	}
	lane, up := strings.CutPrefix(rest, "up/")
	if !up {
		return "", "", fmt.Errorf("topic %.200q is not one that vehicles publish to", topic)
	}
	if rest == telemetrypb.TopicStatus || rest == telemetrypb.TopicResult {
		return tenant, device, nil
	}
	if _, err := telemetrypb.ParseLane(lane); err != nil {
		return "", "", fmt.Errorf("%w, status or result", err)
	}
	return tenant, device, nil
}

func wantType(r *http.Request, types ...string) error {
	have, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil {
		for _, t := range types {
			if have == t {
				return nil
			}
		}
	}
	return refuse(http.StatusUnsupportedMediaType, "Content-Type %.80q: want %s", r.Header.Get("Content-Type"), strings.Join(types, " or "))
}

// parseBatches reads sealed batches, each after its length: protobuf's usual stream of messages. Whose they are stands
// in their envelopes. A batch that cannot be named refuses the whole request, before anything is applied: nobody could be
// told what became of it.
func parseBatches(r *http.Request, body []byte) (q request, err error) {
	if err := wantType(r, typeProtobuf, "application/protobuf", "application/octet-stream"); err != nil {
		return q, err
	}
	q.list = true
	topic, run := "", [][]byte(nil)
	flush := func() {
		if len(run) > 0 {
			q.messages = append(q.messages, ingest.Message{Topic: topic, Payload: telemetrypb.AppendPayload(nil, true, nil, run...)})
		}
		run = nil
	}
	for i := 0; len(body) > 0; i++ {
		batch, n := protowire.ConsumeBytes(body)
		if n < 0 {
			return q, refuse(http.StatusBadRequest, "batch %d: %v; want each batch after its length as a varint", i, protowire.ParseError(n))
		}
		body = body[n:]
		view, err := telemetrypb.OpenBatch(batch)
		if err != nil && !errors.Is(err, telemetrypb.ErrNewerFormat) {
			return q, refuse(http.StatusBadRequest, "batch %d: %v", i, err)
		}
		e := view.Envelope
		if name := telemetrypb.Topic(e.GetTenant(), e.GetDevice(), telemetrypb.TopicLane(e.GetLane())); name != topic {
			flush()
			topic = name
		}
		run = append(run, batch)
	}
	flush()
	if len(q.messages) > groupMessages {
		return q, refuse(http.StatusRequestEntityTooLarge, "batches change device or lane %d times, at most %d in one request; sort them, or send fewer", len(q.messages), groupMessages)
	}
	return q, nil
}

// named is a receipt in a list in JSON.
type named struct {
	Topic   string          `json:"topic"`
	Receipt json.RawMessage `json:"receipt"`
}

// answer confirms. The receipts of one device are one: lists add up, and the last number counts.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, q request, order []string, replies []ingest.Reply) error {
	if s.o.Stream {
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	receipts := map[string]*telemetrypb.Receipt{}
	for _, reply := range replies {
		if have := receipts[reply.Topic]; have != nil {
			proto.Merge(have, reply.Receipt)
			continue
		}
		receipts[reply.Topic] = proto.CloneOf(reply.Receipt)
	}
	if len(receipts) == 0 { // a status, a result, a clock: durable, and nothing to say of it
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	asJSON := q.webhook || strings.Contains(r.Header.Get("Accept"), typeJSON)
	var body []byte
	var list []named
	for _, topic := range order {
		receipt := receipts[topic]
		if receipt == nil {
			continue
		}
		var one []byte
		var err error
		if asJSON {
			one, err = protojson.Marshal(receipt)
			list = append(list, named{topic, one})
		} else {
			one, err = proto.Marshal(receipt)
		}
		if err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		switch {
		case asJSON || !q.list:
			body = one
		default:
			body = protowire.AppendBytes(body, one)
		}
	}
	kind := typeProtobuf
	if asJSON {
		kind = typeJSON
		if q.list {
			var err error
			if body, err = json.Marshal(list); err != nil {
				return fmt.Errorf("receipts: %w", err)
			}
		}
	}
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(body) // who does not hear it sends again, and is told the same
	return nil
}
