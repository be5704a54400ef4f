package doctor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// Whatever a broker sends, reading it ends in limits or an error.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0x20, 0x09, 0x00, 0x00, 0x06, 0x27, 0x00, 0x00, 0x4E, 0x20, 0x40})                       // cut off
	f.Add([]byte{0x20, 0x0B, 0x00, 0x00, 0x08, 0x27, 0x00, 0x00, 0x4E, 0x20, 0x21, 0x00, 0x14})           // as Mosquitto has it
	f.Add([]byte{0x20, 0x02, 0x00, 0x01, 0x40, 0x03, 0x00, 0x01, 0x87, 0xE0, 0x02, 0x8E, 0x00})           // MQTT 3.1.1, PUBACK, DISCONNECT
	f.Add([]byte{0x20, 0x0D, 0x00, 0x00, 0x0A, 0x26, 0x00, 0x01, 'a', 0x00, 0x01, 'b', 0x1F, 0x00, 0x00}) // texts
	f.Add([]byte{0x20, 0xFF, 0xFF, 0xFF, 0x7F, 0x00})                                                     // 256 MiB, announced
	f.Add([]byte{0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F})                                                     // a length that is none
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			_, body, err := readPacket(r)
			if err != nil {
				break
			}
			if len(body) > maxBody {
				t.Fatalf("%d bytes kept", len(body))
			}
			if _, err := parseConnack(body); err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
		}
		// And a whole conversation with a broker that says this.
		ours, theirs := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, _ = theirs.Write(b)
			_ = theirs.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		q := question5{ClientID: "car-1-doctor", Topics: []string{"wb1/acme/car-1/up/control", "wb1/acme/car-1/up/raw"}, Payloads: [][]byte{{1}, {2}}}
		if a, err := q.ask(ctx, ours); err == nil && (len(a.Reasons) > len(q.Topics) || !a.Closed && len(a.Reasons) < len(q.Topics)) {
			t.Errorf("%x: %d reasons, closed %t", b, len(a.Reasons), a.Closed)
		}
		_ = theirs.Close()
	})
}

// The example of MQTT 5.0 §3.1 and the lengths of §1.5.5 are what is written.
func TestConnectAsTheStandardHasIt(t *testing.T) {
	q := question5{ClientID: "a", User: "u", Password: "p", Keep: true}
	want := []byte{0x10, 0x1B, 0, 4, 'M', 'Q', 'T', 'T', 5, 0xC0, 0, 30, 5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1, 'a', 0, 1, 'u', 0, 1, 'p'}
	want[1] = byte(len(want) - 2)
	if got := q.connect(); !bytes.Equal(got, want) {
		t.Errorf("CONNECT % x, want % x", got, want)
	}
	for n, want := range map[int][]byte{0: {0}, 127: {0x7F}, 128: {0x80, 0x01}, 16383: {0xFF, 0x7F}, 16384: {0x80, 0x80, 0x01}, 268435455: {0xFF, 0xFF, 0xFF, 0x7F}} {
		if got := appendVarint(nil, n); !bytes.Equal(got, want) {
			t.Errorf("%d is written % x, want % x", n, got, want)
		}
		if got, rest, ok := cutVarint(want); !ok || got != n || len(rest) != 0 {
			t.Errorf("% x reads %d, %v", want, got, ok)
		}
	}
	if _, err := parseConnack([]byte{0, 0x84, 0}); !errors.Is(err, errNotSpoken) {
		t.Errorf("unsupported version: %v", err)
	}
	var refused connackError
	if _, err := parseConnack([]byte{0, 0x87, 0}); !errors.As(err, &refused) || refused != 0x87 {
		t.Errorf("not authorised: %v", err)
	}
}

func TestTextsArePartedAtTheFirstSentence(t *testing.T) {
	for text, want := range map[string][2]string{
		"it was signed by \"CN=Foo Inc., O=B. C\", whom. Check the CA file": {"it was signed by \"CN=Foo Inc., O=B. C\", whom", "Check the CA file"},
		"no remedy": {"no remedy", ""},
		"a. B":      {"a. B", ""},
	} {
		if wrong, remedy := cut(text); wrong != want[0] || remedy != want[1] {
			t.Errorf("%q: %q, %q", text, wrong, remedy)
		}
	}
}
