package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ota"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

func otaCommand() *cobra.Command {
	group := cli.Group("ota", "Sign software for vehicles, publish it, and lead campaigns",
		otaInitCommand(), otaKeyCommand(), otaSignCommand(), otaRotateCommand(), otaPublishCommand(), otaCampaignCommand(), otaStatusCommand(), otaServeCommand())
	group.Long = `Vehicles install what two repositories vouch for: the image repository, whose keys are offline and in several hands, says what may be
installed at all; the director, whose key is online, says which vehicle shall install what. Both are files, in DIR/public, that any
HTTPS store can host.

  1. waybill-fleet ota init oem --line sedan=agent:linux/arm64     keys, roots, empty repositories
  2. carry oem/keys/offline-… to their holders; build oem/factory/*.root.json into the vehicle's image
  3. cd oem; waybill-fleet ota publish ../agent --name agent --hardware linux/arm64 --version 1.2.3 --release-counter 12
  4. waybill-fleet ota sign staged/image/2.linux-arm64.json --key …  the team signs; then ota publish, without an image
  5. waybill-fleet ota campaign create FILE.yaml, ota campaign advance ID
  6. waybill-fleet ota campaign run --db STORE                     by a timer: next stage, stop, renewal of what expires
  7. waybill-fleet ota status                                      what is public, what waits, what expires
  8. waybill-fleet ota serve --broker URL                          images by MQTT, for vehicles to which HTTP is closed

Everything may be interrupted and repeated. docs/OTA.md, "The OEM's side", has a worked example.`
	return group
}

// passphraseVariable is the environment's name for it.
const passphraseVariable = "WAYBILL_OTA_PASSPHRASE"

// otaFlags are what several of the commands have.
type otaFlags struct {
	dir, passphraseFile, online string
	keys                        []string
	db                          storeFlags
	outcomes                    string
	json                        bool
}

func (f *otaFlags) registerDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", ".", "folder that ota init made")
}

func (f *otaFlags) registerPassphrase(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.passphraseFile, "passphrase-file", "", "file that holds the passphrase of the keys, readable for its owner only (default: "+passphraseVariable+" of the environment)")
}

func (f *otaFlags) registerKeys(cmd *cobra.Command, what string) {
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, what)
}

// registerOnline is for the commands that publish.
func (f *otaFlags) registerOnline(cmd *cobra.Command) {
	f.registerDir(cmd)
	f.registerPassphrase(cmd)
	cmd.Flags().StringVar(&f.online, "online-keys", "", "file with the online keys (default: DIR/keys/online/online.keys)")
}

func (f *otaFlags) registerOutcomes(cmd *cobra.Command) {
	f.db.register(cmd)
	cmd.Flags().StringVar(&f.outcomes, "outcomes", "", "in place of --db: a file of JSON lines that say what became of updates (docs/OTA.md)")
}

// passphrase reads it when a file of keys is encrypted.
func (f *otaFlags) passphrase() ([]byte, error) {
	if f.passphraseFile != "" {
		return readPassphrase(f.passphraseFile)
	}
	if text := os.Getenv(passphraseVariable); text != "" {
		return []byte(text), nil
	}
	return nil, fmt.Errorf("the keys are encrypted: give --passphrase-file, or set %s", passphraseVariable)
}

func readPassphrase(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("--passphrase-file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("--passphrase-file %s: others may read it (mode %04o); chmod 600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--passphrase-file: %w", err)
	}
	text = []byte(strings.TrimRight(string(text), "\r\n"))
	if len(text) == 0 {
		return nil, fmt.Errorf("--passphrase-file %s is empty", path)
	}
	return text, nil
}

// open opens the workspace and reads keys: the online ones, if they are wanted, and those of --key.
func (f *otaFlags) open(online bool) (*ota.Workspace, []*ota.Key, error) {
	w, err := ota.Open(ota.Options{Dir: f.dir})
	if err != nil {
		return nil, nil, err
	}
	paths := f.keys
	if online {
		path := f.online
		if path == "" {
			path = filepath.Join(f.dir, "keys", "online", "online.keys")
		}
		paths = append([]string{path}, paths...)
	}
	keys, err := f.read(paths)
	return w, keys, err
}

