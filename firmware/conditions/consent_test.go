package conditions

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// head is a head unit that gives one answer after the other.
type head struct {
	answers []Answer
	err     error
	asked   int
}

func (h *head) Ask(context.Context, Question) (Answer, error) {
	h.asked++
	if h.err != nil {
		return "", h.err
	}
	a := h.answers[0]
	if len(h.answers) > 1 {
		h.answers = h.answers[1:]
	}
	return a, nil
}

type bench struct {
	t    *testing.T
	path string
	now  Moment
	head *head
	c    *Consents
}

func newBench(t *testing.T, answers ...Answer) *bench {
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "consent"), head: &head{answers: answers},
		now: Moment{Boot: start, ID: [16]byte{1}, Wall: time.Unix(1_800_000_000, 0), Known: true}}
	b.open()
	return b
}

// open is a start of the agent.
func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.c, err = OpenConsents(ConsentOptions{Path: b.path, Now: func() Moment { return b.now }}, b.head); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) pass(d time.Duration) {
	b.now.Boot += int64(d)
	b.now.Wall = b.now.Wall.Add(d)
}

// boot is a start of the vehicle.
func (b *bench) boot(d time.Duration) {
	b.pass(d)
	b.now.Boot, b.now.ID[0] = 10*second, b.now.ID[0]+1
	b.open()
}

func (b *bench) ask(campaign string, given bool, text string, asked int) {
	b.t.Helper()
	got, err := b.c.Ask(context.Background(), Question{Campaign: campaign})
	if err != nil && b.head.err == nil {
		b.t.Fatal(err)
	}
	if got.Given != given || got.Campaign != campaign || !strings.Contains(got.Text, text) || b.head.asked != asked {
		b.t.Errorf("%+v after %d questions, want %t %q after %d", got, b.head.asked, given, text, asked)
	}
	if now := b.c.Current(campaign); now.Given != got.Given {
		b.t.Errorf("current: %+v, answered %+v", now, got)
	}
}

func TestConsentYes(t *testing.T) {
	b := newBench(t, Yes)
	if got := b.c.Current("spring"); got.Given || got.Text != "nobody was asked yet" {
		t.Errorf("%+v", got)
	}
	b.ask("spring", true, "", 1)
	b.pass(time.Hour)
	b.ask("spring", true, "", 1) // known
	b.boot(time.Minute)
	b.ask("spring", true, "", 1) // and kept
	b.now.Known = false
	b.ask("spring", false, "how long ago is not known", 1)
	b.now.Known = true
	if err := b.c.Use("autumn"); err == nil {
		t.Error("used for another campaign")
	}
	if err := b.c.Use("spring"); err != nil {
		t.Fatal(err)
	}
	if err := b.c.Use("spring"); err == nil {
		t.Error("used twice")
	}
	b.boot(time.Minute)
	b.ask("spring", false, "begun already", 1)
	b.pass(4 * time.Hour)
	b.ask("spring", true, "", 2)
	b.pass(25 * time.Hour)
	if got := b.c.Current("spring"); got.Given || got.Text != "it was given 25 h ago, counts for 24 h" {
		t.Errorf("%+v", got)
	}
	b.ask("spring", true, "", 3)
}

func TestConsentNo(t *testing.T) {
	b := newBench(t, No, Yes)
	b.ask("spring", false, "refused", 1)
	b.boot(1000 * time.Hour)
	b.ask("spring", false, "refused", 1)
	b.ask("autumn", true, "", 2)
}

func TestConsentLater(t *testing.T) {
	b := newBench(t, Later, Later, Yes)
	b.ask("spring", false, "asked again in 4 h", 1)
	b.pass(3 * time.Hour)
	b.ask("spring", false, "asked again in 60 min", 1)
	b.ask("autumn", false, "for another campaign", 1) // one question in four hours, whatever it is about
	b.boot(time.Minute)
	b.ask("spring", false, "asked again", 1)
	b.now.Known = false // then this start has to be long enough ago
	b.pass(3 * time.Hour)
	b.ask("spring", false, "asked again in", 1)
	b.pass(2 * time.Hour)
	b.ask("spring", false, "not now", 2)
	b.now.Known = true
	b.pass(4 * time.Hour)
	b.ask("spring", true, "", 3)
}

