//go:build system

package install

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// These tests run Debian's RAUC and SWUpdate as services of their own, on a bus, sockets, slots and keys of their own.

// service runs a program until the test ends, its output in a file that a failing test prints.
func service(t *testing.T, cmd *exec.Cmd, name string) *exec.Cmd {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // SWUpdate starts helpers
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop(cmd)
		out.Close()
		if data, err := os.ReadFile(out.Name()); t.Failed() && err == nil {
			t.Logf("%s: %s", name, data[max(0, len(data)-6000):])
		}
	})
	return cmd
}

// stop kills a service and what it started.
func stop(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

// eventually waits for what a service does on its own.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 600 {
		if f() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s: not within 15 s", what)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// authority makes a key and a certificate that signs images, with the openssl of a group.
func authority(t *testing.T, group, dir, name string) (key, cert string) {
	t.Helper()
	key, cert = filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
	openssl(t, group, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "3650", "-subj", "/CN="+name,
		"-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=emailProtection")
	return key, cert
}

func openssl(t *testing.T, group string, args ...string) {
	t.Helper()
	cmd := deps.Program(t, group, "openssl", args...)
	if conf := filepath.Join(filepath.Dir(cmd.Path), "../../etc/ssl/openssl.cnf"); strings.HasSuffix(filepath.Dir(cmd.Path), group+"/usr/bin") {
		cmd.Env = append(cmd.Env, "OPENSSL_CONF="+conf)
	}
	run(t, cmd)
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// content is that of a system's image, of which no two versions are alike.
func content(version byte, size int) []byte {
	data := bytes.Repeat([]byte{version, 'w', 'a', 'y', 'b', 'i', 'l', 'l'}, size/8)
	for i := 0; i < len(data); i += 512 {
		copy(data[i:], fmt.Sprintf("%08d", i))
	}
	return data
}

func slotHas(t *testing.T, path string, want []byte) bool {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(got, want)
}

type told struct{ texts []string }

func (t *told) progress(percent int, text string) {
	t.texts = append(t.texts, fmt.Sprintf("%d %s", percent, text))
}

func (t *told) has(text string) bool {
	return slices.ContainsFunc(t.texts, func(s string) bool { return strings.Contains(s, text) })
}