func (f *otaFlags) read(paths []string) ([]*ota.Key, error) {
	var keys []*ota.Key
	for _, path := range paths {
		list, err := ota.ReadKeys(path, f.passphrase)
		if err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
		keys = append(keys, list...)
	}
	return keys, nil
}

// results opens where outcomes come from, and what closes it.
func (f *otaFlags) results(ctx context.Context) (ota.Outcomes, func() error, error) {
	nothing := func() error { return nil }
	switch {
	case f.db.db != "" && f.outcomes != "":
		return nil, nil, cli.UsageError(errors.New("give --db or --outcomes, not both"))
	case f.outcomes != "":
		return ota.OutcomeFile(f.outcomes), nothing, nil
	case f.db.db == "":
		return noOutcomes{}, nothing, nil
	}
	s, err := openStore(ctx, f.db, true, false, nil)
	if err != nil {
		return nil, nil, err
	}
	return storeOutcomes{s}, s.Close, nil
}

// noOutcomes is what a campaign that has begun cannot go on with.
type noOutcomes struct{}

func (noOutcomes) Outcomes(context.Context, string, []string) ([]ota.Outcome, error) {
	return nil, errors.New("what became of it is not known: give --db STORE, or --outcomes FILE")
}

// storeOutcomes reads what vehicles have told a store.
type storeOutcomes struct{ s store.Store }

func (o storeOutcomes) Outcomes(ctx context.Context, campaign string, images []string) ([]ota.Outcome, error) {
	var list []ota.Outcome
	for _, sum := range images {
		results, err := o.s.Results(ctx, "", telemetrypb.UpdateID(campaign, sum))
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			u, err := telemetrypb.ParseUpdateOutcome(r.ID, r.State, r.Reason, r.Text)
			if err != nil || u.Campaign != campaign || u.SHA256 != sum {
				// It said something of this image that cannot be read: not a success.
				u = &telemetrypb.UpdateOutcome{Campaign: campaign, SHA256: sum, Outcome: telemetrypb.UpdateFailed, Reason: "unreadable"}
			}
			list = append(list, ota.Outcome{Tenant: r.Tenant, Device: r.Device, UpdateOutcome: *u, Reason: u.Reason, Time: r.Received})
		}
	}
	return list, nil
}

func otaInitCommand() *cobra.Command {
	var f otaFlags
	var lines []string
	var quick bool
	var passphrases string
	cmd := &cobra.Command{
		Use:   "init DIR [--line NAME=ECU:HARDWARE[,ECU:HARDWARE]]…",
		Short: "Make keys, roots and empty repositories",
		Long: `Make keys, roots and empty repositories.

A line is a kind of vehicle: all of it have the same units. ECU is the name that the vehicle's configuration gives a unit, HARDWARE what
images for it are made for; agent:linux/arm64 is this agent on 64-bit ARM.

  DIR/keys/offline-1 … offline-5   roots of both repositories, 3 of 5 sign; 1 to 3 also the image repository's targets, 2 of 3 sign
  DIR/keys/team-HARDWARE           signs the images for one hardware
  DIR/keys/online                  snapshot, timestamp, and the director's targets: stays where campaigns are led
  DIR/factory                      the roots that the vehicle's image is to contain
  DIR/public                       what an HTTPS store hosts

Carry each offline folder to another person, keep a copy of it apart, and remove it here: who has three of them has your vehicles, and
when three are lost nothing can be signed any more.

Keys are encrypted with the passphrase, by scrypt and NaCl's secretbox. --passphrases has one for each holder.`,
		Example: "  waybill-fleet ota init oem --line sedan=agent:linux/arm64 --line truck=agent:linux/armv7,head:head-unit-b --passphrase-file p",
		Args:    oneArgument("init", "a folder that is not there yet"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := ota.InitOptions{Options: ota.Options{Dir: args[0]}, Bench: quick}
			for _, text := range lines {
				line, err := parseLine(text)
				if err != nil {
					return cli.UsageError(err)
				}
				o.Lines = append(o.Lines, line)
			}
			if len(o.Lines) == 0 {
				o.Lines = []ota.Line{{Name: "linux-arm64", ECUs: map[string]string{"agent": "linux/arm64"}}}
			}
			o.Keep = func(path string, keys []*ota.Key) error {
				var secret []byte
				var err error
				if passphrases != "" {
					secret, err = readPassphrase(filepath.Join(passphrases, filepath.Base(filepath.Dir(path))))
				} else if secret, err = f.passphrase(); err != nil && quick && f.passphraseFile == "" {
					secret, err = nil, nil
				}
				if err != nil {
					return err
				}
				if !quick && len(secret) < 12 {
					return errors.New("the passphrase has fewer than 12 characters")
				}
				return ota.WriteKeys(path, keys, secret)
			}
			if _, err := ota.Init(o); err != nil {
				return err
			}
			return otaInitWords(cmd.OutOrStdout(), args[0], quick)
		},
	}
	f.registerPassphrase(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&lines, "line", nil, "a kind of vehicle and its units (default: linux-arm64=agent:linux/arm64)")
	flags.BoolVar(&quick, "quick", false, "for a bench: one key a role, and not encrypted unless a passphrase is given")
	flags.StringVar(&passphrases, "passphrases", "", "folder with a file for each holder of keys (offline-1, …, online, team-…) that holds its passphrase")
	return cmd
}

