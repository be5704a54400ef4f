package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/gps"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// initFlags are those of the command.
type initFlags struct {
	file, device, tenant, broker, dataDir string
	yes, force, json                      bool
	survey                                surveyor
}

func initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init [-c FILE]",
		Short: "Look around on this computer and write a configuration for it",
		Long: `Listens to the CAN interfaces that are up, compares what comes with DBC files, looks for a receiver (gpsd, then
/dev/serial/by-id, /dev/ttyACM*, /dev/ttyUSB* at the usual rates), asks a few questions, and writes a commented
configuration that check accepts. Nothing is sent on a bus. With --yes it asks nothing. A file that is there is never
overwritten without --force.

DBC files are ranked for each bus by how many of the ids heard they name with the length they came with, less those with
another length. The score is that number ÷ the lesser of ids heard and messages in the file. A file is taken from 0.6
on if it names three ids of 11 bits or one of 29 bits, the first one from 0.3 on if it names ten or four; a further one by
what those before it do not name. A bus that no file explains is recorded whole (record: all), to be decoded later.

With --log, buses are those of candump logs, and nothing is listened to: a start without a vehicle.`,
		Example: `  sudo waybill-agent init --dbc /usr/share/dbc
  waybill-agent init --yes -c agent.yaml --dbc car.dbc --broker mqtts://broker.example.com:8883
  waybill-agent init --yes -c bench.yaml --dbc demo.dbc --log drive.log --gps-log drive.nmea --data-dir data`,
		Args: cli.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l := f.survey.listen; l < 100*time.Millisecond || l > 10*time.Minute {
				return cli.UsageError(fmt.Errorf("--listen: must be between 100ms and 10m, got %v", l))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return f.run(ctx, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	configFlag(cmd, &f.file)
	flags.BoolVar(&f.yes, "yes", false, "ask nothing, take what is found and the defaults")
	flags.BoolVar(&f.force, "force", false, "overwrite a file that is there")
	flags.BoolVar(&f.json, "json", false, "print what was found as one JSON object")
	flags.StringVar(&f.device, "device", "", "the vehicle's `ID`; default: made from this computer's machine-id")
	flags.StringVar(&f.tenant, "tenant", "default", "whose vehicle")
	flags.StringVar(&f.broker, "broker", "", "`URL` of the broker; default: record only")
	flags.StringVar(&f.dataDir, "data-dir", "/var/lib/waybill", "folder of the queue; relative to the file's folder")
	flags.DurationVar(&f.survey.listen, "listen", 5*time.Second, "how long to listen to each bus and receiver")
	flags.StringArrayVar(&f.survey.dbc, "dbc", nil, "DBC `FILE`, or a folder of them; may be given several times")
	flags.StringArrayVar(&f.survey.logs, "log", nil, "candump `FILE` in place of interfaces; may be given several times")
	flags.StringArrayVar(&f.survey.gpsLogs, "gps-log", nil, "NMEA `FILE` in place of receivers; may be given several times")
	flags.StringArrayVar(&f.survey.serial, "serial", nil, "serial `DEVICE` to try beside the usual ones; may be given "+
		"several times")
	flags.StringVar(&f.survey.gpsd, "gpsd", gps.DefaultGPSD, "`HOST:PORT` of gpsd")
	return cmd
}

func (f *initFlags) run(ctx context.Context, in io.Reader, out, stderr io.Writer) error {
	if !f.force {
		if _, err := os.Lstat(f.file); err == nil {
			return fmt.Errorf("%s is there already; --force overwrites it, -c names another", f.file)
		}
	}
	f.survey.say = func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	if f.device == "" {
		f.device = ownName()
	}
	ask := bufio.NewReader(in)
	if !f.yes {
		if err := f.questions(ask, stderr); err != nil {
			return err
		}
	}
	found, err := f.survey.run(ctx)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; nothing is written")
	}
	text, err := f.configuration(found)
	if err != nil {
		return err
	}
	found.summary(stderr)
	if err := placeConfiguration(f.file, text, f.force); err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(out).Encode(struct {
			File string `json:"file"`
			*survey
		}{f.file, found})
	}
	_, err = fmt.Fprintf(out, "%s is written; next:\n  waybill-agent check  -c %[1]s\n  waybill-agent doctor -c %[1]s\n  "+
		"waybill-agent run    -c %[1]s\n", f.file)
	return err
}

// questions asks what cannot be found out; an empty line takes what stands in brackets.
func (f *initFlags) questions(in *bufio.Reader, out io.Writer) error {
	dbc := strings.Join(f.survey.dbc, " ")
	for _, q := range []struct {
		text  string
		value *string
		check func(string) error
	}{
		{"vehicle's id, fixed and not the VIN", &f.device, func(s string) error { return telemetrypb.CheckName("device id", s) }},
		{"tenant, whose vehicle it is", &f.tenant, func(s string) error { return telemetrypb.CheckName("tenant", s) }},
		{"broker's URL, such as mqtts://broker.example.com:8883; - records only", &f.broker, nil},
		{"DBC files or folders, separated by blanks; - for none", &dbc, nil},
	} {
		for {
			fmt.Fprintf(out, "%s [%s]: ", q.text, orDefault(*q.value, "-"))
			line, err := in.ReadString('\n')
			if line = strings.TrimSpace(line); err != nil && line == "" {
				return fmt.Errorf("no answer to %q: %w; --yes asks nothing", q.text, err)
			}
			switch line {
			case "":
			case "-":
				*q.value = ""
			default:
				*q.value = line
			}
			if q.check == nil {
				break
			}
			if err = q.check(*q.value); err == nil {
				break
			}
			fmt.Fprintln(out, err)
		}
	}
	f.survey.dbc = strings.Fields(dbc)
	return nil
}

// ownName makes an id that is this computer's alone and tells nothing of it: machine-id(5) asks for a hash.
func ownName() string {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) < 32 {
		id = make([]byte, 32)
		_, _ = rand.Read(id) // it never fails
	}
	mac := hmac.New(sha256.New, []byte(strings.TrimSpace(string(id))))
	mac.Write([]byte("waybill device"))
	return "car-" + hex.EncodeToString(mac.Sum(nil)[:5])
}

// placeConfiguration checks a configuration as check does and puts it in its place whole, never over another one without
// force.
func placeConfiguration(file string, text []byte, force bool) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".init-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Chmod(0o640), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if _, _, err := load(temp.Name()); err != nil {
		return fmt.Errorf("what was found makes no sound configuration, and nothing is written: %w", err)
	}
	if force {
		return os.Rename(temp.Name(), file)
	}
	if err := os.Link(temp.Name(), file); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; --force overwrites it, -c names another", file)
	} else {
		return err
	}
}
