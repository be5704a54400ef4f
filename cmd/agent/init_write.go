package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// configuration writes what was found as a commented file. Paths below the file's folder are relative to it.
func (f *initFlags) configuration(s *survey) ([]byte, error) {
	w := &configWriter{folder: filepath.Dir(f.file)}
	w.line("# Written by waybill-agent init on %s. examples/agent.yaml explains every key;",
		time.Now().UTC().Format(time.DateOnly))
	w.line("# waybill-agent check -c FILE says what is wrong with a file, waybill-agent doctor -c FILE what with this " +
		"computer.")
	w.line("")
	w.line("device:")
	w.line("  id: %s  # opaque and fixed, never the VIN", quoted(f.device))
	w.line("  tenant: %s", quoted(f.tenant))
	w.line("")
	w.line("data_dir: %s  # the queue: on flash, not in memory", quoted(f.dataDir))
	buses := w.buses(s.Buses)
	receivers := w.receivers(s.Receivers)
	if buses+receivers == 0 {
		return nil, errNothing
	}
	w.line("")
	w.line("collect:")
	w.line("  signals:  # the first pattern that matches decides: BUS.MESSAGE.SIGNAL, RECEIVER.fix.*")
	w.line("    # - {match: 'can0.*.VehicleSpeed', dead_band: 0.5, min_interval: 100ms, max_interval: 10s}")
	w.line("    - {match: '*', min_interval: 100ms}  # everything that has a name, ten times a second at most")
	w.line("")
	w.line("uplink:")
	switch {
	case f.broker == "":
		w.line("  # broker: mqtts://broker.example.com:8883  # none yet: samples are recorded and stay here")
		w.line("  # ca: ca.pem")
		w.line("  # cert: car.pem")
		w.line("  # key: car.key")
	case strings.HasPrefix(f.broker, "mqtts:") || strings.HasPrefix(f.broker, "wss:"):
		w.line("  broker: %s", quoted(f.broker))
		w.line("  # ca: ca.pem    # who may sign the broker's certificate; default: the system's")
		w.line("  # cert: car.pem # who the vehicle is; or user: and password_file:")
		w.line("  # key: car.key")
	default:
		w.line("  broker: %s", quoted(f.broker))
		w.line("  insecure: true  # not encrypted: for a bench only")
	}
	w.line("")
	w.line("metrics:")
	w.line("  listen: 127.0.0.1:9464  # for waybill-agent status and top, and Prometheus; loopback only")
	return []byte(w.text.String()), nil
}

type configWriter struct {
	folder string
	text   strings.Builder
}

func (w *configWriter) line(format string, args ...any) { fmt.Fprintf(&w.text, format+"\n", args...) }

// path is a file's name as it stands best in the configuration.
func (w *configWriter) path(name string) string {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	folder, err := filepath.Abs(w.folder)
	if err != nil {
		return absolute
	}
	if below, err := filepath.Rel(folder, absolute); err == nil && filepath.IsLocal(below) {
		return below
	}
	return absolute
}

// quoted is a YAML scalar in double quotes, whose escapes are Go's for all that a name or path may hold.
func quoted(s string) string { return fmt.Sprintf("%q", s) }

func (w *configWriter) buses(list []foundBus) (written int) {
	w.line("")
	if !slices.ContainsFunc(list, func(b foundBus) bool { return b.Down == "" }) {
		w.line("# can:  # no interface was up")
		w.line("#   - interface: can0")
		w.line("#     bitrate: 500000")
		w.line("#     dbc: [car.dbc]")
	} else {
		w.line("can:")
	}
	for _, b := range list {
		if b.Down != "" {
			w.line("  # %s: %s; with bitrate: the agent brings it up, listen-only", b.Name, strings.ReplaceAll(b.Down, "\n", " "))
			w.line("  # - {interface: %s, bitrate: 500000, dbc: [car.dbc]}", b.Name)
			continue
		}
		written++
		if b.Log != "" {
			w.line("  - bus: %s", quoted(b.Name))
			w.line("    replay: %s", quoted(w.path(b.Log)))
			w.line("    log_bus: %s", quoted(b.Name))
			w.line("    speed: 1  # as recorded; 0: as fast as it can")
		} else {
			w.line("  - interface: %s", quoted(b.Name))
			w.link(b)
		}
		w.line("    # heard: %d frames of %d ids", b.Frames, b.IDs)
		w.databases(b)
	}
	return written
}

func (w *configWriter) link(b foundBus) {
	if b.state.Bitrate == 0 {
		return
	}
	how := "listen-only"
	if !b.state.ListenOnly {
		how = "acknowledging; listen-only would be safer"
	}
	w.line("    # bitrate: %d  # somebody else brought it up with this, %s; with this key the agent does", b.state.Bitrate, how)
}

// databases writes what explains a bus, and what was near.
func (w *configWriter) databases(b foundBus) {
	for i, f := range b.Ranked {
		if i < shownFits && f.Right > 0 || b.takes(f) {
			w.line("    # %s", f)
		}
	}
	if b.J1939 {
		w.line("    j1939: true  # trouble codes and node names; extended ids are matched by PGN")
	}
	if len(b.Taken) == 0 {
		w.line("    record: all  # no DBC file explains this bus: whole frames are kept, to be decoded later")
		return
	}
	w.line("    dbc:")
	for _, f := range b.Taken {
		w.line("      - %s", quoted(w.path(f.File)))
	}
}

func (w *configWriter) receivers(list []foundReceiver) (written int) {
	w.line("")
	if len(list) == 0 {
		w.line("# gps:  # no receiver spoke")
		w.line("#   - {name: gps0, serial: /dev/serial/by-id/NAME, baud: auto}")
		return 0
	}
	w.line("gps:")
	for i, r := range list {
		w.line("  - name: gps%d  # %s", i, r)
		switch {
		case r.GPSD != "":
			w.line("    gpsd: {address: %s}", quoted(r.GPSD))
		case r.Log != "":
			w.line("    replay: %s", quoted(w.path(r.Log)))
		default:
			w.line("    serial: %s", quoted(r.Serial))
			w.line("    baud: %d", r.Baud)
		}
		w.line("    position: full  # or grid, off, on_event: how much of it leaves the vehicle (docs/GPS.md)")
	}
	return len(list)
}
