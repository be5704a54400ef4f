// Package doctor tries the way from a vehicle to its broker and its store step by step, with the agent's own options and
// code, and says of each step in words what it found, what is wrong, and what to do.
//
// It changes nothing: it sends no status and sets no last will, connects by a client id of its own unless it is told to
// take the vehicle's place, and asks the store a question that leaves nothing behind (Payload.probe). What waits in the
// vehicle's session stays there. It must not know how the configuration is written; the names of keys in its words are
// those of examples/agent.yaml.
package doctor

import (
	"context"
	"net"
	"net/url"
	"time"

	"github.com/waybill-telematics/waybill/uplink"
	"github.com/waybill-telematics/waybill/uplink/network"
	"github.com/waybill-telematics/waybill/uplink/profile"
)

// Result is how a step ended.
type Result string

// The results.
const (
	OK      Result = "ok"
	Warned  Result = "warn" // it works, and somebody should know; only the caller's own steps
	Failed  Result = "FAIL"
	Skipped Result = "skipped" // it could not be tried, or there is nothing to try
)

// Step is one step of the way.
type Step struct {
	Name    string  `json:"step"`
	Result  Result  `json:"result"`
	Problem string  `json:"problem,omitempty"` // of Warned and Failed: the name of what is wrong (docs/DOCTOR.md)
	Found   string  `json:"found,omitempty"`   // what is so
	Wrong   string  `json:"wrong,omitempty"`   // of Warned and Failed: what is wrong
	Remedy  string  `json:"remedy,omitempty"`  // of Warned and Failed: what to do
	Hint    string  `json:"hint,omitempty"`    // of Failed: what that commonly means with this maker's broker
	Took    float64 `json:"ms"`
}

// The steps, in their order.
const (
	StepConfiguration = "configuration" // the caller's
	StepClock         = "clock"
	StepCredentials   = "credentials"
	StepLinks         = "links"
	StepDNS           = "dns"
	StepTCP           = "tcp"
	StepProxy         = "proxy"
	StepTLS           = "tls"
	StepCertificate   = "certificate"
	StepConnect       = "connect"
	StepSubscribe     = "subscribe"
	StepPublish       = "publish"
	StepReceipt       = "receipt"
	StepSize          = "size"
	StepLimits        = "limits"
)

// Clock is what is known of the time.
type Clock struct {
	System    time.Time // the system's clock
	Reference time.Time // it is certainly not earlier: the build, the last good time; zero: nothing is known
	Known     time.Time // what certificates are judged by
	Vouched   bool      // somebody vouches for Known
}

// Options are the agent's own, as it would run with them.
type Options struct {
	Uplink      uplink.Options
	Certificate bool          // a client certificate is configured
	Expiring    func() string // what of the credentials expires soon; empty: nothing. nil: never
	Clock       func() Clock

	Links    func() []network.LinkState // nil or empty: the routes decide
	Proxy    func(addr string) (*url.URL, error)
	Direct   func(ctx context.Context, network, addr string) (net.Conn, error) // as Uplink.Dial, without a proxy
	Resolver *net.Resolver                                                     // nil: the system's

	Profile   *profile.Profile // nil: any broker
	AsVehicle bool             // connect by the vehicle's client id, in its session: ends a running agent's connection
	Timeout   time.Duration    // of everything together. Default 60 s; a step has a sixth
	Report    func(Step)       // called after each step, in their order
}

// suffix makes the doctor's client id of the vehicle's.
const suffix = "-doctor"

// examination is one run.
type examination struct {
	o      Options
	limit  time.Duration // of a step
	trial  *uplink.Trial
	shake  *handshake
	proxy  *url.URL // nil: none
	steps  []Step
	failed map[string]bool
	began  time.Time // of the step
}

// Run tries all steps and returns them. Its error is about options that cannot be tried at all.
func Run(ctx context.Context, o Options) ([]Step, error) {
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.Report == nil {
		o.Report = func(Step) {}
	}
	x := &examination{o: o, limit: o.Timeout / 6, shake: &handshake{}, failed: map[string]bool{}, began: time.Now()}
	u := o.Uplink
	if u.ClientID == "" {
		u.ClientID = u.Device
	}
	if !o.AsVehicle {
		u.ClientID += suffix
	}
	u.ConnectTimeout = x.limit
	u.TLS = x.shake.watch(u.TLS)
	var err error
	if x.trial, err = uplink.NewTrial(u); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	x.clock()
	x.credentials()
	x.links()
	x.path(ctx)
	x.session(ctx)
	return x.steps, nil
}

// step bounds the time of one.
func (x *examination) step(ctx context.Context) (context.Context, context.CancelFunc) {
	x.began = time.Now()
	return context.WithTimeout(ctx, x.limit)
}

func (x *examination) report(s Step) {
	s.Took = float64(time.Since(x.began).Microseconds()) / 1000
	if s.Result == Failed {
		x.failed[s.Name] = true
		s.Problem, s.Hint = s.Name, x.hint(s.Name)
	}
	x.steps = append(x.steps, s)
	x.o.Report(s)
	x.began = time.Now()
}

// hint is what a failed step commonly means with this maker's broker.
func (x *examination) hint(step string) string {
	p := x.o.Profile
	switch {
	case p == nil:
	case p.Hints[step] != "":
		return p.Title + ": " + p.Hints[step]
	case step == StepTCP && x.proxy == nil:
		return p.Title + ": its ports are usually " + p.Ports
	}
	return ""
}

func (x *examination) ok(name, found string) { x.report(Step{Name: name, Result: OK, Found: found}) }

func (x *examination) skip(name, why string) {
	x.report(Step{Name: name, Result: Skipped, Found: why})
}

func (x *examination) skipAll(why string, names ...string) {
	for _, name := range names {
		x.skip(name, why)
	}
}

func (x *examination) fail(name, wrong, remedy string) {
	x.report(Step{Name: name, Result: Failed, Wrong: wrong, Remedy: remedy})
}

// Verdict is one sentence on all steps: the first thing to look at.
func Verdict(steps []Step) string {
	for _, s := range steps {
		if s.Result == Failed {
			return "look at this first: " + s.Name + ": " + s.Wrong
		}
	}
	for _, s := range steps {
		if s.Name == StepReceipt && s.Result == OK {
			return "the way is open, and the store answers"
		}
	}
	return "nothing is wrong with what could be tried"
}
