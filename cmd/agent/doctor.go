package main

import (
	"context"
	"encoding/json"
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
	local     bool
	listen    time.Duration
	timeout   time.Duration
}

func doctorCommand() *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor -c FILE",
		Short: "Say what is wrong with this vehicle's computer and its way to the store, and what to do",
		Long: `Looks at this computer as the agent's configuration needs it, then tries the way to broker and store, with the agent's
own credentials, links and proxy, and as the user that calls it:

  configuration  does the file load?                    credentials  are they there, whole, not expired?
  user           as whom is all of this tried?          links        is one of links: up?
  time           do samples get the right time?         dns, tcp     does the broker's port answer?
  data_dir       room, permissions, durable writes      proxy        does it let us through?
  queue          whose is it, is it sound?              tls          is it the broker we trust?
  can BUS        up, bit rate, errors, known frames     certificate  does the broker take ours?
  gps NAME       device, rate, sentences, fix           connect      does the broker let us in (CONNECT)?
  certificates   dates, keys, who may read them         subscribe    may we hear receipts (SUBSCRIBE)?
  clock          can certificates be judged by it?      publish      does it take, or drop, what we send?
                                                        receipt      does a store hear it and answer?
                                                        size         does a publish of payload_bytes get through?
                                                        limits       what the broker tells of itself by MQTT 5

Each step is one line: ok, warn, FAIL or skipped, with what was found; a warning or failure has a name, by which
docs/DOCTOR.md lists it, and says what to do. Exit code 0: nothing keeps the agent from its work; 1: something does.

It changes nothing and may run beside the agent. Buses are listened to for --listen, and nothing is sent on them;
receivers likewise, but a serial one only while no agent reads it. The vehicle's status and its queue are not touched. It
connects by the client id with -doctor added, since a broker ends the older of two connections with one id. Where the
broker's rules go by the client id (AWS IoT policies, %c in Mosquitto's), that id is refused: stop the agent and call it
with --as-vehicle. What waits for the vehicle at the broker stays there. To the store it puts a question that leaves
nothing behind; a store from before such questions stays silent, and receipt fails. size sends payload_bytes once; the
rest is a few kilobytes.`,
		Example: "  sudo -u waybill waybill-agent doctor\n  waybill-agent doctor -c agent.yaml --local\n  waybill-agent " +
			"doctor -c agent.yaml --json | jq 'select(.result == \"FAIL\")'",
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.timeout < time.Second || f.timeout > 10*time.Minute {
				return cli.UsageError(fmt.Errorf("--timeout: must be between 1s and 10m, got %v", f.timeout))
			}
			if f.listen < 0 || f.listen > 10*time.Minute {
				return cli.UsageError(fmt.Errorf("--listen: must be between 0s and 10m, got %v", f.listen))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return f.run(ctx, cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &f.file)
	cmd.Flags().BoolVar(&f.json, "json", false, "one JSON object a step: step, result, problem, found, wrong, remedy, hint, ms")
	cmd.Flags().BoolVar(&f.local, "local", false, "look at this computer only, and leave broker and store alone")
	cmd.Flags().DurationVar(&f.listen, "listen", 4*time.Second, "how long to listen to each bus and receiver; 0s: not at all")
	cmd.Flags().BoolVar(&f.asVehicle, "as-vehicle", false, "connect by the vehicle's own client id; ends a running agent's "+
		"connection, so stop it before")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "for the way to the store; a step has a sixth of it")
	return cmd
}

// run tries everything and prints each step as it ends.
func (f *doctorFlags) run(ctx context.Context, out io.Writer) error {
	var steps []doctor.Step
	report := func(s doctor.Step) {
		steps = append(steps, s)
		f.print(out, s)
	}
	if s, v := f.configuration(report); s != nil {
		a := standIn(s, v)
		newDevice(a, f.listen, report).examine(ctx)
		if s.Uplink.Broker != nil && !f.local {
			o := f.patient(a)
			o.Report = report
			if _, err := doctor.Run(ctx, o); err != nil {
				f.refuse(report, err, "correct uplink: in "+f.file)
			}
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

// Problems of the configuration.
const (
	problemConfiguration = "configuration"
	problemRecordOnly    = "record-only"
)

func (f *doctorFlags) refuse(report func(doctor.Step), err error, remedy string) {
	report(doctor.Step{Name: doctor.StepConfiguration, Result: doctor.Failed, Problem: problemConfiguration,
		Wrong: err.Error(), Remedy: remedy})
}

// configuration reads the file; nil: there is nothing to try. The vehicle is never nil with settings.
func (f *doctorFlags) configuration(report func(doctor.Step)) (*settings, *vehicle) {
	d, err := readConfig(f.file)
	if err != nil {
		f.refuse(report, err, "correct the file, or name another one with -c; waybill-agent check -c FILE says the same, "+
			"waybill-agent init makes one")
		return nil, nil
	}
	s, err := check(d)
	if err != nil {
		f.refuse(report, err, "correct these lines; examples/agent.yaml has every key")
		return nil, nil
	}
	v, err := newVehicle(s)
	if err != nil { // the agent would not start, the rest can be tried
		f.refuse(report, err, "correct what is collected; the rest is tried all the same")
		return s, &vehicle{}
	}
	if s.Uplink.Broker == nil {
		report(doctor.Step{Name: doctor.StepConfiguration, Result: doctor.Warned, Problem: problemRecordOnly,
			Wrong:  f.file + " names no broker: samples are recorded and stay on this device",
			Remedy: "name one: uplink: {broker: mqtts://HOST:8883}"})
		return s, v
	}
	report(doctor.Step{Name: doctor.StepConfiguration, Result: doctor.OK,
		Found: fmt.Sprintf("%s: device %s of tenant %s, broker %s", f.file, s.Device, s.Tenant, s.Uplink.Broker.Redacted())})
	return s, v
}

// standIn is as much of an agent as can look around and connect. It opens no queue and writes nothing.
func standIn(s *settings, v *vehicle) *agent {
	a := &agent{settings: s, vehicle: v, log: slog.New(slog.DiscardHandler), clock: clock.System{}}
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
	return a
}

// patient is what the doctor needs to know of an agent that connects.
func (f *doctorFlags) patient(a *agent) doctor.Options {
	s := a.settings
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
	if s.Wrong != "" {
		text = s.Wrong
	}
	if s.Problem != "" && s.Problem != s.Name {
		text = s.Problem + ": " + text
	}
	fmt.Fprintf(out, "%-8s %-14s %s\n", s.Result, s.Name, strings.ReplaceAll(text, "\n", "\n"+indent))
	for _, line := range []struct{ what, text string }{{"to do: ", s.Remedy}, {"with ", s.Hint}} {
		if line.text != "" {
			fmt.Fprintf(out, "%s%s%s\n", indent, line.what, line.text)
		}
	}
}
