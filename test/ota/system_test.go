//go:build system

package ota

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// boardHook is a maker's command before a board whose boot loader's environment is some files.
const boardHook = `#!/bin/sh
set -e
cd "$1"
echo "$2" >>calls
booted=$(cat booted)
other=$((1 - booted))
case $2 in
status) echo "booted rootfs.$booted" ;;
install) echo 0 >left.$other; cat <&3 >image.$other ;;
activate) echo $other >primary; echo 3 >left.$other ;;
rearm) echo $booted >primary; echo 3 >left.$booted ;;
mark-good) echo 3 >left.$booted ;;
mark-bad) echo 0 >left.$booted ;;
esac
`

// board is a machine of two systems, in files. Its boot id is another one at each start, to the agent alone: a mount
// namespace has it.
type board struct {
	*bench
	boots int
	agent *exec.Cmd
	ended chan error
}

func (d *board) write(name, text string) {
	d.t.Helper()
	must(d.t, os.WriteFile(d.path("board", name), []byte(text), 0o700))
}

func (d *board) read(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(d.path("board", name))
	must(d.t, err)
	return strings.TrimSpace(string(text))
}

// calls are what the command was asked for, but for how things stand.
func (d *board) calls() []string {
	return slices.DeleteFunc(strings.Fields(d.read("calls")), func(call string) bool { return call == "status" })
}

// boot is a start of the machine: of the system that its boot loader takes, with the agent that is in it.
func (d *board) boot() {
	d.t.Helper()
	booted := d.read("primary")
	left := 0
	_, err := fmt.Sscan(d.read("left."+booted), &left)
	must(d.t, err)
	if left == 0 {
		booted = map[string]string{"0": "1", "1": "0"}[booted]
		_, err = fmt.Sscan(d.read("left."+booted), &left)
		must(d.t, err)
	}
	d.write("left."+booted, fmt.Sprintln(left-1))
	d.write("booted", booted+"\n")
	d.boots++
	d.write("boot_id", fmt.Sprintf("00000000-0000-4000-8000-%012d\n", d.boots))
	agent := "agent-1.0"
	if d.runs() == "system 2.1" {
		agent = "agent-deaf"
	}
	args := []string{"--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`,
		d.path("board", "boot_id"), d.path(agent), "run", "-c", d.path("vehicle", "agent.yaml")}
	if os.Geteuid() != 0 {
		args = append([]string{"--map-root-user"}, args...)
	}
	log, err := os.OpenFile(d.path("system.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(d.t, err)
	defer log.Close()
	d.agent = exec.Command("unshare", args...)
	d.agent.Env, d.agent.Stdout, d.agent.Stderr = d.environment(), log, log
	d.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(d.t, d.agent.Start())
	d.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(d.agent, d.ended)
}

// runs is the image of the system that was started last.
func (d *board) runs() string { return d.read("image." + d.read("booted")) }

// halt is what an init does before the machine starts anew: SIGTERM.
func (d *board) halt() {
	d.t.Helper()
	_ = d.agent.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Fatalf("told to stop, the agent ended with %v", err)
		}
	case <-time.After(time.Minute):
		_ = d.agent.Process.Kill()
		d.t.Fatal("told to stop, the agent did not")
	}
}

// live starts the machine anew whenever it is asked for, until something has come about.
func (d *board) live(what string, is func() bool) {
	d.t.Helper()
	d.until(what, func() bool {
		select {
		case err := <-d.ended:
			d.t.Fatalf("the agent ended by itself: %v", err)
		default:
		}
		if d.read("reboots") != "" {
			d.write("reboots", "")
			d.halt()
			d.boot()
		}
		return is()
	})
}

// offer publishes a system and offers it.
func (d *board) offer(version string, release int) {
	d.t.Helper()
	d.write("bundle", "system "+version+"\n")
	d.ota("publish", "--dir", d.path("oem"), d.path("board", "bundle"), "--name", "system", "--hardware", "board-b",
		"--version", version, "--release-counter", fmt.Sprint(release), "--key", d.path("oem", "keys", "team-board-b", "team-board-b.keys"))
	d.write("campaign.yaml", fmt.Sprintf(`
id: to-%[1]s
images: [{name: board-b/system-%[1]s, ecu: system, hardware: board-b}]
conditions: {ignition: "on"}
stages: [{percent: 100}]
stop: {rolled_back: 100}
`, version))
	d.ota("campaign", "create", "--dir", d.path("oem"), d.path("board", "campaign.yaml"))
	d.ota("campaign", "advance", "--dir", d.path("oem"), "to-"+version)
}

// TestAgentUpdatesTheSystem: a real agent that no launcher started has a maker's command bring in a whole system, starts the
// machine anew when all is stopped, marks the system good once it is healthy, and marks bad the one in which it cannot read
// its receiver. The store has one outcome of each.
func TestAgentUpdatesTheSystem(t *testing.T) {
	b := newBench(t)
	b.build("agent-1.0", "./cmd/agent", "version", "1.0")
	b.build("agent-deaf", "./test/ota/twin", "fault", "deaf", "agent", b.path("agent-1.0"))
	b.build("fleet", "./cmd/fleet")
	b.ota("init", "--quick", b.path("oem"), "--line", "sedan=agent:"+hardware+",system:board-b")
	b.serve()
	b.drive()
	must(t, os.Mkdir(b.path("board"), 0o755))
	d := &board{bench: b}
	for name, text := range map[string]string{"hook": boardHook, "image.0": "system 1.0\n", "image.1": "", "primary": "0\n",
		"left.0": "3\n", "left.1": "0\n", "calls": "", "reboots": "", "reboot": "#!/bin/sh\necho again >>\"$1\"\n"} {
		d.write(name, text)
	}
	config, err := os.ReadFile(b.path("vehicle", "agent.yaml"))
	must(t, err)
	config = fmt.Appendf(config, "  installer: {ecu: system, hardware: board-b, hook: [%q, %q], reboot: [%q, %q]}\n",
		b.path("board", "hook"), b.path("board"), b.path("board", "reboot"), b.path("board", "reboots"))
	must(t, os.WriteFile(b.path("vehicle", "agent.yaml"), config, 0o600))
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(b.path("system.log"))
			t.Logf("the agent said:\n%s\nthe command was asked for %q", text[max(0, len(text)-12000):], d.calls())
		}
	})

	d.boot()
	d.offer("2.0", 2)
	d.live("2.0 committed", func() bool { return b.outcome("2.0") == telemetrypb.UpdateCommitted })
	if d.runs() != "system 2.0" || d.boots != 2 {
		t.Errorf("%s runs in boot %d", d.runs(), d.boots)
	}
	if want := []string{"mark-good", "install", "activate", "rearm", "mark-good"}; !slices.Equal(d.calls(), want) {
		t.Errorf("asked for %q, want %q", d.calls(), want)
	}
	b.ota("campaign", "stop", "--dir", b.path("oem"), "to-2.0")
	d.write("calls", "")
	d.offer("2.1", 3)
	d.live("2.1 taken back", func() bool { return b.outcome("2.1") == telemetrypb.UpdateRolledBack })
	if d.runs() != "system 2.0" || d.boots != 4 {
		t.Errorf("%s runs in boot %d", d.runs(), d.boots)
	}
	if want := []string{"install", "activate", "rearm", "mark-bad", "mark-good"}; !slices.Equal(d.calls(), want) {
		t.Errorf("asked for %q, want %q", d.calls(), want)
	}
	d.halt()
}
