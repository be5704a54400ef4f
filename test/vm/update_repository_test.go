package vm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/drive"
)

const updateConfig = `
device: {id: car-1, tenant: acme}
data_dir: data
can: [{bus: can0, interface: vcan0, dbc: [drive.dbc, ignition.dbc]}]
collect:
  signals: [{match: "can0.DriveCounter.FrameCounter", sample: every}]
queue: {commit_every: 1s, seal_every: 2s}
uplink: {broker: "mqtt://127.0.0.1:1883", insecure: true, drain: 30s}
update:
  ecu: telematics
  director: ["http://127.0.0.1:8088/director/sedan/{cohort}/"]
  images: ["http://127.0.0.1:8088/image/"]
  roots: {director: director.root.json, images: image.root.json}
  slots: firmware
  poll: 2s
  signals: {speed: can0.DriveCounter.VehicleSpeed, gear: can0.Pedals.Gear, ignition: can0.Ignition.On}
  parked: {gear: [0], hold: 3s}
  probation: {healthy: HEALTHY, source: 5s}
`

const ignitionDBC = `VERSION ""
BU_: Body
BO_ 1952 Ignition: 1 Body
 SG_ On : 0|1@1+ (1,0) [0|1] "" Body
`

const campaignText = `
id: %s
images: [{name: %s, ecu: telematics, hardware: %s}]
conditions: {parked: true, ignition: "off"}
stages: [{percent: 100}]
stop: {rolled_back: 1}
`

// updateCourse is what a vehicle is put through: campaigns, one after the other, of which the last one offers the image of the one
// before again, and how often the ignition goes off during the probation.
type updateCourse struct {
	campaigns []updateCampaign
	cycles    int
}

type updateCampaign struct{ id, version, fault string }

var (
	healthy = updateCampaign{"healthy", "2.0.0", ""}
	crashes = updateCampaign{"crashes", "3.0.0", "crashes"}
	hangs   = updateCampaign{"hangs", "4.0.0", "hangs"}
	deaf    = updateCampaign{"deaf", "5.0.0", "deaf"}
	again   = updateCampaign{id: "again"}
)

// workshop is the OEM's side on the host, and the vehicle's disk as it leaves the factory.
type workshop struct {
	goarch, hardware string // linux/arm64
	dir              string // oem, and disk: what is on the vehicle's
	fleet            string // waybill-fleet for this machine
	course           updateCourse
	images           map[string]updateImage
}

// updateImage is one of the campaign of its name.
type updateImage struct{ SHA256, Version string }

// newWorkshop builds everything, publishes and leads the campaigns, and keeps what the director says in each.
func newWorkshop(t *testing.T, goarch string, course updateCourse) *workshop {
	t.Helper()
	w := &workshop{
		course: course, goarch: goarch, hardware: "linux/" + goarch, dir: t.TempDir(), fleet: Build(t, runtime.GOARCH, "build", "./cmd/fleet"),
		images: map[string]updateImage{},
	}
	if goarch == "arm" {
		w.hardware += "v7"
	}
	cohort, prefix := fmt.Sprint("sedan/", telemetrypb.Cohort("acme", "car-1")), strings.ReplaceAll(w.hardware, "/", "-")
	team := filepath.Join("keys", "team-"+prefix, "team-"+prefix+".keys")
	w.ota(t, w.dir, "init", "--quick", "oem", "--line", "sedan=telematics:"+w.hardware)
	oem := filepath.Join(w.dir, "oem")
	for n, c := range course.campaigns {
		if c.id == "again" {
			before := course.campaigns[n-1]
			c.version = before.version
			w.images[c.id] = w.images[before.id]
		} else {
			path := w.agent(t, c.version, c.fault)
			image, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(image)
			w.images[c.id] = updateImage{hex.EncodeToString(sum[:]), c.version}
			w.ota(t, oem, "publish", path, "--name", "agent", "--hardware", w.hardware, "--version", c.version,
				"--release-counter", fmt.Sprint(n+2), "--key", team)
		}
		w.write(t, "campaign.yaml", fmt.Appendf(nil, campaignText, c.id, prefix+"/agent-"+c.version, w.hardware))
		w.ota(t, oem, "campaign", "create", "../campaign.yaml")
		w.ota(t, oem, "campaign", "advance", c.id)
		w.copy(t, filepath.Join("oem/public/director", cohort), filepath.Join("disk/www", c.id, "director", cohort))
		w.ota(t, oem, "campaign", "stop", c.id)
	}
	w.copy(t, "oem/public/image", "disk/www/image")
	w.factory(t)
	return w
}

// factory puts version 1 and what it needs on the vehicle's disk.
func (w *workshop) factory(t *testing.T) {
	t.Helper()
	w.install(t, "agent", w.agent(t, "1.0.0", ""))
	for _, name := range []string{"launcher", "fleet", "simulate"} {
		w.install(t, name, Build(t, w.goarch, "build", "./cmd/"+name, "-trimpath", "-ldflags", "-s -w"))
	}
	for _, name := range []string{"director", "image"} {
		w.copy(t, "oem/factory/"+name+".root.json", "disk/"+name+".root.json")
	}
	course, err := json.Marshal(map[string]any{"Cycles": w.course.cycles, "Images": w.images})
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "disk/course.json", course)
	w.write(t, "disk/drive.dbc", drive.DBC())
	w.write(t, "disk/ignition.dbc", []byte(ignitionDBC))
	w.write(t, "disk/long.yaml", []byte(strings.Replace(updateConfig, "HEALTHY", "1h", 1)))
	w.write(t, "disk/short.yaml", []byte(strings.Replace(updateConfig, "HEALTHY", "4s", 1)))
}

// agent builds the agent as it ships, with a version and perhaps a fault.
func (w *workshop) agent(t *testing.T, version, fault string) string {
	t.Helper()
	const identity = " -X github.com/waybill-telematics/waybill/firmware."
	built := time.Now().UTC().Format(time.RFC3339)
	flags := []string{"-trimpath", "-ldflags", "-s -w" + identity + "version=" + version + identity + "built=" + built}
	if fault != "" {
		flags[2] += " -X main.fault=" + fault
		root := deps.Root(t)
		over, err := json.Marshal(map[string]any{"Replace": map[string]string{
			filepath.Join(root, "cmd/agent/fault.go"): filepath.Join(root, "test/vm/testdata/fault.go"),
		}})
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "overlay.json", over)
		flags = append(flags, "-overlay", filepath.Join(w.dir, "overlay.json"))
	}
	return Build(t, w.goarch, "build", "./cmd/agent", flags...)
}

// ota is `waybill-fleet ota …` in a folder.
func (w *workshop) ota(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(w.fleet, append([]string{"ota"}, args...)...)
	var words bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &words
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, words.String())
	}
	return out
}

func (w *workshop) write(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(w.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// copy copies a file or a folder of files.
func (w *workshop) copy(t *testing.T, from, to string) {
	t.Helper()
	from, to = filepath.Join(w.dir, from), filepath.Join(w.dir, to)
	info, err := os.Stat(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil && info.IsDir() {
		err = os.CopyFS(to, os.DirFS(from))
	} else if err == nil {
		err = os.Link(from, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// install puts a program on the vehicle's disk.
func (w *workshop) install(t *testing.T, name, path string) {
	t.Helper()
	to := filepath.Join(w.dir, "disk/bin", name)
	err := os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		err = os.Rename(path, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
