package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/uplink/command"
)

func commandCommand() *cobra.Command {
	group := cli.Group("command", "Sign commands, send them to vehicles, and see what became of them", keygenCommand(), sendCommand(), resultsCommand())
	group.Long = `A command is signed with a key that the vehicle's configuration trusts, is for one vehicle, expires, and is run at most once.

  1. waybill-fleet command keygen ops             makes ops.key, which stays here, and ops.pub
  2. in the vehicle's agent.yaml:                 commands: {keys: [ops.pub], allow: [ping, status, set_log_level]}
  3. waybill-fleet command send --broker ssl://broker.example --key ops.key --device car-0001 ping
  4. waybill-fleet command results --db fleet.db  what the vehicles have answered, also to others' commands

docs/COMMANDS.md has the commands, the reasons for a refusal, and what is promised.`
	return group
}

func keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a pair of keys: NAME.key to sign with, NAME.pub for the vehicles",
		Long: `Make an Ed25519 pair of keys. NAME.key (PEM, PKCS #8, readable for its owner only) signs commands: whoever has it can give every command
that the vehicles allow. NAME.pub (PEM) goes into the vehicles' configuration under commands.keys. Nothing is overwritten.
Beside the key, NAME.counter will count the commands that it signed.`,
		Example: "  waybill-fleet command keygen /etc/waybill/ops",
		Args:    oneArgument("keygen", "a name for the files"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := makeKey(args[0])
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "key %s\n  %s.key  signs commands; keep it where only those are who may command vehicles\n  %s.pub  for the vehicles' configuration: commands: {keys: [%s.pub], allow: […]}\n", id, args[0], args[0], args[0])
			}
			return err
		},
	}
}

func oneArgument(name, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return cli.UsageError(fmt.Errorf("%s: want %s, got %d arguments", name, what, len(args)))
		}
		return nil
	}
}

// sendFlags are the flags of send, as given.
type sendFlags struct {
	serveFlags
	signer, device string
	expires, wait  time.Duration
}

