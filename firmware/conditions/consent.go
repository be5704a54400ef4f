package conditions

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/waybill-telematics/waybill/internal/durable"
)

// Question is what a person in the vehicle is asked. It is also the line of JSON on the socket and in the file.
type Question struct {
	Campaign string `json:"campaign"`
	Version  string `json:"version"`        // of the software, for people
	Size     int64  `json:"size"`           // of the image, bytes
	Text     string `json:"text,omitempty"` // what the campaign wants to be said
}

// Answer is what came back.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Later   Answer = "later"   // also: nobody answered
	Pending Answer = "pending" // the question stands, the answer may come at any time
)

// Asker brings a question to the head unit. It is bounded by ctx and by its own time-outs; an error counts as Later.
type Asker interface {
	Ask(ctx context.Context, q Question) (Answer, error)
}

// Moment is the two clocks at once, as Consents needs them.
type Moment struct {
	Boot  int64    // CLOCK_BOOTTIME, ns
	ID    [16]byte // of this boot
	Wall  time.Time
	Known bool // Wall is trusted
}

// ConsentOptions are the bounds of asking. Zero values are the defaults in brackets.
type ConsentOptions struct {
	Path     string        // the file that remembers the last question and its answer
	AskAgain time.Duration // between two questions, of whatever campaign [4 h]
	Valid    time.Duration // how long a yes counts [24 h]
	Now      func() Moment
	Logger   *slog.Logger
}

// Consents asks, and remembers what was answered, over restarts and power cuts: a no stays for its campaign, a yes counts
// for a while and once. It belongs to one goroutine.
//
//	(nothing) ─ Ask ─▶ pending ─▶ yes ─ Use ─▶ used
//	                      │  └──▶ no         until another campaign asks
//	                      └─────▶ later ─ AskAgain ─▶ pending
type Consents struct {
	o     ConsentOptions
	asker Asker
	last  asked
}

// asked is the file: the last question and what became of it.
type asked struct {
	Campaign string `json:"campaign"`
	Answer   Answer `json:"answer"` // or used
	Boot     string `json:"boot"`   // id of the boot in which that was
	At       int64  `json:"at"`     // CLOCK_BOOTTIME, ns
	Unix     int64  `json:"unix"`   // wall clock, s; 0 when it was not trusted
}

// used is a yes for which an installation was begun.
const used Answer = "used"

const maxState = 4 << 10 // bytes

// OpenConsents reads what was answered so far. A damaged file counts as one that says no more than that somebody was asked just
// now: nobody is asked twice in a row, and nothing is taken for granted.
func OpenConsents(o ConsentOptions, asker Asker) (*Consents, error) {
	if o.Path == "" || o.Now == nil || asker == nil {
		return nil, errors.New("consents: a path, a clock and an asker are needed")
	}
	if o.AskAgain < 0 || o.Valid < 0 {
		return nil, errors.New("consents: AskAgain and Valid must not be negative")
	}
	if o.AskAgain == 0 {
		o.AskAgain = 4 * time.Hour
	}
	if o.Valid == 0 {
		o.Valid = 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Consents{o: o, asker: asker}
	data, err := readSmall(o.Path, maxState)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil && !errors.Is(err, errTooLong):
		return nil, fmt.Errorf("what was answered: %w", err)
	}
	if err == nil {
		err = json.Unmarshal(data, &c.last)
	}
	if err != nil || !c.last.valid() {
		o.Logger.Warn("what was answered in the vehicle is not readable: it counts as a question without an answer", "file", o.Path, "error", err)
		c.last = c.stamp("", Later)
	}
	return c, nil
}

func (a asked) valid() bool {
	switch a.Answer {
	case Yes, No, Later, Pending, used:
		return len(a.Boot) == 32 && a.At >= 0 && a.Unix >= 0
	}
	return false
}

func (c *Consents) stamp(campaign string, answer Answer) asked {
	now := c.o.Now()
	a := asked{Campaign: campaign, Answer: answer, Boot: hex.EncodeToString(now.ID[:]), At: now.Boot}
	if now.Known {
		a.Unix = now.Wall.Unix()
	}
	return a
}

// elapsed is how long ago the last question was; exact is false where it is only known to be at least so long: in another
// boot, while either wall clock is not trusted.
func (c *Consents) elapsed() (d time.Duration, exact bool) {
	now := c.o.Now()
	if c.last.Boot == hex.EncodeToString(now.ID[:]) {
		return time.Duration(now.Boot - c.last.At), now.Boot >= c.last.At
	}
	if now.Known && c.last.Unix > 0 && now.Wall.Unix() >= c.last.Unix {
		const most = 100 * 365 * 24 * 3600 // s: more does not fit a Duration for long
		return time.Duration(min(now.Wall.Unix()-c.last.Unix, most)) * time.Second, true
	}
	return time.Duration(now.Boot), false
}

