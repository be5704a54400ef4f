package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func gpsCommand() *cobra.Command {
	return cli.Group("gps", "Read what a satellite receiver says", gpsDecodeCommand())
}

func gpsDecodeCommand() *cobra.Command {
	var all, sky bool
	cmd := &cobra.Command{
		Use:   "decode [LOG]",
		Short: "Print the fixes in a log of NMEA 0183 sentences, one JSON object an epoch",
		Long: `Print the fixes in a log of NMEA 0183 sentences, one JSON object an epoch.

LOG is a file; "-" or nothing is standard input. Each line of the result has
  time        UTC, RFC 3339 with milliseconds, once the receiver has told a date
  mode        1 no fix, 2 two-dimensional, 3 three-dimensional
  lat, lon    degrees, north and east positive
  alt         m above mean sea level
  geoid       m, mean sea level above the WGS-84 ellipsoid
  speed       m/s over ground; with "speed_derived":true worked out from the positions
  track       degrees from true north
  heading     degrees from true north: where the vehicle points
  pdop, hdop, vdop, quality
  satellites  in the solution; seen: in view; systems: both by constellation
  error_lat, error_lon, error_alt
              m, one standard deviation; with "error_derived":true the dilution times an assumed range error
  alt_ellipsoid  m above the WGS-84 ellipsoid
  suspect     why the fix is not to be believed: jump, hemisphere, stale, backwards, null island
  sky         with --sky: the satellites in view
as far as they are known. An epoch without a valid fix is left out, or printed with --all.

A line "# Date: 2006-01-02" in the log says near which day it was taken, which settles the century of
two-digit years and the week of receivers that have lost count; otherwise the first full date does (ZDA).
Sentences without a checksum are ignored. Whatever is not used is told on standard error with its line.`,
		Example: `  waybill-agent gps decode drive.nmea
  gpspipe -r -n 100 | waybill-agent gps decode --all
  waybill-agent gps decode drive.nmea | jq -r '[.time, .lat, .lon, .speed] | @csv'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cli.UsageError(fmt.Errorf("gps decode takes one log, got %d", len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in, name, err := openInput(cmd, args)
			if err != nil {
				return err
			}
			defer in.Close()
			return withOutput(cmd, func(out *bufio.Writer) error {
				return decodeNMEA(in, name, all, sky, out, cmd.ErrOrStderr())
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "print epochs without a valid fix, too")
	cmd.Flags().BoolVar(&sky, "sky", false, "print the satellites in view with each epoch")
	return cmd
}

// maxRejectLines is how many rejected sentences are told one by one; the rest is counted.
const maxRejectLines = 20

func decodeNMEA(in io.Reader, name string, all, withSky bool, out *bufio.Writer, warn io.Writer) error {
	var told int
	var line []byte
	var judge gps.Judge
	var sky []gps.Satellite
	var writeErr error
	parser, err := gps.NewParser(gps.ParserOptions{
		LogHeaders: true,
		OnReject: func(r gps.Reject) {
			if told++; told <= maxRejectLines {
				fmt.Fprintf(warn, "%s:%d: warning: %s: %.60q\n", name, r.Line, r.Reason, r.Text)
			}
		},
	})
	if err != nil {
		return err
	}
	emit := func(f gps.Fix) {
		judge.Judge(&f)
		if !all && !f.Valid() {
			return
		}
		if withSky {
			sky = parser.AppendSky(sky[:0])
		}
		line = appendFix(line[:0], &f, sky)
		if _, err := out.Write(line); err != nil && writeErr == nil {
			writeErr = err
		}
	}
	buf := make([]byte, 32<<10)
	for writeErr == nil {
		n, err := in.Read(buf)
		parser.Feed(buf[:n], 0, emit)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
	}
	parser.End(emit)
	if c := parser.Counters(); told > 0 || c.NoiseBytes > 0 {
		fmt.Fprintf(warn, "%s: warning: %d sentences used, %d without a checksum, %d with a wrong one, %d malformed, "+
			"%d too long; %d bytes of noise\n", name, c.Sentences, c.Rejected[gps.ReasonNoChecksum],
			c.Rejected[gps.ReasonChecksum], c.Rejected[gps.ReasonMalformed], c.Rejected[gps.ReasonTooLong], c.NoiseBytes)
	}
	return writeErr
}
