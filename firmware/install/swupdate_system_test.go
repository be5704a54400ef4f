//go:build system

package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// swupdateBench is a vehicle whose second slot is a plain file.
type swupdateBench struct {
	t         *testing.T
	dir       string
	key, cert string
	service   *exec.Cmd
	installer *SWUpdate
}

func newSWUpdateBench(t *testing.T) *swupdateBench {
	t.Helper()
	b := &swupdateBench{t: t, dir: t.TempDir()}
	b.key, b.cert = authority(t, "swupdate", b.dir, "maker")
	write(t, b.dir+"/slotB", strings.Repeat("\x00", 8<<20))
	write(t, b.dir+"/cmdline", "console=ttyS0 root=/dev/mmcblk0p2 quiet\n")
	write(t, b.dir+"/before", "#!/bin/sh\n[ ! -e "+b.dir+"/slow ] || { touch "+b.dir+"/began; while [ -e "+b.dir+"/slow ]; do sleep 0.05; done; }\n")
	b.start()
	return b
}

func (b *swupdateBench) program(name string, args ...string) *exec.Cmd {
	b.t.Helper()
	cmd := deps.Program(b.t, "swupdate", name, args...)
	cmd.Env = append(cmd.Env, "TMPDIR="+b.dir) // where its sockets are
	return cmd
}

func (b *swupdateBench) start() {
	b.t.Helper()
	b.service = service(b.t, b.program("swupdate", "-v", "-l", "5", "-k", b.cert, "-H", "board:1.0", "-P", b.dir+"/before", "-p", "true", "-q", "stable,copy2"), "swupdate")
	var err error
	b.installer, err = NewSWUpdate(SWUpdateOptions{Control: b.dir + "/sockinstctrl", Progress: b.dir + "/swupdateprog", CmdLine: b.dir + "/cmdline",
		Timeout: time.Minute, Call: 10 * time.Second, Poll: 20 * time.Millisecond})
	if err != nil {
		b.t.Fatal(err)
	}
	eventually(b.t, "SWUpdate", func() bool { _, err = b.installer.Status(b.t.Context()); return err == nil })
}

// image makes a .swu with a raw image for slot B. Its signature is by key and cert; change may spoil it.
func (b *swupdateBench) image(key, cert, hardware string, data []byte, change func(dir string)) string {
	b.t.Helper()
	dir := b.t.TempDir()
	write(b.t, dir+"/rootfs.img", string(data))
	part := fmt.Sprintf(`images: ( { filename = "rootfs.img"; device = "%s/slotB"; type = "raw"; sha256 = "%x"; } );`, b.dir, sha256.Sum256(data))
	write(b.t, dir+"/sw-description", `software = { version = "2.0"; hardware-compatibility: [ "`+hardware+`" ]; `+part+` stable: { copy2: { `+part+` } } }`)
	openssl(b.t, "swupdate", "cms", "-sign", "-in", dir+"/sw-description", "-out", dir+"/sw-description.sig", "-signer", cert, "-inkey", key, "-outform", "DER", "-nosmimecap", "-binary")
	if change != nil {
		change(dir)
	}
	out, err := os.Create(dir + "/image.swu")
	if err != nil {
		b.t.Fatal(err)
	}
	defer out.Close()
	cpio := b.program("cpio", "--quiet", "-o", "-H", "crc")
	cpio.Dir, cpio.Stdin, cpio.Stdout = dir, strings.NewReader("sw-description\nsw-description.sig\nrootfs.img\n"), out
	if err := cpio.Run(); err != nil {
		b.t.Fatal(err)
	}
	return out.Name()
}

func TestSWUpdate(t *testing.T) {
	b := newSWUpdateBench(t)
	ctx := t.Context()
	var in Installer = b.installer
	s, err := in.Status(ctx)
	if err != nil || s.Busy || s.Booted != "/dev/mmcblk0p2" {
		t.Fatalf("%+v, %v", s, err)
	}
	two := content(2, 6<<20)
	swu := b.image(b.key, b.cert, "1.0", two, nil)
	var told told
	if err := in.Install(ctx, open(t, swu), told.progress); err != nil {
		t.Fatal(err)
	}
	if !slotHas(t, b.dir+"/slotB", two) {
		t.Error("it is not in slot B")
	}
	if !told.has("step 1 of 1: rootfs.img (raw)") || !told.has("100 ") || !told.has("SWUPDATE successful") {
		t.Errorf("told %q", told.texts)
	}
	if s := must(t, in); s.State != Trial { // installed
		t.Errorf("%+v", s)
	}
	// Once more, as after a killed agent: the same again. And other images of it, by their selection.
	write(t, b.dir+"/slotB", strings.Repeat("\x00", 8<<20))
	selected := *b.installer
	selected.o.Set, selected.o.Mode = "stable", "copy2"
	if err := selected.Install(ctx, open(t, swu), nil); err != nil || !slotHas(t, b.dir+"/slotB", two) {
		t.Errorf("again: %v", err)
	}
	selected.o.Mode = "copy7"
	if err := selected.Install(ctx, open(t, swu), nil); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "accepted") {
		t.Errorf("a selection that is not accepted: %v", err)
	}
}

