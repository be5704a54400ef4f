package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/internal/cli"
	"github.com/waybill-telematics/waybill/internal/clock"
	"github.com/waybill-telematics/waybill/test/certs"
	"github.com/waybill-telematics/waybill/uplink/doctor"
)

// breakages are real: folders, files, terminals, ports and certificates. Those of buses are in test/vm, where there is CAN.
func breakages(t *testing.T) []breakage {
	return []breakage{
		{problem: problemConfiguration, result: doctor.Failed, config: strings.Replace(sound, "data_dir", "data_dri", 1)},
		{problem: problemConfiguration, result: doctor.Failed, config: strings.Replace(sound, "a.dbc", "gone.dbc", 1)},
		{problem: problemRecordOnly, result: doctor.Warned, config: soundDevice + soundCAN + soundCollect},
		{problem: problemDataNoFolder, result: doctor.Failed, prepare: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "data")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "data"), "", 0o644)
		}},
		{problem: problemDataPermission, result: doctor.Failed, nobody: true, prepare: func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "data"), 0o555); err != nil {
				t.Fatal(err)
			}
		}},
		{problem: problemDataOpen, result: doctor.Warned, prepare: func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "data"), 0o777); err != nil {
				t.Fatal(err)
			}
		}},
		{problem: problemQuotaTooLarge, result: doctor.Warned, config: sound + "queue: {max_bytes: 1024GiB, min_free: " +
			fmt.Sprint(freeHere(t)/2) + "B}\n"},
		{problem: problemQueueLocked, result: doctor.Failed, prepare: func(t *testing.T, dir string) {
			q := openQueueAt(t, dir)
			t.Cleanup(func() { _ = q.Close() })
		}},
		{problem: problemQueueForeign, result: doctor.Failed, nobody: true, prepare: func(t *testing.T, dir string) {
			if err := openQueueAt(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
			for path, mode := range map[string]os.FileMode{"data/queue": 0o777, "data/queue/lock": 0o444} {
				if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{problem: problemQueueUnreadable, result: doctor.Failed, prepare: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "data", "queue"), "no folder", 0o644)
		}},
		{problem: problemCANForeign, result: doctor.Failed, config: soundDevice +
			"can: [{bus: can0, interface: lo, dbc: [a.dbc]}]\n" + soundCollect + soundUplink},
		{problem: canGone(), result: doctor.Failed, config: soundDevice + "can: [{interface: can77, dbc: [a.dbc]}]\n" +
			soundCollect + soundUplink},
		{problem: problemGPSMissing, result: doctor.Failed, config: withGPS("serial: DIR/ttyGone")},
		{problem: problemGPSPermission, result: doctor.Failed, config: withGPS("serial: DIR/tty"), nobody: true,
			prepare: func(t *testing.T, dir string) {
				write(t, filepath.Join(dir, "tty"), "", 0)
			}},
		{problem: problemGPSNoTerminal, result: doctor.Failed, config: withGPS("serial: DIR/a.log")},
		{problem: problemGPSSilent, result: doctor.Failed, config: withGPS("serial: DIR/gps"), prepare: receiverAt(0, nil)},
		{problem: problemGPSNoNMEA, result: doctor.Failed, config: withGPS("serial: DIR/gps"), prepare: receiverAt(0,
			func(int) []byte {
				return bytes.Repeat([]byte{0xB5, 0x62, 0x01, 0x07, 0xFF}, 40) // as a binary protocol looks
			})},
		{problem: problemGPSBaud, result: doctor.Failed, config: withGPS("serial: DIR/gps, baud: 9600"),
			prepare: receiverAt(unix.B38400, noFix)},
		{problem: problemGPSNoFix, result: doctor.Warned, config: withGPS("serial: DIR/gps, baud: 9600"),
			prepare: receiverAt(unix.B9600, noFix)},
		{problem: problemGPSUnreachable, result: doctor.Failed, config: withGPS("tcp: '" + closedPort(t) + "'")},
		{problem: problemGPSUnreachable, result: doctor.Failed, config: withGPS("gpsd: {address: '" + closedPort(t) + "'}")},
		{problem: problemGPSSilent, result: doctor.Failed, config: withGPS("gpsd: {address: '" + tcpServer(t, "") + "'}")},
		{problem: problemGPSNoNMEA, result: doctor.Failed, config: withGPS("tcp: '" + tcpServer(t,
			strings.Repeat("HTTP/1.1 400 Bad Request\r\n", 20)) + "'")},
		{problem: problemCertExpired, result: doctor.Failed, config: withCerts(ownPair), prepare: signed(-48*time.Hour,
			-time.Hour)},
		{problem: problemCertEarly, result: doctor.Failed, config: withCerts(ownPair), prepare: signed(48*time.Hour, 300*day)},
		{problem: problemCertSoon, result: doctor.Warned, config: withCerts(ownPair), prepare: signed(-300*day, 3*day)},
		{problem: problemCertNone, result: doctor.Failed, config: withCerts("ca: a.dbc")},
		{problem: problemAuthority, result: doctor.Failed, config: withCerts("ca: old.pem"), prepare: func(t *testing.T,
			dir string) {
			certs.NewAuthority(t, "ca").Sign("old", time.Now().Add(-9*day), time.Now().Add(-day)).Write(dir, "old")
		}},
		{problem: problemKeyUnfit, result: doctor.Failed, config: withCerts("ca: ca.pem, cert: car.pem, key: ca.key"),
			prepare: signed(-time.Hour, 300*day)},
		{problem: problemSecretForAll, result: doctor.Warned, config: withCerts("user: car-1, password_file: pw"),
			prepare: func(t *testing.T, dir string) {
				write(t, filepath.Join(dir, "pw"), "secret\n", 0o644)
			}},
	}
}

