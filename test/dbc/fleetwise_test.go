package dbc

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// canSignal is one of FleetWise's signal decoders.
type canSignal struct {
	MessageID   uint32  `json:"messageId"`
	IsBigEndian bool    `json:"isBigEndian"`
	IsSigned    bool    `json:"isSigned"`
	StartBit    uint32  `json:"startBit"`
	Length      uint32  `json:"length"`
	Factor      float64 `json:"factor"`
	Offset      float64 `json:"offset"`
}

// value is what FleetWise makes of a frame: the start bit is the least significant one, whatever the byte order.
func (c *canSignal) value(data []byte) float64 {
	var raw uint64
	if c.IsBigEndian {
		data, at := append([]byte(nil), data...), c.StartBit
		for i, j := 0, len(data)-1; i < j; i, j = i+1, j-1 {
			data[i], data[j] = data[j], data[i] // then it is as with the other order
		}
		at = uint32(len(data)-1)*8 - at/8*8 + at%8
		return (&canSignal{StartBit: at, Length: c.Length, IsSigned: c.IsSigned, Factor: c.Factor, Offset: c.Offset}).value(data)
	}
	for i := range c.Length {
		bit := c.StartBit + i
		raw |= uint64(data[bit/8]>>(bit%8)&1) << i
	}
	if c.IsSigned && raw>>(c.Length-1) == 1 {
		return -float64(^raw&(1<<c.Length-1)+1)*c.Factor + c.Offset
	}
	return float64(raw)*c.Factor + c.Offset
}

// TestImportedDBC: of random decoder manifests of FleetWise the import writes DBC files by which cantools and the agent
// decode random frames to what FleetWise's formula gives.
func TestImportedDBC(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	agent, dir := buildAgent(t), t.TempDir()
	signals := map[string]*canSignal{} // by MESSAGE.SIGNAL
	type decoder struct {
		Name      string     `json:"fullyQualifiedName"`
		Interface string     `json:"interfaceId"`
		Type      string     `json:"type"`
		CAN       *canSignal `json:"canSignal"`
	}
	var decoders []decoder
	for m := range 60 {
		big := random.IntN(2) == 0
		for first, n := uint32(0), 0; first < 64; n++ { // side by side, in the order of significance
			c := &canSignal{MessageID: 0x100 + uint32(m), IsBigEndian: big, IsSigned: random.IntN(2) == 0,
				Length: min(1+random.Uint32N(40), 64-first), Factor: float64(1+random.IntN(1000)) / 128, Offset: float64(random.IntN(200) - 100)}
			if m%4 == 0 {
				c.MessageID += 0x18FE0000
			}
			if c.StartBit = first; big {
				last := first + c.Length - 1
				c.StartBit = last/8*8 + 7 - last%8
			}
			first += c.Length
			name := fmt.Sprintf("M%d.S%d", m, n)
			signals[name] = c
			decoders = append(decoders, decoder{"Vehicle." + name, "1", "CAN_SIGNAL", c})
		}
	}
	text, err := json.Marshal(map[string]any{"name": "manifest", "signalDecoders": decoders})
	if err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(manifest, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(agent, "import", "fleetwise", "--decoders", manifest, "--interface", "1=can0", "--out", dir).CombinedOutput(); err != nil {
		var exit *exec.ExitError
		t.Fatalf("%v %v: %s", err, errors.As(err, &exit), out)
	}
	file := filepath.Join(dir, "can0.dbc")
	vectors, result := oracle(t, 5, 20, file)
	if len(result.refused) > 0 || len(vectors[0]) < 1000 {
		t.Fatalf("cantools decodes %d frames, and does not read %v", len(vectors[0]), result.refused)
	}
	compareFile(t, agent, file, vectors[0])
	values := 0
	for _, v := range vectors[0] {
		data, err := hex.DecodeString(v.Data)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != 8 {
			continue
		}
		for name, raw := range v.Sig {
			c := signals[v.Msg+"."+name]
			var got float64
			if c == nil || json.Unmarshal(raw, &got) != nil {
				t.Fatalf("%s.%s: %s", v.Msg, name, raw)
			}
			if want := c.value(data); math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
				t.Fatalf("%s.%s of %s: cantools says %v by the file, FleetWise's formula %v", v.Msg, name, v.Data, got, want)
			}
			values++
		}
	}
	if values < 2000 {
		t.Errorf("only %d values were compared", values)
	}
	t.Logf("%d values", values)
}
