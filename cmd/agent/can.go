package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/can"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func canCommand() *cobra.Command {
	return cli.Group("can", "Tools for CAN: decode logs, check DBC files, ask interfaces, export recorded frames", canDecodeCommand(), canLintCommand(), canExportCommand(), canStatusCommand())
}

// canDecode is one run of `can decode`.
type canDecode struct {
	files  []string
	raw    bool
	labels bool
	j1939  bool

	plan    *can.Plan
	signals []*can.Signal // by sample id − 1
}

func canDecodeCommand() *cobra.Command {
	d := &canDecode{}
	cmd := &cobra.Command{
		Use:   "decode --dbc FILE [--dbc FILE…] [LOG]",
		Short: "Decode a candump log into one JSON object a frame",
		Long: `Decode a candump log by the messages of DBC files.

LOG is what candump writes: with -L "(sec.frac) bus ID#DATA", "ID##<flags>DATA" for CAN FD, or what it prints to a
terminal. "-" or nothing is standard input. Every frame that a message matches becomes one line:

  {"t":1622547830.084600,"bus":"can1","id":217056256,"ext":true,"msg":"EEC1","signals":{"EngineSpeed":1000}}

t is the log's time in seconds (null where the line has none). signals are those that are active in this frame: the
multiplexor decides, and what lies beyond the end of a short frame is left out. Values are physical (raw × scale + offset)
and never clamped; whole numbers are exact to 64 bits, NaN and the infinities are strings.

J1939 messages of more than 8 bytes are put together from the packets of the transport protocol (BAM, RTS/CTS) and from
NMEA 2000 fast packets, bus by bus. Each becomes one line, at its last frame and with the time of that; id is what one
frame would have. How many could not be put together, and why, is a warning at the end.

A frame is matched by its whole identifier first. By PGN only messages are matched that are J1939 by their attributes
(VFrameFormat, ProtocolType, BusType), or all extended ones with --j1939. Where two messages have the same identifier,
the first counts.

Findings in the DBC files and lines that cannot be read are warnings on standard error, with their line. The exit code is 0
when the input could be read, 1 when it could not, 2 for wrong usage.`,
		Example: `  candump -L can0 | waybill-agent can decode --dbc powertrain.dbc
  waybill-agent can decode --dbc j1939.dbc --j1939 --raw truck.log
  waybill-agent can decode --dbc a.dbc --dbc b.dbc --labels drive.log | jq -c '[.t, .signals.Gear]'`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return cli.UsageError(errors.New("can decode takes one log; see waybill-agent can decode --help"))
			case len(d.files) == 0:
				return cli.UsageError(errors.New("can decode needs at least one --dbc FILE"))
			}
			return nil
		},
		RunE: d.run,
	}
	cmd.Flags().StringArrayVar(&d.files, "dbc", nil, "DBC `FILE`; may be given several times")
	cmd.Flags().BoolVar(&d.raw, "raw", false, "add the raw values, as \"raw\"")
	cmd.Flags().BoolVar(&d.labels, "labels", false, "add the texts of values that have one, as \"labels\"")
	cmd.Flags().BoolVar(&d.j1939, "j1939", false, "match every extended message by its PGN")
	return cmd
}

func (d *canDecode) run(cmd *cobra.Command, args []string) error {
	if err := d.load(cmd); err != nil {
		return err
	}
	in, name, err := openInput(cmd, args)
	if err != nil {
		return err
	}
	defer in.Close()
	return withOutput(cmd, func(out *bufio.Writer) error {
		scanner := can.NewScanner(in)
		scanner.OnReject = func(e *can.LineError) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d: warning: %v\n", name, e.Line, e.Err)
		}
		parts := can.NewReassembler(d.plan, can.ReassemblerOptions{})
		var line []byte
		var samples []telemetrypb.Sample
		for scanner.Scan() {
			frame := scanner.Frame()
			frame.Time, _ = scanner.Time()
			line = line[:0]
			if m := d.plan.Match(frame); m != nil {
				samples = d.plan.Decode(frame, samples[:0])
				line = d.appendFrame(line, scanner, frame.ID, m, samples)
			}
			if whole := parts.Take(frame); whole != nil {
				samples = d.plan.DecodeAssembled(whole, samples[:0])
				line = d.appendFrame(line, scanner, whole.ID, d.plan.MatchAssembled(whole), samples)
			}
			if _, err := out.Write(line); err != nil {
				return fmt.Errorf("writing the result: %w", err)
			}
		}
		parts.End()
		parts.Incomplete.Drain(func(why can.Reason, messages uint64) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: warning: messages of several frames left out: %d: %s\n", name, messages, why)
		})
		if err := scanner.Err(); err != nil {
			return fmt.Errorf("reading %s, line %d: %w", name, scanner.Line()+1, err)
		}
		return nil
	})
}

// load reads the DBC files and subscribes to every signal in them.
func (d *canDecode) load(cmd *cobra.Command) error {
	var subscriptions []can.Subscription
	for _, file := range d.files {
		db, err := readDBC(file)
		if err != nil {
			return err
		}
		for _, w := range db.Warnings {
			if w.Severity > can.SeverityNote {
				fmt.Fprintln(cmd.ErrOrStderr(), formatFinding(file, w))
			}
		}
		for _, m := range db.Messages {
			subscriptions = append(subscriptions, can.Subscription{Message: m})
			for _, s := range m.Signals {
				d.signals = append(d.signals, s)
				subscriptions = append(subscriptions, can.Subscription{ID: uint32(len(d.signals)), Message: m, Signal: s})
			}
		}
	}
	d.plan = can.Compile(subscriptions, can.PlanOptions{J1939: d.j1939})
	for _, w := range d.plan.Warnings() {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w.Text)
	}
	return nil
}

