package local

import (
	"encoding/json"
	"math"
	"testing"
)

func TestNumber(t *testing.T) {
	text, err := json.Marshal([]Number{1.5, Number(math.NaN()), Number(math.Inf(-1)), 1e21, -0.25})
	if err != nil || string(text) != `[1.5,null,null,1e+21,-0.25]` {
		t.Fatalf("%s, %v", text, err)
	}
	var back []Number
	if err := json.Unmarshal(text, &back); err != nil || back[0] != 1.5 || back[1].Known() || back[3] != 1e21 {
		t.Errorf("%v, %v", back, err)
	}
}

// What a View knows after its events is what the agent has: members that did not come stay, those that came are replaced
// as a whole.
func TestView(t *testing.T) {
	var v View
	for _, e := range []struct{ event, data string }{
		{EventState, `{"format":1,"now":{"boot_ms":1000},"alarms":[{"name":"a","text":"b","times":3}],"uplink":{"phase":"online"},
			"update":{"phase":"idle"}}`},
		{EventSignals, `{"boot_ms":1000,"signals":[{"id":7,"name":"x","at_ms":0,"value":null,"history":[]},
			{"id":9,"name":"y","at_ms":900,"value":2,"history":[1,2]}]}`},
		{EventState, `{"now":{"boot_ms":2000},"alarms":[{"name":"c"}],"uplink":null,"of_a_later_version":1}`},
		{EventValues, `{"boot_ms":2000,"values":[{"id":7,"value":5,"at_ms":1990,"rate":10},{"id":99,"value":1}]}`},
		{"of_a_later_version", `what it is`},
	} {
		if err := v.Apply(e.event, []byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	s := v.State
	if s.Now.BootMS != 2000 || len(s.Alarms) != 1 || s.Alarms[0] != (Alarm{Name: "c"}) || s.Uplink != nil || s.Update == nil ||
		s.Format != 1 {
		t.Errorf("state %+v", s)
	}
	x, y := v.Signals.Signals[0], v.Signals.Signals[1]
	if x.Value.Value != 5 || x.AtMS != 1990 || len(x.History) != 1 || x.History[0] != 5 {
		t.Errorf("x %+v", x)
	}
	if len(y.History) != 3 || y.History[2] != 2 || y.Name != "y" {
		t.Errorf("y, which did not change: %+v", y)
	}
	for range 2 * HistoryPoints {
		if err := v.Apply(EventValues, []byte(`{"values":[]}`)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(v.Signals.Signals[0].History); n != HistoryPoints {
		t.Errorf("a history of %d points", n)
	}
	if err := v.Apply(EventValues, []byte(`[`)); err == nil {
		t.Error("what is no JSON was taken")
	}
}

// FuzzView: whatever an address that is not an agent's says, a follower goes on or gets an error, and what it keeps of a signal's
// past stays bounded.
func FuzzView(f *testing.F) {
	whole := `{"boot_ms":1000,"signals":[{"id":7,"name":"x","at_ms":9,"value":1,"history":[1,null]},{"id":7,"name":"y"}]}`
	for _, e := range [][2]string{
		{EventState, `{"format":1,"now":{"boot_ms":1},"alarms":null,"queue":{},"tracks":[]}`},
		{EventSignals, whole},
		{EventValues, `{"boot_ms":2,"values":[{"id":7,"value":1e999},{"id":99}]}`},
		{EventValues, `{"values":[{"id":4294967296}]}`},
		{"", "null"},
	} {
		f.Add(whole, e[0], e[1])
	}
	f.Fuzz(func(t *testing.T, signals, event, data string) {
		var v View
		_ = v.Apply(EventSignals, []byte(signals))
		_ = v.Apply(event, []byte(data))
		if err := v.Apply(EventValues, []byte(`{"boot_ms":3,"values":[]}`)); err != nil {
			t.Fatal(err)
		}
		if v.Signals.BootMS != 3 {
			t.Errorf("%d ms", v.Signals.BootMS)
		}
		for _, s := range v.Signals.Signals {
			if s.AtMS != 0 && (len(s.History) == 0 || len(s.History) > HistoryPoints || s.History[len(s.History)-1] != s.Value.Value && s.Value.Value.Known()) {
				t.Errorf("signal %d at %d ms with %v has the history %v", s.ID, s.AtMS, s.Value.Value, s.History)
			}
		}
	})
}
