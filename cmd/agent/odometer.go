package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// An odometer is written at most this often, and when so much was driven: flash wears.
const (
	odometerEvery = 5 * time.Minute
	odometerStep  = 100 // m
)

// odometerFile keeps a receiver's odometer over restarts: metres, in decimal, in DATA_DIR/odometer-NAME. After a power
// cut it lacks what was driven in the last five minutes.
type odometerFile struct {
	path   string
	metres float64 // now
	saved  float64
	at     int64 // CLOCK_BOOTTIME of the last attempt to save, ns
	begun  bool
}

// openOdometer reads the file; one that is not there, or cannot be read, begins at 0.
func openOdometer(dir, receiver string, log *slog.Logger) *odometerFile {
	o := &odometerFile{path: filepath.Join(dir, "odometer-"+receiver)}
	text, err := os.ReadFile(o.path)
	if err == nil {
		var v float64
		if v, err = strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil {
			if v >= 0 && !math.IsInf(v, 0) {
				o.metres, o.saved = v, v
				return o
			}
			err = fmt.Errorf("%g m is no distance", v)
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the odometer begins at 0", "file", o.path, "error", err)
	}
	return o
}

// keep saves the odometer when it is time to.
func (o *odometerFile) keep(boot int64, log *slog.Logger) {
	if !o.begun {
		o.begun, o.at = true, boot
	}
	if boot-o.at >= int64(odometerEvery) && o.metres-o.saved >= odometerStep {
		o.at = boot
		o.save(log)
	}
}

func (o *odometerFile) save(log *slog.Logger) {
	if o.metres == o.saved {
		return
	}
	if err := writeDurably(o.path, fmt.Appendf(nil, "%.0f\n", math.Floor(o.metres))); err != nil {
		log.Warn("the odometer could not be kept", "file", o.path, "error", err)
		return
	}
	o.saved = o.metres
}
