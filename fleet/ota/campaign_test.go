package ota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

const staged = `
id: %s
images: [{name: %s, hardware: linux/arm64}]
stages:
  - {percent: 1, hold: 24h, committed: 3}
  - {percent: 10, hold: 24h, committed: 20}
  - {percent: 100, hold: 1h, committed: 500}
stop: {failed_percent: 10, min_results: 5, rolled_back: 4}
`

// fleet is a thousand vehicles, and what each is told by its director, read from what is public.
type fleet struct {
	b       *bed
	devices []string
}

func (f *fleet) told(name string) (list []string) {
	f.b.t.Helper()
	read := newReader()
	var has [Cohorts]bool
	for cohort := range Cohorts {
		h, err := read.load(f.b.w.cohortDir("sedan", cohort))
		f.b.must(err)
		has[cohort] = h.targets(roleTargets).Targets[name] != nil
	}
	for _, d := range f.devices {
		if has[telemetrypb.Cohort("default", d)] {
			list = append(list, d)
		}
	}
	return list
}

// report lets vehicles say how it went.
func (b *bed) report(campaign, image string, o telemetrypb.Outcome, devices ...string) {
	b.t.Helper()
	h, err := load(b.w.imageDir())
	b.must(err)
	t, _, err := h.image(image)
	b.must(err)
	for _, d := range devices {
		b.outcome = append(b.outcome, Outcome{Tenant: "default", Device: d, Reason: "crash",
			UpdateOutcome: telemetrypb.UpdateOutcome{Campaign: campaign, SHA256: t.Hashes["sha256"].String(), Outcome: o}})
	}
}

func (b *bed) notYet(id, why string) {
	b.t.Helper()
	var not *NotYet
	if _, err := b.w.Advance(context.Background(), id, b.outcome, b.online()); !errors.As(err, &not) || !strings.Contains(not.Why, why) {
		b.t.Fatalf("want %q, got %v", why, err)
	}
}

