package diagnose

import (
	"errors"

	"github.com/waybill-telematics/waybill/can/isotp"
	"github.com/waybill-telematics/waybill/can/obd"
	"github.com/waybill-telematics/waybill/can/poll"
	"github.com/waybill-telematics/waybill/can/uds"
)

// Failure says why a request gave nothing.
type Failure uint8

// The failures.
const (
	Silent    Failure = iota // no answer
	Refused                  // a negative response
	Pending                  // the unit asked for time again and again
	Lost                     // an answer of several frames did not come whole
	Malformed                // an answer that the standard does not have, or too short for the value
	Held                     // the governor held a frame back
	Unsent                   // the bus did not take a frame
	failures
)

var failureNames = [failures]string{"silent", "refused", "pending", "lost", "malformed", "held", "unsent"}

// Failures are all of them, in order.
func Failures() []Failure { return []Failure{Silent, Refused, Pending, Lost, Malformed, Held, Unsent} }

// String names the failure, for counters and logs.
func (f Failure) String() string {
	if f < failures {
		return failureNames[f]
	}
	return "unknown"
}

// classify finds the failure in an error of a request.
func classify(err error) Failure {
	var late *isotp.TimeoutError
	var lost *isotp.LossError
	var refusal *uds.NegativeError
	switch {
	case errors.Is(err, poll.ErrRefused):
		return Held
	case errors.As(err, &refusal):
		return Refused
	case errors.Is(err, uds.ErrPending):
		return Pending
	case errors.Is(err, obd.ErrSilent):
		return Silent
	case errors.As(err, &late):
		switch late.Timer {
		case "P2":
			return Silent
		case "N_As":
			return Unsent
		}
		return Lost
	case errors.As(err, &lost), errors.Is(err, isotp.ErrRefused), errors.Is(err, isotp.ErrWaits), errors.Is(err, isotp.ErrFlowStatus):
		return Lost
	case errors.Is(err, obd.ErrMalformed), errors.Is(err, uds.ErrMalformed), errors.Is(err, uds.ErrOther):
		return Malformed
	}
	return Unsent
}

// final reports whether a unit's refusal will not change before the ignition goes on again: what was asked is not known to
// it, or it wants to be unlocked first (ISO 14229-1 annex A.1).
func final(err error) bool {
	var refusal *uds.NegativeError
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.Code {
	case 0x10, 0x11, 0x12, 0x13, 0x31, 0x33, 0x34, 0x7E, 0x7F:
		return true
	}
	return false
}
