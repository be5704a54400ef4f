package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// batchDecode is one run of `batch decode`.
type batchDecode struct {
	catalogueFile string

	catalogue *telemetrypb.Catalogue // nil: none at hand
	hash      [32]byte
	clocks    []*telemetrypb.ClockRecord
	samples   []telemetrypb.Sample
	line      []byte
}

func batchDecodeCommand() *cobra.Command {
	d := &batchDecode{}
	cmd := &cobra.Command{
		Use:   "decode [PAYLOAD]",
		Short: "Decode a published payload into one JSON object a sample",
		Long: `Decode a payload as it was published, whatever its format (columns, plain, json), into one line a sample, in order
per signal:

  {"t_ns":66000000,"signal":1,"raw":837}
  {"t_ns":66000000,"signal":1,"raw":837,"name":"can0.EEC1.EngineSpeed","value":104.625,"unit":"rpm"}

t_ns is CLOCK_BOOTTIME in ns. raw is exact to 64 bits. With --catalogue come name, value (raw × scale + offset) and unit. Where
the payload knows the wall time, unix_ns and uncertainty_ns are there too. Samples of the plain formats have their
name, value and unit in them, and no signal number. A record of the control lane is one line {"record":{…}}.

FILE is a catalogue's bytes, its protobuf JSON, or a payload of the control lane that carries it. A catalogue other than
the one that a batch names is refused: signal numbers mean nothing outside theirs.

"-" or nothing is standard input. A damaged batch among sound ones is a warning on standard error. The exit code is 0 when the
payload could be read, 1 when it could not, 2 for wrong usage.`,
		Example: `  mosquitto_sub -N -C 1 -t 'wb1/+/+/up/telemetry' | waybill-agent batch decode
  waybill-agent batch decode --catalogue names.bin payload.bin | jq -r 'select(.unit=="km/h")|[.t_ns,.value]|@csv'`,
		Args: oneInput("batch decode", "payload"),
		RunE: d.run,
	}
	cmd.Flags().StringVar(&d.catalogueFile, "catalogue", "", "take names, scales and units from `FILE`")
	return cmd
}

func (d *batchDecode) run(cmd *cobra.Command, args []string) error {
	if d.catalogueFile != "" {
		var err error
		if d.catalogue, d.hash, err = readCatalogue(d.catalogueFile); err != nil {
			return err
		}
	}
	in, name, err := openInput(cmd, args)
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, telemetrypb.MaxPayload+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) == 0 {
		return nil
	}
	payload, err := telemetrypb.OpenPayload(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	d.clocks = payload.Clocks
	// A failed write sticks to out, and withOutput reports it.
	return withOutput(cmd, func(out *bufio.Writer) error {
		read := len(payload.Plain)
		var failed error
		for i, b := range payload.Batches {
			if err := d.writeBatch(out, b); err != nil {
				if failed != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", failed)
				}
				failed = fmt.Errorf("%s: batch %d of %d: %w", name, i+1, len(payload.Batches), err)
				continue
			}
			read++
		}
		for _, p := range payload.Plain {
			if err := d.writePlain(out, p); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if failed != nil && read > 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", failed)
			return nil
		}
		return failed
	})
}

// writeBatch writes the samples or the records of one sealed batch, or nothing if it is damaged.
func (d *batchDecode) writeBatch(out *bufio.Writer, b []byte) error {
	view, err := telemetrypb.OpenBatch(b)
	if err != nil {
		return err
	}
	e := view.Envelope
	if e.Codec == telemetrypb.Codec_CODEC_RECORDS {
		records, err := view.Records()
		if err != nil {
			return err
		}
		return d.writeRecords(out, records)
	}
	if named := e.Catalogue; d.catalogue != nil && len(named) > 0 && !bytes.Equal(named, d.hash[:len(named)]) {
		return fmt.Errorf("it names catalogue %x, %s is %x: signal numbers would mean something else", named, d.catalogueFile, d.hash[:len(named)])
	}
	if d.samples, err = view.Samples(d.samples[:0]); err != nil {
		return err
	}
	var clock *telemetrypb.ClockRecord
	for _, c := range d.clocks {
		if bytes.Equal(c.GetBootId(), e.BootId) && (clock == nil || c.GetRevision() > clock.GetRevision()) {
			clock = c
		}
	}
	for _, s := range d.samples {
		out.Write(d.appendSample(d.line[:0], s, clock))
	}
	return nil
}

// appendSample appends the line of one sample.
func (d *batchDecode) appendSample(line []byte, s telemetrypb.Sample, clock *telemetrypb.ClockRecord) []byte {
	line = strconv.AppendInt(append(line, `{"t_ns":`...), s.Time, 10)
	line = strconv.AppendUint(append(line, `,"signal":`...), uint64(s.Signal), 10)
	line = appendRaw(append(line, `,"raw":`...), s)
	if signal := d.catalogue.Signal(s.Signal); signal != nil {
		line = appendString(append(line, `,"name":`...), signal.Name)
		line = append(line, `,"value":`...)
		if s.Kind == telemetrypb.KindString || (signal.Scale == 0 || signal.Scale == 1) && signal.Offset == 0 {
			line = appendRaw(line, s) // exact to 64 bits
		} else {
			line = cli.AppendFloat(line, s.Physical(signal.Scale, signal.Offset))
		}
		line = appendUnit(line, signal.Unit)
	}
	unix, uncertainty, source := clock.WallTime(s.Time)
	line = append(appendWallTime(line, unix, uncertainty, source), '}', '\n')
	d.line = line
	return line
}