func must(t *testing.T, in Installer) Status {
	t.Helper()
	s, err := in.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The marks are SWUpdate's own word in the boot loader's variable.
func TestSWUpdateMarks(t *testing.T) {
	b := newSWUpdateBench(t)
	ctx := t.Context()
	for _, step := range []struct {
		do   func(context.Context) error
		want State
	}{{b.installer.Activate, Trial}, {b.installer.Rearm, Trial}, {b.installer.MarkGood, Good}, {b.installer.MarkGood, Good}, {b.installer.MarkBad, Bad}, {b.installer.Activate, Trial}} {
		if err := step.do(ctx); err != nil {
			t.Fatal(err)
		}
		if s := must(t, b.installer); s.State != step.want {
			t.Errorf("%+v, want %s", s, step.want)
		}
	}
}

func TestSWUpdateRefuses(t *testing.T) {
	b := newSWUpdateBench(t)
	otherKey, otherCert := authority(t, "swupdate", b.dir, "somebody")
	data := content(3, 4<<20)
	for name, test := range map[string]struct{ path, want string }{
		"another's key":   {b.image(otherKey, otherCert, "1.0", data, nil), "ignature"},
		"another vehicle": {b.image(b.key, b.cert, "9.9", data, nil), "ompatible"},
		"a changed description": {b.image(b.key, b.cert, "1.0", data, func(dir string) {
			write(t, dir+"/sw-description", `software = { version = "3.0"; }`)
		}), "ignature"},
		"a flipped bit": {b.image(b.key, b.cert, "1.0", data, func(dir string) {
			spoiled := bytes.Clone(data)
			spoiled[1<<20] ^= 1
			write(t, dir+"/rootfs.img", string(spoiled))
		}), "HASH mismatch"},
		"no image":  {write(t, filepath.Join(t.TempDir(), "x.swu"), strings.Repeat("hello", 1<<20)), "CPIO"},
		"cut short": {cut(t, b.image(b.key, b.cert, "1.0", data, nil), 2<<20), ""},
		"empty":     {write(t, filepath.Join(t.TempDir(), "x.swu"), ""), ""},
	} {
		if err := b.installer.Install(t.Context(), open(t, test.path), nil); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if s := must(t, b.installer); s.Busy {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if err := b.installer.Install(t.Context(), open(t, b.image(b.key, b.cert, "1.0", data, nil)), nil); err != nil || !slotHas(t, b.dir+"/slotB", data) {
		t.Errorf("and a good one after them: %v", err)
	}
}

func cut(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// A daemon that is killed in the middle, an agent that goes away in the middle, one that comes back while SWUpdate is still at it.
func TestSWUpdateInterrupted(t *testing.T) {
	b := newSWUpdateBench(t)
	two := content(2, 6<<20)
	swu := b.image(b.key, b.cert, "1.0", two, nil)
	slow := filepath.Join(b.dir, "slow")
	began := func() {
		eventually(t, "the installation", func() bool { return os.Remove(b.dir+"/began") == nil })
	}
	write(t, slow, "")
	result := make(chan error, 1)
	go func() { result <- b.installer.Install(t.Context(), open(t, swu), nil) }()
	began()
	stop(b.service)
	if err := <-result; !errors.Is(err, ErrUnreachable) {
		t.Errorf("killed: %v", err)
	}
	if _, err := b.installer.Status(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no daemon: %v", err)
	}

	b.start()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { result <- b.installer.Install(ctx, open(t, swu), nil) }()
	began()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if s := must(t, b.installer); !s.Busy {
		t.Errorf("it is still at it: %+v", s)
	}
	hurried := *b.installer
	hurried.o.Timeout = time.Second
	if err := hurried.Install(t.Context(), open(t, swu), nil); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrTimeout) {
		t.Errorf("busy: %v", err)
	}
	go func() { result <- b.installer.Install(t.Context(), open(t, swu), nil) }()
	if err := os.Remove(slow); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil || !slotHas(t, b.dir+"/slotB", two) {
		t.Errorf("after the other: %v", err)
	}

	// One that answers nothing does not hang the agent.
	if err := syscall.Kill(b.service.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "stopping it", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.service.Process.Pid))
		return err == nil && bytes.Contains(stat, []byte(") T "))
	})
	impatient := *b.installer
	impatient.o.Call = 200 * time.Millisecond
	if err := impatient.MarkGood(t.Context()); !errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrTimeout) {
		t.Errorf("stopped: %v", err)
	}
}

// The daemon and a codec of another word size do not understand each other, and that is said.
func TestSWUpdateOtherWordSize(t *testing.T) {
	b := newSWUpdateBench(t)
	other := *b.installer
	other.layout.word = 12 - other.layout.word
	if _, err := other.Status(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "word size") {
		t.Errorf("%v", err)
	}
}
