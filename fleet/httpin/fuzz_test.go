package httpin

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waybill-telematics/waybill/fleet/ingest"
)

// FuzzRequest sends any body to any path, by any shape: whatever comes, the answer is one that was meant, never a 5xx (the
// store is well), and what stood in the store before stands after.
func FuzzRequest(f *testing.F) {
	v := newVehicle(f, "car-1")
	control, telemetry := v.control(), v.telemetry(3)
	list := protowire.AppendBytes(protowire.AppendBytes(nil, control), telemetry)
	f.Add("/v1/acme/car-1/control", typeProtobuf, "", payload(control))
	f.Add("/v1/acme/car-1/telemetry", typeProtobuf, "gzip", []byte{0x1f, 0x8b, 8, 0})
	f.Add("/v1/acme/car-1/status", typeProtobuf, "zstd", []byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	f.Add("/v1/acme/car-1/result", typeJSON, "", []byte("{}"))
	f.Add("/v1/batches", typeProtobuf, "", list)
	f.Add("/v1/webhook", typeJSON, "", fmt.Appendf(nil, `[{"topic":"wb1/acme/car-1/up/telemetry","payload_base64":%q}]`, base64.StdEncoding.EncodeToString(payload(telemetry))))
	f.Add("/v1/webhook?payload_encoding=hex", typeJSON, "", []byte(`{"topic":"wb1/a/b/up/raw","payload":"00"}`))
	st := openStore(f)
	s := New(Options{DeviceRate: 1e9, DeviceBurst: 1e9, TokenRate: 1e9, TokenBurst: 1e9, MaxDecompressed: 1 << 20}, ingest.New(ingest.Options{Log: slog.New(slog.DiscardHandler)}, st))
	ctx, cancel := context.WithCancel(f.Context())
	go s.group.run(ctx)
	f.Cleanup(func() { cancel(); <-s.group.ended })
	send := func(path, kind, encoding string, body []byte) *httptest.ResponseRecorder {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return nil
		}
		r := &http.Request{Method: http.MethodPost, URL: u, Header: http.Header{"Content-Type": {kind}, "Content-Encoding": {encoding}}, Body: http.NoBody}
		if len(body) > 0 {
			r = httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			r.URL, r.Header = u, http.Header{"Content-Type": {kind}, "Content-Encoding": {encoding}}
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	if w := send("/v1/batches", typeProtobuf, "", list); w.Code != 200 {
		f.Fatalf("%d %s", w.Code, w.Body)
	}
	before := st.Totals().Samples
	f.Fuzz(func(t *testing.T, path, kind, encoding string, body []byte) {
		w := send(path, kind, encoding, body)
		if w == nil {
			return
		}
		switch w.Code {
		case 200, 204, 400, 404, 413, 415, 429:
		default:
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		if st.Totals().Samples < before {
			t.Fatal("samples are gone")
		}
		if len(s.held.senders) != 0 {
			t.Fatal("a request that ended still holds its place")
		}
	})
}