func appendUnit(line []byte, unit string) []byte {
	if unit == "" {
		return line
	}
	return appendString(append(line, `,"unit":`...), unit)
}

// appendWallTime appends the wall time, if there is one.
func appendWallTime(line []byte, unix int64, uncertainty uint64, source telemetrypb.TimeSource) []byte {
	if source == telemetrypb.TimeSource_TIME_SOURCE_NONE {
		return line
	}
	line = strconv.AppendInt(append(line, `,"unix_ns":`...), unix, 10)
	return strconv.AppendUint(append(line, `,"uncertainty_ns":`...), uncertainty, 10)
}

// writeRecords writes one line a record of the control lane.
func (d *batchDecode) writeRecords(out *bufio.Writer, records *telemetrypb.Records) error {
	for _, r := range records.GetRecords() {
		text, err := protojson.Marshal(r)
		if err != nil {
			return err
		}
		var line bytes.Buffer
		line.WriteString(`{"record":`)
		if err := json.Compact(&line, text); err != nil { // protojson strews blanks
			return err
		}
		line.WriteString("}\n")
		out.Write(line.Bytes())
	}
	return nil
}

// writePlain writes the samples of a rendered batch.
func (d *batchDecode) writePlain(out *bufio.Writer, p *telemetrypb.PlainBatch) error {
	for _, s := range p.GetSamples() {
		line := strconv.AppendInt(append(d.line[:0], `{"t_ns":`...), s.GetBootNs(), 10)
		line = appendString(append(line, `,"name":`...), s.GetName())
		line = append(line, `,"value":`...)
		switch v := s.GetValue().(type) {
		case *telemetrypb.PlainSample_Number:
			line = cli.AppendFloat(line, v.Number)
		case *telemetrypb.PlainSample_Integer:
			line = strconv.AppendInt(line, v.Integer, 10)
		case *telemetrypb.PlainSample_Natural:
			line = strconv.AppendUint(line, v.Natural, 10)
		case *telemetrypb.PlainSample_Text:
			line = appendString(line, v.Text)
		case *telemetrypb.PlainSample_Blob:
			line = fmt.Appendf(line, `"%x"`, v.Blob)
		default:
			line = append(line, `null`...)
		}
		line = appendUnit(line, s.GetUnit())
		if s.GetLabel() != "" {
			line = appendString(append(line, `,"label":`...), s.GetLabel())
		}
		line = append(appendWallTime(line, s.GetTimeUnixNs(), s.GetTimeUncertaintyNs(), s.GetTimeSource()), '}', '\n')
		out.Write(line)
		d.line = line
	}
	return d.writeRecords(out, p.GetRecords())
}

// readCatalogue reads a catalogue from a file: its bytes, its JSON mapping, or a control payload that carries it.
func readCatalogue(file string) (*telemetrypb.Catalogue, [32]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, [32]byte{}, err
	}
	c, hash, err := catalogueOf(data)
	if err != nil {
		return nil, hash, fmt.Errorf("catalogue %s: %w", file, err)
	}
	return c, hash, nil
}

func catalogueOf(data []byte) (*telemetrypb.Catalogue, [32]byte, error) {
	if bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		c := new(telemetrypb.Catalogue)
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, c); err != nil {
			return nil, [32]byte{}, err
		}
		// Written and read again, so that it is in order and has its own hash.
		var hash [32]byte
		data, hash = telemetrypb.EncodeCatalogue(c)
		c, err := telemetrypb.DecodeCatalogue(data)
		return c, hash, err
	}
	// A payload looks much like a catalogue, but for the checksums of its batches.
	if payload, err := telemetrypb.OpenPayload(data); err == nil {
		for _, b := range payload.Batches {
			if _, err := telemetrypb.OpenBatch(b); err == nil {
				return catalogueInPayload(payload)
			}
		}
	}
	c, err := telemetrypb.DecodeCatalogue(data)
	return c, sha256.Sum256(data), err
}

// catalogueInPayload puts together the catalogue that control batches carry.
func catalogueInPayload(payload telemetrypb.PayloadView) (*telemetrypb.Catalogue, [32]byte, error) {
	var assembler telemetrypb.CatalogueAssembler
	for _, b := range payload.Batches {
		view, err := telemetrypb.OpenBatch(b)
		if err != nil {
			continue // its parts will be missing
		}
		records, err := view.Records()
		if err != nil {
			continue
		}
		for _, r := range records.GetRecords() {
			if part := r.GetCatalogue(); part != nil {
				if c, hash, err := assembler.Add(part); err != nil || c != nil {
					return c, hash, err
				}
			}
		}
	}
	return nil, [32]byte{}, errors.New("a payload without a whole catalogue in it")
}