func TestConsentUnreachable(t *testing.T) {
	b := newBench(t, Yes)
	b.head.err = errors.New("nobody there")
	b.ask("spring", false, "asked again in", 1)
	b.ask("spring", false, "asked again in", 1)
	b.head.err = nil
	b.pass(4 * time.Hour)
	b.ask("spring", true, "", 2)

	b = newBench(t, "perhaps")
	if got, err := b.c.Ask(context.Background(), Question{Campaign: "spring"}); err == nil || got.Given {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := b.c.Ask(context.Background(), Question{}); err == nil {
		t.Error("a question without a campaign")
	}
}

// What is asked stays asked over a kill in the middle of the question.
func TestConsentInterrupted(t *testing.T) {
	b := newBench(t, Yes)
	b.c.asker = askerFunc(func(context.Context, Question) (Answer, error) {
		b.open() // the agent is killed while somebody thinks, and starts anew
		return "", errors.New("killed")
	})
	_, _ = b.c.Ask(context.Background(), Question{Campaign: "spring"})
	b.open()
	b.ask("spring", false, "asked again in", 0)
}

type askerFunc func(context.Context, Question) (Answer, error)

func (f askerFunc) Ask(ctx context.Context, q Question) (Answer, error) { return f(ctx, q) }

func TestConsentDamaged(t *testing.T) {
	for _, data := range []string{"", "{", `{"campaign":"spring","answer":"yes"}`, `{"campaign":"spring","answer":"sure","boot":"01000000000000000000000000000000","at":1,"unix":1}`,
		strings.Repeat("x", 1<<20)} {
		b := newBench(t, Yes)
		if err := os.WriteFile(b.path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		b.open()
		b.ask("spring", false, "asked for this one in 4 h", 0)
		b.pass(4 * time.Hour)
		b.ask("spring", true, "", 1)
	}
}

// A yes that cannot be kept does not count.
func TestConsentDiskGone(t *testing.T) {
	b := newBench(t, Yes)
	b.c.asker = askerFunc(func(context.Context, Question) (Answer, error) {
		b.c.o.Path = filepath.Join(b.path, "gone")
		return Yes, nil
	})
	if got, err := b.c.Ask(context.Background(), Question{Campaign: "spring"}); err == nil || got.Given {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConsentFile(t *testing.T) {
	b := newBench(t)
	f := &FileAsker{Dir: t.TempDir(), UIDs: []int{os.Getuid()}, Rand: rand.Reader}
	b.c.asker = f
	ask := func(given bool, text string, failed string) {
		t.Helper()
		got, err := b.c.Ask(context.Background(), Question{Campaign: "spring", Version: "1.2.3", Size: 5})
		if got.Given != given || !strings.Contains(got.Text, text) || (err != nil) != (failed != "") || err != nil && !strings.Contains(err.Error(), failed) {
			t.Errorf("%+v, %v; want %t %q %q", got, err, given, text, failed)
		}
	}
	question := func() (q asking) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(f.Dir, questionFile))
		if err == nil {
			err = json.Unmarshal(data, &q)
		}
		if err != nil || q.Version != "1.2.3" || q.Size != 5 || q.Campaign != "spring" {
			t.Fatalf("%+v, %v", q, err)
		}
		return q
	}
	path := filepath.Join(f.Dir, answerFile)
	answer := func(campaign, number, consent string) {
		t.Helper()
		_ = os.Remove(path)
		if err := os.WriteFile(path, fmt.Appendf(nil, `{"campaign":%q,"question":%q,"consent":%s}`, campaign, number, consent), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() {
		t.Helper()
		for _, name := range []string{answerFile, questionFile} {
			if _, err := os.Lstat(filepath.Join(f.Dir, name)); !os.IsNotExist(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	ask(false, "not answered yet", "")
	first := question().Number
	ask(false, "not answered yet", "")
	b.open()
	b.c.asker = f
	ask(false, "not answered yet", "") // no wait: the question stands
	if question().Number != first {
		t.Error("another question")
	}
	answer("spring", first, "true")
	ask(true, "", "")
	gone()

	// An answer that lay there before the question is another's.
	b.pass(25 * time.Hour)
	answer("spring", first, "true")
	ask(false, "asked again", "does not name this question")
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("it stays: %v", err)
	}

	for name, test := range map[string]struct {
		make   func(number string)
		failed string
	}{
		"other campaign": {func(n string) { answer("autumn", n, "true") }, "does not name this campaign"},
		"no campaign": {func(n string) {
			_ = os.WriteFile(path, fmt.Appendf(nil, `{"question":%q,"consent":true}`, n), 0o644)
		}, "does not name this campaign"},
		"not JSON": {func(string) { _ = os.WriteFile(path, []byte("yes"), 0o644) }, "not a JSON object"},
		"twice":    {func(n string) { answer("spring", n, `false,"consent":true`) }, "stands twice"},
		"long":     {func(string) { _ = os.WriteFile(path, make([]byte, maxAnswer+1), 0o644) }, "too long"},
		"text":     {func(n string) { answer("spring", n, `"true"`) }, "want true"},
		"writable": {func(n string) { answer("spring", n, "true"); _ = os.Chmod(path, 0o666) }, "chmod 0644"},
		"link": {func(n string) {
			answer("spring", n, "true")
			_ = os.Rename(path, path+"x")
			_ = os.Symlink(path+"x", path)
		}, "too many levels"},
		"hard link": {func(n string) { answer("spring", n, "true"); _ = os.Link(path, path+"y") }, "second name"},
		"pipe":      {func(string) { _ = syscall.Mkfifo(path, 0o644) }, "not a plain file"},
		"other's":   {func(n string) { answer("spring", n, "true"); f.UIDs = []int{4711} }, "may not consent"},
	} {
		_ = os.Remove(path + "x")
		_ = os.Remove(path + "y")
		b.pass(4 * time.Hour)
		ask(false, "not answered yet", "")
		test.make(question().Number)
		got, err := b.c.Ask(context.Background(), Question{Campaign: "spring", Version: "1.2.3", Size: 5})
		if got.Given || err == nil || !strings.Contains(err.Error(), test.failed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: the answer stays: %v", name, err)
		}
		f.UIDs = []int{os.Getuid()}
	}

	b.pass(4 * time.Hour)
	ask(false, "not answered yet", "")
	answer("spring", question().Number, "false")
	ask(false, "refused", "")
	gone()
	if err := b.c.Forget("spring"); err != nil {
		t.Error(err)
	}
}

func TestConsentForget(t *testing.T) {
	b := newBench(t)
	f := &FileAsker{Dir: t.TempDir(), UIDs: []int{os.Getuid()}, Rand: rand.Reader}
	b.c.asker = f
	if _, err := b.c.Ask(context.Background(), Question{Campaign: "spring"}); err != nil {
		t.Fatal(err)
	}
	if err := b.c.Forget("spring"); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(f.Dir); len(entries) > 0 {
		t.Errorf("left over: %v", entries)
	}
}

func TestConsentSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type reply struct {
		text string
		hang bool
	}
	replies := make(chan reply)
	go func() {
		for r := range replies {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := conn.Read(buf)
			if want := `{"campaign":"spring","version":"1.2.3","size":5,"text":"Brakes"}` + "\n"; string(buf[:n]) != want && n > 0 {
				t.Errorf("asked %q", buf[:n])
			}
			if r.hang {
				_, _ = io.Copy(io.Discard, conn)
			}
			_, _ = io.WriteString(conn, r.text)
			conn.Close()
		}
	}()
	defer close(replies)
	q := Question{"spring", "1.2.3", 5, "Brakes"}
	s := &SocketAsker{Path: path, UIDs: []int{os.Getuid()}}
	for text, want := range map[string]Answer{
		"{\"consent\":true}\n": Yes, "{\"consent\":false}\n": No, "{\"consent\":\"later\"}\n": Later, "{\"consent\":true}": Yes,
		"{\"consent\":true,\"campaign\":\"spring\"}\n": Yes, "{\"consent\":true,\"campaign\":\"autumn\"}\n": "", "": "", "\n": "", "yes\n": "",
		"{\"consent\":null}\n": "", "{}\n": "", strings.Repeat("x", 1<<16): "",
	} {
		replies <- reply{text: text}
		got, err := s.Ask(t.Context(), q)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.40q: %q, %v", text, got, err)
		}
	}
	replies <- reply{hang: true}
	slow := &SocketAsker{Path: path, UIDs: s.UIDs, Answer: 50 * time.Millisecond}
	if got, err := slow.Ask(t.Context(), q); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody answers: %q, %v", got, err)
	}
	replies <- reply{hang: true}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := s.Ask(ctx, q); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %q, %v", got, err)
	}
	replies <- reply{}
	other := &SocketAsker{Path: path, UIDs: []int{os.Getuid() + 1}}
	if got, err := other.Ask(t.Context(), q); err == nil || !strings.Contains(err.Error(), "may not consent") {
		t.Errorf("another's program: %q, %v", got, err)
	}
	l.Close()
	if got, err := s.Ask(t.Context(), q); err == nil {
		t.Errorf("nobody there: %q", got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"campaign":"spring","question":"12","consent":true}`))
	f.Add([]byte(`{"consent":"later"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		number := "12"
		file, fileErr := parseAnswer(data, "spring", &number)
		line, lineErr := parseAnswer(data, "spring", nil)
		if fileErr == nil && (lineErr != nil || file != line) {
			t.Errorf("%q: %q in a file, %q, %v on a line", data, file, line, lineErr)
		}
		if (lineErr == nil) != (line == Yes || line == No || line == Later) {
			t.Errorf("%q: %q, %v", data, line, lineErr)
		}
	})
}

// As the agent does it: conditions first, the question when nothing else is missing, the conditions once more, one installation.
func TestFlow(t *testing.T) {
	b := newBench(t, Yes)
	c := held(t, Options{})
	set := all(t)
	r := good(start)
	r.Consent = b.c.Current(set.Campaign)
	moving := r
	moving.Speed.Value = 20
	if unmet := c.Check(set, moving, start); OnlyConsent(unmet) {
		t.Errorf("asked while driving: %v", unmet)
	}
	c = held(t, Options{})
	if unmet := c.Check(set, r, start); !OnlyConsent(unmet) || words(unmet) != "consent: nobody was asked yet" {
		t.Fatalf("%v", unmet)
	}
	var err error
	if r.Consent, err = b.c.Ask(t.Context(), Question{Campaign: set.Campaign}); err != nil {
		t.Fatal(err)
	}
	if unmet := c.Check(set, r, start); unmet != nil {
		t.Fatalf("%v", unmet)
	}
	if err := b.c.Use(set.Campaign); err != nil {
		t.Fatal(err)
	}
	r.Consent = b.c.Current(set.Campaign)
	if unmet := c.Check(set, r, start); len(unmet) != 1 || !strings.Contains(unmet[0].Text, "begun already") {
		t.Errorf("a second installation: %v", unmet)
	}
}