func otaInitWords(out io.Writer, dir string, quick bool) error {
	text := fmt.Sprintf(`%[1]s is ready.
  %[1]s/keys/offline-…   carry each to another person, keep a copy of it apart, and remove it here
  %[1]s/keys/team-…      to the teams
  %[1]s/factory          both roots belong into the vehicle's image
  %[1]s/public           for your HTTPS store: image/ and director/LINE/COHORT/
`, dir)
	if quick {
		text = fmt.Sprintf(`*** %s IS FOR A BENCH: one key a role, all keys on this machine. ***
*** A vehicle that trusts it can be taken over by whoever reads one file. Never let one on a road trust it. ***
`, dir) + text
	}
	_, err := io.WriteString(out, text)
	return err
}

func parseLine(text string) (ota.Line, error) {
	name, units, ok := strings.Cut(text, "=")
	line := ota.Line{Name: name, ECUs: map[string]string{}}
	for unit := range strings.SplitSeq(units, ",") {
		id, hardware, found := strings.Cut(unit, ":")
		if _, twice := line.ECUs[id]; !ok || !found || twice {
			return line, fmt.Errorf("--line %q: want NAME=ECU:HARDWARE[,ECU:HARDWARE], such as sedan=agent:linux/arm64", text)
		}
		line.ECUs[id] = hardware
	}
	return line, nil
}

func otaKeyCommand() *cobra.Command {
	var f otaFlags
	var quick bool
	cmd := &cobra.Command{
		Use:   "key FILE NAME…",
		Short: "Make keys for ota rotate --add",
		Long: `Make Ed25519 keys: FILE, for their holder alone, and FILE.pub, which ota rotate --add takes. Names are for people, and stand in what is
signed: image-root-6. With FILE there already, nothing happens.`,
		Example: "  waybill-fleet ota key grace.keys image-root-6 director-root-6 --passphrase-file p",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.UsageError(errors.New("key: want a file and a name for each key"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var secret []byte
			if !quick {
				var err error
				if secret, err = f.passphrase(); err != nil {
					return err
				}
			}
			var keys []*ota.Key
			for _, name := range args[1:] {
				k, err := ota.NewKey(name, rand.Reader)
				if err != nil {
					return err
				}
				keys = append(keys, k)
			}
			if err := ota.WriteKeys(args[0], keys, secret); err != nil {
				return err
			}
			for _, k := range keys {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", k.ID, printable(k.Name))
			}
			return nil
		},
	}
	f.registerPassphrase(cmd)
	cmd.Flags().BoolVar(&quick, "quick", false, "for a bench: not encrypted")
	return cmd
}
