package vm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestUpdateInAGuest: a vehicle of real programs follows a director from version 1 to version 2, and back from one that crashes
// (with WAYBILL_UPDATES=all from one that hangs and one that cannot read its bus, too). Its car drives, then stands; its probation is cut short by ten ignition cycles, an orderly reboot and a
// power cut; its clock is in 1970 and in 2099. What the store then says of each campaign, and which frames it has, is
// asked of it with waybill-fleet.
func TestUpdateInAGuest(t *testing.T) {
	course := updateCourse{cycles: 10, campaigns: []updateCampaign{healthy, crashes, again}}
	if os.Getenv("WAYBILL_UPDATES") == "all" {
		course.campaigns = []updateCampaign{healthy, crashes, hangs, deaf, again}
	}
	w := newWorkshop(t, "amd64", course)
	follow := Build(t, "amd64", "build", "./test/vm/update")
	disk := w.disk(t)
	dir := filepath.Join(w.dir, "mnt")
	w.follow(t, disk, NewBed(t, Job{
		Command: []string{follow, "", "/dev/ubda", dir}, Disks: []string{disk}, Interfaces: []string{"vcan0"}, Timeout: updateTime,
	}))
}

// updateTime bounds one boot.
const updateTime = 20 * time.Minute

// disk makes the vehicle's disk as it leaves the factory.
func (w *workshop) disk(t *testing.T) string {
	t.Helper()
	return makeDisk(t, 1<<30, "-d", filepath.Join(w.dir, "disk"))
}

// window is a time in which the agent read the bus: CLOCK_BOOTTIME, ns.
type window struct {
	when, boot string
	from, to   int64
}

// follow boots three times, and looks at what came of it.
func (w *workshop) follow(t *testing.T, disk string, bed *Bed) {
	t.Helper()
	var windows []window
	for _, boot := range []string{"1", "2", "3"} {
		bed.job.Command[1] = boot
		began := time.Now()
		windows = append(windows, lifeOfUpdate(t, bed, boot == "2")...)
		t.Logf("boot %s took %v", boot, time.Since(began).Round(time.Second))
	}
	db := filepath.Join(w.dir, "fleet.db")
	for _, suffix := range []string{"", "-wal"} { // the second is there only if the store was not closed
		debugfs := deps.Program(t, "e2fsprogs", "debugfs", "-R", fmt.Sprintf("dump /fleet.db%s %s%s", suffix, db, suffix), disk)
		if out, err := debugfs.CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v: %s", err, out)
		}
	}
	w.checkOutcomes(t, db)
	w.checkFrames(t, db, windows)
}

// lifeOfUpdate boots, and cuts the power when the guest asks for it; otherwise it has to come to its end.
func lifeOfUpdate(t *testing.T, bed *Bed, cut bool) (windows []window) {
	t.Helper()
	m := bed.Boot(t)
	var console []string
	finished := false
	stuck := time.After(bootTimeout + updateTime)
	for ended := false; !ended; {
		select {
		case line, ok := <-m.Lines():
			ended = !ok
			console = append(console, line)
			var r window
			switch {
			case line == "cut" && cut:
				m.Cut(t, func(string) {})
				return windows
			case line == "done":
				finished = true
			case strings.HasPrefix(line, "seen: "):
				t.Log(line)
			}
			if n, _ := fmt.Sscanf(line, "read %s %s %d %d", &r.when, &r.boot, &r.from, &r.to); n == 4 {
				windows = append(windows, r)
			}
		case <-stuck:
			t.Fatalf("the machine came to nothing; its console:\n%s", strings.Join(console, "\n"))
		}
	}
	if cut || !finished || slices.ContainsFunc(console, func(line string) bool { return strings.HasPrefix(line, "broken:") }) {
		t.Fatalf("its console:\n%s", strings.Join(console, "\n"))
	}
	return windows
}

// checkOutcomes holds what the OEM's tool reads out of the store to what happened, and looks that each is there once.
func (w *workshop) checkOutcomes(t *testing.T, db string) {
	t.Helper()
	var report struct {
		Campaigns []struct {
			ID       string
			Outcomes struct {
				Committed, Installed, Refused, Failed int
				RolledBack                            int `json:"rolled_back"`
				Reasons                               map[string]int
			}
		}
	}
	cmd := exec.Command(w.fleet, "ota", "status", "--dir", filepath.Join(w.dir, "oem"), "--db", db, "--json")
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 3 { // something needs attention: campaigns failed
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Campaigns) != len(w.course.campaigns) {
		t.Fatalf("%d campaigns", len(report.Campaigns))
	}
	for _, c := range report.Campaigns {
		o := c.Outcomes
		t.Logf("%s: %+v", c.ID, o)
		got := [5]int{o.Committed, o.RolledBack, o.Refused, o.Installed, o.Failed}
		want := [5]int{0, 1}
		switch c.ID {
		case "healthy":
			want = [5]int{1}
		case "again":
			want = [5]int{0, 0, 1}
		}
		if got != want {
			t.Errorf("campaign %s: committed, rolled back, refused, installed, failed are %v, want %v", c.ID, got, want)
		}
	}
}

// checkFrames looks for what was on the bus: the drive counts its frames, and none is missing between two times.
func (w *workshop) checkFrames(t *testing.T, db string, windows []window) {
	t.Helper()
	if len(windows) != 2 {
		t.Fatalf("%d times in which the bus was read, want 2", len(windows))
	}
	out, err := exec.Command(w.fleet, "samples", "--db", db, "--signal", "can0.DriveCounter.FrameCounter").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range windows {
		var numbers []int64
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			var s struct {
				Raw  int64  `json:"raw"`
				Boot string `json:"boot_id"`
				NS   int64  `json:"boot_ns"`
			}
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				t.Fatal(err)
			}
			if s.Boot == r.boot && s.NS >= r.from && s.NS <= r.to {
				numbers = append(numbers, s.Raw)
			}
		}
		slices.Sort(numbers)
		t.Logf("%s: %d frames of the counter in %v", r.when, len(numbers), time.Duration(r.to-r.from).Round(time.Millisecond))
		if n := len(numbers); n < 50 || numbers[n-1]-numbers[0] != int64(n-1) {
			t.Errorf("%s: %d frames of the counter, %v", r.when, n, numbers)
		}
	}
}
