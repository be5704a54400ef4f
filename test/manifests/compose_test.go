// Package manifests holds deploy/compose and deploy/kubernetes against what the makers of Compose, Kubernetes and its operators
// publish of their formats: nothing of it runs in the tests. It is a module of its own, so that none of that is a dependency of
// what we build.
package manifests

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// composeFolder is a copy of what deploy/compose mounts, with the secrets that its own script makes.
func composeFolder(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		missing(t, "openssl, which secrets.sh needs")
	}
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "deploy"), os.DirFS("../../deploy")); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, "deploy", "compose")
	if err := os.RemoveAll(filepath.Join(folder, "secrets")); err != nil {
		t.Fatal(err)
	}
	makeSecrets(t, folder, "acme")
	return folder
}

func makeSecrets(t *testing.T, folder string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(folder, "secrets.sh"), args...)
	cmd.Env = append(os.Environ(), "WAYBILL_SECRETS="+filepath.Join(folder, "secrets"))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh %v: %v\n%s", args, err, text)
	}
}

// load reads a Compose file as `docker compose` does: the specification's JSON schema, its own checks, what it refers to.
func load(file string) (*types.Project, error) {
	o, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(filepath.Dir(file)))
	if err != nil {
		return nil, err
	}
	return o.LoadProject(context.Background())
}

