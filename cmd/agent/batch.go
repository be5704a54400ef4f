package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// What a batch made on a bench is published as. The device id has the 17 characters of a usual provisioned id.
const (
	benchTenant = "bench"
	benchDevice = "BENCH-DEVICE-0001"
	benchEpoch  = 0x5742_0000_0000_0001
	benchBootID = "bench boot id 01" // 16 bytes

	benchGroup = 4 // signals 4k+1…4k+4 are one message
)

// millisecond in ns, the unit of t_ms.
const millisecond = 1_000_000

func batchCommand() *cobra.Command {
	return cli.Group("batch", "Tools for what is published: encode samples, decode payloads", batchEncodeCommand(), batchDecodeCommand())
}

// batchEncode is one run of `batch encode`.
type batchEncode struct {
	catalogueFile string
	verbose       bool
}

func batchEncodeCommand() *cobra.Command {
	e := &batchEncode{}
	cmd := &cobra.Command{
		Use:   "encode [CSV]",
		Short: "Encode samples from CSV into one batch, as it would be published",
		Long: `Encode all samples of a CSV file into one batch, and write the payload that would be published: the batch with its
envelope (device id of 17 characters, hash of a catalogue), as proto/FORMAT.md describes it.

CSV has the columns t_ms,signal,raw: time in whole milliseconds, signal number from 1, raw value. A whole number is kept
exact to 64 bits, any other as a 64-bit float. Lines that start with # and the header line are skipped. "-" or nothing is
standard input. Signals 4k+1 to 4k+4 count as one message of a made-up catalogue; --write-catalogue keeps that for
batch decode.

Lines that cannot be read are warnings on standard error, with their number. Input without samples gives no output. The exit
code is 0 when the input could be read, 1 when it could not, 2 for wrong usage.`,
		Example: `  printf 't_ms,signal,raw\n100,1,837\n200,1,838\n' | waybill-agent batch encode | waybill-agent batch decode
  waybill-agent batch encode --verbose --write-catalogue names.bin drive.csv >payload.bin`,
		Args: oneInput("batch encode", "CSV file"),
		RunE: e.run,
	}
	cmd.Flags().StringVar(&e.catalogueFile, "write-catalogue", "", "write the catalogue of these signals to `FILE`")
	cmd.Flags().BoolVarP(&e.verbose, "verbose", "v", false, "say on standard error how many bytes a sample took")
	return cmd
}

// oneInput allows at most one positional argument.
func oneInput(command, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return cli.UsageError(fmt.Errorf("%s takes one %s; see waybill-agent %s --help", command, what, command))
		}
		return nil
	}
}

func (e *batchEncode) run(cmd *cobra.Command, args []string) error {
	in, name, err := openInput(cmd, args)
	if err != nil {
		return err
	}
	defer in.Close()
	samples, err := readSamples(in, name, cmd.ErrOrStderr())
	if err != nil || len(samples) == 0 {
		return err
	}
	catalogue, hash := telemetrypb.EncodeCatalogue(benchCatalogue(samples))
	head := telemetrypb.Head{
		Tenant: benchTenant, Device: benchDevice, Epoch: benchEpoch, Lane: telemetrypb.Lane_LANE_TELEMETRY, Seq: 1,
		BootID: [16]byte([]byte(benchBootID)), BootCount: 1, Catalogue: [16]byte(hash[:16]),
	}
	batch, err := telemetrypb.AppendBatch(nil, &head, samples)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	payload := telemetrypb.AppendPayload(nil, false, nil, batch)
	if e.catalogueFile != "" {
		if err := os.WriteFile(e.catalogueFile, catalogue, 0o644); err != nil {
			return fmt.Errorf("writing the catalogue: %w", err)
		}
	}
	if e.verbose {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d samples in %d bytes, %.4f bytes a sample\n",
			name, len(samples), len(payload), float64(len(payload))/float64(len(samples)))
	}
	return withOutput(cmd, func(out *bufio.Writer) error {
		out.Write(payload) // a failure sticks to the writer, and withOutput reports it
		return nil
	})
}

// readSamples reads CSV of t_ms,signal,raw. Lines that cannot be read are warnings; a file that has only such lines
// is an error.
func readSamples(in io.Reader, name string, warnings io.Writer) ([]telemetrypb.Sample, error) {
	var samples []telemetrypb.Sample
	rejected, number := 0, 0
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		number++
		text := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if text == "" || text[0] == '#' || len(samples)+rejected == 0 && strings.HasPrefix(text, "t_ms") {
			continue
		}
		s, err := parseSample(text)
		if err != nil {
			rejected++
			fmt.Fprintf(warnings, "%s:%d: warning: %v\n", name, number, err)
			continue
		}
		if len(samples) == telemetrypb.MaxSamples {
			return nil, fmt.Errorf("%s:%d: a batch holds at most %d samples; split the file", name, number, telemetrypb.MaxSamples)
		}
		samples = append(samples, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s, line %d: %w", name, number+1, err)
	}
	if len(samples) == 0 && rejected > 0 {
		return nil, fmt.Errorf("%s: none of %d lines is t_ms,signal,raw", name, rejected)
	}
	return samples, nil
}

// parseSample reads one line of t_ms,signal,raw.
func parseSample(text string) (telemetrypb.Sample, error) {
	var none telemetrypb.Sample
	fields := strings.Split(text, ",")
	if len(fields) != 3 {
		return none, fmt.Errorf("%d fields, want t_ms,signal,raw", len(fields))
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	ms, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || ms > math.MaxInt64/millisecond || ms < math.MinInt64/millisecond {
		return none, fmt.Errorf("t_ms %.40q: want a whole number of milliseconds, up to ±%d", fields[0], int64(math.MaxInt64/millisecond))
	}
	id, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil || id == 0 {
		return none, fmt.Errorf("signal %.40q: want a number from 1 to %d", fields[1], uint32(math.MaxUint32))
	}
	at := ms * millisecond
	if v, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
		return telemetrypb.IntSample(uint32(id), at, v), nil
	}
	if v, err := strconv.ParseUint(fields[2], 10, 64); err == nil {
		return telemetrypb.UintSample(uint32(id), at, v), nil
	}
	v, err := strconv.ParseFloat(fields[2], 64)
	if err != nil {
		return none, fmt.Errorf("raw %.40q: want a number", fields[2])
	}
	return telemetrypb.FloatSample(uint32(id), at, v), nil
}

// benchCatalogue makes up a catalogue for the signals of a CSV file.
func benchCatalogue(samples []telemetrypb.Sample) *telemetrypb.Catalogue {
	seen := make(map[uint32]bool)
	c := &telemetrypb.Catalogue{Format: telemetrypb.Format}
	for _, s := range samples {
		if seen[s.Signal] {
			continue
		}
		seen[s.Signal] = true
		group := (s.Signal-1)/benchGroup + 1
		message := fmt.Sprintf("M%d", group)
		c.Signals = append(c.Signals, &telemetrypb.Signal{
			Id: s.Signal, Name: fmt.Sprintf("csv.%s.S%d", message, s.Signal), Scale: 1,
			Type: telemetrypb.ValueType(s.Kind), Source: "csv", Message: message, Group: group,
		})
	}
	return c
}
