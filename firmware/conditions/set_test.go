package conditions

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

const whole = `{"ecus": {"a": {"hardware_id": "linux/arm64"}}, "release_counter": 12, "campaign": "spring",
	"conditions": {"parked": true, "ignition": "off", "min_soc_percent": 30, "min_battery_volts": 12.2, "min_ambient_celsius": -20,
	"max_ambient_celsius": 60, "window": {"from": "02:00", "to": "05:00", "zone": "UTC"}, "consent": true}, "budget_bytes": 5}`

func p(v float64) *float64 { return &v }

func TestFromCustom(t *testing.T) {
	got, err := FromCustom(json.RawMessage(whole))
	want := Set{"spring", true, IgnitionOff, p(30), p(12.2), p(-20), p(60), &Window{120, 300, "UTC"}, true}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	// As it is signed: canonical JSON has no fractions.
	if signed, err := FromCustom(json.RawMessage(strings.Replace(whole, "12.2", `"12.2"`, 1))); err != nil || !reflect.DeepEqual(signed, want) {
		t.Errorf("got %+v, %v", signed, err)
	}
	for _, none := range []string{``, `{}`, `{"campaign":"x"}`, `{"conditions":{}}`,
		`{"conditions":{"parked":false,"ignition":"any","consent":false}}`, `{"Conditions":{"parked":true}}`} {
		var raw json.RawMessage
		if none != "" {
			raw = json.RawMessage(none)
		}
		got, err := FromCustom(raw)
		got.Campaign = ""
		if err != nil || !reflect.DeepEqual(got, Set{}) {
			t.Errorf("%s: %+v, %v", none, got, err)
		}
	}
}

// What is not exactly as documented refuses, and the error says where.
func TestRefused(t *testing.T) {
	for conditions, where := range map[string]string{
		`null`:                          "not a JSON object",
		`[]`:                            "not a JSON object",
		`"parked"`:                      "not a JSON object",
		`{"tyre_pressure":2.2}`:         `"tyre_pressure" is not a condition`,
		`{"Parked":true}`:               `"Parked" is not a condition`,
		`{"parked":true,"parked":true}`: `"parked" stands twice`,
		`{"parked":"true"}`:             "parked: want true or false",
		`{"parked":1}`:                  "parked: want true or false",
		`{"parked":null}`:               "parked: want true or false",
		`{"ignition":"OFF"}`:            "ignition: want",
		`{"ignition":false}`:            "ignition: want",
		`{"min_soc_percent":101}`:       "between 0 and 100, got 101",
		`{"min_soc_percent":-0.5}`:      "between 0 and 100",
		`{"min_soc_percent":"30"}`:      "want a number",
		`{"min_soc_percent":null}`:      "want a number",
		`{"min_soc_percent":"101.5"}`:   "between 0 and 100",
		`{"min_soc_percent":"3e1.0"}`:   "want a number",
		`{"min_soc_percent":" 30.5"}`:   "want a number",
		`{"min_soc_percent":1e999}`:     "want a number",
		`{"min_battery_volts":122}`:     "between 6 and 60",
		`{"min_battery_volts":0}`:       "between 6 and 60",
		`{"min_ambient_celsius":-273}`:  "between -60 and 90",
		`{"min_ambient_celsius":20,"max_ambient_celsius":10}`: "no temperature meets both",
		`{"consent":"yes"}`:                                           "consent: want true or false",
		`{"window":{}}`:                                               "from is missing",
		`{"window":"night"}`:                                          "not a JSON object",
		`{"window":{"from":"02:00","to":"05:00"}}`:                    "zone is missing",
		`{"window":{"from":"2:00","to":"05:00","zone":"UTC"}}`:        "from: want a time of day",
		`{"window":{"from":"24:00","to":"05:00","zone":"UTC"}}`:       "from: want a time of day",
		`{"window":{"from":"02:00","to":"05:60","zone":"UTC"}}`:       "to: want a time of day",
		`{"window":{"from":"02:00","to":"02:00","zone":"UTC"}}`:       "the same",
		`{"window":{"from":120,"to":"02:00","zone":"UTC"}}`:           "want a string",
		`{"window":{"from":"02:00","to":"05:00","zone":"utc"}}`:       "zone: want",
		`{"window":{"from":"02:00","to":"05:00","zone":"../passwd"}}`: "zone: want",
		`{"window":{"from":"02:00","to":"05:00","zone":"+25:00"}}`:    "zone: want",
		`{"window":{"from":"02:00","to":"05:00","zone":"UTC","x":1}}`: "beside",
		`{"window":{"from":"02:00","to":"05:00","zone":"A/../../B"}}`: "zone: want",
		`{"parked":true} {}`:                                          "",
		`{"parked":true`:                                              "",
	} {
		_, err := FromCustom(json.RawMessage(`{"campaign":"x","conditions":` + conditions + `}`))
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v, want %q", conditions, err, where)
		}
	}
	for custom, where := range map[string]string{
		`[]`: "not a JSON object", `null`: "not a JSON object",
		`{"campaign":7}`:                                  "campaign: want a string",
		`{"campaign":"a\u0000b"}`:                         "control characters",
		`{"campaign":""}`:                                 "want 1 to 128 bytes",
		`{"conditions":{"consent":true}}`:                 "no id",
		`{"conditions":{},"conditions":{"parked":true}}`:  "stands twice",
		`{"campaign":"` + strings.Repeat("x", 129) + `"}`: "want 1 to 128",
		`{"x":"` + strings.Repeat("x", maxCustom) + `"}`:  "at most 65536",
		"{\"x\":\"\xff\"}":                                "UTF-8",
	} {
		if _, err := FromCustom(json.RawMessage(custom)); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), where) {
			t.Errorf("%.60s: %v, want %q", custom, err, where)
		}
	}
}

// FuzzFromCustom holds that what is taken is what encoding/json reads too, and within bounds.
func FuzzFromCustom(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"campaign":"x","conditions":{"window":{"from":"22:00","to":"05:00","zone":"Europe/Berlin"}}}`))
	f.Add([]byte(`{"conditions":{"parked":true,"parked":false}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := FromCustom(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v", err)
			}
			return
		}
		if !json.Valid(data) && data != nil {
			t.Fatalf("taken: %q", data)
		}
		var peer struct {
			Conditions map[string]any `json:"conditions"`
		}
		_ = json.Unmarshal(data, &peer) // takes other case as well: what it has beyond ours is looked at by name only
		if s.Parked && peer.Conditions["parked"] == nil || s.Consent && peer.Conditions["consent"] == nil || s.Window != nil && peer.Conditions["window"] == nil {
			var strict map[string]json.RawMessage
			if json.Unmarshal(data, &strict) != nil || strict["conditions"] == nil {
				t.Errorf("%q: %+v", data, s)
			}
		}
		for _, v := range []*float64{s.MinSoC, s.MinVolts, s.MinAmbient, s.MaxAmbient} {
			if v != nil && (*v != *v || *v < -60 || *v > 100) {
				t.Errorf("%g", *v)
			}
		}
		if w := s.Window; w != nil && (w.From < 0 || w.To < 0 || w.From > 1439 || w.To > 1439 || w.From == w.To) {
			t.Errorf("%+v", w)
		}
		c, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		asks := s
		asks.Campaign = ""
		if unmet := c.Check(s, Readings{}, 1<<40); len(unmet) == 0 && !reflect.DeepEqual(asks, Set{}) {
			t.Errorf("%q is met by nothing", data)
		}
	})
}
