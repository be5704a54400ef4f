//go:build system

package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// step is one of repositories.py's.
type step struct {
	Folder, Command, Target string
	OK                      bool
	Content                 *string
	Time                    int64
	Trusted                 map[string]int // versions stored after it, and no other role's; nil: not looked at
	Asked                   []string       // metadata asked for, in this order; nil: not looked at
}

// The command line of the public conformance suite, over repositories that python-tuf made.
func TestConformance(t *testing.T) {
	client := filepath.Join(t.TempDir(), "tufclient")
	if out, err := deps.Go(t, "build", "-o", client, "github.com/waybill-telematics/waybill/test/tufclient").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made := t.TempDir()
	if out, err := exec.Command(filepath.Join(deps.Folder(t, "tuf"), "python3"), "repositories.py", made).CombinedOutput(); err != nil {
		t.Fatalf("repositories.py: %v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(made, "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	var plan map[string][]step
	if err := json.Unmarshal(data, &plan); err != nil {
		t.Fatal(err)
	}
	if len(plan) < 30 {
		t.Errorf("%d scenarios", len(plan))
	}
	for name, steps := range plan {
		t.Run(name, func(t *testing.T) {
			v := vehicle{t: t, client: client, metadata: t.TempDir(), targets: t.TempDir()}
			v.run(0, true, "--metadata-dir", v.metadata, "init", filepath.Join(made, name, "root.json"))
			v.server = httptest.NewServer(&v)
			defer v.server.Close()
			for i, s := range steps {
				v.step(i, s, filepath.Join(made, name, s.Folder))
			}
		})
	}
}

// vehicle is the client's folders and the mirror in front of it.
type vehicle struct {
	t                         *testing.T
	client, metadata, targets string
	server                    *httptest.Server

	mu     sync.Mutex
	folder string // guarded by mu
	asked  []string
}

func (v *vehicle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if name, ok := strings.CutPrefix(r.RequestURI, "/metadata/"); ok {
		v.asked = append(v.asked, name)
	}
	// Names of roles are files' names, so their escaping stays as it is only in what was asked.
	data, err := os.ReadFile(filepath.Join(v.folder, filepath.Clean(r.URL.Path)))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(data) // a client that went away is the test's to notice
}

func (v *vehicle) run(unix int64, ok bool, args ...string) {
	v.t.Helper()
	cmd := exec.Command(v.client, args...)
	cmd.Env = append(os.Environ(), "TUF_TIME="+strconv.FormatInt(unix, 10))
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); ok && code != 0 || !ok && code != 1 {
		v.t.Errorf("%v ends with %v: %s", args, err, out)
	}
}

func (v *vehicle) step(i int, s step, folder string) {
	v.t.Helper()
	v.mu.Lock()
	v.folder, v.asked = folder, nil
	v.mu.Unlock()
	args := []string{"--metadata-dir", v.metadata, "--metadata-url", v.server.URL + "/metadata"}
	if s.Command == "download" {
		args = append(args, "--target-name", s.Target, "--target-base-url", v.server.URL+"/targets/", "--target-dir", v.targets)
	}
	v.run(s.Time, s.OK, append(args, s.Command)...)
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.Asked != nil && !slices.Equal(v.asked, s.Asked) {
		v.t.Errorf("step %d: asked for %q, want %q", i, v.asked, s.Asked)
	}
	if s.Trusted != nil {
		v.trusts(i, s)
	}
	if s.Content != nil {
		files, err := filepath.Glob(filepath.Join(v.targets, "*"))
		if err != nil {
			v.t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(path string) bool {
			data, err := os.ReadFile(path)
			return err == nil && string(data) == *s.Content
		}) {
			v.t.Errorf("step %d: %s is not among %q", i, *s.Content, files)
		}
	}
}

// trusts holds the versions of what is stored, and that each is what the mirror has, byte for byte.
func (v *vehicle) trusts(i int, s step) {
	v.t.Helper()
	files, err := filepath.Glob(filepath.Join(v.metadata, "*.json"))
	if err != nil {
		v.t.Fatal(err)
	}
	got := map[string]int{}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			v.t.Fatal(err)
		}
		var m struct{ Signed struct{ Version int } }
		if err := json.Unmarshal(data, &m); err != nil {
			v.t.Errorf("%s: %v", path, err)
		}
		role := strings.TrimSuffix(filepath.Base(path), ".json")
		got[role] = m.Signed.Version
		if role == "timestamp" {
			continue // the mirror may have a newer one
		}
		served, err := os.ReadFile(filepath.Join(v.folder, "metadata", strconv.Itoa(m.Signed.Version)+"."+role+".json"))
		if err != nil || string(served) != string(data) {
			v.t.Errorf("step %d: %s.json is not what was signed: %v", i, role, err)
		}
	}
	if len(got) != len(s.Trusted) {
		v.t.Errorf("step %d: trusts %v, want %v", i, got, s.Trusted)
	}
	for role, version := range s.Trusted {
		if got[role] != version {
			v.t.Errorf("step %d: trusts %v, want %v", i, got, s.Trusted)
		}
	}
}