func sendCommand() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send --broker URL --key NAME.key --device ID COMMAND [NAME=VALUE]…",
		Short: "Sign a command, publish it, and wait for the answer",
		Long: `Sign a command for one vehicle, publish it, and print what the vehicle answers until it is done, has failed, or is refused.

  ping                                      version, boot and clock
  status                                    what the vehicle's status says now
  set_log_level level=debug [for=10m]       then as configured again

A vehicle that is offline gets the command when it comes back, if its broker keeps its session, and refuses it when it has expired by then.
The answer comes through the vehicle's queue like everything else: what is not waited for is in the store (command results).

Exit code 0: done. 3: failed, or refused. 1: not sent, or no answer in time.`,
		Example: `  waybill-fleet command send --broker ssl://broker.example --key ops.key --device car-0001 ping
  waybill-fleet command send --broker tcp://127.0.0.1:1883 --key ops.key --device car-0001 set_log_level level=debug for=5m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := f.body(args)
			if err != nil {
				return cli.UsageError(err)
			}
			return f.send(cmd.Context(), body, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.broker, "broker", "", "broker, tcp://HOST:PORT or ssl://HOST:PORT")
	flags.StringVar(&f.signer, "key", "", "the file NAME.key that signs")
	flags.StringVar(&f.device, "device", "", "the vehicle's device id")
	flags.StringVar(&f.tenant, "tenant", "default", "its tenant")
	flags.DurationVar(&f.expires, "expires", 10*time.Minute, "the vehicle refuses the command after this long, 1s to 720h; 24h is what it allows by default")
	flags.DurationVar(&f.wait, "wait", time.Minute, "how long to wait for the answer; 0: not at all")
	flags.StringVar(&f.user, "user", "", "MQTT user")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the MQTT password")
	flags.StringVar(&f.ca, "ca", "", "PEM file of the authorities that may vouch for the broker (default: the system's)")
	flags.StringVar(&f.cert, "cert", "", "PEM file of the client certificate")
	flags.StringVar(&f.serveFlags.key, "cert-key", "", "PEM file of the certificate's key")
	flags.BoolVar(&f.insecure, "insecure", false, "allow a broker without TLS that is not on this machine")
	flags.BoolVar(&f.json, "json", false, "one JSON object for each answer")
	return cmd
}

// body makes the command of the flags and arguments; counter and times come later.
func (f *sendFlags) body(args []string) (*telemetrypb.DownBody, error) {
	switch {
	case len(args) == 0:
		return nil, errors.New("send: want a command, such as ping")
	case f.broker == "":
		return nil, errors.New("--broker URL is needed")
	case f.signer == "":
		return nil, errors.New("--key NAME.key is needed; `waybill-fleet command keygen NAME` makes one")
	case f.expires < time.Second || f.expires > 30*24*time.Hour:
		return nil, fmt.Errorf("--expires: must be between 1s and 720h, got %v", f.expires)
	case f.wait < 0:
		return nil, fmt.Errorf("--wait: must be 0 or more, got %v", f.wait)
	}
	if err := f.checkBroker(); err != nil {
		return nil, err
	}
	if err := telemetrypb.CheckName("--device", f.device); err != nil {
		return nil, err
	}
	if err := telemetrypb.CheckName("--tenant", f.tenant); err != nil {
		return nil, err
	}
	arguments := map[string]string{}
	for _, arg := range args[1:] {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("argument %q: want NAME=VALUE", arg)
		}
		if _, twice := arguments[name]; twice {
			return nil, fmt.Errorf("argument %s is given twice", name)
		}
		arguments[name] = value
	}
	var id [12]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	return &telemetrypb.DownBody{
		Tenant: f.tenant, Device: f.device, Id: hex.EncodeToString(id[:]),
		Body: &telemetrypb.DownBody_Command{Command: &telemetrypb.Command{Name: args[0], Arguments: arguments}},
	}, nil
}

// send signs, publishes, and waits.
func (f *sendFlags) send(ctx context.Context, body *telemetrypb.DownBody, out io.Writer) error {
	key, err := readKey(f.signer)
	if err != nil {
		return err
	}
	answers := make(chan *telemetrypb.CommandResult, 256)
	client, err := f.connect(ctx, func(r *telemetrypb.CommandResult) {
		if r.GetId() == body.GetId() {
			select {
			case answers <- r:
			default: // more than anybody reads
			}
		}
	})
	if err != nil {
		return err
	}
	defer client.Disconnect(250)
	// Signed when it can be sent at once, so that the counters arrive in their order.
	if body.Counter, err = nextCounter(f.signer, time.Now()); err != nil {
		return err
	}
	now := time.Now()
	body.IssuedUnixNs, body.ExpiresUnixNs = now.UnixNano(), now.Add(f.expires).UnixNano()
	message, err := command.Sign(key, body)
	if err != nil {
		return err
	}
	token := client.Publish(telemetrypb.Topic(f.tenant, f.device, telemetrypb.TopicCommand), 1, false, message)
	if !token.WaitTimeout(sendTimeout) || token.Error() != nil {
		return fmt.Errorf("the broker did not take the command: %w", orTimeout(token.Error()))
	}
	if !f.json {
		fmt.Fprintf(out, "%s  %s sent to %s/%s, counter %d, expires %s\n", body.GetId(), body.GetCommand().GetName(), f.tenant, f.device, body.GetCounter(), now.Add(f.expires).UTC().Format(time.DateTime+" MST"))
	} else if f.wait == 0 {
		return json.NewEncoder(out).Encode(answer{ID: body.GetId(), Command: body.GetCommand().GetName(), State: "sent"})
	}
	if f.wait == 0 {
		return nil
	}
	limit := time.NewTimer(f.wait)
	defer limit.Stop()
	for {
		select {
		case r := <-answers:
			a := answer{r.GetId(), r.GetName(), r.GetState(), r.GetReason(), r.GetPercent(), r.GetText()}
			if err := a.print(out, f.json); err != nil {
				return err
			}
			switch command.State(r.GetState()) {
			case command.Done:
				return nil
			case command.Failed, command.Refused:
				return &cli.Error{Code: cli.Findings}
			}
		case <-limit.C:
			return fmt.Errorf("no answer in %v: the vehicle may be offline, or an answer is on its way; `waybill-fleet command results --db FILE.db --id %s` shows it when it has come", f.wait, body.GetId())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answer is a line of --json.
type answer struct {
	ID      string `json:"id"`
	Command string `json:"command"`
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"`
	Percent uint32 `json:"percent,omitempty"`
	Text    string `json:"text,omitempty"`
}

