// Package firmware knows which software this is. Updates compare identities, the status message reports them, and a
// person reads them from `version`. It knows nothing of what the software does.
package firmware

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// Set by the linker (see Makefile); a build without them still says what it can.
var (
	version = "0.0.0-dev"
	commit  = ""
	built   = "" // RFC 3339
)

// Identity says which build is running.
type Identity struct {
	Version  string    `json:"version"`
	Commit   string    `json:"commit,omitempty"`
	Built    time.Time `json:"built,omitzero"` // the earliest time that can be now; zero when not stamped
	Hardware string    `json:"hardware"`       // GOOS/GOARCH, with the ARM version where it matters
	Go       string    `json:"go"`
}

// Current is the identity of this binary.
func Current() Identity {
	id := Identity{Version: version, Commit: commit, Hardware: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	if t, err := time.Parse(time.RFC3339, built); err == nil {
		id.Built = t.UTC()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return id
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "GOARM" && runtime.GOARCH == "arm" && s.Value != "":
			id.Hardware += "v" + s.Value[:1]
		case s.Key == "vcs.revision" && id.Commit == "":
			id.Commit = s.Value
		}
	}
	return id
}

// String is one line for people.
func (id Identity) String() string {
	text := fmt.Sprintf("%s %s %s", id.Version, id.Hardware, id.Go)
	if id.Commit != "" {
		text += " " + id.Commit
	}
	if !id.Built.IsZero() {
		text += " built " + id.Built.Format(time.RFC3339)
	}
	return text
}
