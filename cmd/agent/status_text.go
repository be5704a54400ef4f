package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/waybill-telematics/waybill/internal/local"
)

// overview is how an agent is, in lines: its name first, then alarms, then a line for each part, led by what it is.
func overview(s *local.State) []string {
	head := fmt.Sprintf("%s of %s  %s  up %s  %s", s.Agent.Device, s.Agent.Tenant, s.Agent.Version, age(s.Now.UptimeS),
		bytesText(float64(s.Now.RSS)))
	if s.Agent.Slot != "" {
		head += "  slot " + s.Agent.Slot
	}
	if s.Power != "" {
		head += "  power " + s.Power
	}
	lines := []string{head}
	for _, a := range s.Alarms {
		lines = append(lines, part("ALARM", fmt.Sprintf("%s for %s: %s", a.Name, age(float64(s.Now.BootMS-a.SinceMS)/1000),
			a.Text)))
	}
	for i := range s.Buses {
		lines = append(lines, part("bus", busText(&s.Buses[i])))
	}
	for i := range s.Receivers {
		lines = append(lines, part("gps", receiverText(s, &s.Receivers[i])))
	}
	lines = append(lines, part("clock", clockText(&s.Clock)), part("queue", queueText(&s.Queue)), part("uplink", uplinkText(s)))
	if len(s.Losses) > 0 {
		lines = append(lines, part("losses", lossText(s.Losses)))
	}
	if s.Update != nil {
		lines = append(lines, part("update", updateText(s.Update)))
	}
	collects := fmt.Sprintf("%d signals of %d", s.Collect.Signals, s.Collect.Available)
	if n := len(s.Collect.Rules); n > 0 {
		collects += fmt.Sprintf(", %d rules", n)
	}
	if len(s.Collect.Recorded) > 0 {
		collects += ", whole frames of " + strings.Join(s.Collect.Recorded, ", ")
	}
	return append(lines, part("collects", collects))
}

func part(what, text string) string { return fmt.Sprintf("%-9s %s", what, text) }

// words joins what there is.
func words(list ...string) string {
	kept := list[:0]
	for _, w := range list {
		if w != "" {
			kept = append(kept, w)
		}
	}
	return strings.Join(kept, "  ")
}

// ifKnown writes a number that may be missing.
func ifKnown(n local.Number, format string) string {
	if !n.Known() {
		return ""
	}
	return fmt.Sprintf(format, float64(n))
}

func busText(b *local.Bus) string {
	state := b.State
	if !b.Up {
		state = words("NOT READ", b.State)
	}
	rate := ""
	if b.Bitrate > 0 {
		rate = fmt.Sprintf("%d kbit/s", b.Bitrate/1000)
	}
	if b.ListenOnly && b.Interface != "" {
		rate += " listen-only"
	}
	counters := ""
	if b.TxErrors != nil && b.RxErrors != nil {
		counters = fmt.Sprintf("tx/rx errors %d/%d", *b.TxErrors, *b.RxErrors)
	}
	text := words(fmt.Sprintf("%-6s", b.Name), state, ifKnown(b.LoadPercent, "load %.1f%%"), ifKnown(b.FrameRate,
		"%.0f frames/s"), rate, counters)
	if b.ErrorFrames > 0 {
		text += fmt.Sprintf("  %d error frames", b.ErrorFrames)
	}
	if b.Drops > 0 {
		text += fmt.Sprintf("  %d dropped", b.Drops)
	}
	if b.Replay != "" {
		text += "  from " + b.Replay
	}
	return text
}