func (a *answer) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(a)
	}
	line := a.State
	if a.Reason != "" {
		line += " (" + a.Reason + ")"
	}
	if a.State == string(command.Running) {
		line += fmt.Sprintf(" %d %%", a.Percent)
	}
	if a.Text != "" {
		line += ": " + a.Text
	}
	_, err := fmt.Fprintf(out, "%s  %s\n", printable(a.ID), printable(line))
	return err
}

// sendTimeout bounds each step on the way to the broker.
const sendTimeout = 15 * time.Second

func orTimeout(err error) error {
	if err == nil {
		return fmt.Errorf("no answer in %v", sendTimeout)
	}
	return err
}

// connect opens a connection of its own, subscribed to where the vehicle's answers pass.
func (f *sendFlags) connect(ctx context.Context, heard func(*telemetrypb.CommandResult)) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker(f.broker).SetProtocolVersion(4).SetCleanSession(true).
		SetAutoReconnect(false).SetConnectTimeout(sendTimeout).SetWriteTimeout(sendTimeout)
	var suffix [6]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return nil, err
	}
	o.SetClientID("waybill-command-" + hex.EncodeToString(suffix[:]))
	tlsConfig, err := f.tls()()
	if err != nil {
		return nil, err
	}
	o.SetTLSConfig(tlsConfig)
	if credentials := f.credentials(); credentials != nil {
		user, password, err := credentials()
		if err != nil {
			return nil, err
		}
		o.SetUsername(user).SetPassword(password)
	}
	client := mqtt.NewClient(o)
	if token := client.Connect(); !token.WaitTimeout(sendTimeout) || token.Error() != nil {
		return nil, fmt.Errorf("broker %s: %w", f.broker, orTimeout(token.Error()))
	}
	control := telemetrypb.Topic(f.tenant, f.device, telemetrypb.TopicLane(telemetrypb.Lane_LANE_CONTROL))
	token := client.Subscribe(control, 1, func(_ mqtt.Client, m mqtt.Message) {
		for _, r := range resultsIn(m.Payload()) {
			heard(r)
		}
	})
	if !token.WaitTimeout(sendTimeout) || token.Error() != nil {
		client.Disconnect(0)
		return nil, fmt.Errorf("broker %s: subscribing to %s: %w", f.broker, control, orTimeout(token.Error()))
	}
	if granted := token.(*mqtt.SubscribeToken).Result()[control]; granted > 2 {
		client.Disconnect(0)
		return nil, fmt.Errorf("broker %s refuses the subscription to %s, where answers pass; allow it in its ACL", f.broker, control)
	}
	return client, nil
}

// resultsIn are the answers in a payload of the control lane; nothing where it cannot be read.
func resultsIn(payload []byte) (list []*telemetrypb.CommandResult) {
	view, err := telemetrypb.OpenPayload(payload)
	if err != nil {
		return nil
	}
	var all []*telemetrypb.Records
	for _, b := range view.Batches {
		if batch, err := telemetrypb.OpenBatch(b); err == nil {
			if records, err := batch.Records(); err == nil {
				all = append(all, records)
			}
		}
	}
	for _, p := range view.Plain {
		all = append(all, p.GetRecords())
	}
	for _, records := range all {
		for _, r := range records.GetRecords() {
			if result := r.GetResult(); result != nil {
				list = append(list, result)
			}
		}
	}
	return list
}

func resultsCommand() *cobra.Command {
	var f listFlags
	var device, id string
	cmd := f.withJSON(listCommand("results --db STORE", "List what became of commands, the newest first", "", &f,
		func(ctx context.Context, s store.Store, out io.Writer) error {
			results, err := s.Results(ctx, device, id)
			if err != nil {
				return err
			}
			if f.json {
				return printLines(out, results)
			}
			t := newTable(out, "RECEIVED", "TENANT", "DEVICE", "ID", "COMMAND", "STATE", "REASON", "KEY", "COUNTER", "TEXT")
			for _, r := range results {
				t.row(r.Received.Format(time.DateTime), r.Tenant, r.Device, r.ID, r.Name, r.State, r.Reason, r.Key, r.Counter, r.Text)
			}
			return t.flush()
		}))
	cmd.Flags().StringVar(&device, "device", "", "only this device")
	cmd.Flags().StringVar(&id, "id", "", "only the command with this id")
	return cmd
}
