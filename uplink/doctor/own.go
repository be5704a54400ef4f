package doctor

import (
	"fmt"
	"strings"
	"time"
)

// earliest is a day that is past wherever this software runs; a clock before it was never set.
const earliest = 1_735_689_600 // 2025-01-01, Unix s

// clock says whether the vehicle's clock can be right.
func (x *examination) clock() {
	c := x.o.Clock()
	reference, why := c.Reference, "which is certain from this software or from an earlier run"
	if first := time.Unix(earliest, 0); reference.Before(first) {
		reference, why = first, "and this software is younger"
	}
	vouched := "nobody vouches for it (no NTP here; the agent may have GPS)"
	if c.Vouched {
		vouched = "and somebody vouches for it"
	}
	switch {
	case c.System.Before(reference) && !(c.Vouched && !c.Known.Before(reference)):
		x.fail(StepClock, fmt.Sprintf("the system's clock says %s; it is later than %s, %s. Certificates cannot be judged by it", day(c.System), day(reference), why),
			"set the clock: by NTP (systemd-timesyncd, chrony), by GPS (gps: in the configuration), or by hand with date -s; a clock that is wrong after each start needs a new battery")
	case c.System.After(reference.AddDate(25, 0, 0)):
		x.fail(StepClock, fmt.Sprintf("the system's clock says %s, far in the future", day(c.System)),
			"set the clock: by NTP, by GPS, or by hand with date -s")
	default:
		x.ok(StepClock, fmt.Sprintf("%s, %s", day(c.Known), vouched))
	}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// credentials reads what the vehicle shows to the broker, as each connection does.
func (x *examination) credentials() {
	o := x.trial.Options()
	var found []string
	var wrong error
	if x.trial.Secure() && o.TLS != nil {
		if _, err := o.TLS(); err != nil {
			wrong = err
		}
		x.shake.forget()
	}
	user, password, err := x.trial.Credentials()
	if wrong == nil {
		wrong = err
	}
	if wrong != nil {
		text, remedy := cut(wrong.Error())
		if remedy == "" {
			remedy = "uplink: in the configuration names it: a file has to be there, whole, and readable for the user that runs the agent (run the doctor as that user)"
		}
		x.fail(StepCredentials, text, remedy)
		return
	}
	if user == "" && password == "" && !(x.o.Certificate && x.trial.Secure()) {
		found = append(found, "none: the broker has to let anybody in")
	}
	if o.Explain != nil && o.Explain() != "" {
		found = append(found, o.Explain())
	}
	if user != "" {
		found = append(found, fmt.Sprintf("user %q", user))
	}
	if password != "" {
		found = append(found, "a password or token")
	}
	if x.o.Certificate && !x.trial.Secure() {
		found = append(found, "a certificate that is not shown, since the URL is without TLS")
	}
	if x.o.Expiring != nil {
		if text := x.o.Expiring(); text != "" {
			found = append(found, "SOON: "+text)
		}
	}
	x.ok(StepCredentials, strings.Join(found, "; "))
}

// links says which ways out are up.
func (x *examination) links() {
	if x.o.Links == nil {
		x.skip(StepLinks, "no links: in the configuration, the routes decide")
		return
	}
	states := x.o.Links()
	if len(states) == 0 {
		x.skip(StepLinks, "no links: in the configuration, the routes decide")
		return
	}
	var up, down []string
	for _, s := range states {
		switch {
		case s.Down != "":
			down = append(down, s.Name+": "+s.Down)
		case s.Interface == "":
			up = append(up, s.Name+" (as the routes say)")
		default:
			up = append(up, s.Name+" ("+s.Interface+")")
		}
	}
	text := "up: " + strings.Join(up, ", ")
	if len(down) > 0 {
		text += "; down: " + strings.Join(down, ", ")
	}
	if len(up) == 0 {
		x.fail(StepLinks, "no link is up: "+strings.Join(down, ", "),
			"bring one up (ip link, the modem, the Wi-Fi), or correct interface: of uplink.links; ip addr shows names and addresses")
		return
	}
	x.ok(StepLinks, text)
}

// cut parts a text of the uplink's into what is wrong and what to do: it says the first in its first sentence.
func cut(text string) (wrong, remedy string) {
	for i := 0; i+3 < len(text); i++ {
		if text[i] == '.' && text[i+1] == ' ' && text[i+2] >= 'A' && text[i+2] <= 'Z' && (text[i+3] >= 'a' && text[i+3] <= 'z' || text[i+3] == ' ') {
			return text[:i], text[i+2:]
		}
	}
	return text, ""
}