// Current is what is known for a campaign, without asking.
func (c *Consents) Current(campaign string) Consent {
	given := Consent{Campaign: campaign}
	if c.last.Campaign != campaign || campaign == "" {
		given.Text = "nobody was asked yet"
		return given
	}
	d, exact := c.elapsed()
	switch c.last.Answer {
	case No:
		given.Text = "it was refused in the vehicle: not asked again for this campaign"
	case Pending:
		given.Text = "asked, not answered yet"
	case used:
		given.Text = "it was given for an installation that was begun already"
	case Yes:
		switch {
		case !exact:
			given.Text = "it was given before this start; how long ago is not known until the clock is set"
		case d > c.o.Valid:
			given.Text = fmt.Sprintf("it was given %s ago, counts for %s", span(d), span(c.o.Valid))
		default:
			given.Given = true
		}
	default:
		given.Text = "not now, was the answer, or there was none"
	}
	if wait := c.o.AskAgain - d; !given.Given && wait > 0 && c.last.Answer != No && c.last.Answer != Pending {
		given.Text += "; asked again in " + span(wait)
	}
	return given
}

// Ask asks unless the answer is known or the last question is not long enough ago, and says what is known then. An error is
// one of the way to the head unit or of the disk: the consent is not given. Call it when nothing else is missing (OnlyConsent).
func (c *Consents) Ask(ctx context.Context, q Question) (Consent, error) {
	if q.Campaign == "" || len(q.Campaign) > maxCampaign {
		return Consent{Text: "the campaign has no id"}, errors.New("consent: a question needs its campaign's id")
	}
	known := c.Current(q.Campaign)
	same := c.last.Campaign == q.Campaign
	if known.Given || same && c.last.Answer == No {
		return known, nil
	}
	if pending := same && c.last.Answer == Pending; !pending {
		if d, _ := c.elapsed(); c.last.Answer != "" && d < c.o.AskAgain {
			if !same {
				known.Text = "somebody was asked for another campaign; asked for this one in " + span(c.o.AskAgain-d)
			}
			return known, nil
		}
		// Before it is asked: whoever is cut off in the question does not come back with it at once.
		if err := c.save(c.stamp(q.Campaign, Later)); err != nil {
			return known, err
		}
	}
	answer, err := c.asker.Ask(ctx, q)
	if err == nil {
		switch answer {
		case Yes, No, Later, Pending:
		default:
			err = fmt.Errorf("%.20q is no answer", answer)
		}
	}
	if err != nil {
		if ctx.Err() != nil && c.last.Answer == Pending {
			return c.Current(q.Campaign), fmt.Errorf("consent: %w", err) // we stop, the question stands
		}
		answer, err = Later, fmt.Errorf("consent: the head unit could not be asked: %w", err)
	}
	if c.last.Campaign != q.Campaign || c.last.Answer != answer {
		err = errors.Join(err, c.save(c.stamp(q.Campaign, answer)))
	}
	return c.Current(q.Campaign), err
}

// Use takes the yes of a campaign for an installation that begins now. It counts for this one only; durable when nil is returned.
func (c *Consents) Use(campaign string) error {
	if given := c.Current(campaign); !given.Given {
		return fmt.Errorf("consent: %s", given.Text)
	}
	a := c.last
	a.Answer = used
	return c.save(a)
}

// save remembers an answer. A yes that the disk did not take does not count: it could count twice.
func (c *Consents) save(a asked) error {
	data, err := json.Marshal(a)
	if err == nil {
		err = durable.Write(c.o.Path, data, 0o600)
	}
	if err != nil {
		a.Answer = Later
		c.last = a
		return fmt.Errorf("consent: the answer cannot be kept, so it does not count: %w", err)
	}
	c.last = a
	return nil
}

// Forget takes back what is known of a campaign that is over, an answer file's question included.
func (c *Consents) Forget(campaign string) error {
	if c.last.Campaign != campaign {
		return nil
	}
	if w, ok := c.asker.(interface{ Withdraw() error }); ok {
		if err := w.Withdraw(); err != nil {
			return err
		}
	}
	if c.last.Answer == Pending {
		return c.save(c.stamp(campaign, Later))
	}
	return nil
}