// A thousand vehicles: 1 %, 10 %, all of them, each stage when the one before is seen to be good; real clients see it so.
func TestStages(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	const image = "linux-arm64/agent-1.2.3"
	b.publish("1.2.3", 12, "agent 1.2.3")
	f := &fleet{b: b}
	for i := range 1000 {
		f.devices = append(f.devices, fmt.Sprintf("car-%04d", i))
	}
	b.create(fmt.Sprintf(staged, "c-1", image))
	if n := len(f.told(image)); n != 0 {
		t.Fatalf("%d vehicles before it began", n)
	}
	b.advance("c-1")
	first := f.told(image)
	if len(first) < 2 || len(first) > 25 {
		t.Fatalf("1 %% of a thousand are %d", len(first))
	}
	inside, outside := b.car(first[0]), b.car(f.devices[slices.IndexFunc(f.devices, func(d string) bool { return !slices.Contains(first, d) })])
	inside.wants(image)
	outside.wants("")
	b.notYet("c-1", "holds until")
	b.time = b.time.Add(25 * time.Hour)
	b.notYet("c-1", "0 vehicles have committed, it wants 3")
	b.report("c-1", image, telemetrypb.UpdateInstalled, first...)
	b.notYet("c-1", "0 vehicles have committed")
	// Those whom it has not reached say nothing for it.
	b.report("c-1", image, telemetrypb.UpdateCommitted, outside.device, outside.device+"-x") // the second is none of the thousand
	b.report("other", image, telemetrypb.UpdateCommitted, first...)
	b.notYet("c-1", "0 vehicles have committed")
	b.report("c-1", image, telemetrypb.UpdateCommitted, first[0], first[0], first[0], first[0])
	b.notYet("c-1", "1 vehicles have committed")
	b.report("c-1", image, telemetrypb.UpdateCommitted, first...)
	b.advance("c-1")
	tenth := f.told(image)
	if len(tenth) < 60 || len(tenth) > 150 || slices.ContainsFunc(first, func(d string) bool { return !slices.Contains(tenth, d) }) {
		t.Fatalf("10 %% of a thousand are %d, or the first are not among them", len(tenth))
	}
	b.report("c-1", image, telemetrypb.UpdateCommitted, tenth...)
	b.time = b.time.Add(25 * time.Hour)
	b.advance("c-1")
	if n := len(f.told(image)); n != 1000 {
		t.Fatalf("all are %d", n)
	}
	inside.wants(image)
	outside.wants(image)
	b.report("c-1", image, telemetrypb.UpdateCommitted, f.devices...)
	b.time = b.time.Add(2 * time.Hour)
	if c := b.advance("c-1"); c.State.Status != Done {
		t.Errorf("%+v", c.State)
	}

	// The next one begins with others; who has not its turn is still told the one before.
	const next = "linux-arm64/agent-1.2.4"
	b.publish("1.2.4", 13, "agent 1.2.4")
	b.create(fmt.Sprintf(staged, "c-2", next))
	b.advance("c-2")
	early := f.told(next)
	if slices.Equal(early, first) {
		t.Error("always the same vehicles go first")
	}
	if n := len(f.told(image)); n != 1000-len(early) {
		t.Errorf("%d vehicles are told the one before", n)
	}
	// Another one for the same unit has to wait; an older image never comes.
	if _, err := b.w.Create(fmt.Appendf(nil, staged, "c-3", next)); err == nil || !strings.Contains(err.Error(), "campaign c-2 is active") {
		t.Errorf("%v", err)
	}
	// Four go back: the rule stops it, and those it had reached are told nothing.
	c := b.car(early[0])
	c.wants(next)
	b.report("c-2", next, telemetrypb.UpdateRolledBack, early[:4]...)
	steps, _, err := b.w.Run(t.Context(), b.outcome, b.online())
	b.must(err)
	if len(steps) != 1 || steps[0].Did != "stopped" || !strings.Contains(steps[0].Why, "4 vehicles went back") {
		t.Errorf("%+v", steps)
	}
	c.wants("")
	if n := len(f.told(image)); n != 1000-len(early) {
		t.Errorf("%d vehicles are told the one before", n)
	}
	if _, err := b.w.Create(fmt.Appendf(nil, staged, "c-3", image)); err == nil || !strings.Contains(err.Error(), "vehicles never go back") {
		t.Errorf("%v", err)
	}
	b.create(strings.Replace(fmt.Sprintf(staged, "c-3", next), "stop:", "retry_of: c-2\nstop:", 1))
	report, err := b.w.Report(t.Context(), b.outcome)
	b.must(err)
	if len(report.Campaigns) != 3 || report.Campaigns[1].Tally.RolledBack != 4 || report.Campaigns[1].Tally.Reasons["crash"] != 4 || report.Campaigns[0].Tally.Committed != 1001 {
		t.Errorf("%+v", report.Campaigns)
	}
}

func TestStopRule(t *testing.T) {
	t.Parallel()
	s := Stop{FailedPercent: 10, MinResults: 5, RolledBack: 4}
	for _, v := range []struct {
		t    Tally
		want bool
	}{
		{Tally{}, false}, {Tally{RolledBack: 3}, false}, {Tally{RolledBack: 4}, true},
		{Tally{Failed: 4}, false}, {Tally{Failed: 5}, true}, // not before five
		{Tally{Failed: 1, Committed: 9}, false}, {Tally{Failed: 1, Committed: 8}, true}, // 10 % is not more than 10 %
		{Tally{Failed: 1, Refused: 1000, Installed: 1000}, false}, {Tally{Committed: 1000, RolledBack: 3, Failed: 97}, false}, {Tally{Committed: 1000, RolledBack: 3, Failed: 109}, true},
	} {
		if got := s.stopReason(v.t); (got != "") != v.want {
			t.Errorf("%+v: %q", v.t, got)
		}
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	const image = "linux-arm64/agent-1.2.3"
	b.publish("1.2.3", 12, "agent 1.2.3")
	b.create(fmt.Sprintf(everybody, "c-1", image))
	if _, err := b.w.Halt("c-1", Paused, "", b.online()); err == nil {
		t.Error("one that has not begun is paused")
	}
	b.advance("c-1")
	c := b.car("car-1")
	c.wants(image)
	_, err := b.w.Halt("c-1", Paused, "a question", b.online())
	b.must(err)
	c.wants("")
	if steps, _, err := b.w.Run(t.Context(), b.outcome, b.online()); err != nil || len(steps) != 0 {
		t.Errorf("%v %v", steps, err)
	}
	b.advance("c-1")
	c.wants(image)
	_, err = b.w.Halt("c-1", Stopped, "", b.online())
	b.must(err)
	c.wants("")
	if _, err := b.w.Advance(t.Context(), "c-1", b.outcome, b.online()); err == nil || !strings.Contains(err.Error(), "retry_of: c-1") {
		t.Errorf("%v", err)
	}
}

// An image is withdrawn: its team signs that, and no director brings it back.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	const image = "linux-arm64/agent-1.2.3"
	b.publish("1.2.3", 12, "agent 1.2.3")
	b.create(fmt.Sprintf(everybody, "c-1", image))
	b.advance("c-1")
	c := b.car("car-1")
	c.wants(image)
	p, err := b.w.Withdraw(image, b.online())
	b.must(err)
	if len(p.Waiting) != 1 {
		t.Fatalf("%+v", p)
	}
	c.wants(image)
	q, err := OpenPending(p.Waiting[0].Path)
	b.must(err)
	if words, err := q.Words(); err != nil || !strings.Contains(strings.Join(words, "\n"), "image is taken away") {
		t.Errorf("%q %v", words, err)
	}
	b.must(q.Sign(b.of("team-linux-arm64")))
	_, err = b.w.Publish(nil, b.online())
	b.must(err)
	c.wants("")
	if _, _, err := b.w.Run(t.Context(), b.outcome, b.online()); err == nil || !strings.Contains(err.Error(), "publishes no") {
		t.Errorf("%v", err)
	}
	if r, err := b.w.Report(t.Context(), b.outcome); err != nil || len(r.Warnings) != 1 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := b.w.Halt("c-1", Stopped, "", b.online()); err != nil {
		t.Error(err)
	}
}

