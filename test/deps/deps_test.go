package deps

import (
	"net"
	"strings"
	"testing"
)

func TestMosquittoKeepsARetainedMessageOverARestart(t *testing.T) {
	for _, keeps := range []bool{true, false} {
		broker := Mosquitto(t, MosquittoOptions{Persistence: keeps})
		_, port, err := net.SplitHostPort(broker.Addr)
		if err != nil {
			t.Fatal(err)
		}
		publish := Program(t, "mosquitto", "mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-q", "1", "-r", "-t", "a/b", "-m", "kept")
		if out, err := publish.CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
		broker.Restart()
		subscribe := Program(t, "mosquitto", "mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-t", "a/b", "-C", "1", "-W", "1")
		out, _ := subscribe.CombinedOutput()
		if got := strings.Contains(string(out), "kept"); got != keeps {
			t.Errorf("persistence %t: after the restart mosquitto_sub said %q", keeps, out)
		}

		broker.Kill()
		if conn, err := net.Dial("tcp", broker.Addr); err == nil {
			conn.Close()
			t.Error("a killed broker accepts connections")
		}
		broker.Start()
	}
}

func TestProgramsRun(t *testing.T) {
	for name, args := range map[string][]string{"candump": {"-h"}, "cansend": {}, "canplayer": {"-h"}, "cangen": {"-h"}} {
		out, _ := CanUtils(t, name, args...).CombinedOutput() // their help ends with an error
		if !strings.Contains(string(out), "Usage: ") {
			t.Errorf("%s printed %q", name, out)
		}
	}
	if out, err := Python(t, "-c", "import cantools; print('imported')").CombinedOutput(); err != nil || string(out) != "imported\n" {
		t.Errorf("cantools: %v: %s", err, out)
	}
	for _, arch := range []string{"arm", "arm64"} {
		if path := QEMU(t, arch); !strings.Contains(path, "qemu") {
			t.Errorf("emulator for %s is %s", arch, path)
		}
	}
}
