package ota

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// Cohorts is how many parts each kind of vehicle is divided into: the finest stage is one of them, 1 %.
const Cohorts = telemetrypb.Cohorts

// Line is a kind of vehicle: all of it have the same units. Each line has directors of its own, because a director that named a
// unit or a hardware that a vehicle does not have would be refused by it.
type Line struct {
	Name string            `json:"name"`
	ECUs map[string]string `json:"ecus"` // unit → hardware id: {"agent": "linux/arm64"}
}

// Lifetimes are after how many days metadata expires (docs/OTA.md).
type Lifetimes struct {
	Root      int `json:"root_days"`
	Targets   int `json:"targets_days"`   // of the image repository, delegated roles too
	Directed  int `json:"directed_days"`  // the director's targets
	Snapshot  int `json:"snapshot_days"`  // of both
	Timestamp int `json:"timestamp_days"` // of both
}

// DefaultLifetimes are what docs/OTA.md advises.
func DefaultLifetimes() Lifetimes { return Lifetimes{365, 90, 7, 7, 2} }

func (l *Lifetimes) check() error {
	for _, v := range []struct {
		what string
		days int
	}{{"root_days", l.Root}, {"targets_days", l.Targets}, {"directed_days", l.Directed}, {"snapshot_days", l.Snapshot}, {"timestamp_days", l.Timestamp}} {
		if v.days < 1 || v.days > 3650 {
			return fmt.Errorf("%s: must be 1 to 3650 days, got %d", v.what, v.days)
		}
	}
	return nil
}

// config is DIR/ota.json.
type config struct {
	Format    int       `json:"format"` // 1
	Bench     bool      `json:"bench,omitempty"`
	Lines     []Line    `json:"lines"`
	Lifetimes Lifetimes `json:"lifetimes"`
}

func (c *config) check() error {
	if c.Format != 1 {
		return fmt.Errorf("format %d; this program knows 1", c.Format)
	}
	if len(c.Lines) == 0 || len(c.Lines) > 100 {
		return fmt.Errorf("%d kinds of vehicles; want 1 to 100", len(c.Lines))
	}
	seen := map[string]bool{}
	for _, l := range c.Lines {
		if err := checkWord("a line's name", l.Name); err != nil {
			return err
		}
		if seen[l.Name] || len(l.ECUs) == 0 {
			return fmt.Errorf("line %s is there twice, or has no unit", l.Name)
		}
		seen[l.Name] = true
		for id, hardware := range l.ECUs {
			if err := checkWord("a unit's id", id); err != nil {
				return err
			}
			if _, err := roleOf(hardware); err != nil {
				return err
			}
		}
	}
	return c.Lifetimes.check()
}

// hardware lists what the lines' units are, sorted.
func (c *config) hardware() []string {
	set := map[string]bool{}
	for _, l := range c.Lines {
		for _, h := range l.ECUs {
			set[h] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// roleOf is the delegated role, and the first part of the names of images, for hardware: linux-arm64 for linux/arm64.
func roleOf(hardware string) (string, error) {
	role := strings.ReplaceAll(hardware, "/", "-")
	if err := checkWord("hardware", role); err != nil {
		return "", err
	}
	if slices.Contains([]string{roleRoot, roleTargets, roleSnapshot, roleTimestamp, roleOnline}, role) {
		return "", fmt.Errorf("hardware %s has the name of a role", hardware)
	}
	return role, nil
}

// Options of a Workspace; Dir is needed.
type Options struct {
	Dir  string           // ota.json, public/, staged/, factory/, campaigns/ and, until they are carried away, keys/
	Now  func() time.Time // nil: the clock
	Rand io.Reader        // for new keys; nil: the system's

	before func(path string) error // tests: called before each change of the folder
}

// Workspace is the OEM's folder. Its methods are not safe for use by several goroutines; a lock keeps other processes out while
// one changes it.
type Workspace struct {
	dir    string
	now    func() time.Time
	rand   io.Reader
	config config
	before func(path string) error
}

func newWorkspace(o Options) *Workspace {
	w := &Workspace{dir: o.Dir, now: o.Now, rand: o.Rand, before: o.before}
	if w.now == nil {
		w.now = time.Now
	}
	if w.rand == nil {
		w.rand = rand.Reader
	}
	return w
}

// Open reads a workspace that Init made.
func Open(o Options) (*Workspace, error) {
	w := newWorkspace(o)
	data, err := readFile(filepath.Join(o.Dir, "ota.json"), maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no folder that `waybill-fleet ota init` has finished: %w", o.Dir, err)
	}
	if err == nil {
		err = json.Unmarshal(data, &w.config)
	}
	if err == nil {
		err = w.config.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(o.Dir, "ota.json"), err)
	}
	return w, nil
}

// Bench says that the workspace was made for a bench, one key a role.
func (w *Workspace) Bench() bool { return w.config.Bench }

// Lines are the kinds of vehicles.
func (w *Workspace) Lines() []Line { return w.config.Lines }

func (w *Workspace) imageDir() string    { return filepath.Join(w.dir, "public", "image") }
func (w *Workspace) directorDir() string { return filepath.Join(w.dir, "public", "director") }

// cohortDir is what the vehicles of one cohort of a line see as their director.
func (w *Workspace) cohortDir(line string, cohort int) string {
	return filepath.Join(w.directorDir(), line, fmt.Sprint(cohort))
}

// stagedDir is where what waits for signatures lies, of image or director.
func (w *Workspace) stagedDir(repository string) string {
	return filepath.Join(w.dir, "staged", repository)
}

// The two repositories' names in paths and on the command line.
const (
	Image    = "image"
	Director = "director"
)

// roleOnline is what `ota rotate` calls the roles whose key is online: snapshot, timestamp and the director's targets.
const roleOnline = "online"

// onlineRoles are those of a repository.
func onlineRoles(repository string) []string {
	if repository == Director {
		return []string{roleTargets, roleSnapshot, roleTimestamp}
	}
	return []string{roleSnapshot, roleTimestamp}
}

func (w *Workspace) expires(days int) time.Time {
	return w.now().UTC().Add(time.Duration(days) * 24 * time.Hour).Truncate(time.Second)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
