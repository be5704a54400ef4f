//go:build system

package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// tools are what the scripts run in.
type tools struct{ chromium, node, playwright string }

func findBrowser(t *testing.T) tools {
	t.Helper()
	return tools{deps.Folder(t, "chromium"), deps.Folder(t, "node"), deps.Folder(t, "playwright")}
}

// look runs a script of this folder, does what it asks for, and wants at least so many steps of it. SCREENSHOTS=FOLDER keeps the
// pictures.
func (b tools) look(t *testing.T, script, url string, least int, asked map[string]func()) {
	t.Helper()
	pictures := os.Getenv("SCREENSHOTS")
	if pictures == "" {
		pictures = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.node, "node"), filepath.Join(deps.Root(t), "test", "browser", script),
		filepath.Join(b.playwright, "node_modules", "playwright-core"), browserWrapper(t, b.chromium), url, pictures)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var said struct {
			Ask, Step, Detail string
			OK                bool
		}
		if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
			t.Errorf("%s said %q", script, lines.Text())
			continue
		}
		if said.Ask != "" {
			if asked[said.Ask] == nil {
				t.Fatalf("%s asks for %q", script, said.Ask)
			}
			asked[said.Ask]()
			fmt.Fprintln(stdin)
			continue
		}
		steps++
		if !said.OK {
			t.Errorf("%s: %s", said.Step, said.Detail)
		} else {
			t.Logf("%s %s", said.Step, said.Detail)
		}
	}
	if err := cmd.Wait(); err != nil || steps < least {
		t.Errorf("the browser ended after %d steps: %v", steps, err)
	}
}

// browserWrapper is Chromium with the libraries and fonts that came with it.
func browserWrapper(t *testing.T, folder string) string {
	t.Helper()
	dir := t.TempDir()
	fonts := filepath.Join(dir, "fonts.conf")
	script := filepath.Join(dir, "chromium")
	var libraries []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib/*-linux-gnu/pulseaudio"} {
		found, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		libraries = append(libraries, found...)
	}
	for path, text := range map[string]string{
		fonts: `<?xml version="1.0"?><fontconfig><dir>` + filepath.Join(folder, "usr/share/fonts") + `</dir><cachedir>` + dir + `/cache</cachedir></fontconfig>`,
		script: fmt.Sprintf("#!/bin/sh\nexport LD_LIBRARY_PATH='%s' FONTCONFIG_FILE='%s' HOME='%s'\nexec '%s/usr/lib/chromium/chromium' \"$@\"\n",
			strings.Join(libraries, ":"), fonts, dir, folder),
	} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return script
}

// freeAddress is one that nobody listens on, below the ports of outgoing connections.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}
