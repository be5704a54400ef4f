package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const fragmentsBase = `device: {id: car-1}
can:
  - {bus: can0, replay: a.log, dbc: [a.dbc]}
collect:
  signals:
    - match: '*'
queue: &q
  commit_every: 2s
  seal_every: 7s
power:
  ignition: {file: /run/ignition}
`

// loadFragments loads a configuration with these files beside it.
func loadFragments(t *testing.T, fragments map[string]string) (dir string, s *settings, err error) {
	t.Helper()
	dir = writeFiles(t, map[string]string{"agent.yaml": fragmentsBase, "a.dbc": smallDBC, "a.log": ""})
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range fragments {
		if err := os.WriteFile(filepath.Join(dir, "conf.d", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _, err = load(filepath.Join(dir, "agent.yaml"))
	return dir, s, err
}

func TestFragmentsAreLaidOver(t *testing.T) {
	_, s, err := loadFragments(t, map[string]string{
		"10-device.yaml": "device: {tenant: acme}\n",
		"20-queue.yaml":  "queue:\n  commit_every: 3s\n  max_bytes: 64MiB\npower: ~\n",
		"30-more.yaml":   "queue: {commit_every: 4s}\ncollect: {signals: [{match: 'can0.Motion.Gear'}]}\n",
		"40-empty.yaml":  "# nothing\n",
		"45-null.yaml":   "---\n",
		"50.yaml.bak":    "nonsense",
		".60.yaml":       "nonsense",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(s.Device, " ", s.Tenant, " ", s.CommitEvery, " ", s.SealEvery, " ", s.Queue.MaxBytes, " ", s.Power == nil, " ", len(s.Collect), " ",
		s.Collect[0].Match, " ", len(s.CAN))
	if want := "car-1 acme 4s 7s 67108864 true 1 can0.Motion.Gear 1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAKeyOfAFragmentKeepsWhatAnAliasMeans(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.dbc": smallDBC, "a.log": "", "agent.yaml": `device: {id: car-1}
can:
  - {bus: can0, replay: a.log, dbc: [a.dbc]}
collect: {signals: [{match: '*'}]}
uplink: {links: [{name: a, metered: true, budget: &b {raw: 1MB}}, {name: b, metered: true, budget: *b}]}
queue: &times {commit_every: 2s, seal_every: 7s}
`})
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "conf.d", "a.yaml"), []byte("queue: {seal_every: 9s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _, err := load(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if s.CommitEvery != 2*time.Second || s.SealEvery != 9*time.Second || len(s.Uplink.Links) != 2 || len(s.Uplink.Links[1].Budget) != 1 {
		t.Errorf("settings %+v", s)
	}
}

func TestErrorsOfFragmentsNameTheirFileAndLine(t *testing.T) {
	for _, c := range []struct {
		name, file, text, at string
		words                []string
	}{
		{"value", "a.yaml", "# first\nqueue:\n  commit_every: 0s\n", "conf.d/a.yaml:3: ", []string{"queue.commit_every", "between"}},
		{"unknown key", "a.yaml", "queue:\n  comit_every: 1s\n", "conf.d/a.yaml:2: ", []string{`did you mean "commit_every"?`}},
		{"type", "a.yaml", "\n\nqueue: 7\n", "conf.d/a.yaml:3: ", []string{"want a group of keys"}},
		{"no YAML", "a.yaml", "queue: [\n", "conf.d/a.yaml:", nil},
		{"list", "a.yaml", "can:\n  - bus: can0\n    replay: a.log\n    dbc: [none.dbc]\n", "conf.d/a.yaml:4: ", []string{"can[0].dbc[0]", "none.dbc"}},
		{"pattern", "a.yaml", "collect:\n  signals:\n    - match: can0.Motion.Speed\n", "conf.d/a.yaml:2: ", []string{"can0.Motion.Speed"}},
		{"what is missing in both", "a.yaml", "collect: {signals: []}\n", "conf.d/a.yaml:1: ", []string{"collects nothing"}},
		{"of the main file", "a.yaml", "power:\n  ignition: {gpio: {line: 1}}\n", "agent.yaml:11: ", []string{"want one source"}},
		{"ending", "a.yml", "queue: {}\n", "conf.d/a.yml:1: ", []string{"rename it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _, err := loadFragments(t, map[string]string{c.file: c.text})
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, w := range append(c.words, filepath.Join(dir, strings.TrimSuffix(c.at, " "))) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: does not say %q", err, w)
				}
			}
		})
	}
}

// However two files are laid over each other, it ends in settings or in an error that names one of them.
func FuzzFragments(f *testing.F) {
	f.Add([]byte(fragmentsBase), []byte("queue: {commit_every: 3s}\n"))
	f.Add([]byte("a: &a {b: *a}"), []byte("a: {b: 1}"))
	f.Add([]byte("queue: &q {<<: *q}"), []byte("queue: {<<: {}}"))
	f.Fuzz(func(t *testing.T, under, over []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string][]byte{"f.yaml": under, "conf.d/g.yaml": over} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d, err := readConfig(filepath.Join(dir, "f.yaml"))
		if err == nil {
			_, err = check(d)
		}
		if err != nil && !strings.Contains(err.Error(), dir) {
			t.Errorf("%v does not name a file", err)
		}
	})
}
