package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/local"
)

// flashReader reads what the agent costs the storage, and how that is.
type flashReader struct {
	io     string // proc_pid_io(5) of this process
	device string // its folder in sysfs; "": not known
	life   local.Flash
	at     time.Time // when life was read
}

const (
	flashEvery = time.Minute     // it changes within years
	flashEarly = 2 * time.Minute // from the start: a rate a day is not known before
)

// newFlashReader finds the block device that a folder lies on.
func newFlashReader(io, sys, dir string) flashReader {
	r := flashReader{io: io}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return r
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	device, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", number))
	if err != nil {
		return r // of a network, of memory, or made of others
	}
	if _, err := os.Stat(filepath.Join(device, "partition")); err == nil {
		device = filepath.Dir(device)
	}
	r.device = device
	return r
}

func (r *flashReader) read(now time.Time, up time.Duration) local.Flash {
	if r.at.IsZero() || now.Sub(r.at) >= flashEvery {
		r.at, r.life = now, readLife(r.device)
	}
	f := r.life
	f.Written, f.PerDay = written(r.io), local.Missing()
	if f.Written >= 0 && up >= flashEarly {
		f.PerDay = local.Number(float64(f.Written) / up.Hours() * 24)
	}
	return f
}

// readLife is what an eMMC says of itself: PRE_EOL_INFO and DEVICE_LIFE_TIME_EST_TYP_A and _B of its EXT_CSD (JESD84-B51).
func readLife(device string) local.Flash {
	f := local.Flash{UsedPercent: local.Missing()}
	if device == "" {
		return f
	}
	f.Device = filepath.Base(device)
	worst := int64(0)
	for _, n := range hexNumbers(filepath.Join(device, "device", "life_time")) {
		worst = max(worst, n)
	}
	if worst > 0 {
		f.UsedPercent = local.Number(10 * worst)
	}
	if list := hexNumbers(filepath.Join(device, "device", "pre_eol_info")); len(list) > 0 {
		f.EndOfLife = map[int64]string{1: "normal", 2: "warning", 3: "urgent"}[list[0]]
	}
	return f
}

// hexNumbers reads a file such as "0x01 0x02\n"; one that is not there, or is something else, has none.
func hexNumbers(file string) (list []int64) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(text)) {
		if n, err := strconv.ParseInt(word, 0, 64); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// written is write_bytes: what this process had the storage take. -1: the kernel does not say.
func written(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				return n
			}
		}
	}
	return -1
}