func readDBC(file string) (*can.Database, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the DBC file: %w", err)
	}
	defer f.Close()
	text, err := readWhole(f)
	if err != nil {
		return nil, fmt.Errorf("reading the DBC file %s: %w", file, err)
	}
	return can.ParseDBC(text), nil
}

// maxDBCBytes bounds a DBC file; the largest known have some 10 MB.
const maxDBCBytes = 128 << 20

// readWhole reads a file that is held in memory as a whole.
func readWhole(in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxDBCBytes+1))
	if err == nil && len(text) > maxDBCBytes {
		err = fmt.Errorf("longer than %d MiB, which no DBC file is", maxDBCBytes>>20)
	}
	return text, err
}

// formatFinding is FILE:LINE: severity: text.
func formatFinding(file string, w can.Warning) string {
	if w.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", file, w.Severity, w.Text)
	}
	return fmt.Sprintf("%s:%d: %s: %s", file, w.Line, w.Severity, w.Text)
}

// appendFrame appends the line of the frame that was just read, or of the message that it completed.
func (d *canDecode) appendFrame(dst []byte, s *can.Scanner, id uint32, m *can.Message, samples []telemetrypb.Sample) []byte {
	dst = append(dst, `{"t":`...)
	if t, ok := s.Time(); ok {
		dst = can.AppendSeconds(dst, t)
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"bus":`...)
	dst = appendString(dst, s.Bus())
	dst = append(dst, `,"id":`...)
	dst = strconv.AppendUint(dst, uint64(id), 10)
	dst = append(dst, `,"ext":`...)
	dst = strconv.AppendBool(dst, s.Frame().Extended())
	dst = append(dst, `,"msg":`...)
	dst = appendString(dst, m.Name)
	dst = append(dst, `,"signals":`...)
	dst = d.appendObject(dst, samples, func(dst []byte, sig *can.Signal, v telemetrypb.Sample) []byte {
		return appendPhysical(dst, sig, v)
	})
	if d.raw {
		dst = append(dst, `,"raw":`...)
		dst = d.appendObject(dst, samples, func(dst []byte, _ *can.Signal, v telemetrypb.Sample) []byte {
			return appendRaw(dst, v)
		})
	}
	if d.labels {
		dst = append(dst, `,"labels":`...)
		dst = d.appendObject(dst, samples, func(dst []byte, sig *can.Signal, v telemetrypb.Sample) []byte {
			if text, ok := sig.Label(int64(v.Bits)); ok && v.Kind != telemetrypb.KindFloat {
				return appendString(dst, text)
			}
			return dst
		})
	}
	return append(dst, "}\n"...)
}

// appendObject appends an object with a member for each sample to which value appends something.
func (d *canDecode) appendObject(dst []byte, samples []telemetrypb.Sample, value func([]byte, *can.Signal, telemetrypb.Sample) []byte) []byte {
	dst = append(dst, '{')
	first := true
	for _, v := range samples {
		sig := d.signals[v.Signal-1]
		begin := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = appendString(dst, sig.Name)
		dst = append(dst, ':')
		head := len(dst)
		if dst = value(dst, sig, v); len(dst) == head {
			dst = dst[:begin]
			continue
		}
		first = false
	}
	return append(dst, '}')
}

// appendPhysical appends raw × scale + offset: exact where that is a whole number, else the float64.
func appendPhysical(dst []byte, sig *can.Signal, v telemetrypb.Sample) []byte {
	scale, offset, whole := sig.WholeScale()
	switch {
	case !whole:
		return cli.AppendFloat(dst, v.Physical(sig.Scale, sig.Offset))
	case scale == 1 && offset == 0:
		return appendRaw(dst, v)
	}
	n := new(big.Int)
	if v.Kind == telemetrypb.KindUint {
		n.SetUint64(v.Bits)
	} else {
		n.SetInt64(int64(v.Bits))
	}
	n.Mul(n, big.NewInt(scale))
	n.Add(n, big.NewInt(offset))
	return n.Append(dst, 10)
}

func canLintCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lint FILE.dbc",
		Short: "Say what is wrong with a DBC file, line by line",
		Long: `Check a DBC file. What it says is what the agent saw when it read the file:

  error    a message or a signal was left out
  warning  something was left out or guessed
  note     an oddity that costs nothing

The exit code is 0 when the file is clean or there are only notes, 3 with findings, 1 when it could not be read.`,
		Example: `  waybill-agent can lint powertrain.dbc
  waybill-agent can lint --json powertrain.dbc | jq -r 'select(.severity != "note") | .text'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cli.UsageError(errors.New("can lint takes one DBC file"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in, name, err := openInput(cmd, args)
			if err != nil {
				return err
			}
			defer in.Close()
			return lintDBC(cmd, in, name, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a finding")
	return cmd
}

func lintDBC(cmd *cobra.Command, in io.Reader, name string, asJSON bool) error {
	text, err := readWhole(in)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	found := false
	err = withOutput(cmd, func(out *bufio.Writer) error {
		for _, w := range can.ParseDBC(text).Warnings {
			found = found || w.Severity > can.SeverityNote
			line := []byte(formatFinding(name, w))
			if asJSON {
				finding := struct {
					File     string `json:"file"`
					Line     int    `json:"line"`
					Severity string `json:"severity"`
					Text     string `json:"text"`
				}{name, w.Line, w.Severity.String(), w.Text}
				if line, err = json.Marshal(finding); err != nil {
					return err
				}
			}
			if _, err := out.Write(append(line, '\n')); err != nil {
				return fmt.Errorf("writing the result: %w", err)
			}
		}
		return nil
	})
	if err == nil && found {
		return &cli.Error{Code: cli.Findings}
	}
	return err
}
