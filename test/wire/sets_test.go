package wire

import (
	"bytes"
	"encoding/csv"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// set is what the benchmarks weigh: samples in the order they were taken in, and the log that they come from.
type set struct {
	name      string
	unit      string // what a weight is of
	parts     int    // samples a unit
	samples   []telemetrypb.Sample
	catalogue *telemetrypb.Catalogue
	unixNS    int64     // of CLOCK_BOOTTIME 0
	log       []logLine // nil: there is none
	frames    bool      // the samples are frames as they are
}

// wireFiles are the recorded columns.
func wireFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(deps.Testdata(t, "wire"), "*.csv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of wire data: %v", len(files), err)
	}
	return files
}

// row is a line of CSV.
type row struct {
	ms     int64
	signal uint32
	raw    string
}

// readRows reads t_ms,signal,raw as encoding/csv sees it.
func readRows(t testing.TB, text []byte) []row {
	t.Helper()
	reader := csv.NewReader(bytes.NewReader(text))
	reader.Comment = '#'
	records, err := reader.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for _, r := range records[1:] {
		ms, err := strconv.ParseInt(r[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		signal, err := strconv.ParseUint(r[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row{ms, uint32(signal), r[2]})
	}
	return rows
}

// Of what the recorded columns say about themselves: physical = raw*0.1.
const wireScale = 0.1

// wireSet reads recorded columns. They have no log; any date will do.
func wireSet(t testing.TB, file string) set {
	t.Helper()
	s := set{name: strings.TrimSuffix(filepath.Base(file), ".csv"), unit: "sample", parts: 1, unixNS: 1_780_300_800e9,
		catalogue: &telemetrypb.Catalogue{Format: telemetrypb.Format}}
	known := map[uint32]bool{}
	for _, r := range readRows(t, readFile(t, file)) {
		raw, err := strconv.ParseInt(r.raw, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s.samples = append(s.samples, telemetrypb.IntSample(r.signal, r.ms*1e6, raw))
		if !known[r.signal] {
			known[r.signal] = true
			number := strconv.Itoa(int(r.signal))
			message := "Message" + strconv.Itoa(int(r.signal-1)/4+1)
			s.catalogue.Signals = append(s.catalogue.Signals, &telemetrypb.Signal{
				Id: r.signal, Name: "can0." + message + ".Signal" + number, Scale: wireScale})
		}
	}
	return s
}

// recordedSet is what the agent has recorded of a log.
func recordedSet(t testing.TB, name string, r recording, log []logLine) set {
	t.Helper()
	return set{name: name, unit: "sample", parts: 1, samples: r.samples(t), catalogue: r.catalogue, unixNS: r.unixNS(0), log: log}
}

// allSets is everything that is weighed.
func allSets(t testing.TB) []set {
	t.Helper()
	var sets []set
	for _, file := range wireFiles(t) {
		sets = append(sets, wireSet(t, file))
	}
	log, nmea, dbc := simulated(t)
	lines := readLog(t, log, "", "")
	for _, how := range []string{"on_change", "every"} {
		sets = append(sets, recordedSet(t, "drive "+how, record(t, "telemetry", driveConfig, log, dbc, nmea, how), lines))
	}
	for _, l := range canLogs(t) {
		sets = append(sets, recordedSet(t, l.name, record(t, "telemetry", "%s", l.config()), readLog(t, l.original, l.dbc, l.bus)))
	}
	raw := deps.Testdata(t, "can", "car-raw-500k.log")
	frames := recordedSet(t, "car-raw-500k", record(t, "raw", rawConfig, raw), readLog(t, raw, "", ""))
	frames.unit, frames.parts, frames.frames = "frame", 3, true
	return append(sets, frames)
}

// driveConfig is the default collection, but for how a signal is sampled where that is said.
const driveConfig = `
can: [{bus: can0, replay: %s, speed: 0, dbc: [%s]}]
gps: [{name: gps0, replay: %s, speed: 0}]
collect: {signals: [{match: "*", sample: %s}]}
`
