package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-telematics/waybill/fleet/ota"
	"github.com/waybill-telematics/waybill/internal/cli"
)

func otaSignCommand() *cobra.Command {
	var f otaFlags
	var merge []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "sign FILE --key KEYS",
		Short: "Show what a staged file says, and sign it",
		Long: `Show what a staged file says that the version before did not, ask, and sign it with those keys of a file of keys that may.

It needs no network and no workspace: bring the folder staged/image (or director), with previous/ in it, to where the keys are, and bring the
signed file back. Several holders may sign copies at the same time: --merge takes over the signatures of a copy.
Without --key it only shows. When enough have signed, ota publish publishes.

Read what it shows: your signature says that you did. What begins with ! is unusual.`,
		Example: `  waybill-fleet ota sign stick/image/2.root.json --key offline-1.keys --passphrase-file p
  waybill-fleet ota sign staged/image/2.root.json --merge stick-1/image/2.root.json --merge stick-2/image/2.root.json`,
		Args: oneArgument("sign", "a staged file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			p, err := ota.OpenPending(args[0])
			if err != nil {
				return err
			}
			for _, path := range merge {
				if err := p.Merge(path); err != nil {
					return err
				}
			}
			words, err := p.Words()
			if err != nil {
				return err
			}
			for _, line := range words {
				fmt.Fprintln(out, printable(line))
			}
			if len(f.keys) > 0 {
				keys, err := f.read(f.keys)
				if err != nil {
					return err
				}
				for _, k := range p.Mine(keys) {
					fmt.Fprintf(out, "to be signed by %s (%.8s)\n", printable(k.Name), k.ID)
				}
				if !yes && len(p.Mine(keys)) > 0 {
					if err := confirm(cmd.InOrStdin(), out); err != nil {
						return err
					}
				}
				if err := p.Sign(keys); err != nil {
					return err
				}
			}
			lines, err := p.Signatures()
			for _, line := range lines {
				fmt.Fprintln(out, printable(line))
			}
			return err
		},
	}
	f.registerPassphrase(cmd)
	f.registerKeys(cmd, "file of keys to sign with")
	flags := cmd.Flags()
	flags.StringArrayVar(&merge, "merge", nil, "copy of the file that somebody else has signed")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func confirm(in io.Reader, out io.Writer) error {
	fmt.Fprint(out, "Is this what you mean to sign? Type yes: ")
	line, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("not signed")
	}
	return nil
}

