package diagnose

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	"github.com/waybill-telematics/waybill/can/uds"
)

// What has no fixed shape is told as JSON, the same bytes for the same content, so that only a change is a sample.

// compact is the JSON of what cannot fail.
func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf(`{"error":%q}`, err)
	}
	return string(b)
}

func byAddress(a, b isotp.Address) int {
	if a.ID != b.ID {
		return int(a.ID) - int(b.ID)
	}
	return int(a.TA) - int(b.TA)
}

// codesText lists trouble codes by unit; any is false when there are none.
func codesText(answers []obd.Answer[[]obd.DTC]) (text string, any bool) {
	type unitCodes struct {
		Unit  string   `json:"unit"`
		Codes []string `json:"codes"`
	}
	slices.SortStableFunc(answers, func(a, b obd.Answer[[]obd.DTC]) int { return byAddress(a.From, b.From) })
	list := make([]unitCodes, 0, len(answers))
	for _, a := range answers {
		one := unitCodes{Unit: a.From.String(), Codes: []string{}}
		for _, d := range a.Value {
			one.Codes = append(one.Codes, d.String())
			any = true
		}
		slices.Sort(one.Codes)
		list = append(list, one)
	}
	return compact(list), any
}

// frozenFrame is the freeze frame of one unit.
type frozenFrame struct {
	from   isotp.Address
	Unit   string             `json:"unit"`
	Code   string             `json:"code"`
	Values map[string]float64 `json:"values"` // by name, in the field's unit
}

// freezeCode is the PID of the trouble code that a freeze frame belongs to.
const freezeCode = 0x02

func (f *frozenFrame) add(v obd.Value) {
	if v.PID == freezeCode {
		if len(v.Data) == 2 && (v.Data[0] != 0 || v.Data[1] != 0) { // J1979: 0000 when there is no freeze frame
			f.Code = obd.DTC(uint16(v.Data[0])<<8 | uint16(v.Data[1])).String()
		}
		return
	}
	if pid, ok := obd.Lookup(v.PID); ok {
		for _, r := range pid.Decode(v.Data, nil) {
			f.Values[r.Field.Name] = r.Physical()
		}
	}
}

// frozenText lists the freeze frames of the units that have one.
func frozenText(frames map[isotp.Address]*frozenFrame) (text string, any bool) {
	var list []*frozenFrame
	for _, f := range frames {
		if f.Code != "" {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b *frozenFrame) int { return byAddress(a.from, b.from) })
	return compact(list), len(list) > 0
}

// dtcsText lists trouble codes of UDS.
func dtcsText(list []uds.DTCStatus, known map[uds.DTC]knownDTC) string {
	type code struct {
		Code      string   `json:"code"`
		DTC       string   `json:"dtc"`    // its three bytes
		Status    string   `json:"status"` // its status byte …
		Bits      []string `json:"bits"`   // … and the names of its bits
		Snapshots string   `json:"snapshots,omitempty"`
	}
	codes := make([]code, 0, len(list))
	for _, d := range list {
		c := code{Code: d.DTC.String(), DTC: fmt.Sprintf("%06X", uint32(d.DTC)), Status: fmt.Sprintf("%02X", uint8(d.Status)), Bits: []string{},
			Snapshots: known[d.DTC].snapshot}
		if d.Status != 0 {
			c.Bits = strings.Split(d.Status.String(), "|")
		}
		codes = append(codes, c)
	}
	slices.SortStableFunc(codes, func(a, b code) int { return strings.Compare(a.DTC, b.DTC) })
	return compact(codes)
}
