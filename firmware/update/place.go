package update

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// place is where the images of a unit go: the agent's slots, or a whole system. A call that was cut off may be made again.
type place interface {
	// begin notes that the agent has come through its start, and sees how the trial stands that it is part of. Until it
	// answers nil nothing else is asked but status.
	begin(ctx context.Context) error
	// status asks nobody: it is what is on our disk.
	status() (standing, error)
	// install brings a verified image into what does not run.
	install(ctx context.Context, image *os.File, m slots.Meta) error
	// try has the next start use it, on trial.
	try(ctx context.Context) error
	// restart has that start come: ErrRestart when the agent is to end, or the end of ctx, or an error when it does not
	// come.
	restart(ctx context.Context) error
	// commit keeps what runs on trial; reject has the next start use what was there before.
	commit(ctx context.Context) error
	reject(ctx context.Context, reason string) error
	// reported forgets an outcome.
	reported(ctx context.Context, id string) error
}

// standing is how a place stands.
type standing struct {
	image    *slots.Meta // that is committed, if it is known
	trial    *slots.Meta // that runs on trial; before begin has answered: that may
	last     bool        // there is nothing that could be started in its place
	goesBack string      // why the one on trial is rejected already
	rejected []slots.Rejection
	outcomes []slots.Outcome
}

// agentSlots are the agent's own slots; the launcher is its boot loader.
type agentSlots struct {
	*slots.Slots
	log *slog.Logger
}

func (s agentSlots) begin(ctx context.Context) error {
	if err := s.Alive(ctx); err != nil {
		s.log.Warn("that this version has started could not be noted", "error", err)
	}
	return nil
}

func (s agentSlots) status() (standing, error) {
	st, err := s.Status()
	if err != nil {
		return standing{}, err
	}
	out := standing{image: st.Slots[st.Committed].Image, rejected: st.Rejected, outcomes: st.Outcomes}
	if out.last = st.FellBack(); out.last || st.OnTrial() {
		if out.trial = st.Slots[st.Running].Image; out.trial == nil {
			out.trial = &slots.Meta{}
		}
	}
	return out, nil
}

func (s agentSlots) install(ctx context.Context, image *os.File, m slots.Meta) error {
	_, err := s.Install(ctx, image, m)
	return err
}

func (s agentSlots) try(ctx context.Context) error                 { return s.Try(ctx, slots.Limits{}) }
func (agentSlots) restart(context.Context) error                   { return ErrRestart }
func (s agentSlots) commit(ctx context.Context) error              { return s.Commit(ctx) }
func (s agentSlots) reported(ctx context.Context, id string) error { return s.Reported(ctx, id) }

func (s agentSlots) reject(ctx context.Context, reason string) error {
	err := s.Reject(ctx, reason)
	if errors.Is(err, slots.ErrNothing) { // it is over already
		return nil
	}
	return err
}
