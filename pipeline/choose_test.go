package pipeline

import (
	"crypto/sha256"
	"math"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"can0.EEC1.*", "can0.EEC1.EngineSpeed", true},
		{"can0.*", "can0.EEC1.EngineSpeed", true}, // dots included
		{"can0.*.Speed", "can0.EEC1.EngineSpeed", false},
		{"*Speed", "can0.EEC1.EngineSpeed", true},
		{"*speed", "can0.EEC1.EngineSpeed", false}, // case-sensitive
		{"can?.*.S", "can1.a.b.S", true},
		{"can?.*.S", "can.a.b.S", false},
		{"a*b*c", "aXbXbc", true},
		{"a*b*c", "aXcXb", false},
		{"*a*a*a*a*a*a*a*b", strings.Repeat("a", 300), false},
		{"[ab]", "a", false},
		{"a**", "a", true},
	} {
		if got := matchGlob(c.pattern, c.name); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.name, got)
		}
		if got := globDistance(c.pattern, c.name) == 0; got != c.want {
			t.Errorf("distance of %q to %q: zero is %v, and the match %v", c.pattern, c.name, got, c.want)
		}
	}
}

func TestGlobDistance(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          int
	}{
		{"kitten", "sitting", 3}, // the textbook's example
		{"EngineSped", "EngineSpeed", 1},
		{"*.EngineSped", "can0.EEC1.EngineSpeed", 1},
		{"can1.*", "can0.EEC1.EngineSpeed", 1},
		{"", "abc", 3},
		{"abc", "", 3},
	} {
		if got := globDistance(c.pattern, c.name); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.pattern, c.name, got, c.want)
		}
	}
}

func signals() []*telemetrypb.Signal {
	number := telemetrypb.ValueType_VALUE_TYPE_INT
	return []*telemetrypb.Signal{
		{Name: "can0.A.x", Message: "A", Source: "can:can0", Scale: 0.1, Type: number, Unit: "rpm"},
		{Name: "can0.B.x", Message: "B", Source: "can:can0", Scale: 0.1, Type: number},
		{Name: "can0.A.y", Message: "A", Source: "can:can0", Type: number, Id: 77, Group: 77},
		{Name: "can1.A.x", Message: "A", Source: "can:can1", Type: number},
		{Name: "gps0.fix.mode", Source: "gps:gps0", Type: telemetrypb.ValueType_VALUE_TYPE_STRING},
	}
}

func bound(v float64) *float64 { return &v }

func TestChoose(t *testing.T) {
	available := signals()
	sel, err := Choose(available, []Collect{
		{Match: "*.y", Lane: telemetrypb.Lane_LANE_RAW},
		{Match: "can?.A.*", DeadBand: 0.3, MinInterval: time.Second},
		{Match: "gps0.*", Lane: telemetrypb.Lane_LANE_EVENT},
	}, Threshold{Name: "fast", Signal: "can0.B.x", Above: bound(3)})
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		name  string
		group uint32
		lane  telemetrypb.Lane
	}{
		{"can0.A.x", 1, telemetrypb.Lane_LANE_TELEMETRY},
		{"can0.B.x", 2, 0}, // for the rule only
		{"can0.A.y", 1, telemetrypb.Lane_LANE_RAW},
		{"can1.A.x", 3, telemetrypb.Lane_LANE_TELEMETRY}, // the same message on another bus
		{"gps0.fix.mode", 0, telemetrypb.Lane_LANE_EVENT},
		{"event.fast", 0, telemetrypb.Lane_LANE_EVENT},
	}
	if sel.Len() != len(want) || len(sel.Catalogue().Signals) != len(want) {
		t.Fatalf("%d signals, want %d", sel.Len(), len(want))
	}
	for i, w := range want {
		s := sel.Catalogue().Signals[i]
		id, ok := sel.ID(w.name)
		if s.Name != w.name || s.Group != w.group || s.Id != uint32(i+1) || !ok || id != s.Id || sel.policies[id].lane != w.lane {
			t.Errorf("signal %d is %v on lane %v, want %+v", i+1, s, sel.policies[i+1].lane, w)
		}
	}
	if got := sel.policies[1].bandSteps; got != 3 {
		t.Errorf("a dead band of 0.3 at 0.1 a step is %d steps, want 3", got)
	}
	if available[2].Id != 77 || available[2].Group != 77 {
		t.Error("Choose wrote to the list it was given")
	}
	if sel.Hash() != sha256.Sum256(sel.Bytes()) || sel.ShortHash() != [16]byte(sel.hash[:16]) {
		t.Error("the hash is not that of the bytes")
	}
	back, err := telemetrypb.DecodeCatalogue(sel.Bytes())
	if err != nil || len(back.Signals) != len(want) || back.Signals[5].Unit != "" || back.Signals[5].Type != telemetrypb.ValueType_VALUE_TYPE_FLOAT {
		t.Errorf("the bytes are %v, %v", back, err)
	}
	again, err := Choose(signals(), []Collect{{Match: "*"}})
	if err != nil || again.Hash() == sel.Hash() {
		t.Errorf("another choice has the same hash, or %v", err)
	}
}

