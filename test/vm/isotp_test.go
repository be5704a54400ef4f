//go:build system

package vm

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// ISO-TP in user space against the kernel's own, which User-Mode Linux does not have.
func TestISOTPWithTheKernels(t *testing.T) {
	tools := deps.Folder(t, "can-utils-arm64")
	files := map[string]string{"/isotp.test": Build(t, "arm64", "test", "./can/isotp")}
	for _, path := range []string{"/usr/bin/isotpsend", "/usr/bin/isotprecv", "/lib/ld-linux-aarch64.so.1", "/lib/aarch64-linux-gnu/libc.so.6"} {
		files[path] = filepath.Join(tools, path)
	}
	r := Emulate(t, "arm64", Job{
		Command: []string{"/isotp.test", "-test.v", "-test.run", "^TestVcan"}, Dir: "/tmp", Modules: []string{"net/can/can-isotp"},
		Env: []string{"WAYBILL_VM=1"}, Timeout: 5 * time.Minute,
	}, files)
	requireTests(t, r)
}
