package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/internal/local"
)

// Exit codes of status, beside cli.OK and cli.Usage. Monitoring scripts rely on them.
const (
	exitAlarms     = 1
	exitNotRunning = 3
)

// askFlags say which agent is asked.
type askFlags struct {
	file, address, tokenFile string
}

func (f *askFlags) add(cmd *cobra.Command) {
	configFlag(cmd, &f.file)
	cmd.Flags().StringVar(&f.address, "address", "", "`HOST:PORT` or unix:PATH of the agent; default: metrics.listen of "+
		"the configuration")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "`FILE` whose first line is the agent's token, if it asks for "+
		"one; default: the configuration's, or the environment's "+local.EnvToken)
}

// client is the way to the agent. Its errors are about the call or the configuration.
func (f *askFlags) client() (*local.Client, error) {
	token := os.Getenv(local.EnvToken)
	if f.tokenFile != "" {
		text, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, cli.UsageError(fmt.Errorf("--token-file: %w", err))
		}
		token, _, _ = strings.Cut(string(text), "\n")
	}
	if f.address != "" { // the configuration is not looked at
		return local.NewClient(f.address, token), nil
	}
	d, err := readConfig(f.file)
	if err != nil {
		return nil, cli.UsageError(fmt.Errorf("%w; or name the agent by --address", err))
	}
	s, err := check(d)
	if err != nil {
		return nil, cli.UsageError(fmt.Errorf("%w; or name the agent by --address", err))
	}
	if s.MetricsListen == "" {
		return nil, cli.UsageError(fmt.Errorf("%s has no metrics.listen: the agent cannot be asked; add metrics: {listen: "+
			"127.0.0.1:9464}", f.file))
	}
	if f.tokenFile == "" {
		token = s.Page.Token // of the configuration, or of the environment
	}
	return local.NewClient(s.MetricsListen, token), nil
}

func statusCommand() *cobra.Command {
	var f askFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [-c FILE]",
		Short: "Say on one screen how the running agent is",
		Long: `Asks the agent on this computer, over the address that metrics.listen of its configuration names. The exit code is for
scripts:

  0  it runs, and no alarm stands
  1  it runs, and alarms stand
  2  wrong usage, or a configuration that cannot be read
  3  it does not run, or cannot be asked`,
		Example: "  waybill-agent status\n  waybill-agent status --json | jq -r '.alarms[].name'\n  waybill-agent status " +
			"--address 127.0.0.1:9464 >/dev/null || echo look",
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return status(ctx, cmd.OutOrStdout(), client, asJSON)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the document of /api/state (docs/LOCAL.md)")
	return cmd
}

func status(ctx context.Context, out io.Writer, client *local.Client, asJSON bool) error {
	s, err := client.State(ctx)
	if err != nil {
		return &cli.Error{Code: exitNotRunning, Err: err}
	}
	if asJSON {
		err = json.NewEncoder(out).Encode(s)
	} else {
		width := 0
		if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			width, _, _ = term.GetSize(int(f.Fd())) // 0: as wide as it gets
		}
		_, err = io.WriteString(out, strings.Join(cutAll(overview(&s), width), "\n")+"\n")
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	if len(s.Alarms) > 0 {
		return &cli.Error{Code: exitAlarms}
	}
	return nil
}
