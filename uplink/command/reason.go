package command

import "fmt"

// State is how far a command came.
type State string

// The states. The last three are final.
const (
	Accepted State = "accepted"
	Running  State = "running"
	Done     State = "done"
	Failed   State = "failed"
	Refused  State = "refused"
)

// Reason is why a command was refused or failed, in one word.
type Reason string

// The reasons.
const (
	ReasonMalformed  Reason = "malformed"   // too large, or not to be read
	ReasonKey        Reason = "key"         // no key of that id
	ReasonSignature  Reason = "signature"   // not that key's
	ReasonDevice     Reason = "device"      // another vehicle's
	ReasonNewer      Reason = "newer"       // of a later version than this agent
	ReasonClock      Reason = "clock"       // nobody vouches for the time, so that the expiry cannot be judged
	ReasonExpired    Reason = "expired"     // by the vehicle's clock, or it may be
	ReasonEarly      Reason = "early"       // issued in what is the future here
	ReasonLife       Reason = "life"        // expires later than the configuration allows
	ReasonLedger     Reason = "ledger"      // issued before this vehicle's ledger began: it may have been taken
	ReasonCounter    Reason = "counter"     // not above the last one of its key
	ReasonBusy       Reason = "busy"        // too many commands at a time
	ReasonDisk       Reason = "disk"        // the ledger cannot be written
	ReasonNotAllowed Reason = "not_allowed" // not in commands.allow
	ReasonUnknown    Reason = "unknown"     // no such command
	ReasonArguments  Reason = "arguments"
	// Of commands that failed:
	ReasonError       Reason = "error"
	ReasonTimeout     Reason = "timeout"
	ReasonInterrupted Reason = "interrupted" // the agent ended before the command did; what it did is not known
)

// refusal is a reason in words.
type refusal struct {
	reason Reason
	text   string
}

func refuse(r Reason, format string, a ...any) *refusal {
	return &refusal{r, fmt.Sprintf(format, a...)}
}
