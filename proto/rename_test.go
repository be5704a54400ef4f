package telemetrypb

import (
	"bytes"
	"testing"
)

// TestRename: under its own name a batch stays as it is to the byte; under another, only the name differs.
func TestRename(t *testing.T) {
	h := Head{Tenant: "acme", Device: "car-1", Epoch: 7, Lane: Lane_LANE_EVENT, Seq: 12, BootID: [16]byte{9, 15: 1}, BootCount: 3, Catalogue: [16]byte{4}}
	b, err := AppendBatch(nil, &h, []Sample{UintSample(1, -50, 4), StringSample(2, 1e15, "x")})
	if err != nil {
		t.Fatal(err)
	}
	if same, err := Rename(nil, b, 7, 12); err != nil || !bytes.Equal(same, b) {
		t.Errorf("its own name: %x, want %x; %v", same, b, err)
	}
	other, err := Rename(nil, b, 8, 1)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Rename(nil, other, 7, 12); err != nil || !bytes.Equal(back, b) || bytes.Equal(other, b) {
		t.Errorf("there and back: %x, want %x; %v", back, b, err)
	}
	h.Epoch, h.Seq = 8, 1
	if want, err := AppendBatch(nil, &h, []Sample{UintSample(1, -50, 4), StringSample(2, 1e15, "x")}); err != nil || !bytes.Equal(other, want) {
		t.Errorf("another name: %x, want %x; %v", other, want, err)
	}
	b[len(b)-1] ^= 1
	if _, err := Rename(nil, b, 8, 1); err == nil {
		t.Error("a damaged batch was given a new checksum")
	}
}