func receiverText(s *local.State, r *local.Receiver) string {
	mode := r.Mode
	if r.AtMS == 0 {
		mode = "nothing heard"
	} else if mode == "" {
		mode = "no word of a fix"
	}
	position := ""
	switch {
	case r.Withheld:
		position = "position withheld"
	case r.Latitude.Known() && r.Longitude.Known():
		position = fmt.Sprintf("%.5f %.5f", float64(r.Latitude), float64(r.Longitude))
	}
	satellites := fmt.Sprintf("%d/%d satellites", r.Used, r.Seen)
	if r.Seen == 0 { // it has not told yet, or never does
		satellites = fmt.Sprintf("%d satellites", r.Used)
	}
	text := words(fmt.Sprintf("%-6s", r.Name), mode, satellites, position, ifKnown(r.Error, "±%.1f m"), ifKnown(r.Speed,
		"%.1f m/s"))
	if r.Parked {
		text += "  parked"
	}
	if len(r.Suspect) > 0 {
		text += "  SUSPECT " + strings.Join(r.Suspect, ", ")
	}
	if old := float64(s.Now.BootMS-r.AtMS) / 1000; r.AtMS != 0 && old > 10 {
		text += "  last heard " + age(old) + " ago"
	}
	return text
}

func clockText(c *local.Clock) string {
	text := c.Source + "  nobody vouches for it"
	if c.UncertaintyS.Known() {
		half := time.Duration(float64(c.UncertaintyS) * float64(time.Second))
		text = fmt.Sprintf("%s  ±%s", c.Source, half.Round(100*time.Microsecond))
	}
	if c.Contradicted {
		text += "  CONTRADICTED by GPS"
	}
	return text
}

func queueText(q *local.Queue) string {
	text := words(fmt.Sprintf("%d batches wait", q.Batches), bytesText(float64(q.Bytes)), ifKnown(q.OldestS, "oldest %.0f s"),
		fmt.Sprintf("disk %s of %s", bytesText(float64(q.DiskBytes)), bytesText(float64(q.MaxBytes))))
	if q.Flash.PerDay.Known() {
		text += "  writes " + bytesText(float64(q.Flash.PerDay)) + "/day"
	}
	if q.Flash.UsedPercent.Known() {
		text += ifKnown(q.Flash.UsedPercent, "  flash life used %.0f%%")
	}
	if q.Damaged > 0 {
		text += fmt.Sprintf("  %d batches DAMAGED", q.Damaged)
	}
	return text
}

func uplinkText(s *local.State) string {
	u := s.Uplink
	if u == nil {
		return "record only"
	}
	via := ""
	if u.Link != "" {
		via = "via " + u.Link
	}
	rate := ""
	if u.SendRate.Known() {
		rate = bytesText(float64(u.SendRate)) + "/s"
	}
	text := words(u.Phase, via, rate, ifKnown(u.RoundTripMS, "rtt %.0f ms"), fmt.Sprintf("%d sent, %d received by the store",
		u.Sent, u.Released))
	if u.Text != "" && u.Phase != "online" {
		text += "  " + u.Text
	}
	if u.Rejected+u.Parked > 0 {
		text += fmt.Sprintf("  %d rejected, %d parked", u.Rejected, u.Parked)
	}
	return text
}

func lossText(list []local.Loss) string {
	texts := make([]string, len(list))
	for i, l := range list {
		count := fmt.Sprint(l.Count)
		if l.Count == 0 {
			count = "an unknown number of"
		}
		texts[i] = fmt.Sprintf("%s %s of %s: %s", count, l.Unit, l.Source, l.Reason)
	}
	return strings.Join(texts, "; ")
}

func updateText(u *local.Update) string {
	return words(u.Phase, u.Text)
}

// bytesText writes bytes in powers of 1024.
func bytesText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && i+1 < len(units) {
		n, i = n/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

// age writes seconds in the unit that fits.
func age(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0fm", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.1fh", d.Hours())
	default:
		return fmt.Sprintf("%.0fd", d.Hours()/24)
	}
}

// printable leaves nothing in a text that a terminal obeys: names and texts come out of DBC files and from servers.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, text)
}

// cut shortens a line to a width, columns; 0: not at all.
func cut(line string, width int) string {
	line = printable(line)
	if runes := []rune(line); width > 0 && len(runes) > width {
		return string(runes[:max(width-1, 0)]) + "…"
	}
	return line
}

func cutAll(lines []string, width int) []string {
	for i := range lines {
		lines[i] = cut(lines[i], width)
	}
	return lines
}
