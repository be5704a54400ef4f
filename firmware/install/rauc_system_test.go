//go:build system

package install

import (
	"context"
	"errors"
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

// raucBench is a vehicle with two slots, plain files, and a boot loader that is a script and some files.
type raucBench struct {
	t                *testing.T
	dir, address     string
	key, cert        string
	service          *exec.Cmd
	installer        *RAUC
	otherKey, otherC string
}

func newRAUCBench(t *testing.T) *raucBench {
	t.Helper()
	dir := t.TempDir()
	b := &raucBench{t: t, dir: dir, address: "unix:path=" + filepath.Join(dir, "bus")}
	b.key, b.cert = authority(t, "rauc", dir, "maker")
	b.otherKey, b.otherC = authority(t, "rauc", dir, "somebody")
	write(t, dir+"/boot", `#!/bin/sh
cd `+dir+`
echo "$*" >>boot.log
[ ! -e boot.slow ] || sleep 1000
case $1 in
get-primary) cat primary ;;
set-primary) echo "$2" >primary; echo good >state.$2 ;;
get-state) cat "state.$2" ;;
set-state) echo "$3" >"state.$2" ;;
esac
`)
	write(t, dir+"/hook", "#!/bin/sh\n[ ! -e "+dir+"/slow ] || { touch "+dir+"/began; sleep 1000; }\n")
	for _, slot := range []string{"A", "B"} {
		write(t, dir+"/state."+slot, "good\n")
		write(t, dir+"/slot"+slot, strings.Repeat("\x00", 4<<20))
	}
	write(t, dir+"/primary", "A\n")
	write(t, dir+"/system.conf", `[system]
compatible=waybill-test
bootloader=custom
statusfile=`+dir+`/status
mountprefix=`+dir+`/mount
bundle-formats=plain verity
[keyring]
path=`+b.cert+`
[handlers]
bootloader-custom-backend=`+dir+`/boot
pre-install=`+dir+`/hook
[slot.rootfs.0]
device=`+dir+`/slotA
type=raw
bootname=A
[slot.rootfs.1]
device=`+dir+`/slotB
type=raw
bootname=B
`)
	write(t, dir+"/bus.conf", `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>`+b.address+`</listen><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_type="method_call"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`)
	service(t, b.program("dbus-daemon", "--config-file="+dir+"/bus.conf", "--nofork", "--nopidfile"), "bus")
	eventually(t, "the bus", func() bool { _, err := os.Stat(dir + "/bus"); return err == nil })
	b.start()
	return b
}

// program is one of the group's. RAUC calls mksquashfs and mount by PATH.
func (b *raucBench) program(name string, args ...string) *exec.Cmd {
	b.t.Helper()
	cmd := deps.Program(b.t, "rauc", name, args...)
	cmd.Env = append(cmd.Env, "DBUS_SYSTEM_BUS_ADDRESS="+b.address, "PATH="+filepath.Dir(cmd.Path)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// mounts says whether RAUC can mount a bundle, which it does to install one: what needs that is left out without root, the rest is not.
func (b *raucBench) mounts() bool {
	if os.Geteuid() != 0 {
		b.t.Log("not root: nothing is installed, since RAUC cannot mount a bundle")
		return false
	}
	return true
}

func (b *raucBench) start() {
	b.t.Helper()
	mounted := b.dir + "/mount/bundle"
	unmount := func() { _ = syscall.Unmount(mounted, 0) } // what a killed RAUC leaves
	unmount()
	b.t.Cleanup(unmount) // after the service, which is stopped by a later Cleanup
	b.service = service(b.t, b.program("rauc", "--conf="+b.dir+"/system.conf", "--mount="+b.dir+"/mount", "--override-boot-slot=A", "service"), "rauc")
	b.installer = NewRAUC(RAUCOptions{Address: b.address, Call: 10 * time.Second, Timeout: time.Minute, Poll: 200 * time.Millisecond})
	var err error
	eventually(b.t, "RAUC", func() bool { _, err = b.installer.Status(b.t.Context()); return err == nil })
}

func (b *raucBench) bundle(version, compatible, key, cert string, image []byte) string {
	b.t.Helper()
	in := b.t.TempDir()
	write(b.t, in+"/rootfs.img", string(image))
	write(b.t, in+"/manifest.raucm", "[update]\ncompatible="+compatible+"\nversion="+version+"\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n")
	out := filepath.Join(b.t.TempDir(), version+".raucb")
	run(b.t, b.program("rauc", "--cert="+cert, "--key="+key, "--keyring="+cert, "bundle", in, out))
	return out
}

func (b *raucBench) read(name string) string {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestRAUC(t *testing.T) {
	b := newRAUCBench(t)
	ctx := t.Context()
	var in Installer = b.installer
	two := content(2, 1<<20)
	good := b.bundle("2", "waybill-test", b.key, b.cert, two)

	s, err := in.Status(ctx)
	if err != nil || s.Booted != "rootfs.0" || s.Primary != "rootfs.0" || s.State != Good || s.Busy || len(s.Slots) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	if b.mounts() {
		b.installs(good, two)
	}

	// What runs is marked, and nothing else.
	if err := in.MarkBad(ctx); err != nil || b.read("state.A") != "bad" {
		t.Errorf("%v, A is %s", err, b.read("state.A"))
	}
	if s, err := in.Status(ctx); err != nil || s.State != Bad {
		t.Errorf("%+v, %v", s, err)
	}
	if err := in.MarkGood(ctx); err != nil || b.read("state.A") != "good" || b.read("state.B") != "good" {
		t.Errorf("%v, A is %s, B is %s", err, b.read("state.A"), b.read("state.B"))
	}
	write(t, b.dir+"/primary", "A\n")
	if err := errors.Join(in.Activate(ctx), in.Activate(ctx)); err != nil || b.read("primary") != "B" {
		t.Errorf("%v, %s is first", err, b.read("primary"))
	}
	if err := errors.Join(in.Rearm(ctx), in.Rearm(ctx)); err != nil || b.read("primary") != "A" || !strings.HasSuffix(b.read("boot.log"), "set-primary A") {
		t.Errorf("%v, %s is first; the boot loader was asked: %s", err, b.read("primary"), b.read("boot.log"))
	}
}

// installs is the part of TestRAUC for which it has to mount.
func (b *raucBench) installs(good string, two []byte) {
	t, ctx, in := b.t, b.t.Context(), Installer(b.installer)
	var told told
	if err := in.Install(ctx, open(t, good), told.progress); err != nil {
		t.Fatal(err)
	}
	if !told.has("Copying image to rootfs.1") || !told.has("100 ") {
		t.Errorf("told %q", told.texts)
	}
	if !slotHas(t, b.dir+"/slotB", two) || slotHas(t, b.dir+"/slotA", two[:16]) {
		t.Error("it is not in slot B alone")
	}
	s, err := in.Status(ctx)
	at := slices.IndexFunc(s.Slots, func(s Slot) bool { return s.Name == "rootfs.1" })
	if err != nil || at < 0 || s.Slots[at].Version != "2" || len(s.Slots[at].Hash) != 64 || s.Slots[at].Booted || s.Booted != "rootfs.0" || s.Primary != "rootfs.1" {
		t.Errorf("%+v, %v", s, err)
	}

	// Once more, as after a killed agent: the same again. Now it is the agent's own user's, who is not root.
	if err := os.Chown(good, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := in.Install(ctx, open(t, good), nil); err != nil || !slotHas(t, b.dir+"/slotB", two) {
		t.Errorf("again: %v", err)
	}
}

func TestRAUCRefuses(t *testing.T) {
	b := newRAUCBench(t)
	ctx := t.Context()
	broken := b.bundle("3", "waybill-test", b.key, b.cert, content(3, 1<<20))
	data, err := os.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/4] ^= 1
	write(t, broken, string(data))
	vehicle := "ompatible"
	if !b.mounts() {
		vehicle = "mounting" // what stands in a plain bundle is read from its mount
	}
	for name, test := range map[string]struct{ path, want string }{
		"a flipped bit":   {broken, "signature"},
		"another's key":   {b.bundle("4", "waybill-test", b.otherKey, b.otherC, content(4, 1<<20)), "signature"},
		"another vehicle": {b.bundle("5", "bicycle", b.key, b.cert, content(5, 1<<20)), vehicle},
		"no bundle":       {write(t, filepath.Join(t.TempDir(), "x.raucb"), "hello"), ""},
	} {
		err := b.installer.Install(ctx, open(t, test.path), nil)
		if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b.read("primary") != "A" || strings.Contains(b.read("boot.log"), "set-") || !slotHas(t, b.dir+"/slotB", make([]byte, 4<<20)) {
		t.Errorf("something changed: %s", b.read("boot.log"))
	}
	if s, err := b.installer.Status(ctx); err != nil || s.Busy || s.Booted != "rootfs.0" {
		t.Errorf("%+v, %v", s, err)
	}
}

// A service that is killed in the middle, an agent that goes away in the middle, one that comes back while RAUC is still at it.
func TestRAUCInterrupted(t *testing.T) {
	b := newRAUCBench(t)
	two := content(2, 1<<20)
	good := b.bundle("2", "waybill-test", b.key, b.cert, two)
	if b.mounts() {
		b.interrupted(good, two)
	}

	// A boot loader's tool that hangs does not hang the agent.
	write(t, b.dir+"/boot.slow", "")
	impatient := NewRAUC(RAUCOptions{Address: b.address, Call: time.Second})
	if err := impatient.MarkGood(t.Context()); !errors.Is(err, ErrTimeout) {
		t.Errorf("hanging: %v", err)
	}
}

// interrupted is the part of TestRAUCInterrupted for which it has to mount.
func (b *raucBench) interrupted(good string, two []byte) {
	t := b.t
	slow := filepath.Join(b.dir, "slow")
	began := func() {
		eventually(t, "the installation", func() bool { _, err := os.Stat(b.dir + "/began"); return err == nil })
	}
	write(t, slow, "")
	result := make(chan error, 1)
	go func() { result <- b.installer.Install(t.Context(), open(t, good), nil) }()
	began()
	stop(b.service)
	if err := <-result; !errors.Is(err, ErrUnreachable) {
		t.Errorf("killed: %v", err)
	}
	if err := b.installer.MarkGood(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no service: %v", err)
	}

	b.start()
	if err := os.Remove(b.dir + "/began"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { result <- b.installer.Install(ctx, open(t, good), nil) }()
	began()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if s, err := b.installer.Status(t.Context()); err != nil || !s.Busy {
		t.Errorf("RAUC goes on: %+v, %v", s, err)
	}
	if err := b.installer.MarkGood(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("marked meanwhile: %v", err)
	}
	hurried := NewRAUC(RAUCOptions{Address: b.address, Timeout: time.Second, Poll: 50 * time.Millisecond})
	if err := hurried.Install(t.Context(), open(t, good), nil); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrTimeout) {
		t.Errorf("busy: %v", err)
	}
	go func() { result <- b.installer.Install(t.Context(), open(t, good), nil) }()
	if err := os.Remove(slow); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("pkill", "-P", pidOfHook(t, b.service.Process.Pid)))
	if err := <-result; err != nil || !slotHas(t, b.dir+"/slotB", two) {
		t.Errorf("after the other: %v", err)
	}
}

// pidOfHook finds the handler that RAUC runs: a child of it.
func pidOfHook(t *testing.T, parent int) string {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(parent)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[0]
}
