//go:build system

package browser

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
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
	tools := findBrowser(t)
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
	tools.look(t, "look.mjs", s.url(), 30, map[string]func(){
		"restart": func() { s.stop(); s.start() },
		"more":    func() { s.publish(fleet[0].More(time.Minute)) },
	})
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
