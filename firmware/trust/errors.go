package trust

import (
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Reason says in one word why something was refused; it is what a vehicle reports.
type Reason string

const (
	Unreachable Reason = "unreachable"  // no mirror answered
	Slow        Reason = "slow"         // an answer came slower than the least rate
	TooLong     Reason = "too-long"     // an answer was longer than it may be
	NotFound    Reason = "not-found"    // no such file, or no role vouches for such a target
	Malformed   Reason = "malformed"    // not what the specification describes
	Unsigned    Reason = "unsigned"     // fewer valid signatures than the threshold
	WrongVer    Reason = "version"      // older than what was seen, or not the version that was vouched for
	Expired     Reason = "expired"      // its time is over
	Mismatch    Reason = "mismatch"     // other length or other hash than was vouched for
	Delegation  Reason = "delegation"   // a delegation that is not allowed, or too many of them
	Storage     Reason = "storage"      // this vehicle's own disk
	ForeignECU  Reason = "foreign-ecu"  // meant for a unit that this vehicle does not have
	Hardware    Reason = "hardware"     // made for other hardware
	Downgrade   Reason = "downgrade"    // its release counter is below the installed one's
	Disagree    Reason = "disagreement" // director and image repository do not say the same
	Partial     Reason = "partial"      // one target of the bundle is missing, so none is installed
)

// Error is a refusal. Nothing that was trusted before changes with it.
type Error struct {
	Repository string // as Options.Name has it
	Role       string // or the target's name; empty where neither is meant
	Reason     Reason
	Err        error
}

func (e *Error) Error() string {
	text := e.Repository
	if e.Role != "" {
		text += ": " + e.Role
	}
	return fmt.Sprintf("%s: %s: %v", text, e.Reason, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf is the reason of the refusal in err; empty when it holds none.
func ReasonOf(err error) Reason {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ""
}

// refusal is what fetching, storing and checking return before the repository's name is added.
type refusal struct {
	reason Reason
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(reason Reason, format string, args ...any) error {
	return &refusal{reason, fmt.Errorf(format, args...)}
}

// classify finds the reason of an error of this package or of go-tuf's. What is neither is malformed: go-tuf answers
// with errors of encoding/json and of its own "value" kind for bytes that it cannot read.
func classify(err error) Reason {
	var (
		ours     *refusal
		expired  *metadata.ErrExpiredMetadata
		version  *metadata.ErrBadVersionNumber
		equal    *metadata.ErrEqualVersionNumber
		unsigned *metadata.ErrUnsignedMetadata
		length   *metadata.ErrLengthOrHashMismatch
	)
	switch {
	case errors.As(err, &ours):
		return ours.reason
	case errors.As(err, &expired):
		return Expired
	case errors.As(err, &version), errors.As(err, &equal):
		return WrongVer
	case errors.As(err, &unsigned):
		return Unsigned
	case errors.As(err, &length):
		return Mismatch
	}
	return Malformed
}

// guard runs f, which reads foreign bytes by others' code, and turns a panic into an error: go-tuf dereferences what
// hostile JSON leaves out, partly before it checks a signature. checkShape refuses the cases known; this is for the others.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = refuse(Malformed, "reading it failed: %v", r)
		}
	}()
	return f()
}
