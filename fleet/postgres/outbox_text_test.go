package postgres

import (
	"strings"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What a text holds that other databases refuse does not leave: a sink of the decoded topics would stop at it for ever.
func TestTextForOthers(t *testing.T) {
	for raw, want := range map[string]string{"WVW\x00\x00": "WVW\uFFFD\uFFFD", "t\xFCr": "t\uFFFDr", "Tür \x01": "Tür \x01"} {
		r := rawSample{kind: telemetrypb.KindString, raw: []byte(raw)}
		if d := r.sample(nil); !d.HasText || d.Text != want {
			t.Errorf("%q is shown as %q, want %q", raw, d.Text, want)
		}
	}
}

// A signal with a name of megabytes does not make a row of megabytes of each sample.
func TestShownOfSignals(t *testing.T) {
	long := strings.Repeat("ü", 1<<20)
	labels := `{"1":"` + long + `","2":"on"}`
	g := newDecodedSignal("a"+long, long, &labels)
	for _, text := range []string{g.name, g.unit, g.labels[1]} {
		if len(text) > shortBytes+len("…") || !strings.HasSuffix(text, "ü…") {
			t.Errorf("%d bytes, %q", len(text), text[max(0, len(text)-10):])
		}
	}
	if usual := newDecodedSignal("can0.Body.Gear", "", nil); g.labels[2] != "on" || usual.name != "can0.Body.Gear" || usual.unit != "" || usual.labels != nil {
		t.Errorf("%q, %+v", g.labels[2], usual)
	}
}
