package conditions

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Window is a time of day in which installations may begin: From ≤ local clock < To, over midnight where From is above
// To. What counts is what a clock on the wall shows: in the night in which it is put forward, the hour that it leaves out is
// missing from the window, and in the one in which it is put back, the hour that comes twice is in it twice.
type Window struct {
	From, To int    // minutes since midnight
	Zone     string // "UTC", "+05:30", "vehicle", or a name of the IANA database
}

// Zone names that are no name of the IANA database.
const (
	zoneUTC     = "UTC"
	zoneVehicle = "vehicle" // Options.Zone
)

// maxZoneFile bounds a zone's file; those of the IANA database are below 4 KiB.
const maxZoneFile = 64 << 10

var (
	clockForm  = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)
	offsetForm = regexp.MustCompile(`^[+-](0[0-9]|1[0-4]):[0-5][0-9]$`)
	// A name is a path below the database's folder: no dots, so none leads out of it.
	nameForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]{0,30}(/[A-Za-z0-9_+-]{1,30}){1,2}$`)
)

func parseWindow(raw json.RawMessage) (*Window, error) {
	m, err := members(raw)
	if err != nil {
		return nil, err
	}
	get := func(name string) (string, error) {
		raw, ok := m[name]
		if !ok {
			return "", fmt.Errorf("%s is missing", name)
		}
		delete(m, name)
		s, err := text(raw, 64)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		return s, nil
	}
	from, err := get("from")
	if err != nil {
		return nil, err
	}
	to, err := get("to")
	if err != nil {
		return nil, err
	}
	w := &Window{}
	if w.Zone, err = get("zone"); err != nil {
		return nil, err
	}
	if len(m) > 0 {
		return nil, errors.New("members beside from, to and zone")
	}
	if w.From, err = minutes(from); err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	if w.To, err = minutes(to); err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	if w.From == w.To {
		return nil, errors.New("from and to are the same: neither a whole day nor a moment is meant for certain")
	}
	if w.Zone != zoneUTC && w.Zone != zoneVehicle && !offsetForm.MatchString(w.Zone) && !nameForm.MatchString(w.Zone) {
		return nil, fmt.Errorf(`zone: want "UTC", an offset such as "+05:30", "vehicle" or a name such as "Europe/Berlin", got %q`, w.Zone)
	}
	return w, nil
}

func minutes(s string) (int, error) {
	if !clockForm.MatchString(s) {
		return 0, fmt.Errorf("want a time of day as 23:59, got %q", s)
	}
	return int(s[0]-'0')*600 + int(s[1]-'0')*60 + int(s[3]-'0')*10 + int(s[4]-'0'), nil
}

// Contains says whether a local time is in the window.
func (w *Window) Contains(local time.Time) bool {
	at := local.Hour()*60 + local.Minute()
	if w.From < w.To {
		return w.From <= at && at < w.To
	}
	return w.From <= at || at < w.To
}

func (w *Window) String() string {
	return fmt.Sprintf("%02d:%02d to %02d:%02d (%s)", w.From/60, w.From%60, w.To/60, w.To%60, w.Zone)
}

// location finds a zone. Names of the IANA database are looked up in the vehicle's own copy: one built into the agent would
// cost 450 kB, and be as old as the agent when a country changes its rules. A vehicle without the database meets no window
// of such a zone, and says so.
func location(zone string, vehicle *time.Location, dir string) (*time.Location, error) {
	switch {
	case zone == zoneUTC:
		return time.UTC, nil
	case zone == zoneVehicle:
		if vehicle == nil {
			return nil, errors.New("the vehicle's zone is not configured")
		}
		return vehicle, nil
	case offsetForm.MatchString(zone):
		at, err := minutes(zone[1:])
		if err != nil {
			return nil, err
		}
		if zone[0] == '-' {
			at = -at
		}
		return time.FixedZone(zone, at*60), nil
	case !nameForm.MatchString(zone):
		return nil, errors.New("no name of a zone")
	}
	return ZoneFile(zone, filepath.Join(dir, zone))
}

// ZoneFile reads a zone of a file in the tz database's format (RFC 8536), such as /etc/localtime. A file without rules for the future ends with its last change.
func ZoneFile(name, path string) (*time.Location, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxZoneFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxZoneFile {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxZoneFile)
	}
	l, err := time.LoadLocationFromTZData(name, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}
