package can

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"os"
	"strconv"
	"strings"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestVectors decodes every frame that cantools decoded and compares raw and physical values. Messages whose identifier
// is defined twice are left out: the two readers may choose differently.
func TestVectors(t *testing.T) {
	byFile := map[string][]vector{}
	in, err := os.Open(deps.Testdata(t, "dbc", "vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		byFile[v.DB] = append(byFile[v.DB], v)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	compared := 0
	for name, path := range dbcFiles(t) {
		db := ParseDBC(readFile(t, path))
		var subscriptions []Subscription
		var signals []*Signal
		uses := map[Filter]int{}
		for _, m := range db.Messages {
			key := Filter{ID: m.ID}
			if m.Extended {
				key.Mask = 1
			}
			uses[key]++
			for _, s := range m.Signals {
				signals = append(signals, s)
				subscriptions = append(subscriptions, Subscription{ID: uint32(len(signals)), Message: m, Signal: s})
			}
		}
		plan := Compile(subscriptions, PlanOptions{})
		for _, v := range byFile[name] {
			f := Frame{ID: v.ID}
			key := Filter{ID: v.ID}
			if v.Ext || v.ID > MaxStandardID {
				f.Flags, key.Mask = FlagExtended, 1
			}
			if uses[key] > 1 {
				continue
			}
			data, err := hex.DecodeString(v.Data)
			if err != nil {
				t.Fatal(err)
			}
			f.Len = uint8(copy(f.Data[:], data))
			compareVector(t, v, signals, plan.Decode(&f, nil))
			compared++
		}
	}
	if compared < 21000 {
		t.Errorf("only %d vectors compared", compared)
	}
	t.Logf("%d vectors compared", compared)
}

func compareVector(t *testing.T, v vector, signals []*Signal, samples []telemetrypb.Sample) {
	t.Helper()
	got := map[string]telemetrypb.Sample{}
	by := map[string]*Signal{}
	for _, s := range samples {
		sig := signals[s.Signal-1]
		got[sig.Name], by[sig.Name] = s, sig
	}
	for name, want := range v.Sig {
		s, ok := got[name]
		if !ok {
			t.Errorf("%s %s %s: %s was not decoded, want %s", v.DB, v.Msg, v.Data, name, want)
			continue
		}
		if raw := rawText(s); raw != v.text(v.Raw[name]) && !sameFloat(s.Float(), v.text(v.Raw[name])) {
			t.Errorf("%s %s %s: %s has raw value %s, want %s", v.DB, v.Msg, v.Data, name, raw, v.Raw[name])
		}
		if _, _, whole := by[name].WholeScale(); whole && !strings.ContainsAny(string(want), ".eE") {
			if exact := wholePhysical(by[name], s); exact != string(want) {
				t.Errorf("%s %s %s: %s is %s, want %s", v.DB, v.Msg, v.Data, name, exact, want)
			}
		} else if !sameFloat(s.Physical(by[name].Scale, by[name].Offset), v.text(want)) {
			t.Errorf("%s %s %s: %s is %v, want %s", v.DB, v.Msg, v.Data, name, s.Physical(by[name].Scale, by[name].Offset), want)
		}
	}
	for name := range got {
		if _, ok := v.Sig[name]; !ok {
			t.Errorf("%s %s %s: %s is not active, yet decoded", v.DB, v.Msg, v.Data, name)
		}
	}
}

func (v vector) text(raw json.RawMessage) string { return strings.Trim(string(raw), `"`) }

func rawText(s telemetrypb.Sample) string {
	switch s.Kind {
	case telemetrypb.KindInt:
		return strconv.FormatInt(int64(s.Bits), 10)
	case telemetrypb.KindUint:
		return strconv.FormatUint(s.Bits, 10)
	}
	return strconv.FormatFloat(math.Float64frombits(s.Bits), 'g', -1, 64)
}

func sameFloat(got float64, text string) bool {
	want, err := strconv.ParseFloat(strings.Replace(text, "Infinity", "Inf", 1), 64)
	if err != nil {
		return false
	}
	return got == want || math.IsNaN(got) && math.IsNaN(want) || math.Abs(got-want) <= 1e-12*math.Max(math.Abs(got), math.Abs(want))
}

func wholePhysical(sig *Signal, s telemetrypb.Sample) string {
	scale, offset, _ := sig.WholeScale()
	n, _ := new(big.Int).SetString(rawText(s), 10)
	n.Mul(n, big.NewInt(scale))
	return n.Add(n, big.NewInt(offset)).String()
}
