package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func samplesCommand() *cobra.Command {
	var f listFlags
	var q store.Query
	var from, to string
	cmd := listCommand("samples --db STORE", "Print samples, one JSON object a line, oldest first", `Print samples, one JSON object a line, oldest first.

time is missing where it is not known; boot_ns is CLOCK_BOOTTIME within boot_id. raw is exact; a batch that came
rendered may not have carried it. NaN and infinities are the strings "NaN", "Infinity" and "-Infinity".`, &f,
		func(ctx context.Context, s store.Store, out io.Writer) error {
			w := bufio.NewWriter(out)
			var line []byte
			if err := s.Samples(ctx, q, func(r *store.Reading) error {
				line = appendReading(line[:0], r)
				_, err := w.Write(line)
				return err
			}); err != nil {
				return err
			}
			return w.Flush()
		})
	flags := cmd.Flags()
	flags.StringVar(&q.Tenant, "tenant", "", "only this tenant")
	flags.StringVar(&q.Device, "device", "", "only this device")
	flags.StringVar(&q.Signal, "signal", "", "only signals whose whole name fits this pattern, with * and ?")
	flags.StringVar(&from, "from", "", "only from this time on, RFC 3339")
	flags.StringVar(&to, "to", "", "only before this time, RFC 3339")
	flags.Int64Var(&q.Limit, "limit", 0, "at most so many (0: all)")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if q.From, err = parseTime("--from", from); err != nil {
			return cli.UsageError(err)
		}
		if q.To, err = parseTime("--to", to); err != nil {
			return cli.UsageError(err)
		}
		return run(cmd, args)
	}
	return cmd
}

func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("%s %q: want a time such as 2026-11-22T15:04:05Z", flag, text)
	}
	return t, nil
}

// appendReading writes one line by hand: encoding/json would round integers above 2^53 on their way through any, and
// it has no NaN.
func appendReading(b []byte, r *store.Reading) []byte {
	b = append(b, '{')
	if r.Time.Source != telemetrypb.TimeSource_TIME_SOURCE_NONE {
		b = append(b, `"time":"`...)
		b = time.Unix(0, r.Time.UnixNS).UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","uncertainty_ns":`...)
		b = strconv.AppendUint(b, r.Time.UncertaintyNS, 10)
		b = append(b, ',')
	}
	b = append(b, `"source":"`...)
	b = append(b, sourceWord(r.Time.Source)...)
	b = append(b, `","tenant":`...)
	b = appendText(b, r.Tenant)
	b = append(b, `,"device":`...)
	b = appendText(b, r.Device)
	b = append(b, `,"signal":`...)
	b = appendText(b, r.Signal)
	if r.Raw.Kind != telemetrypb.KindNone {
		b = append(b, `,"raw":`...)
		b = appendScalar(b, r.Raw)
	}
	if r.Value.Kind != telemetrypb.KindNone {
		b = append(b, `,"value":`...)
		b = appendScalar(b, r.Value)
	}
	if r.Unit != "" {
		b = append(b, `,"unit":`...)
		b = appendText(b, r.Unit)
	}
	if r.Label != "" {
		b = append(b, `,"label":`...)
		b = appendText(b, r.Label)
	}
	b = fmt.Appendf(b, `,"epoch":"%016x","lane":%q,"seq":%d,"index":%d,"boot_id":"%x","boot_ns":%d}`+"\n",
		r.Epoch, telemetrypb.LaneName(r.Lane), r.Seq, r.Index, r.BootID, r.BootNS)
	return b
}

// sourceWord is TIME_SOURCE_GPS as people read it: gps.
func sourceWord(s telemetrypb.TimeSource) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TIME_SOURCE_"))
}

func appendText(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil { // strings always encode
		return append(b, `""`...)
	}
	return append(b, text...)
}

// appendScalar writes integers exactly, to 64 bits.
func appendScalar(b []byte, s store.Scalar) []byte {
	switch s.Kind {
	case telemetrypb.KindInt:
		return strconv.AppendInt(b, int64(s.Bits), 10)
	case telemetrypb.KindUint:
		return strconv.AppendUint(b, s.Bits, 10)
	case telemetrypb.KindFloat:
		return cli.AppendFloat(b, math.Float64frombits(s.Bits))
	case telemetrypb.KindString:
		return appendText(b, s.Text)
	case store.KindBlob:
		return fmt.Appendf(b, `"%x"`, s.Text)
	}
	return append(b, "null"...)
}
