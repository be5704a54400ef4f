// Command update is what runs in a guest that follows a director: the real launcher, agent and fleet, a simulated car,
// and a host of the repositories that waybill-fleet ota made. It plays systemd and the driver, holds what the launcher and
// the agent say to what should be, and says on the console how it goes. It runs in guests only.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

const usage = `usage: update BOOT DEVICE DIR   mount DEVICE on DIR and do what is to be done in this boot: 1, 2 or 3`

func main() {
	err := errors.New(usage)
	if len(os.Args) == 4 {
		err = live(os.Args[1], os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Println("broken:", err)
		os.Exit(1)
	}
	fmt.Println("done")
}

// bench is one boot. What stands on the disk in DIR is the host's work: bin, www, configurations, and course.json.
type bench struct {
	dir    string
	cycles int // how often the ignition goes off during the probation
	images map[string]image
	agent  *service
	car    *car
	fleet  *exec.Cmd
	wanted atomic.Pointer[string] // the campaign that the director leads
}

// image is one of the campaign of its name.
type image struct{ SHA256, Version string }

// Boots begin with clocks that no battery has kept, and one with the right one.
var clocks = map[string]time.Time{"1": time.Unix(30, 0), "2": time.Date(2099, 12, 31, 23, 0, 0, 0, time.UTC)}

func live(boot, device, dir string) error {
	if t, ok := clocks[boot]; ok {
		if err := unix.Settimeofday(&unix.Timeval{Sec: t.Unix()}); err != nil {
			return fmt.Errorf("clock: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	b := &bench{dir: dir}
	var course struct {
		Cycles int
		Images map[string]image
	}
	text, err := os.ReadFile(filepath.Join(dir, "course.json"))
	if err == nil {
		err = json.Unmarshal(text, &course)
	}
	if err != nil {
		return err
	}
	b.cycles, b.images = course.Cycles, course.Images
	if err := b.open(boot); err != nil {
		return err
	}
	switch boot {
	case "1":
		err = b.install()
	case "2":
		err = b.cut()
	case "3":
		err = b.rest()
	default:
		err = errors.New(usage)
	}
	if err != nil {
		st, _ := b.status()
		return fmt.Errorf("%w\nthe slots: %+v", err, st)
	}
	return b.close()
}

// open starts what is around the agent.
func (b *bench) open(boot string) error {
	// Files as any static host serves them; the director's are those of the campaign that it leads.
	www := filepath.Join(b.dir, "www")
	mux := http.NewServeMux()
	mux.Handle("/image/", http.FileServer(http.Dir(www)))
	mux.HandleFunc("/director/", func(w http.ResponseWriter, r *http.Request) {
		http.FileServer(http.Dir(filepath.Join(www, *b.wanted.Load()))).ServeHTTP(w, r)
	})
	b.lead("healthy")
	go func() { fmt.Println("broken:", http.ListenAndServe("127.0.0.1:8088", mux)) }()

	b.fleet = exec.Command(b.bin("fleet"), "serve", "--embedded-broker", "127.0.0.1:1883", "--broker", "tcp://127.0.0.1:1883",
		"--db", filepath.Join(b.dir, "fleet.db"), "--every", "1h")
	b.fleet.Stdout, b.fleet.Stderr = os.Stdout, os.Stderr
	err := b.fleet.Start()
	if err == nil {
		b.car, err = newCar(b.bin(""))
	}
	if err == nil {
		var out []byte
		out, err = exec.Command(b.bin("launcher"), "--version").CombinedOutput()
		fmt.Printf("%s", out)
	}
	if err != nil {
		return err
	}
	firmware := filepath.Join(b.dir, "firmware")
	if err := os.Setenv("WAYBILL_FIRMWARE_DIR", firmware); err != nil {
		return err
	}
	config := map[string]string{"1": "long", "2": "long", "3": "short"}[boot] // the probation
	command := []string{b.bin("launcher"), "run", "-c", filepath.Join(b.dir, config+".yaml")}
	b.agent, err = newService(command, "WAYBILL_FACTORY_AGENT=/nonexistent")
	return err
}

func (b *bench) bin(name string) string { return filepath.Join(b.dir, "bin", name) }

func (b *bench) lead(campaign string) { b.wanted.Store(&campaign) }

// close ends everything in order, so that the host finds a whole file system.
func (b *bench) close() error {
	if err := b.agent.stop(); err != nil {
		return err
	}
	_ = b.car.drive.Process.Signal(syscall.SIGTERM)
	_ = b.fleet.Process.Signal(syscall.SIGTERM)
	if err := errors.Join(b.car.drive.Wait(), b.fleet.Wait()); err != nil {
		return fmt.Errorf("car and fleet: %w", err)
	}
	return unix.Unmount(b.dir, 0)
}

// status is what the launcher says.
func (b *bench) status() (st slots.Status, err error) {
	out, err := exec.Command(b.bin("launcher"), "--status", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	return st, err
}

// patience bounds each wait: an emulated machine on a busy one is slow.
const patience = 6 * time.Minute

// mostFailures are those of two images that are killed three times each; more is a fault elsewhere.
const mostFailures = 6

// until waits for the status to be so.
func (b *bench) until(what string, so func(slots.Status) bool) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Second) {
		st, err := b.status()
		if err != nil {
			return err
		}
		if so(st) {
			fmt.Printf("seen: %s\n", what)
			return nil
		}
		if b.agent.failed() > mostFailures {
			return fmt.Errorf("the agent fails again and again, waiting for this: %s", what)
		}
		if time.Now().After(end) {
			return fmt.Errorf("it did not come to this: %s", what)
		}
	}
}

// runs says that the agent has come through its start and runs from a slot.
func (b *bench) runs(slot slots.Slot) func(slots.Status) bool {
	return func(st slots.Status) bool {
		onTrial := st.Trial != nil && st.Trial.Slot == slot
		return b.agent.isReady() && b.agent.slot() == "slots/"+string(slot) && (!onTrial || st.Trial.Alive)
	}
}

// reported says that nothing is left to be told.
func reported(st slots.Status) bool { return len(st.Outcomes) == 0 }

// rejected says that the image of a campaign was rolled back, for a reason with these words.
func (b *bench) rejected(campaign, words string) func(slots.Status) bool {
	return func(st slots.Status) bool {
		return st.Trial == nil && slices.ContainsFunc(st.Rejected, func(r slots.Rejection) bool {
			return r.SHA256 == b.images[campaign].SHA256 && r.Campaign == campaign && strings.Contains(r.Reason, words)
		})
	}
}