func TestChooseRefuses(t *testing.T) {
	all := []Collect{{Match: "*"}}
	twice := append(signals(), signals()[0])
	for _, c := range []struct {
		name      string
		available []*telemetrypb.Signal
		collect   []Collect
		rules     []Threshold
		want      []string
	}{
		{"no match", signals(), []Collect{{Match: "can0.A.z"}}, nil, []string{`"can0.A.z"`, `"can0.A.x"`}},
		{"no match, globbed", signals(), []Collect{{Match: "gps1.*"}}, nil, []string{`"gps1.*"`, `"gps0.fix.mode"`}},
		{"two without match", signals(), []Collect{{Match: "q"}, {Match: "qq"}}, nil, []string{`"q"`, `"qq"`}},
		{"nothing there", nil, all, nil, []string{"no signals"}},
		{"twice there", twice, all, nil, []string{"can0.A.x", "twice"}},
		{"empty pattern", signals(), []Collect{{}}, nil, []string{"empty"}},
		{"control lane", signals(), []Collect{{Match: "*", Lane: telemetrypb.Lane_LANE_CONTROL}}, nil, []string{"lane", "control"}},
		{"negative band", signals(), []Collect{{Match: "*", DeadBand: -1}}, nil, []string{"dead band", "-1"}},
		{"band NaN", signals(), []Collect{{Match: "*", DeadBand: math.NaN()}}, nil, []string{"dead band"}},
		{"intervals crossed", signals(), []Collect{{Match: "*", MinInterval: 2, MaxInterval: 1}}, nil, []string{"interval"}},
		{"rule on nothing", signals(), all, []Threshold{{Name: "r", Signal: "can0.A.q", Above: bound(1)}}, []string{`"r"`, `"can0.A.q"`, `"can0.A.x"`}},
		{"rule on text", signals(), all, []Threshold{{Name: "r", Signal: "gps0.fix.mode", Above: bound(1)}}, []string{"text"}},
		{"rule without bound", signals(), all, []Threshold{{Name: "r", Signal: "can0.A.x"}}, []string{"bound"}},
		{"rule with NaN", signals(), all, []Threshold{{Name: "r", Signal: "can0.A.x", Above: bound(math.NaN())}}, []string{"finite"}},
		{"rule upside down", signals(), all, []Threshold{{Name: "r", Signal: "can0.A.x", Above: bound(1), Below: bound(2)}}, []string{"less"}},
		{"rule named badly", signals(), all, []Threshold{{Name: "a b", Signal: "can0.A.x", Above: bound(1)}}, []string{"letters"}},
		{"rule twice", signals(), all, []Threshold{{Name: "r", Signal: "can0.A.x", Above: bound(1)}, {Name: "r", Signal: "can0.A.x", Above: bound(2)}}, []string{"event.r", "twice"}},
	} {
		_, err := Choose(c.available, c.collect, c.rules...)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %s", c.name, err, w)
			}
		}
	}
}
