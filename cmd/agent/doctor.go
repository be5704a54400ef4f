package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/internal/alarm"
	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/internal/clock"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/doctor"
	"github.com/waybill-telematics/waybill/uplink/network"
)

// doctorFlags are those of the command.
type doctorFlags struct {
	file      string
	json      bool
	asVehicle bool
	timeout   time.Duration
}

func doctorCommand() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor -c FILE",
		Short: "Try the way to the broker and the store step by step, and say what is wrong and what to do",
		Long: `Tries, with the agent's own configuration, credentials, links and proxy, and as the user that calls it:

  configuration  does the file load?                    connect      does the broker let us in (CONNECT)?
  clock          can certificates be judged by it?      subscribe    may we hear receipts (SUBSCRIBE)?
  credentials    are they there, whole, not expired?    publish      does it take, or drop, what we send (PUBLISH)?
  links          is one of links: up?                   receipt      does a store hear it and answer?
  dns, tcp       does the broker's port answer?         size         does a publish of payload_bytes get through?
  proxy          does it let us through?                limits       what the broker tells of itself by MQTT 5
  tls            is it the broker we trust?
  certificate    does the broker take ours?

Each step is one line: ok, FAIL or skipped, with what was found; a failure says what to do. Exit code 0: nothing is wrong;
1: something is.

It changes nothing and may run beside the agent. The vehicle's status and its queue are not touched. It connects by the
client id with -doctor added, since a broker ends the older of two connections with one id. Where the broker's rules go
by the client id (AWS IoT policies, %c in Mosquitto's), that id is refused: stop the agent and call it with --as-vehicle.
What waits for the vehicle at the broker stays there. To the store it puts a question that leaves nothing behind; a store
from before such questions stays silent, and receipt fails. size sends payload_bytes once; the rest is a few kilobytes.`,
		Example: "  waybill-agent doctor -c /etc/waybill/agent.yaml\n  waybill-agent doctor -c agent.yaml --json | jq 'select(.result == \"FAIL\")'",
		Args:    cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.timeout < time.Second || f.timeout > 10*time.Minute {
				return cli.UsageError(fmt.Errorf("--timeout: must be between 1s and 10m, got %v", f.timeout))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return f.run(ctx, cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &f.file)
	cmd.Flags().BoolVar(&f.json, "json", false, "one JSON object a step: step, result, found, wrong, remedy, hint, ms")
	cmd.Flags().BoolVar(&f.asVehicle, "as-vehicle", false, "connect by the vehicle's own client id; ends a running agent's connection, so stop it before")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "for everything together; a step has a sixth of it")
	return cmd
}

// run tries everything and prints each step as it ends.
func (f *doctorFlags) run(ctx context.Context, out io.Writer) error {
	var steps []doctor.Step
	report := func(s doctor.Step) {
		steps = append(steps, s)
		f.print(out, s)
	}
	if s := f.configuration(report); s != nil {
		o := f.patient(s)
		o.Report = report
		if _, err := doctor.Run(ctx, o); err != nil {
			report(doctor.Step{Name: doctor.StepConfiguration, Result: doctor.Failed, Wrong: err.Error(), Remedy: "correct uplink: in " + f.file})
		}
	}
	if !f.json {
		fmt.Fprintln(out, doctor.Verdict(steps))
	}
	for _, s := range steps {
		if s.Result == doctor.Failed {
			return &cli.Error{Code: cli.Failed}
		}
	}
	return nil
}

// configuration reads the file; nil: there is no broker to try.
func (f *doctorFlags) configuration(report func(doctor.Step)) *settings {
	fail := func(err error, remedy string) {
		report(doctor.Step{Name: doctor.StepConfiguration, Result: doctor.Failed, Wrong: err.Error(), Remedy: remedy})
	}
	d, err := readConfig(f.file)
	if err != nil {
		fail(err, "correct the file, or name another one with -c; waybill-agent check -c FILE says the same")
		return nil
	}
	s, err := check(d)
	switch {
	case err != nil:
		fail(err, "correct these lines; examples/agent.yaml has every key")
		return nil
	case s.Uplink.Broker == nil:
		fail(errors.New(f.file+" names no broker: samples are recorded and stay on this device"), "name one: uplink: {broker: mqtts://HOST:8883}")
		return nil
	}
	if _, err := newVehicle(s); err != nil { // the agent would not start, the way can be tried
		fail(err, "correct what is collected; the way to the broker is tried all the same")
		return s
	}
	report(doctor.Step{Name: doctor.StepConfiguration, Result: doctor.OK,
		Found: fmt.Sprintf("%s: device %s of tenant %s, broker %s", f.file, s.Device, s.Tenant, s.Uplink.Broker.Redacted())})
	return s
}

// patient is as much of an agent as connects, and what the doctor needs to know of it. It opens no queue and writes
// nothing.
func (f *doctorFlags) patient(s *settings) doctor.Options {
	a := &agent{settings: s, log: slog.New(slog.DiscardHandler), clock: clock.System{}}
	a.alarms = alarm.NewBoard(a.clock.Boot, a.log)
	if s.LogTime {
		a.logClock = &clock.Log{}
	}
	boot, _ := clock.BootID() // without one the time of earlier boots is all that is known
	a.times, _ = clock.OpenTimekeeper(clock.TimekeeperOptions{
		Dir: s.DataDir, BootID: boot, Built: firmware.Current().Built, Log: a.log,
		Write: func(string, []byte) error { return nil }, Emit: func(*telemetrypb.ClockRecord) {},
	})
	a.times.System(clock.Read())
	o := doctor.Options{
		Uplink: a.uplinkOptions(), Certificate: s.Uplink.Credentials.Cert != "" || s.Uplink.Credentials.PKCS12 != "",
		Clock: func() doctor.Clock {
			now, vouched := a.vouchedTime()
			return doctor.Clock{System: time.Now(), Reference: a.times.Keeper().Reference(), Known: now, Vouched: vouched}
		},
		Proxy: s.Uplink.Proxy.of, Profile: s.Uplink.Profile, AsVehicle: f.asVehicle, Timeout: f.timeout,
	}
	a.useCredentials(&o.Uplink)
	o.Expiring = a.creds.Expiring
	return ways(a, o)
}

// ways gives the doctor the agent's ways out, with the proxy and without.
func ways(a *agent, o doctor.Options) doctor.Options {
	options := a.linkOptions(&o.Uplink)
	options.Metrics = nil
	links, _ := network.New(options) // it fails on metrics only, and there are none
	options.Proxy = nil
	direct, _ := network.New(options)
	o.Uplink.Dial, o.Direct, o.Links = links.Dial, direct.Dial, links.States
	return o
}

// print writes a step: one line, and of a failure what to do.
func (f *doctorFlags) print(out io.Writer, s doctor.Step) {
	if f.json {
		line, err := json.Marshal(s)
		if err == nil {
			_, err = fmt.Fprintf(out, "%s\n", line)
		}
		_ = err // whoever reads has gone
		return
	}
	const indent = "                        "
	text := s.Found
	if s.Result == doctor.Failed {
		text = s.Wrong
	}
	fmt.Fprintf(out, "%-8s %-14s %s\n", s.Result, s.Name, strings.ReplaceAll(text, "\n", "\n"+indent))
	for _, line := range []struct{ what, text string }{{"to do: ", s.Remedy}, {"with ", s.Hint}} {
		if line.text != "" {
			fmt.Fprintf(out, "%s%s%s\n", indent, line.what, line.text)
		}
	}
}