func otaRotateCommand() *cobra.Command {
	var f otaFlags
	var add, remove []string
	o := ota.RotateOptions{}
	cmd := &cobra.Command{
		Use:   "rotate image|director ROLE [--add KEYS.pub] [--remove NAME]",
		Short: "Stage other keys for a role, or a later expiry",
		Long: `Stage other keys for a role, or, without --add, --remove and --threshold, the same with a later expiry.

  ROLE    root                of either repository
          targets             of the image repository
          online              snapshot, timestamp, and the director's targets
          linux-arm64, …      who signs images for a hardware; a new one wants --hardware and --add

A new root has to be signed by enough keys of the old one and of the new one. What the new keys have to sign anew is staged beside it. Let both
old and new keys sign that: then vehicles never meet a moment at which they refuse. Nothing is public before ota publish.`,
		Example: `  waybill-fleet ota rotate image root --remove image-root-1 --add grace.keys.pub
  waybill-fleet ota rotate image targets
  waybill-fleet ota rotate image linux-armv7 --hardware linux/armv7 --add team.keys.pub`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || args[0] != ota.Image && args[0] != ota.Director {
				return cli.UsageError(errors.New("rotate: want image or director, and a role"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			w, keys, err := f.open(false)
			if err != nil {
				return err
			}
			o.Repository, o.Role, o.Remove = args[0], args[1], remove
			for _, text := range add {
				path, name, named := strings.Cut(text, "#")
				list, err := ota.ReadPublic(path)
				if err != nil {
					return fmt.Errorf("--add: %w", err)
				}
				found := false
				for _, k := range list {
					if !named || k.Name == name {
						o.Add, found = append(o.Add, k), true
					}
				}
				if !found {
					return fmt.Errorf("--add %s: no key of that name is in it", text)
				}
			}
			staged, err := w.Rotate(o, keys)
			if err != nil {
				return err
			}
			return printPending(cmd.OutOrStdout(), staged)
		},
	}
	f.registerDir(cmd)
	f.registerPassphrase(cmd)
	f.registerKeys(cmd, "file of keys that sign what is staged at once, as far as they may")
	flags := cmd.Flags()
	flags.StringArrayVar(&add, "add", nil, "file of public keys to be added; FILE#NAME is one of them")
	flags.StringArrayVar(&remove, "remove", nil, "name or id of a key to be taken away")
	flags.IntVar(&o.Threshold, "threshold", 0, "how many have to sign (0: as before)")
	flags.StringVar(&o.Hardware, "hardware", "", "what a new role signs images for, such as linux/armv7")
	return cmd
}

func printPending(out io.Writer, list []*ota.Pending) error {
	for _, p := range list {
		done, err := p.Complete()
		if err != nil {
			return err
		}
		state := "waits for signatures"
		if done {
			state = "is signed by enough; ota publish publishes it"
		}
		fmt.Fprintf(out, "%s %s\n", printable(p.Path), state)
		lines, err := p.Signatures()
		if err != nil {
			return err
		}
		for _, line := range lines {
			fmt.Fprintf(out, "  %s\n", printable(line))
		}
	}
	return nil
}

func otaPublishCommand() *cobra.Command {
	var f otaFlags
	var o ota.PublishOptions
	var withdraw string
	cmd := &cobra.Command{
		Use:   "publish [IMAGE --name NAME --hardware HW --version V --release-counter N]",
		Short: "Add an image, and publish what is signed by enough",
		Long: `Add an image to the image repository, and publish all that is signed by enough.

The image is called HARDWARE/NAME-VERSION, with '-' for '/' in HARDWARE. It is staged for its team's signature; with --key of the
team's keys it is public at once. Without an image it publishes what others have signed meanwhile.

The release counter is what vehicles compare: none installs an image whose counter is below that of the one it has. Raise it with each
release, and for going back publish the older software once more as a new release.

--patch-from makes a zstd patch from an older image, so that vehicles that run it fetch little; give the releases that are in the field.`,
		Example: `  waybill-fleet ota publish waybill-agent --name agent --hardware linux/arm64 --version 1.2.3 --release-counter 12 --patch-from old/waybill-agent
  waybill-fleet ota publish`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cli.UsageError(errors.New("publish: want one image, or none"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			w, keys, err := f.open(true)
			if err != nil {
				return err
			}
			var image *ota.PublishOptions
			if len(args) == 1 {
				o.Path = args[0]
				image = &o
			}
			var p *ota.Published
			if withdraw != "" && image != nil {
				return cli.UsageError(errors.New("publish: --withdraw goes without an image"))
			} else if withdraw != "" {
				p, err = w.Withdraw(withdraw, keys)
			} else {
				p, err = w.Publish(image, keys)
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if p.Target != "" {
				fmt.Fprintf(out, "image %s\n", printable(p.Target))
			}
			for _, patch := range p.Patches {
				fmt.Fprintf(out, "patch from %.16s…, %d bytes\n", patch.From, patch.Length)
			}
			for _, file := range p.Files {
				fmt.Fprintf(out, "published %s\n", printable(file))
			}
			if p.Directors {
				fmt.Fprintln(out, "published the directors")
			}
			return printPending(out, p.Waiting)
		},
	}
	f.registerOnline(cmd)
	f.registerKeys(cmd, "file of keys that sign what is staged at once, as far as they may")
	flags := cmd.Flags()
	flags.StringVar(&withdraw, "withdraw", "", "HARDWARE/NAME-VERSION of an image that nobody shall install any more; its team signs that, too")
	flags.StringVar(&o.Name, "name", "", "what it is, such as agent")
	flags.StringSliceVar(&o.Hardware, "hardware", nil, "what it is made for, such as linux/arm64; the first one's team signs it")
	flags.StringVar(&o.Version, "version", "", "its version, for people")
	flags.Uint64Var(&o.Release, "release-counter", 0, "a number above that of every earlier release")
	flags.StringArrayVar(&o.PatchFrom, "patch-from", nil, "an older image that vehicles run")
	return cmd
}
