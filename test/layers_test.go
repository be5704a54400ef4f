// Package test holds the project to its architecture: which package may import which.
package test

import (
	"slices"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

const module = "github.com/waybill-telematics/waybill"

// layers names for each package what it may import of this module beside internal/ and its own sub-packages, directly
// or through others (ARCHITECTURE.md). Only cmd/ sees everything.
var layers = map[string][]string{
	"proto":    {},
	"can":      {"proto"},
	"gps":      {"proto"},
	"pipeline": {"proto"},
	"buffer":   {},
	"uplink":   {"buffer", "proto"},
	"firmware": {"proto"},
	"fleet":    {"firmware", "proto"}, // of firmware: how a patch is made
	"internal": {"proto"},
}

// foreign names what a package of other people's may not be linked into, by the prefix of its import path.
var foreign = []struct{ importer, prefix, why string }{
	{"cmd/agent", "github.com/mochi-mqtt/", "the vehicle has no broker"},
	{"cmd/agent", "modernc.org/", "the vehicle has no database"},
	{"cmd/agent", "github.com/jackc/", "the vehicle has no database"},
	{"cmd/agent", "github.com/lib/pq", "the vehicle has no database"},
	{"cmd/agent", "go.mongodb.org/", "the vehicle has no database"},
	{"cmd/agent", "github.com/twmb/", "the vehicle has no Kafka"},
	{"cmd/agent", "github.com/segmentio/", "the vehicle has no Kafka"},
	{"cmd/agent", "github.com/IBM/sarama", "the vehicle has no Kafka"},
	{"cmd/agent", "github.com/confluentinc/", "the vehicle has no Kafka"},
	{"cmd/agent", module + "/fleet", "the vehicle has no store"},
	{"cmd/agent", "github.com/golang/snappy", "what the benchmarks compare with does not ship"},
	{"cmd/fleet", "github.com/golang/snappy", "what the benchmarks compare with does not ship"},
	{"cmd/fleet", "github.com/twmb/franz-go/pkg/kfake", "tests' parts do not ship"},
	{"cmd/fleet", "github.com/santhosh-tekuri/", "answers are held against the API's document by tests only"},
	{"cmd/agent", "testing", "tests' parts do not ship"},
	{"cmd/agent", "github.com/santhosh-tekuri/", "the configuration is held against its schema by tests only"},
	{"cmd/launcher", "testing", "tests' parts do not ship"},
	{"cmd/launcher", "net", "it starts a program"},
	{"cmd/fleet", "testing", "tests' parts do not ship"},
	{"cmd/agent", "time/tzdata", "the vehicle's own zone files count; a copy costs 450 kB and grows old"},
	{"firmware/conditions", "github.com/", "nobody else's code says whether a vehicle may install"},
	{"firmware/delivery", module + "/firmware/", "parts of firmware do not import each other"},
	{"proto", "go.yaml.in/", "only cmd/ reads configuration"},
	{"can", "go.yaml.in/", "only cmd/ reads configuration"},
	{"gps", "go.yaml.in/", "only cmd/ reads configuration"},
	{"pipeline", "go.yaml.in/", "only cmd/ reads configuration"},
	{"buffer", "go.yaml.in/", "only cmd/ reads configuration"},
	{"uplink", "go.yaml.in/", "only cmd/ reads configuration"},
}

func TestLayers(t *testing.T) {
	seen := map[string]bool{}
	for name, deps := range dependencies(t) {
		top, _, _ := strings.Cut(name, "/")
		seen[top], seen[name] = true, true
		allowed, ruled := layers[top]
		for _, dep := range deps {
			if sibling, ok := strings.CutPrefix(dep, module+"/"); ok {
				other, _, _ := strings.Cut(sibling, "/")
				switch {
				case other == "cmd" && sibling != name && !strings.HasPrefix(sibling, name+"/"):
					t.Errorf("%s imports %s: nothing imports a command", name, sibling)
				case other == "test" && top != "test" && name != "cmd/simulate":
					t.Errorf("%s imports %s: only tests and the simulated vehicle do", name, sibling)
				case top == "firmware" && name != "firmware/update" && other == top && strings.Contains(sibling, "/") && !within(name, sibling):
					t.Errorf("%s imports %s: siblings under firmware do not import each other, but for update, which puts them together", name, sibling)
				case name == "cmd/launcher" && sibling != "firmware" && sibling != "firmware/slots":
					t.Errorf("%s imports %s: it is never updated, so it has as little in it as can be", name, sibling)
				case ruled && other != top && other != "internal" && !slices.Contains(allowed, other):
					t.Errorf("%s imports %s; package %s may import %v and internal", name, sibling, top, allowed)
				}
			}
			if host, _, _ := strings.Cut(dep, "/"); name == "cmd/launcher" && strings.Contains(host, ".") &&
				!strings.HasPrefix(dep, module+"/") && !strings.HasPrefix(dep, "golang.org/x/sys/") {
				t.Errorf("%s links %s: it is never updated, so it has as little in it as can be", name, dep)
			}
			for _, f := range foreign {
				if f.prefix == "github.com/" && strings.HasPrefix(dep, module+"/") { // ours
					continue
				}
				if name == f.importer && (dep == f.prefix || strings.HasPrefix(dep, strings.TrimSuffix(f.prefix, "/")+"/")) {
					t.Errorf("%s links %s: %s", name, dep, f.why)
				}
			}
		}
	}
	for name := range layers {
		if !seen[name] {
			t.Errorf("there is no package %s: a rule that holds nothing", name)
		}
	}
	for _, f := range foreign {
		if !seen[f.importer] {
			t.Errorf("there is no package %s: a rule that holds nothing", f.importer)
		}
	}
}

// within says whether two packages are of the same part, the second folder of their paths.
func within(a, b string) bool {
	part := func(name string) string { return strings.Join(strings.SplitN(name, "/", 3)[:2], "/") }
	return strings.Contains(a, "/") && part(a) == part(b)
}

// dependencies maps each package of this module, by its folder, to all that it links, directly or not.
func dependencies(t *testing.T) map[string][]string {
	t.Helper()
	cmd := deps.Go(t, "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	packages := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		packages[strings.TrimPrefix(words[0], module+"/")] = words[1:]
	}
	return packages
}
