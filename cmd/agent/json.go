package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// appendRaw appends the raw value of a sample as JSON.
func appendRaw(dst []byte, s telemetrypb.Sample) []byte {
	switch s.Kind {
	case telemetrypb.KindInt:
		return strconv.AppendInt(dst, int64(s.Bits), 10)
	case telemetrypb.KindUint:
		return strconv.AppendUint(dst, s.Bits, 10)
	case telemetrypb.KindFloat:
		return cli.AppendFloat(dst, math.Float64frombits(s.Bits))
	}
	return appendString(dst, s.Str)
}

// appendString appends a JSON string.
func appendString(dst []byte, s string) []byte {
	text, err := json.Marshal(s) // invalid UTF-8 becomes U+FFFD
	if err != nil {
		panic(err) // a string always marshals
	}
	return append(dst, text...)
}

// openInput opens the positional file of a tool command; "-" or nothing is standard input.
func openInput(cmd *cobra.Command, args []string) (in io.ReadCloser, name string, err error) {
	if len(args) == 0 || args[0] == "-" {
		return io.NopCloser(cmd.InOrStdin()), "standard input", nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return f, args[0], err
	}
	var size int64
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return cli.NewProgress(cmd.ErrOrStderr(), cmd.OutOrStdout(), filepath.Base(args[0]), size).Reader(f), args[0], nil
}

// withOutput runs a tool command on buffered standard output and reports what could not be written.
func withOutput(cmd *cobra.Command, run func(out *bufio.Writer) error) error {
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	err := run(out)
	if flushErr := out.Flush(); flushErr != nil && err == nil {
		err = fmt.Errorf("writing the result: %w", flushErr)
	}
	return err
}
