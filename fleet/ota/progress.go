package ota

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stopReason says in words why a campaign has to stop; empty: it need not.
func (s *Stop) stopReason(t Tally) string {
	if s.RolledBack > 0 && t.RolledBack >= s.RolledBack {
		return fmt.Sprintf("%d vehicles went back to what they had; the rule allows fewer than %d", t.RolledBack, s.RolledBack)
	}
	ended, bad := t.Committed+t.RolledBack+t.Failed, t.RolledBack+t.Failed
	if s.MinResults > 0 && ended >= s.MinResults && float64(bad)*100 > s.FailedPercent*float64(ended) {
		return fmt.Sprintf("%d of %d vehicles failed or went back; the rule allows %g %%", bad, ended, s.FailedPercent)
	}
	return ""
}

// missing says what the stage it is in still waits for; empty: nothing.
func (c *Campaign) missing(t Tally, now time.Time) string {
	if c.State.Stage == 0 {
		return ""
	}
	stage := c.Spec.Stages[c.State.Stage-1]
	if until := c.State.Since.Add(stage.Hold); now.Before(until) {
		return fmt.Sprintf("stage %d (%d %%) holds until %s", c.State.Stage, stage.Percent, day(until))
	}
	if t.Committed < stage.Committed {
		return fmt.Sprintf("stage %d (%d %%): %d vehicles have committed, it wants %d", c.State.Stage, stage.Percent, t.Committed, stage.Committed)
	}
	return ""
}

// NotYet is the error of a campaign that may not go on now.
type NotYet struct{ Why string }

func (e *NotYet) Error() string { return e.Why }

// Advance starts a campaign, takes a paused one up again, or leads an active one to its next stage, if what became of it so far
// allows that. It publishes. A campaign whose rule says stop is stopped, and NotYet says so.
func (w *Workspace) Advance(ctx context.Context, id string, outcomes Outcomes, keys []*Key) (*Campaign, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, err := w.find(id)
	if err != nil {
		return nil, err
	}
	if c.State.Status == Stopped || c.State.Status == Done {
		return nil, fmt.Errorf("campaign %s is %s; begin another one, with retry_of: %s if the image is the same", id, c.State.Status, id)
	}
	var t Tally
	if c.State.Stage > 0 {
		if t, err = w.Tally(ctx, c, outcomes); err != nil {
			return nil, err
		}
	}
	if why := c.Spec.Stop.stopReason(t); why != "" {
		if err := w.change(c, Stopped, c.State.Stage, "stopped by its rule: "+why); err != nil {
			return nil, err
		}
		if _, err := w.refresh(keys, false); err != nil {
			return nil, err
		}
		return c, &NotYet{"stopped: " + why}
	}
	if c.State.Status == Paused {
		if err := w.change(c, Active, c.State.Stage, "taken up again"); err != nil {
			return nil, err
		}
	} else {
		if why := c.missing(t, w.now()); why != "" {
			return c, &NotYet{why}
		}
		if err := w.forward(c); err != nil {
			return nil, err
		}
	}
	_, err = w.refresh(keys, false)
	return c, err
}

func (w *Workspace) forward(c *Campaign) error {
	if c.State.Stage == len(c.Spec.Stages) {
		return w.change(c, Done, c.State.Stage, "done")
	}
	next := c.Spec.Stages[c.State.Stage]
	return w.change(c, Active, c.State.Stage+1, fmt.Sprintf("stage %d: %d %%", c.State.Stage+1, next.Percent))
}

// Halt pauses a campaign, or stops it for good.
func (w *Workspace) Halt(id string, status Status, why string, keys []*Key) (*Campaign, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, err := w.find(id)
	if err != nil {
		return nil, err
	}
	switch {
	case status != Paused && status != Stopped:
		return nil, fmt.Errorf("a campaign is paused or stopped, not %s", status)
	case c.State.Status == status: // a repetition
	case c.State.Status == Stopped, status == Paused && c.State.Status != Active:
		return nil, fmt.Errorf("campaign %s is %s and cannot be %s", id, c.State.Status, status)
	default:
		what := string(status)
		if why != "" {
			what += ": " + why
		}
		if err := w.change(c, status, c.State.Stage, what); err != nil {
			return nil, err
		}
	}
	_, err = w.refresh(keys, false)
	return c, err
}

// Step is what Run did with one campaign.
type Step struct {
	Campaign string `json:"campaign"`
	Status   Status `json:"status"`
	Percent  int    `json:"percent"`
	Did      string `json:"did"` // stopped, advanced, done, waits
	Why      string `json:"why,omitempty"`
}

// Run is one step, for a timer: each active campaign is stopped, led on, or waits; then the directors are published and what will
// expire is renewed. A failure to learn a campaign's outcomes stops nothing else: it is returned at the end.
func (w *Workspace) Run(ctx context.Context, outcomes Outcomes, keys []*Key) (steps []Step, renewed []string, err error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	list, err := w.campaigns()
	if err != nil {
		return nil, nil, err
	}
	var failed error
	for _, c := range list {
		if c.State.Status != Active {
			continue
		}
		t, err := w.Tally(ctx, c, outcomes)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		s := Step{Campaign: c.Spec.ID, Did: "waits"}
		if s.Why = c.Spec.Stop.stopReason(t); s.Why != "" {
			s.Did = "stopped"
			err = w.change(c, Stopped, c.State.Stage, "stopped by its rule: "+s.Why)
		} else if s.Why = c.missing(t, w.now()); s.Why == "" {
			s.Did = "advanced"
			err = w.forward(c)
		}
		if err != nil {
			return steps, nil, err
		}
		s.Status, s.Percent = c.State.Status, c.Percent()
		if s.Status == Done {
			s.Did = "done"
		}
		steps = append(steps, s)
	}
	if renewed, err = w.refresh(keys, false); err != nil {
		return steps, renewed, err
	}
	return steps, renewed, failed
}
