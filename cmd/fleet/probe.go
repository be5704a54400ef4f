package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/internal/cli"
)

// readyPath is where a running serve says whether it is subscribed.
const readyPath = "/ready"

// probeTimeout bounds a probe: who asks has a limit of its own.
const probeTimeout = 4 * time.Second

// probeCommand asks a running serve: for the health checks of containers in which there is no other program.
func probeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "probe HOST:PORT",
		Short: "Ask a running serve whether it is subscribed at its broker",
		Long: `Ask a running serve whether it is subscribed at its broker. HOST:PORT is that of its --metrics, which also answers GET /ready with 200 or 503.

Exit code 0: it is. 1: it is not, or does not answer. Vehicles keep what they have meanwhile: wait rather than start it again.`,
		Example: "  waybill-fleet probe 127.0.0.1:9464",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.UsageError(errors.New("whom? want the HOST:PORT of serve's --metrics; see waybill-fleet probe --help"))
			}
			if _, _, err := net.SplitHostPort(args[0]); err != nil {
				return cli.UsageError(fmt.Errorf("%q: want HOST:PORT, that of serve's --metrics", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
			defer cancel()
			return probe(ctx, args[0], cmd.OutOrStdout())
		},
	}
}

func probe(ctx context.Context, address string, out io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+readyPath, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	said := strings.TrimSpace(string(text))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", address, response.Status, said)
	}
	_, err = fmt.Fprintln(out, said)
	return err
}
