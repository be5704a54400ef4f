//go:build system

package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/waybill-telematics/waybill/test/deps"
	"github.com/waybill-telematics/waybill/test/fleetdata"
)

// TestPage clicks through every view; look.mjs says what is tried. SCREENSHOTS=FOLDER keeps the pictures.
func TestPage(t *testing.T) {
	chromium, node, playwright := deps.Folder(t, "chromium"), deps.Folder(t, "node"), deps.Folder(t, "playwright")
	s := &server{t: t, broker: freeAddress(t), page: freeAddress(t), dir: t.TempDir()}
	s.build()
	s.start()
	fleet, err := fleetdata.Fleet(time.Now(), fleetdata.Hours*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range fleet {
		s.publish(v.Messages)
	}
	s.await(13, 5)
	pictures := os.Getenv("SCREENSHOTS")
	if pictures == "" {
		pictures = t.TempDir()
	}

	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(node, "node"), filepath.Join(deps.Root(t), "test", "browser", "look.mjs"),
		filepath.Join(playwright, "node_modules", "playwright-core"), browserWrapper(t, chromium), s.url(), pictures)
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
			t.Errorf("look.mjs said %q", lines.Text())
			continue
		}
		switch said.Ask {
		case "restart":
			s.stop()
			s.start()
		case "more":
			s.publish(fleet[0].More(time.Minute))
		default:
			steps++
			if !said.OK {
				t.Errorf("%s: %s", said.Step, said.Detail)
			} else {
				t.Logf("%s %s", said.Step, said.Detail)
			}
			continue
		}
		fmt.Fprintln(stdin)
	}
	if err := cmd.Wait(); err != nil || steps < 30 {
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

// server is waybill-fleet with its embedded broker.
type server struct {
	t                 *testing.T
	broker, page, dir string
	cmd               *exec.Cmd
}

func (s *server) url() string { return "http://" + s.page + "/" }

func (s *server) build() {
	s.t.Helper()
	for _, args := range [][]string{{"run", "./fleet/page/fetch"}, {"build", "-o", filepath.Join(s.dir, "waybill-fleet"), "./cmd/fleet"}} {
		if out, err := deps.Go(s.t, args...).CombinedOutput(); err != nil {
			if args[0] == "run" {
				deps.Missing(s.t, "the page's parts: %v\n%s", err, out)
			}
			s.t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(s.dir, "waybill-fleet"), "serve", "--embedded-broker", s.broker, "--db", filepath.Join(s.dir, "fleet.db"), "--page", s.page, "--every", "1h")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		s.stop()
		if text, err := os.ReadFile(log.Name()); err == nil && s.t.Failed() {
			s.t.Logf("log of waybill-fleet:\n%s", text)
		}
	})
	s.await(0, -1)
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("waybill-fleet did not end well: %v", err)
	}
	s.cmd = nil
}

// await waits until the store has so many devices and missing batches (below 0: whatever many), and nothing more comes.
func (s *server) await(devices, gaps int64) {
	s.t.Helper()
	var c, before struct{ Devices, Samples, Gaps int64 }
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		r, err := http.Get(s.url() + "api/v1/counts")
		if err == nil {
			text, _ := io.ReadAll(r.Body)
			r.Body.Close()
			if err = json.Unmarshal(text, &c); err == nil && c.Devices >= devices && (c.Gaps == gaps || gaps < 0) && c == before {
				return
			}
			before = c
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the store has %+v: %v", c, err)
		}
	}
}

// publish sends what vehicles send, as one client that acknowledges nothing and wants no receipts.
func (s *server) publish(messages []fleetdata.Message) {
	s.t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + s.broker).SetClientID(fmt.Sprintf("fleet-%d", rand.Uint32())))
	if token := c.Connect(); token.WaitTimeout(10*time.Second) && token.Error() != nil {
		s.t.Fatal(token.Error())
	}
	defer c.Disconnect(250)
	for _, m := range messages {
		if token := c.Publish(m.Topic, 1, strings.HasSuffix(m.Topic, "/status"), m.Payload); !token.WaitTimeout(20*time.Second) || token.Error() != nil {
			s.t.Fatalf("publish: %v", token.Error())
		}
	}
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
