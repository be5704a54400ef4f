package deps

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// GPSFake plays receiver logs into a real gpsd (Debian's, by its own gpsfake, 10 ms a sentence) and returns the address
// of its JSON socket on the loopback. gpsd begins to play when the first client has connected, and is stopped with the
// test.
func GPSFake(t testing.TB, logs ...string) string {
	t.Helper()
	folder := Folder(t, "gpsd")
	python, err := exec.LookPath("python3")
	if err != nil {
		Missing(t, "gpsfake: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	_ = listener.Close()
	args := append([]string{filepath.Join(folder, "usr/bin/gpsfake"), "-q", "-c", "0.003", "-W", "600", "-P", port}, logs...)
	cmd := exec.Command(python, args...)
	bin := filepath.Join(folder, "usr/sbin") + ":" + filepath.Join(folder, "usr/bin")
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries(folder), "PATH="+bin+":"+os.Getenv("PATH"),
		"PYTHONPATH="+filepath.Join(folder, "usr/lib/python3/dist-packages"), "PYTHONDONTWRITEBYTECODE=1", "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // gpsd is its child
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		group := -cmd.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM) // gpsfake stops gpsd
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
		_ = syscall.Kill(group, syscall.SIGKILL) // whatever is left of the group
		<-ended
		if t.Failed() {
			t.Logf("gpsfake said:\n%s", output.Bytes())
		}
	})
	return address
}