// TestCompose: the file is one for Compose, and what we promise of it holds.
func TestCompose(t *testing.T) {
	folder := composeFolder(t)
	p, err := load(filepath.Join(folder, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	exact := regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?(-[a-z0-9]+)?$`)
	loopback := 0
	for name, s := range p.Services {
		if s.Build == nil && !exact.MatchString(s.Image) {
			t.Errorf("%s: image %s has no exact tag", name, s.Image)
		}
		if name != "topics" && (s.HealthCheck == nil || len(s.HealthCheck.Test) == 0) {
			t.Errorf("%s: nobody checks its health", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d is published on %q", name, port.Target, port.HostIP)
			}
			loopback++
		}
		for _, v := range s.Volumes {
			if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind && err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
		for key, value := range s.Environment {
			if value != nil && regexp.MustCompile(`PASSWORD|SECRET|TOKEN`).MatchString(key) && !strings.Contains(key, "_FILE") {
				t.Errorf("%s: %s is a secret in the environment", name, key)
			}
		}
	}
	if loopback < 6 {
		t.Errorf("only %d ports are published", loopback)
	}
	for name, s := range p.Secrets {
		if _, err := os.Stat(s.File); err != nil {
			t.Errorf("secret %s: secrets.sh makes no such file: %v", name, err)
		}
	}
	slots := map[string]bool{}
	for _, name := range []string{"fleet-0", "fleet-1"} {
		s := p.Services[name]
		i := slices.IndexFunc(s.Command, func(arg string) bool { return strings.HasPrefix(arg, "--slots=") })
		if i < 0 || slots[s.Command[i]] {
			t.Fatalf("%s: %v has no slot of its own", name, s.Command)
		}
		slots[s.Command[i]] = true
		checkFlags(t, name, s.Command)
		for _, arg := range s.Command {
			if _, secret, found := strings.Cut(arg, "/run/secrets/"); found && !slices.ContainsFunc(s.Secrets, func(c types.ServiceSecretConfig) bool { return c.Source == secret }) {
				t.Errorf("%s: %s is not among its secrets", name, arg)
			}
		}
	}
	checkFlags(t, "topics", p.Services["topics"].Command)
}

// TestComposeRefusesWhatIsBroken: the check would notice.
func TestComposeRefusesWhatIsBroken(t *testing.T) {
	folder := composeFolder(t)
	whole, err := os.ReadFile(filepath.Join(folder, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"an unknown key":           {"restart: unless-stopped", "restart: unless-stopped\n    restarts: 3"},
		"a wrong type":             {"shm_size: 256mb", "shm_size: [256mb]"},
		"a service that is not":    {"kafka: {condition: service_healthy}", "kafak: {condition: service_healthy}"},
		"a condition that is not":  {"condition: service_healthy", "condition: service_fine"},
		"a volume that is not":     {"source: postgres,", "source: postgers,"},
		"a secret that is not":     {"secrets: [database-password]", "secrets: [database-pasword]"},
		"a network that is not":    {"networks: [inside]", "networks: [insides]"},
		"an interval that is none": {"interval: 10s", "interval: ten"},
	} {
		broken := strings.Replace(string(whole), change[0], change[1], 1)
		file := filepath.Join(folder, "broken.yaml")
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(file); err == nil || broken == string(whole) {
			t.Errorf("%s is not noticed", name)
		}
	}
}

// TestDockerfile: BuildKit reads it, and the program runs as nobody's user.
func TestDockerfile(t *testing.T) {
	f, err := os.Open("../../deploy/compose/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	stages, _, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 1 || stages[0].BaseName != "scratch" {
		t.Fatalf("stages: %+v", stages)
	}
	user := ""
	for _, c := range stages[0].Commands {
		if u, ok := c.(*instructions.UserCommand); ok {
			user = u.User
		}
	}
	if user != "65532:65532" {
		t.Errorf("user %q", user)
	}
}

// TestSecrets: the certificates that secrets.sh makes are good for what they are for, and for nothing else.
func TestSecrets(t *testing.T) {
	folder := composeFolder(t)
	makeSecrets(t, folder, "acme", "car-1")
	at := func(name string) string { return filepath.Join(folder, "secrets", name) }
	pool := func(name string) *x509.CertPool {
		text, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		p := x509.NewCertPool()
		if !p.AppendCertsFromPEM(text) {
			t.Fatalf("%s: no certificate", name)
		}
		return p
	}
	for _, c := range []struct {
		leaf, authority, host string
		usage                 x509.ExtKeyUsage
		good                  bool
	}{
		{"broker", "fleet-ca.pem", "emqx", x509.ExtKeyUsageServerAuth, true},
		{"page", "fleet-ca.pem", "127.0.0.1", x509.ExtKeyUsageServerAuth, true},
		{"store-fleet", "fleet-ca.pem", "", x509.ExtKeyUsageClientAuth, true},
		{"vehicles/car-1", "vehicles-ca.pem", "", x509.ExtKeyUsageClientAuth, true},
		{"vehicles/car-1", "fleet-ca.pem", "", x509.ExtKeyUsageClientAuth, false},
		{"store-fleet", "vehicles-ca.pem", "", x509.ExtKeyUsageClientAuth, false},
		{"store-fleet", "fleet-ca.pem", "", x509.ExtKeyUsageServerAuth, false},
		{"broker", "fleet-ca.pem", "broker.example", x509.ExtKeyUsageServerAuth, false},
	} {
		pair, err := tls.LoadX509KeyPair(at(c.leaf+".pem"), at(c.leaf+".key"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool(c.authority), DNSName: c.host, KeyUsages: []x509.ExtKeyUsage{c.usage}})
		if (err == nil) != c.good {
			t.Errorf("%s, known by %s as %q, usage %d: %v", c.leaf, c.authority, c.host, c.usage, err)
		}
	}
	before, err := os.ReadFile(at("database-password"))
	if err != nil {
		t.Fatal(err)
	}
	makeSecrets(t, folder, "acme")
	if after, err := os.ReadFile(at("database-password")); err != nil || string(after) != string(before) {
		t.Errorf("a second run changed a password: %v", err)
	}
	for _, args := range [][]string{{"acme", "store-1"}, {"a/b"}, {"acme", "../x"}, {"acme", "car.1"}, {"a.b"}, {"acme", strings.Repeat("c", 65)}, {}} {
		if text, err := exec.Command(filepath.Join(folder, "secrets.sh"), args...).CombinedOutput(); err == nil {
			t.Errorf("secrets.sh %v was taken: %s", args, text)
		}
	}
	if info, err := os.Stat(at(".")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, want its maker's alone: %v", info.Mode(), err)
	}
	if acl, err := os.ReadFile(at("acl.conf")); err != nil || !strings.Contains(string(acl), `"wb1/acme/${cn}/up/#"`) {
		t.Errorf("acl.conf: %s, %v", acl, err)
	}
}
