package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waybill-telematics/waybill/firmware"
	"github.com/waybill-telematics/waybill/internal/cli"
)

// manCommand writes man(7) pages of what --help says. It is written here and not by cobra/doc, which takes help for
// Markdown and runs its tables together.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man FOLDER",
		Short:   "Write the manual pages, one a command, into a folder",
		Long:    "Writes FOLDER/waybill-agent.1, waybill-agent-run.1 … The same program writes the same bytes.",
		Example: "  waybill-agent man /usr/share/man/man1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.UsageError(fmt.Errorf("man: want one folder, got %d arguments", len(args)))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return writeManuals(cmd.Root(), args[0])
		},
	}
}

// writeManuals writes a command's page and those below it.
func writeManuals(cmd *cobra.Command, folder string) error {
	name := manualName(cmd)
	if err := os.WriteFile(filepath.Join(folder, name+".1"), []byte(manual(cmd)), 0o644); err != nil {
		return err
	}
	for _, below := range manuals(cmd) {
		if err := writeManuals(below, folder); err != nil {
			return err
		}
	}
	return nil
}

// manuals are the commands below one that have pages: not hidden, and not cobra's own.
func manuals(cmd *cobra.Command) (list []*cobra.Command) {
	for _, below := range cmd.Commands() {
		if below.IsAvailableCommand() && below.Name() != "help" && below.Name() != "completion" {
			list = append(list, below)
		}
	}
	return list
}

func manualName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manual is a page in man(7) macros. Its date is the build's, so that it depends on nothing else.
func manual(cmd *cobra.Command) string {
	var page strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&page, format+"\n", args...) }
	date := ""
	if built := firmware.Current().Built; !built.IsZero() {
		date = built.UTC().Format(time.DateOnly)
	}
	line(`.TH %s 1 "%s" "waybill %s" Waybill`, roff(strings.ToUpper(manualName(cmd))), date, roff(firmware.Current().Version))
	line(".SH NAME\n%s \\- %s", roff(manualName(cmd)), roff(cmd.Short))
	line(".SH SYNOPSIS\n.B %s", roff(cmd.UseLine()))
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	line(".SH DESCRIPTION")
	page.WriteString(paragraphs(text))
	if below := manuals(cmd); len(below) > 0 {
		line(".SH COMMANDS")
		for _, c := range below {
			line(".TP\n.BR %s (1)\n%s", roff(manualName(c)), roff(c.Short))
		}
	}
	if cmd.HasAvailableFlags() {
		line(".SH OPTIONS")
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			value, usage := pflag.UnquoteUsage(f)
			names := "\\fB" + roff("--"+f.Name) + "\\fR"
			if f.Shorthand != "" {
				names = "\\fB" + roff("-"+f.Shorthand) + "\\fR, " + names
			}
			if value != "" {
				names += " \\fI" + roff(value) + "\\fR"
			}
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
				usage += " (default " + f.DefValue + ")"
			}
			line(".TP\n%s\n%s", names, roff(usage))
		})
	}
	if cmd.Example != "" {
		line(".SH EXAMPLES")
		page.WriteString(paragraphs(cmd.Example))
	}
	if parent := cmd.Parent(); parent != nil {
		line(".SH SEE ALSO\n.BR %s (1)", roff(manualName(parent)))
	}
	return page.String()
}

// paragraphs sets a text: what is indented stays as it is, the rest is filled.
func paragraphs(text string) string {
	var page strings.Builder
	fixed := false
	set := func(want bool) {
		if fixed != want {
			page.WriteString(map[bool]string{true: ".PP\n.nf\n", false: ".fi\n.PP\n"}[want])
			fixed = want
		}
	}
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		switch line = strings.TrimRight(line, "\n"); {
		case line == "" && !fixed:
			page.WriteString(".PP\n")
		case line == "":
			page.WriteString("\n")
		default:
			set(strings.HasPrefix(line, "  "))
			page.WriteString(roff(line) + "\n")
		}
	}
	set(false)
	return page.String()
}

// roff escapes a line of text (groff_man(7), groff_char(7)).
func roff(line string) string {
	var text strings.Builder
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		text.WriteString(`\&`)
	}
	for _, r := range line {
		switch {
		case r == '\\':
			text.WriteString(`\e`)
		case r == '-':
			text.WriteString(`\-`)
		case r == '\n':
			text.WriteByte(' ')
		case r > '~':
			fmt.Fprintf(&text, `\[u%04X]`, r)
		default:
			text.WriteRune(r)
		}
	}
	return text.String()
}
