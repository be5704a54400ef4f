package main

import (
	"bytes"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-telematics/waybill/firmware/trust"
	"github.com/waybill-telematics/waybill/fleet/ota"
	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/internal/cli"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// ota runs a command line and returns what it prints.
func runOTA(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&out)
	code := cli.Execute(root, args, &out)
	return out.String(), code
}

// exampleLines are the commands of docs/OTA.md's worked example.
func exampleLines(t *testing.T) (lines []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/OTA.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "### A worked example")
	example, _, _ = strings.Cut(example, "\n###")
	for line := range strings.Lines(example) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, strings.TrimSpace(command))
		}
	}
	if len(lines) < 12 {
		t.Fatalf("%d commands in the example", len(lines))
	}
	return lines
}

// The worked example of docs/OTA.md, and a vehicle that follows it over HTTP, from its factory's roots, across the root's rotation.
func TestOTAExample(t *testing.T) {
	example := exampleLines(t)
	spec, err := os.ReadFile("../../examples/ota-campaign.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "waybill-ota")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	old := make([]byte, 200_000)
	for i := range old {
		old[i] = byte(rand.IntN(256))
	}
	image := bytes.Clone(old)
	copy(image[100_000:], "one line changed")
	for name, data := range map[string][]byte{"agent-1.2.2": old, "agent-1.2.3": image, "ota-campaign.yaml": spec, "outcomes.jsonl": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	v := newOTAVehicle(t, filepath.Join(dir, "oem"))
	printed := map[string]string{}
	for _, line := range example {
		words := strings.Fields(line)
		if words[0] == "cd" {
			t.Chdir(words[1])
			v.factory()
			continue
		}
		out, code := runOTA(t, words[1:]...)
		if code != cli.OK {
			t.Fatalf("%s ends with %d: %s", line, code, out)
		}
		printed[strings.Join(words[2:min(4, len(words))], " ")] += out
		v.resolve()
	}
	for command, want := range map[string]string{
		"init --quick":                         "IS FOR A BENCH",
		"publish ../agent-1.2.2":               "waits for signatures",
		"sign staged/image/2.linux-arm64.json": `image is added: "linux-arm64/agent-1.2.2"`,
		"publish ../agent-1.2.3":               "patch from ",
		"campaign create":                      "agent-1.2.3 is created, 0 % of the vehicles",
		"campaign advance":                     "agent-1.2.3 is active, 1 % of the vehicles",
		"campaign run":                         "agent-1.2.3 waits, 1 % of the vehicles: stage 1 (1 %) holds until",
		"status --outcomes":                    "campaign agent-1.2.3 is active, stage 1 of 3",
		"sign staged/image/2.root.json":        "role root: key image-root-1 (",
	} {
		if !strings.Contains(printed[command], want) {
			t.Errorf("%s prints\n%s\nand not %q", command, printed[command], want)
		}
	}
	got := v.resolve()
	if got == nil || got.Name() != "linux-arm64/agent-1.2.3" {
		t.Fatalf("the vehicle is to install %v", got)
	}
	var fetched bytes.Buffer
	mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: v.server.URL + "/image/targets/"})
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Fetch(t.Context(), []trust.Fetcher{mirror}, func() (io.Writer, error) { fetched.Reset(); return &fetched, nil }); err != nil || !bytes.Equal(fetched.Bytes(), image) {
		t.Errorf("%d bytes, %v", fetched.Len(), err)
	}
	// The patch is where the director says, and small.
	data, err := os.ReadFile(filepath.Join(v.dir, "public", "director", "sedan", fmt.Sprint(v.cohort), "timestamp.json"))
	if err != nil || !json.Valid(data) {
		t.Error(err)
	}
	patches, err := filepath.Glob(filepath.Join(v.dir, "public/image/targets/linux-arm64/*.zst"))
	if err != nil || len(patches) != 1 {
		t.Fatalf("%v %v", patches, err)
	}
	if info, err := os.Stat(patches[0]); err != nil || info.Size() > 1000 {
		t.Errorf("the patch for a changed line has %d bytes of %d", info.Size(), len(image))
	}
	for _, path := range []string{"keys/online/online.keys", "keys/offline-1/offline-1.keys"} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

// otaVehicle is in the first cohort that the example's campaign reaches.
type otaVehicle struct {
	t       *testing.T
	dir     string
	server  *httptest.Server
	cohort  int
	vehicle *trust.Vehicle
	folder  string
}

func newOTAVehicle(t *testing.T, dir string) *otaVehicle {
	v := &otaVehicle{t: t, dir: dir, folder: t.TempDir(), cohort: -1}
	v.server = httptest.NewServer(http.FileServer(http.Dir(filepath.Join(dir, "public"))))
	t.Cleanup(v.server.Close)
	return v
}

func (v *otaVehicle) factory() {
	v.t.Helper()
	var clients [2]*trust.Client
	// Of all cohorts the SHA-256 of agent-1.2.3/68 is the smallest (reckoned with Python).
	v.cohort = 68
	for i, name := range []string{"director", "image"} {
		root, err := os.ReadFile(filepath.Join(v.dir, "factory", name+".root.json"))
		if err != nil {
			v.t.Fatal(err)
		}
		base := v.server.URL + "/image/"
		if name == "director" {
			base = fmt.Sprintf("%s/director/sedan/%d/", v.server.URL, v.cohort)
		}
		mirror, err := trust.NewHTTP(trust.HTTPOptions{Base: base})
		if err != nil {
			v.t.Fatal(err)
		}
		kept, err := trust.OpenStore(filepath.Join(v.folder, name))
		if err != nil {
			v.t.Fatal(err)
		}
		if clients[i], err = trust.New(trust.Options{Name: name, Mirrors: []trust.Fetcher{mirror}, Store: kept, FactoryRoot: root, Reference: time.Now, NoDelegations: i == 0}); err != nil {
			v.t.Fatal(err)
		}
	}
	reference, err := trust.OpenReference(trust.ReferenceOptions{Path: filepath.Join(v.folder, "time"), Clock: func() (time.Time, bool) { return time.Now(), true }})
	if err != nil {
		v.t.Fatal(err)
	}
	if v.vehicle, err = trust.NewVehicle(trust.VehicleOptions{Director: clients[0], Image: clients[1], Reference: reference}); err != nil {
		v.t.Fatal(err)
	}
}

// resolve is what the agent is to be; nil: as it is.
func (v *otaVehicle) resolve() *trust.Target {
	v.t.Helper()
	if v.vehicle == nil {
		return nil
	}
	bundle, err := v.vehicle.Resolve(v.t.Context(), []trust.ECU{{ID: "agent", Hardware: "linux/arm64", Release: 11}})
	if err != nil {
		v.t.Fatal(err)
	}
	return bundle["agent"]
}

// What vehicles told a store is what campaigns are judged by.
func TestOTAOutcomesOfAStore(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	path := filepath.Join(t.TempDir(), "fleet.db")
	s, err := store.Open(t.Context(), path, store.Options{Rand: crand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	good, err := (&telemetrypb.UpdateOutcome{Campaign: "c-1", SHA256: sum, From: "1", To: "2", Outcome: telemetrypb.UpdateRolledBack, Reason: "crash"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	early := proto.CloneOf(good)
	early.State, early.Text = "running", strings.Replace(good.GetText(), "rolled_back", "installed", 1)
	torn := proto.CloneOf(good)
	torn.Text = "{"
	for device, results := range map[string][]*telemetrypb.CommandResult{"car-1": {early, good, early}, "car-2": {early}, "car-3": {torn}} {
		err := s.Update(t.Context(), func(tx store.Tx) error {
			id, err := tx.Device("default", device, time.Now())
			for _, r := range results {
				err = errors.Join(err, tx.PutResult(id, r, time.Now()))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := storeOutcomes{s}.Outcomes(t.Context(), "c-1", []string{sum})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, o := range list {
		got[o.Device] = string(o.Outcome) + " " + o.Reason
	}
	want := map[string]string{"car-1": "rolled_back crash", "car-2": "installed crash", "car-3": "failed unreadable"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if list, err := (storeOutcomes{s}).Outcomes(t.Context(), "c-2", []string{sum}); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	var _ ota.Outcomes = storeOutcomes{}
}
