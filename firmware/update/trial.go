package update

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/waybill-telematics/waybill/firmware/probation"
	"github.com/waybill-telematics/waybill/firmware/slots"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// trialFile keeps what worked before the update, written by the version before, and what the trial has shown so far.
const trialFile = "trial.json"

// keepEvery is how often the progress of a trial is written.
const keepEvery = time.Minute

type trial struct {
	SHA256   string             `json:"sha256"` // of the image on trial
	Baseline probation.Baseline `json:"baseline"`
	Progress probation.Progress `json:"progress"`
}

// maxTrial bounds the file: names of sources.
const maxTrial = 1 << 20

func (u *Updater) readTrial() (t trial, err error) {
	f, err := os.Open(filepath.Join(u.o.Dir, trialFile))
	if err != nil {
		return t, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTrial))
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	return t, err
}

func (u *Updater) writeTrial(t trial) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return u.o.Write(filepath.Join(u.o.Dir, trialFile), append(data, '\n'))
}

// probation judges the version that runs, until it is committed or rolled back; an error is of restart: what was there
// before is to be started.
func (u *Updater) probation(ctx context.Context, st standing) error {
	m := *st.trial
	log := u.o.Log.With("campaign", m.Campaign, "version", m.Version, "image", m.SHA256)
	t, err := u.readTrial()
	if err != nil || t.SHA256 != m.SHA256 {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("what worked before the update is not known; what does not ask for it is judged", "error", err)
		}
		t = trial{SHA256: m.SHA256}
	}
	for !u.vehicle.take(u) { // the one that holds it is judged first
		if err := wait(ctx, u.o.Look); err != nil {
			return err
		}
	}
	if st.goesBack != "" {
		return u.goBack(ctx, log, st.goesBack)
	}
	u.tell(ctx, m, t.Baseline.Version, telemetrypb.UpdateInstalled, "")
	log.Info("on probation", "before", t.Baseline.Version, "sources", t.Baseline.Sources, "acknowledged", t.Baseline.Acked)
	judge := probation.New(u.o.Probation, t.Baseline, t.Progress)
	last, kept, said := u.o.Awake(), u.o.Awake(), ""
	for {
		if err := wait(ctx, u.o.Look); err != nil {
			t.Progress = judge.Progress()
			return errors.Join(err, u.writeTrial(t))
		}
		now := u.o.Awake()
		verdict, why := judge.Look(u.o.Health(), now-last)
		last = now
		switch verdict {
		case probation.Pass:
			if err := u.place.commit(ctx); err != nil { // the disk, or who updates; the trial goes on
				log.Error("what runs is healthy and could not be committed", "error", err)
				continue
			}
			log.Info("committed", "why", why)
			return nil
		case probation.Fail:
			if !st.last {
				return u.goBack(ctx, log, why)
			}
			log.Error("what runs is not healthy, and nothing else could be started; it is judged anew", "why", why)
			judge = probation.New(u.o.Probation, t.Baseline, probation.Progress{})
		}
		if now-kept >= keepEvery {
			kept, t.Progress = now, judge.Progress()
			if err := u.writeTrial(t); err != nil {
				log.Warn("the progress of the trial could not be kept; a restart begins it anew", "error", err)
			}
		}
		if text := firstWords(why); text != said {
			said = text
			log.Info("probation", "waits for", why)
		}
	}
}

// goBack rejects what runs and has what was there before started.
func (u *Updater) goBack(ctx context.Context, log *slog.Logger, why string) error {
	for {
		log.Error("rolled back", "why", why)
		if err := u.place.reject(ctx, why); err != nil {
			log.Error("the rollback could not be noted everywhere; who starts it counts the starts", "error", err)
		}
		err := u.place.restart(ctx)
		if errors.Is(err, ErrRestart) || ctx.Err() != nil {
			return err
		}
		log.Error("what was there before was not started", "error", err)
		if err := wait(ctx, min(u.o.Poll, time.Minute)); err != nil {
			return err
		}
	}
}

// firstWords are what a text is about, without its figures.
func firstWords(text string) string {
	for i, r := range text {
		if r == ':' || r >= '0' && r <= '9' {
			return text[:i]
		}
	}
	return text
}

// reportOutcomes tells what became of trials, also of those that another process ended.
func (u *Updater) reportOutcomes(ctx context.Context) {
	st, err := u.place.status()
	if err != nil {
		u.o.Log.Error("how updates stand cannot be read", "error", err)
		return
	}
	before := ""
	if t, err := u.readTrial(); err == nil {
		before = t.Baseline.Version
	}
	for _, o := range st.outcomes {
		outcome, reason := telemetrypb.UpdateCommitted, ""
		switch o.Kind {
		case slots.Committed:
		case slots.RolledBack:
			outcome, reason = telemetrypb.UpdateRolledBack, o.Reason
		default: // nobody's campaign has failed, but somebody should know
			outcome, reason = telemetrypb.UpdateFailed, o.Kind+": "+o.Reason
		}
		if u.tell(ctx, o.Image, before, outcome, reason) {
			if err := u.place.reported(ctx, o.ID); err != nil {
				u.o.Log.Warn("an update's outcome was told and could not be noted as told; it is told again", "error", err)
			}
		}
	}
}

// tell reports, and says whether it is on its way for good. What no campaign brought interests nobody.
func (u *Updater) tell(ctx context.Context, m slots.Meta, before string, outcome telemetrypb.Outcome, reason string) bool {
	if m.Campaign == "" {
		return true
	}
	u.vehicle.asking.Lock()
	defer u.vehicle.asking.Unlock()
	err := u.o.Report(ctx, &telemetrypb.UpdateOutcome{Campaign: m.Campaign, SHA256: m.SHA256, ECU: u.o.ECU, From: before, To: m.Version, Outcome: outcome, Reason: reason})
	if err != nil {
		u.o.Log.Warn("what became of an update could not be told; it is told again", "outcome", outcome, "error", err)
	}
	return err == nil
}

// wait waits, or for the context's end.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("update: %w", ctx.Err())
	case <-timer.C:
		return nil
	}
}
