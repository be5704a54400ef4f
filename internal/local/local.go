// Package local is what the agent tells about itself to who stands beside it: the documents of its HTTP interface on the
// loopback or a unix socket, and a client for them. The page in package local/page, `waybill-agent top` and `waybill-agent
// status` all read the same.
//
// It knows nothing of the agent. docs/LOCAL.md describes the interface.
package local

import (
	"encoding/json"
	"math"
	"strconv"
)

// Paths of the interface; all answer GET only.
const (
	PathState   = "/api/state"   // a State
	PathSignals = "/api/signals" // a Signals
	PathEvents  = "/api/events"  // server-sent events: see View.Apply
)

// Format is the version of the documents. What is added does not change it.
const Format = 1

// EnvToken names the environment's variable for the token, where one is asked for and no file is named.
const EnvToken = "WAYBILL_PAGE_TOKEN"

// Number is a number that may be missing: NaN and the infinities, which JSON does not have, are null.
type Number float64

// Missing is the Number that is none.
func Missing() Number { return Number(math.NaN()) }

// Known says whether it is a number.
func (n Number) Known() bool { return !math.IsNaN(float64(n)) && !math.IsInf(float64(n), 0) }

// MarshalJSON is part of json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) { return n.AppendJSON(nil), nil }

// AppendJSON appends the number, or null.
func (n Number) AppendJSON(dst []byte) []byte {
	if !n.Known() {
		return append(dst, "null"...)
	}
	return strconv.AppendFloat(dst, float64(n), 'g', -1, 64)
}

// UnmarshalJSON is part of json.Unmarshaler.
func (n *Number) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*n = Missing()
		return nil
	}
	var f float64
	err := json.Unmarshal(text, &f)
	*n = Number(f)
	return err
}
