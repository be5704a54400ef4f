package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/firmware/slots"
)

// The tests of this package run real processes: this test binary is launcher and agent too. An agent's image is a copy of
// it with a line behind its end that says how it behaves.
const (
	childEnv = "WAYBILL_LAUNCHER_CHILD" // "launch", or what else the first process is
	bootEnv  = "WAYBILL_LAUNCHER_BOOT"  // the boot id that the launcher and its agent see
	marker   = "\nwaybill test agent: "
	emulator = "WAYBILL_TEST_EXEC"
)

func TestMain(m *testing.M) {
	part := os.Getenv(childEnv)
	switch slot := os.Getenv(slots.EnvSlot); {
	case part == "":
		code := m.Run()
		_ = os.RemoveAll(plainDir)
		os.Exit(code)
	case slot != "":
		agent(slots.Slot(slot))
	case part == "read-only":
		if mount(unix.Mount(firmwareDir(), firmwareDir(), "", unix.MS_BIND, "")) {
			mount(unix.Mount("", firmwareDir(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}
	case part == "full":
		// A file system of its own, filled to the last byte.
		dir := firmwareDir()
		if mount(unix.Mount("tmpfs", dir+".full", "tmpfs", 0, "size=128m")) {
			if out, err := exec.Command("cp", "-a", dir+"/.", dir+".full").CombinedOutput(); err != nil {
				fmt.Println(err, string(out))
			}
			f, _ := os.Create(dir + ".full/filler")
			for size := 1 << 20; size > 0; {
				if _, err := f.Write(make([]byte, size)); err != nil {
					size /= 2
				}
			}
			f.Close()
			mount(unix.Mount(dir+".full", dir, "", unix.MS_BIND, ""))
		}
	}
	l := launcher{args: os.Args, env: os.Environ(), stdout: os.Stdout, stderr: os.Stderr, exec: syscall.Exec}
	os.Exit(l.run(slots.Options{BootID: os.Getenv(bootEnv)}))
}

// plainDir holds what plain built.
var plainDir string

// plain is this test's program without the race detector: with it, each of a hundred processes takes long to start, and
// finds nothing, since nothing runs beside anything there.
var plain = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	info, ok := debug.ReadBuildInfo()
	if err != nil || !ok || !slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" }) {
		return self, err
	}
	if plainDir, err = os.MkdirTemp("", "waybill-launcher"); err != nil {
		return "", err
	}
	path := filepath.Join(plainDir, "launcher.test")
	cmd := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
	}
	return path, nil
})

func program(t *testing.T) string {
	t.Helper()
	path, err := plain()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// noMount is the exit code of a child that may not mount.
const noMount = 77

func mount(err error) bool {
	if err != nil {
		fmt.Println("mount:", err)
		os.Exit(noMount)
	}
	return true
}

func firmwareDir() string { return os.Getenv("WAYBILL_FIRMWARE_DIR") }

// agent is what the launcher became. Each step stands in the image behind the marker.
func agent(slot slots.Slot) {
	self, _ := os.Executable()
	image, err := os.ReadFile(self)
	if err != nil {
		fmt.Println("E", err)
		os.Exit(1)
	}
	behaviour := strings.TrimSpace(string(image[bytes.LastIndex(image, []byte(marker))+len(marker):]))
	fmt.Println(slot, os.Getpid(), behaviour, os.Args[1:])
	s, err := slots.Open(firmwareDir(), slots.Options{Running: slot, BootID: os.Getenv(bootEnv)})
	ctx := context.Background()
	for step := range strings.FieldsSeq(behaviour) {
		if err != nil {
			fmt.Println("E", err)
			os.Exit(1)
		}
		switch step {
		case "alive":
			err = s.Alive(ctx)
		case "commit":
			err = s.Commit(ctx)
		case "stopped":
			err = s.Stopped(ctx)
		case "reject":
			err = s.Reject(ctx, "it reads no CAN")
		case "crash":
			os.Exit(2)
		case "panic":
			panic("as it starts")
		case "hang":
			fmt.Println("hanging")
			time.Sleep(time.Hour)
		}
	}
	if err != nil {
		fmt.Println("E", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is a folder of slots and what runs from it.
type bench struct {
	t    *testing.T
	dir  string
	boot string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Getenv(emulator) != "" {
		t.Skip("emulated: a process cannot become another one")
	}
	b := &bench{t, filepath.Join(scratch(t), "firmware"), "boot-1"}
	if ok, err := b.slots("").Seed(t.Context(), bytes.NewReader(build(t, "old alive")), slots.Meta{}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return b
}

// scratch is a folder in memory where there is one that can hold programs: here nothing hangs on what a sync does.
func scratch(t *testing.T) string {
	t.Helper()
	var s unix.Statfs_t
	if dir, err := os.MkdirTemp("/dev/shm", "waybill-launcher"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		if unix.Statfs(dir, &s) == nil && s.Flags&unix.ST_NOEXEC == 0 && s.Bavail*uint64(s.Bsize) > 256<<20 {
			return dir
		}
	}
	return t.TempDir()
}

// build makes an image.
func build(t *testing.T, behaviour string) []byte {
	t.Helper()
	image, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	return append(image, marker+behaviour+"\n"...)
}

func metaOf(image []byte, campaign string) slots.Meta {
	sum := sha256.Sum256(image)
	return slots.Meta{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(image)), Campaign: campaign}
}

func (b *bench) slots(running slots.Slot) *slots.Slots {
	b.t.Helper()
	s, err := slots.Open(b.dir, slots.Options{Running: running, BootID: b.boot})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) status() slots.Status {
	b.t.Helper()
	st, err := b.slots("").Status()
	if err != nil || st.Lost != "" {
		b.t.Fatal(err, st.Lost)
	}
	return st
}

// update installs and arms an image, as the agent in the committed slot does.
func (b *bench) update(image []byte, campaign string, l slots.Limits) slots.Slot {
	b.t.Helper()
	s := b.slots(b.status().Committed)
	slot, err := s.Install(b.t.Context(), bytes.NewReader(image), metaOf(image, campaign))
	if err == nil {
		err = s.Try(b.t.Context(), l)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return slot
}

// command is the launcher as a process.
func (b *bench) command(part string, args ...string) *exec.Cmd {
	cmd := exec.Command(program(b.t), args...)
	cmd.Env = append(os.Environ(), childEnv+"="+part, bootEnv+"="+b.boot, "WAYBILL_FIRMWARE_DIR="+b.dir, "WAYBILL_FACTORY_AGENT="+b.dir+"/none")
	cmd.Stderr = new(strings.Builder)
	return cmd
}

// run starts the launcher and waits for what it became; said begins with the slot, the pid and the agent's behaviour.
func (b *bench) run(args ...string) (said string) {
	b.t.Helper()
	cmd := b.command("launch", args...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	b.t.Logf("%s%s", out, cmd.Stderr)
	return string(out)
}

// kill starts the launcher and kills what it became, once that has said that it hangs.
func (b *bench) kill() (said string) {
	b.t.Helper()
	cmd := b.command("launch")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for !strings.Contains(said, "hanging\n") {
		n, err := out.Read(buffer)
		said += string(buffer[:n])
		if errors.Is(err, io.EOF) {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return said
}
