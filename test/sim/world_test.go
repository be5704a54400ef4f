package sim

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/waybill-telematics/waybill/internal/clock"
)

// world is the truth, and the clocks of one computer in it. Time passes by pass and sleep alone.
type world struct {
	start   time.Time     // Unix time at passed = 0
	passed  int64         // true ns since
	leap    time.Time     // the Unix time that is there twice: midnight after second 60; zero: none
	ppm     int64         // how fast the crystal is
	random  *rand.Rand    //
	awake   atomic.Int64  // CLOCK_MONOTONIC
	boot    atomic.Int64  // CLOCK_BOOTTIME; atomics, for the pipeline's goroutine
	system  int64         // CLOCK_REALTIME − CLOCK_BOOTTIME
	synced  bool          // somebody disciplines CLOCK_REALTIME
	wrong   time.Duration // and is off by this
	claimed time.Duration // and says that it is this at most
	heard   bool          // a receiver was heard in it
}

// unixAt is true Unix time at a moment of true time.
func (w *world) unixAt(passed int64) int64 {
	unix := w.start.UnixNano() + passed
	if !w.leap.IsZero() && unix >= w.leap.UnixNano()+int64(time.Second) {
		unix -= int64(time.Second)
	}
	return unix
}

func (w *world) unix() int64 { return w.unixAt(w.passed) }

// inLeap says whether it is second 60.
func (w *world) inLeap(passed int64) bool {
	unix := w.start.UnixNano() + passed
	return !w.leap.IsZero() && unix >= w.leap.UnixNano() && unix < w.leap.UnixNano()+int64(time.Second)
}

// crystal is how many ns the computer counts in true ones.
func (w *world) crystal(d int64) int64 { return d + d*w.ppm/1_000_000 }

// pass lets time pass while the computer runs.
func (w *world) pass(d time.Duration) {
	w.passed += int64(d)
	w.awake.Add(w.crystal(int64(d)))
	w.boot.Add(w.crystal(int64(d)))
}

// sleep is a suspend: the kernel reckons its length by another clock, and is off by wrong.
func (w *world) sleep(d, wrong time.Duration) {
	w.passed += int64(d)
	w.boot.Add(int64(d + wrong))
}

// off is time without the computer, and restart a new boot: the real-time clock has no battery.
func (w *world) off(d time.Duration) { w.passed += int64(d) }

func (w *world) restart() {
	w.awake.Store(int64(time.Second))
	w.boot.Store(int64(time.Second))
	w.system, w.synced = 0, false // 1970
}

// bootAt is CLOCK_BOOTTIME a little later than now.
func (w *world) bootAt(ahead time.Duration) int64 { return w.boot.Load() + w.crystal(int64(ahead)) }

// setSystem sets CLOCK_REALTIME to the truth and wrong.
func (w *world) setSystem(wrong time.Duration) { w.system = w.unix() + int64(wrong) - w.boot.Load() }

func (w *world) reading() clock.Reading {
	if w.synced {
		w.setSystem(w.wrong) // as a daemon does, without end
	}
	boot := w.boot.Load()
	return clock.Reading{Boot: boot, Mono: w.awake.Load(), Unix: boot + w.system, Synced: w.synced, MaxError: int64(w.claimed)}
}

// receiver is a GPS receiver. Its first byte comes some time after the second that it names.
type receiver struct {
	on     bool
	weeks  int           // by how many weeks its calendar is behind
	delay  time.Duration // at least
	jitter time.Duration // and so much more at most
}

// sentences is the epoch of the second that has just begun, and how much later its first byte comes.
func (w *world) sentences(r *receiver, serial uint64) (text []byte, later time.Duration) {
	at := time.Unix(0, w.unix()).UTC()
	second := at.Format("150405")
	day := at
	if w.inLeap(w.passed) {
		second, day = "235960", at.Add(-time.Second)
		w.heard = true
	}
	day = day.AddDate(0, 0, -7*r.weeks)
	speed := float64(serial%100_000) / 1000 // knots
	body := fmt.Sprintf("GPRMC,%s.000,A,4807.038,N,01131.000,E,%.3f,084.4,%s,,,A", second, speed, day.Format("020106"))
	sum := byte(0)
	for i := range len(body) {
		sum ^= body[i]
	}
	later = r.delay
	if r.jitter > 0 {
		later += time.Duration(w.random.Int64N(int64(r.jitter)))
	}
	return fmt.Appendf(nil, "$%s*%02X\r\n", body, sum), later
}
