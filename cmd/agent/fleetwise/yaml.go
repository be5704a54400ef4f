package fleetwise

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// yaml writes the configuration. What stands in quotes is Go's, which YAML reads the same for printable text.
func (c *conversion) yaml() string {
	var b strings.Builder
	b.WriteString("# Made by `waybill-agent import fleetwise`. What else can be said: `waybill-agent config example`.\n#\n")
	for _, f := range c.Findings {
		word := "otherwise:"
		if f.Lost {
			word = "NOT CARRIED OVER:"
		}
		fmt.Fprintf(&b, "# %s %s\n", word, plain(f.Text))
	}
	fmt.Fprintf(&b, "\ndevice:\n  id: %s\n\ncan:\n", quote(c.o.Device))
	for _, one := range c.sorted() {
		c.section(&b, one)
	}
	b.WriteString("\ncollect:\n  signals:\n")
	if len(c.Schemes) == 0 {
		b.WriteString("    - match: \"*\"  # there was no campaign\n      sample: every\n")
	}
	for _, name := range slices.Sorted(maps.Keys(c.collect)) {
		one := c.collect[name]
		off := ""
		if c.asleep[one.from] {
			off = "# "
		}
		fmt.Fprintf(&b, "    %s- match: %s  # %s\n    %s  sample: every\n", off, quote(name), plain(one.from), off)
		if one.interval > 0 {
			fmt.Fprintf(&b, "    %s  min_interval: %v\n", off, min(time.Duration(one.interval)*time.Millisecond, time.Hour))
		}
	}
	if len(c.rules) > 0 {
		b.WriteString("  rules:\n")
	}
	for _, r := range c.rules {
		fmt.Fprintf(&b, "    - name: %s\n      signal: %s\n", quote(r.name), quote(r.Signal))
		for _, bound := range []struct {
			key   string
			value *float64
		}{{"above", r.Above}, {"below", r.Below}} {
			if bound.value != nil {
				fmt.Fprintf(&b, "      %s: %s\n", bound.key, strconv.FormatFloat(*bound.value, 'f', -1, 64))
			}
		}
	}
	return b.String()
}

// section writes one bus; of one of which nothing is left, a comment.
func (c *conversion) section(b *strings.Builder, one *bus) {
	asked := c.o.Ignition != "" && (len(one.pids) > 0 || one.codes > 0)
	off := ""
	if len(one.messages) == 0 && len(one.record) == 0 && !asked {
		off = "# "
	}
	fmt.Fprintf(b, "  %s- bus: %s\n  %s  interface: %s\n", off, quote(one.name), off, quote(one.name))
	if len(one.messages) > 0 {
		fmt.Fprintf(b, "    dbc: [%s]\n", quote(one.name+".dbc"))
	}
	if len(one.record) > 0 {
		fmt.Fprintf(b, "    record: [%s]\n", strings.Join(one.record, ", "))
	}
	if len(one.pids) == 0 && one.codes == 0 {
		return
	}
	if !asked {
		off = "# "
	}
	line := func(format string, args ...any) { fmt.Fprintf(b, "    "+off+format+"\n", args...) }
	ignition := c.o.Ignition
	if ignition == "" {
		ignition = one.name + ".MESSAGE.SIGNAL"
	}
	line("diagnose:")
	line("  ignition: {signal: %s}", quote(ignition))
	line("  voltage: {signal: none}")
	line("  obd:")
	if len(one.pids) > 0 {
		line("    pids: [{every: %ds, list: [%s]}]", max(1, one.every), strings.Join(one.pids, ", "))
	}
	if one.codes > 0 {
		line("    codes: %ds", one.codes)
	}
}

func quote(text string) string { return strconv.Quote(plain(text)) }
