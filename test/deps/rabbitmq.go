package deps

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// RabbitMQ starts Debian's RabbitMQ with its MQTT plugin, which keeps sessions and queued messages over Stop and Start
// in its folder, and returns when it accepts connections. dir "" is a temporary folder; lines are added to rabbitmq.conf.
func RabbitMQ(t testing.TB, dir string, lines ...string) *Broker {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	folder := Folder(t, "rabbitmq")
	erlang := filepath.Join(folder, "usr/lib/erlang")
	erts, _ := filepath.Glob(filepath.Join(erlang, "erts-*", "bin"))
	home, _ := filepath.Glob(filepath.Join(folder, "usr/lib/rabbitmq/lib/rabbitmq_server-*"))
	if len(erts) != 1 || len(home) != 1 {
		t.Fatalf("%s: want one Erlang and one RabbitMQ there, found %v and %v", folder, erts, home)
	}
	port, names, dist := freePort(t), freePort(t), freePort(t)
	conf := fmt.Sprintf("listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:%d\nmqtt.allow_anonymous = true\n", port)
	for _, line := range lines {
		conf += line + "\n"
	}
	for name, text := range map[string]string{"rabbitmq.conf": conf, "enabled_plugins": "[rabbitmq_mqtt].\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(),
		"LD_LIBRARY_PATH="+libraries(folder), "HOME="+dir,
		"ROOTDIR="+erlang, "BINDIR="+erts[0], "EMU=beam", "PROGNAME=erl", "ERL_LIBS="+filepath.Join(home[0], "plugins"),
		fmt.Sprintf("ERL_EPMD_PORT=%d", names), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_HOME="+home[0], "RABBITMQ_PLUGINS_DIR="+filepath.Join(home[0], "plugins"),
		"RABBITMQ_NODENAME=test@localhost", fmt.Sprintf("RABBITMQ_DIST_PORT=%d", dist), "RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "enabled_plugins"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_FEATURE_FLAGS_FILE="+filepath.Join(dir, "feature_flags"), "RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"))

	// Erlang's register of names, which RabbitMQ would start as a daemon.
	epmd := exec.Command(filepath.Join(erts[0], "epmd"), "-port", fmt.Sprint(names))
	epmd.Env = env
	epmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := epmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = epmd.Process.Kill()
		_ = epmd.Wait()
	})
	b := &Broker{
		Addr: fmt.Sprintf("127.0.0.1:%d", port), Dir: dir, name: "rabbitmq", log: "rabbitmq.out", within: 2 * time.Minute,
		command: func() *exec.Cmd {
			cmd := exec.Command(filepath.Join(erts[0], "erlexec"), "-noinput", "-s", "rabbit", "boot", "-boot", "start_sasl",
				"-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false", "-kernel", "inet_dist_use_interface", "{127,0,0,1}")
			cmd.Env = env
			return cmd
		},
	}
	return b.run(t)
}
