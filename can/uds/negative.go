package uds

import (
	"errors"
	"fmt"
)

// The services that this package asks for, and what marks the responses (§9).
const (
	ReadDTCInformation   = 0x19
	ReadDataByIdentifier = 0x22
	TesterPresent        = 0x3E

	positive = 0x40 // added to the service in a positive response
	negative = 0x7F // stands before it in a negative one
)

// Code is a negative response code (annex A.1).
type Code uint8

// The codes that something depends on.
const (
	BusyRepeatRequest Code = 0x21
	ResponsePending   Code = 0x78
)

// String is the code's name in the standard, or its number.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("code %02X", uint8(c))
}

// codeNames is annex A.1. It is never written to.
var codeNames = map[Code]string{
	0x10: "generalReject", 0x11: "serviceNotSupported", 0x12: "subFunctionNotSupported",
	0x13: "incorrectMessageLengthOrInvalidFormat", 0x14: "responseTooLong",
	0x21: "busyRepeatRequest", 0x22: "conditionsNotCorrect", 0x24: "requestSequenceError",
	0x25: "noResponseFromSubnetComponent", 0x26: "failurePreventsExecutionOfRequestedAction",
	0x31: "requestOutOfRange", 0x33: "securityAccessDenied", 0x34: "authenticationRequired",
	0x35: "invalidKey", 0x36: "exceedNumberOfAttempts", 0x37: "requiredTimeDelayNotExpired",
	0x70: "uploadDownloadNotAccepted", 0x71: "transferDataSuspended", 0x72: "generalProgrammingFailure",
	0x73: "wrongBlockSequenceCounter", 0x78: "requestCorrectlyReceived-ResponsePending",
	0x7E: "subFunctionNotSupportedInActiveSession", 0x7F: "serviceNotSupportedInActiveSession",
	0x81: "rpmTooHigh", 0x82: "rpmTooLow", 0x83: "engineIsRunning", 0x84: "engineIsNotRunning", 0x85: "engineRunTimeTooLow",
	0x86: "temperatureTooHigh", 0x87: "temperatureTooLow", 0x88: "vehicleSpeedTooHigh", 0x89: "vehicleSpeedTooLow",
	0x8A: "throttle/PedalTooHigh", 0x8B: "throttle/PedalTooLow", 0x8C: "transmissionRangeNotInNeutral",
	0x8D: "transmissionRangeNotInGear", 0x8F: "brakeSwitch(es)NotClosed", 0x90: "shifterLeverNotInPark",
	0x91: "torqueConverterClutchLocked", 0x92: "voltageTooHigh", 0x93: "voltageTooLow",
}

// NegativeError is a unit's refusal of a request.
type NegativeError struct {
	Service uint8
	Code    Code
}

func (e *NegativeError) Error() string {
	return fmt.Sprintf("service %02X refused: %v (%02X)", e.Service, e.Code, uint8(e.Code))
}

// Errors of responses.
var (
	ErrMalformed = errors.New("the response is not what the standard has for it") // too short, or of other contents than asked
	ErrOther     = errors.New("the response is to another request")               // another service, or sub-function
)

// Check takes a response to a request of a service apart: the data behind the service, or what is wrong.
func Check(service uint8, response []byte) (data []byte, err error) {
	switch {
	case len(response) == 0:
		return nil, fmt.Errorf("no bytes: %w", ErrMalformed)
	case response[0] == negative:
		if len(response) < 3 {
			return nil, fmt.Errorf("% X: %w", response, ErrMalformed)
		}
		if response[1] != service {
			return nil, fmt.Errorf("%w: refusal of service %02X", ErrOther, response[1])
		}
		return nil, &NegativeError{Service: service, Code: Code(response[2])}
	case response[0] != service+positive:
		return nil, fmt.Errorf("%w: %02X", ErrOther, response[0])
	}
	return response[1:], nil
}

// Pending reports whether err is the word that the response will come later (§7.5.4).
func Pending(err error) bool {
	var refusal *NegativeError
	return errors.As(err, &refusal) && refusal.Code == ResponsePending
}