// freeHere is what the test's file system has free.
func freeHere(t *testing.T) uint64 {
	t.Helper()
	var disk unix.Statfs_t
	if err := unix.Statfs(t.TempDir(), &disk); err != nil {
		t.Fatal(err)
	}
	return uint64(disk.Bavail) * uint64(disk.Bsize)
}

// canGone is what an interface that is not there is called on this kernel.
func canGone() string {
	fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
	if err != nil {
		return problemCANKernel
	}
	_ = unix.Close(fd)
	return problemCANMissing
}

// expected are problems that this machine may have beside what is broken.
var expected = []string{problemClockUnsynced, problemDiskNotDurable, problemDiskSlow, problemQuotaTooLarge, problemCANBuffer}

// TestDoctorNamesWhatIsBroken: each broken vehicle has its problem by name, and no other.
func TestDoctorNamesWhatIsBroken(t *testing.T) {
	names := map[string]bool{}
	for i, b := range breakages(t) {
		names[b.problem] = true
		t.Run(fmt.Sprintf("%02d %s", i, b.problem), func(t *testing.T) {
			file := lay(t, b)
			var found map[string]doctor.Step
			var code int
			consult := func() { found, code = problemsOf(t, file, "--listen", "2s") }
			if b.nobody {
				asNobody(consult)
			} else {
				consult()
			}
			s, ok := found[b.problem]
			if !ok || s.Result != b.result {
				t.Fatalf("%s is %q, want %q", b.problem, s.Result, b.result)
			}
			if want := map[doctor.Result]int{doctor.Failed: cli.Failed, doctor.Warned: cli.OK}[b.result]; code != want {
				t.Errorf("exit code %d, want %d", code, want)
			}
			for other := range found {
				if other != b.problem && !slices.Contains(expected, other) {
					t.Errorf("it also says %s", other)
				}
			}
		})
	}
	if len(names) < 20 {
		t.Errorf("%d kinds of broken vehicles, want 20", len(names))
	}
}

func TestDoctorFindsNothingWrongWithASoundVehicle(t *testing.T) {
	file := lay(t, breakage{})
	found, code := problemsOf(t, file)
	for name := range found {
		if !slices.Contains(expected, name) {
			t.Errorf("it says %s", name)
		}
	}
	if code != cli.OK {
		t.Errorf("exit code %d", code)
	}
}

// TestDoctorOnClocksAndSlowDisks breaks what a test cannot break of the machine it runs on.
func TestDoctorOnClocksAndSlowDisks(t *testing.T) {
	slow := func(f *os.File) error { time.Sleep(60 * time.Millisecond); return f.Sync() } // commit_every is 100 ms
	at := func(year int, synced bool) func() clock.Reading {
		return func() clock.Reading {
			return clock.Reading{Unix: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano(), Synced: synced}
		}
	}
	withReceiver := sound + "gps: [{name: gps0, tcp: '127.0.0.1:1'}]\n"
	for _, c := range []struct {
		problem string
		result  doctor.Result
		config  string
		read    func() clock.Reading
		flush   func(*os.File) error
	}{
		{problemClockNotSet, doctor.Failed, sound, at(1970, false), nil},
		{problemClockNotSet, doctor.Warned, withReceiver, at(1970, false), nil},
		{problemClockFuture, doctor.Failed, sound, at(2099, false), nil},
		{problemClockUnsynced, doctor.Warned, sound, at(2027, false), nil},
		{"", doctor.OK, sound, at(2027, true), nil},
		{"", doctor.OK, withReceiver, at(2027, false), nil},
		{problemDiskSlow, doctor.Warned, sound + "queue: {commit_every: 100ms}\n", at(2027, true), slow},
	} {
		s, v, err := load(lay(t, breakage{config: c.config}))
		if err != nil {
			t.Fatal(err)
		}
		var steps []doctor.Step
		d := newDevice(standIn(s, v), 0, func(s doctor.Step) { steps = append(steps, s) })
		if d.read = c.read; c.flush != nil {
			d.flush = c.flush
		}
		d.examine(context.Background())
		step := stepTime
		if c.flush != nil {
			step = stepData
		}
		if !slices.ContainsFunc(steps, func(s doctor.Step) bool {
			return s.Name == step && s.Problem == c.problem &&
				s.Result == c.result
		}) {
			t.Errorf("%s is not %q: %+v", c.problem, c.result, steps)
		}
	}
}

// TestEveryProblemIsDocumented holds docs/DOCTOR.md to the names in the source, both ways.
func TestEveryProblemIsDocumented(t *testing.T) {
	files, err := filepath.Glob("doctor*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	document, err := os.ReadFile("../../docs/DOCTOR.md")
	if err != nil {
		t.Fatal(err)
	}
	inSource, inDocument := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\s+problem\w+\s+= "([a-z-]+)"`).FindAllSubmatch(text, -1) {
			inSource[string(m[1])] = true
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllSubmatch(document, -1) {
		inDocument[string(m[1])] = true
	}
	for name := range inSource {
		if !inDocument[name] {
			t.Errorf("docs/DOCTOR.md does not know %s", name)
		}
	}
	for name := range inDocument {
		if !inSource[name] {
			t.Errorf("docs/DOCTOR.md knows %s, the doctor does not", name)
		}
	}
	if len(inSource) < 40 {
		t.Errorf("%d names in the source: the pattern above is wrong", len(inSource))
	}
}