// What a campaign is held against before it begins.
func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	b := newBed(t, true, agents)
	b.publish("1.2.3", 12, "agent 1.2.3")
	for spec, want := range map[string]string{
		fmt.Sprintf(everybody, "a", "linux-arm64/agent-9"):                                                                                         "publishes no",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "hardware: linux/arm64", "hardware: linux/armv7", 1):               "made for linux/arm64, not for linux/armv7",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "hardware: linux/arm64", "ecu: radio, hardware: linux/arm64", 1):   "no line of vehicles has a unit radio",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "stop:", "retry_of: b\nstop:", 1):                                  "there is no campaign b",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "stop:", "conditions: {parkd: true}\nstop:", 1):                    "parkd",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "stop:", "conditions: {min_soc_percent: 101}\nstop:", 1):           "between 0 and 100",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "stop:", "conditions: {window: {from: 2, to: '05:00'}}\nstop:", 1): "as 02:00",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "stop: {rolled_back: 3}", "", 1):                                   "needs a rule that stops it",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "percent: 100", "percent: 99, committed: 1", 1):                    "the last one has to be 100",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "percent: 100", "percent: 100}, {percent: 5", 1):                   "above the stage before",
		fmt.Sprintf(everybody, "../a", "linux-arm64/agent-1.2.3"):                                                                                  "id is",
		strings.Replace(fmt.Sprintf(everybody, "a", "linux-arm64/agent-1.2.3"), "{percent: 100}", "{percent: 1, hold: 24h}, {percent: 100}", 1):    "stages[0]: committed",
		"": "empty",
	} {
		if _, err := b.w.Create([]byte(spec)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nwant %q, got %v", spec, want, err)
		}
	}
	if list, err := b.w.Campaigns(); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(everybody, "c-1", "linux-arm64/agent-1.2.3")))
	f.Add([]byte(fmt.Sprintf(staged, "c-1", "linux-arm64/agent-1.2.3")))
	f.Add([]byte("id: a\nimages: [{name: x/y, hardware: a}]\nstop: {failed_percent: .nan, min_results: 1}\nconditions: {min_battery_volts: 12.2, window: {from: '23:00', to: '01:00', zone: Europe/Berlin}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSpec(data)
		if err != nil {
			return
		}
		// What is taken can be led to its end, and signed.
		c := &Campaign{Spec: s}
		c.shuffle()
		for c.State.Stage = 0; c.State.Stage < len(s.Stages); {
			c.State.Stage++
		}
		if c.Percent() != 100 || !c.reached(0) || !c.reached(99) {
			t.Errorf("%q ends with %d %%", data, c.Percent())
		}
		release := uint64(1)
		d, err := newDocument(c.custom(&ImageCustom{Release: &release}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.payload(); err != nil {
			t.Errorf("%q has no canonical form: %v", data, err)
		}
	})
}
