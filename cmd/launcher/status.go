package main

import (
	"fmt"
	"io"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// printStatus is --status for people.
func printStatus(w io.Writer, st slots.Status) {
	fmt.Fprintln(w, st.Dir)
	if st.Lost != "" {
		fmt.Fprintf(w, "the state is damaged or cannot be read (%s): what follows is what the slots themselves show\n", st.Lost)
	}
	for _, slot := range []slots.Slot{slots.A, slots.B} {
		state := st.Slots[slot]
		line := "slot " + string(slot) + ": "
		switch {
		case state.Bytes == 0:
			line += "empty"
		case state.Image == nil:
			line += fmt.Sprintf("%d bytes, of which nothing is known", state.Bytes)
		default:
			line += fmt.Sprintf("%d bytes, %s", state.Bytes, describe(*state.Image))
		}
		if slot == st.Committed {
			line += ", committed"
		}
		if t := st.Trial; t != nil && t.Slot == slot {
			line += ", on trial"
		}
		fmt.Fprintln(w, line)
	}
	if t := st.Trial; t != nil {
		l := t.Limits.Effective()
		fmt.Fprintf(w, "trial of %s: %d starts, %d of %d crashes, %d of %d starts in a row that never came up, %d of %d in a row cut off before it was committed\n",
			t.Slot, t.Starts, t.Crashes, l.Crashes, t.Dead, l.Dead, t.Cut, l.Cut)
		switch {
		case !t.Open:
			fmt.Fprintln(w, "  it has not been started yet")
		case t.Boot != st.Boot:
			fmt.Fprintln(w, "  last started in an earlier boot")
		case t.Stopped:
			fmt.Fprintln(w, "  started in this boot, and stopped when it was told to")
		case t.Alive:
			fmt.Fprintln(w, "  started in this boot, came up")
		default:
			fmt.Fprintln(w, "  started in this boot, has not come up yet")
		}
	}
	for _, r := range st.Rejected {
		fmt.Fprintf(w, "not tried again: %s: %s\n", describe(r.Meta), r.Reason)
	}
	for _, o := range st.Outcomes {
		fmt.Fprintf(w, "not reported yet: %s", o.Kind)
		if o.Image.SHA256 != "" {
			fmt.Fprintf(w, ", %s", describe(o.Image))
		}
		if o.Reason != "" {
			fmt.Fprintf(w, ": %s", o.Reason)
		}
		fmt.Fprintln(w)
	}
}

func describe(m slots.Meta) string {
	text := fmt.Sprintf("SHA-256 %.12s…", m.SHA256)
	if m.Version != "" {
		text = "version " + m.Version + ", " + text
	}
	if m.Campaign != "" {
		text += ", campaign " + m.Campaign
	}
	return text
}
