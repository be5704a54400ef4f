package command

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func FuzzOpen(f *testing.F) {
	key := testKey(1)
	keys := Keys{}
	keys.Add(publicOf(key))
	sound, err := Sign(key, &telemetrypb.DownBody{Tenant: "acme", Device: "car-1", Counter: 1, Id: "a", IssuedUnixNs: 1, ExpiresUnixNs: 2,
		Body: &telemetrypb.DownBody_Command{Command: &telemetrypb.Command{Name: "act", Arguments: map[string]string{"a": "b"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sound)
	f.Add(sound[:len(sound)-1])
	f.Add([]byte{})
	f.Add([]byte{0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F})
	var down telemetrypb.Down
	if err := proto.Unmarshal(sound, &down); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		e, no := open(message, keys)
		if e.body == nil {
			t.Fatal("no body to answer to")
		}
		if no == nil {
			// Nobody but the key can have made it: what is believed is what was signed.
			var got telemetrypb.Down
			if proto.Unmarshal(message, &got) != nil || string(got.GetSigned()) != string(down.GetSigned()) {
				t.Fatalf("believed: %x", message)
			}
		}
		_ = checkBody(e.body, "acme", "car-1")
	})
}

func FuzzLedger(f *testing.F) {
	dir := f.TempDir()
	l, _ := openLedger(dir, 1, func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) })
	if err := l.take(entry{Key: "0102030405060708", Counter: 3, ID: "a", State: Accepted, BootID: strings.Repeat("09", 16)}); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(l.path)
	if err != nil {
		f.Fatal(err)
	}
	if p, err := parseLedger(data); err != nil || p.Last["0102030405060708"] != 3 || len(p.Entries) != 1 {
		f.Fatal(p, err)
	}
	f.Add(data)
	f.Add(data[:30])
	f.Add([]byte("waybill-commands 1 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseLedger(data)
		if err != nil {
			return
		}
		for i := range p.Entries {
			_ = p.Entries[i].result()
		}
	})
}
