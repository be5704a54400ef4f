package httpin

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// The shapes in which brokers forward a publish; docs/INGEST.md names the versions and shows a configuration of each.
//
//	EMQX 5 rule and HTTP action   {"topic":…, "payload_base64":…} or "payload_hex", by the rule's SELECT
//	EMQX 5 rule without either    {"topic":…, "payload":…, "clientid":…, …}: text only, for lanes in format json
//	EMQX 4 webhook plugin         {"action":"message_publish", "topic":…, "payload":…}, ?payload_encoding=base64
//	VerneMQ webhook on_publish    {"topic":…, "payload":base64, "client_id":…}, header vernemq-hook
//	HiveMQ, bridges, scripts      {"topic":…, "payload_base64":…}, or a list of them

// forwarded is one publish as a broker forwards it. What else it says (who, when, which node) is not needed.
type forwarded struct {
	Action   string  `json:"action"` // EMQX 4
	Event    string  `json:"event"`  // EMQX 5
	Topic    string  `json:"topic"`
	Payload  *string `json:"payload"`
	Base64   *string `json:"payload_base64"`
	Hex      *string `json:"payload_hex"`
	Encoding string  `json:"payload_encoding"` // of payload: plain, base64, hex
}

// parseWebhook reads one forwarded publish or a list of them.
func parseWebhook(r *http.Request, body []byte) (q request, err error) {
	if err := wantType(r, typeJSON); err != nil {
		return q, err
	}
	encoding := r.URL.Query().Get("payload_encoding")
	if hook := r.Header.Get("vernemq-hook"); hook != "" {
		if hook != "on_publish" && hook != "auth_on_publish" {
			return q, refuse(http.StatusBadRequest, "vernemq-hook %.40q: only on_publish is of use here", hook)
		}
		if encoding == "" {
			encoding = "base64" // VerneMQ's base64_payload, which is on by default
		}
	}
	var list []forwarded
	body = bytes.TrimSpace(body)
	if len(body) > 0 && body[0] == '[' {
		err = oneValue(body, &list)
	} else {
		list = make([]forwarded, 1)
		err = oneValue(body, &list[0])
	}
	if err != nil {
		return q, refuse(http.StatusBadRequest, "the body is not the JSON of a forwarded publish: %v", err)
	}
	if len(list) > groupMessages {
		return q, refuse(http.StatusRequestEntityTooLarge, "%d publishes in one request, at most %d", len(list), groupMessages)
	}
	q.webhook, q.list = true, true
	for i, f := range list {
		payload, err := f.bytes(encoding)
		if err != nil {
			return q, refuse(http.StatusBadRequest, "publish %d: %v", i, err)
		}
		q.messages = append(q.messages, ingest.Message{Topic: f.Topic, Payload: payload})
	}
	return q, nil
}

// oneValue reads one JSON value and nothing behind it.
func oneValue(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows the JSON value")
	}
	return nil
}

// bytes are those that the vehicle published.
func (f *forwarded) bytes(encoding string) ([]byte, error) {
	switch {
	case f.Action != "" && f.Action != "message_publish", f.Event != "" && f.Event != "message.publish":
		return nil, fmt.Errorf("it is %.40q, not a publish; forward only publishes", f.Action+f.Event)
	case f.Topic == "":
		return nil, fmt.Errorf("no topic")
	}
	text := f.Payload
	if f.Encoding != "" {
		encoding = f.Encoding
	}
	for _, other := range []struct {
		text *string
		name string
	}{{f.Base64, "base64"}, {f.Hex, "hex"}} {
		if other.text == nil {
			continue
		}
		if text != nil {
			return nil, fmt.Errorf("more than one of payload, payload_base64 and payload_hex")
		}
		text, encoding = other.text, other.name
	}
	if text == nil {
		return nil, fmt.Errorf("no payload; want one of payload_base64, payload_hex, payload")
	}
	switch encoding {
	case "base64":
		payload, err := base64.StdEncoding.DecodeString(strings.TrimSpace(*text))
		if err != nil {
			return nil, fmt.Errorf("payload in base64: %w", err)
		}
		return payload, nil
	case "hex":
		payload, err := hex.DecodeString(strings.TrimSpace(*text))
		if err != nil {
			return nil, fmt.Errorf("payload in hex: %w", err)
		}
		return payload, nil
	case "", "plain":
		// A broker that writes bytes as text has replaced those that are not UTF-8: what is left is no payload any more.
		if !strings.HasPrefix(strings.TrimLeft(*text, " \t\r\n"), "{") {
			return nil, fmt.Errorf("payload as text can only be JSON; have the broker encode it, as payload_base64 or payload_hex")
		}
		return []byte(*text), nil
	}
	return nil, fmt.Errorf("payload_encoding %.40q: want base64, hex or plain", encoding)
}
