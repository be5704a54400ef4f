//go:build system

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/api"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestCloud runs the whole program as a person does: until each vehicle is on the page's API and in PostgreSQL, then
// Ctrl-C. It has to say that nothing is missing, and to leave nothing behind.
func TestCloud(t *testing.T) {
	const vehicles, driven = 3, 25 * time.Second
	for _, group := range []string{"mosquitto", "java", "kafka", "postgresql"} {
		deps.Folder(t, group) // so that a missing part is said in the way of tests
	}
	root, temporary := deps.Root(t), t.TempDir()
	if err := os.Chmod(temporary, 0o711); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "cloud")
	if text, err := deps.Go(t, "build", "-o", program, "./test/cloud").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	// What it builds is built before, as it does: a busy machine takes its time, and that is not what is looked at.
	warm := deps.Go(t, "build", "-trimpath", "-o", t.TempDir()+"/", "./cmd/agent", "./cmd/fleet", "./cmd/simulate")
	warm.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := warm.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	cmd := exec.Command(program)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary, fmt.Sprintf("CLOUD_VEHICLES=%d", vehicles), "CLOUD_SECONDS=0", "CLOUD_BROKER=", "DISPLAY=", "WAYLAND_DISPLAY=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := &transcript{}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			_, _ = said.Write(append(lines.Bytes(), '\n'))
		}
	}()
	done := make(chan error, 1)
	go func() { <-read; done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the program said:\n%s", said.String())
		}
	})
	await := func(bound time.Duration, what string, ready func() error) {
		t.Helper()
		for deadline := time.Now().Add(bound); ; time.Sleep(300 * time.Millisecond) {
			err := ready()
			if err == nil {
				return
			}
			select {
			case ended := <-done:
				t.Fatalf("%s: the program ended: %v", what, ended)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	find := func(pattern string) string {
		return strings.Join(regexp.MustCompile(pattern).FindStringSubmatch(said.String()), " ")
	}

	await(4*time.Minute, "start", func() error {
		if find(`until Ctrl-C`) == "" {
			return errors.New("it has not started all")
		}
		return nil
	})
	began := time.Now()
	page := find(`http://127\.0\.0\.1:\d+/`)
	await(time.Minute, "the page's API", func() error { return onThePage(page, vehicles) })
	match := regexp.MustCompile(`PGPASSFILE=(\S+) psql -h (\S+) -p (\d+) -U (\S+) (\S+)`).FindStringSubmatch(said.String())
	if match == nil {
		t.Fatal("it does not say how to ask the database")
	}
	await(time.Minute, "the tables", func() error { return inTheTables(t, match, vehicles) })
	if rest := driven - time.Since(began); rest > 0 {
		time.Sleep(rest)
	}

	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(3 * time.Minute):
		t.Fatal("it does not end on Ctrl-C")
	}
	for _, want := range []string{"verdict: every numbered frame is in the store, once", "all stopped"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it did not say %q", want)
		}
	}
	shares := regexp.MustCompile(`by the first process (\d+) payloads, by the second (\d+)`).FindStringSubmatch(said.String())
	if shares == nil || shares[1] == "0" || shares[2] == "0" {
		t.Errorf("the processes did not share the work: %v", shares)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, addr := range regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(said.String(), -1) {
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			conn.Close()
			t.Errorf("somebody still listens on %s", addr)
		}
	}
}

// onThePage says whether every vehicle is on the page with a position and a signal that has values.
func onThePage(page string, vehicles int) error {
	var list struct{ Items []api.Device }
	if err := get(page+"api/v1/devices", &list); err != nil {
		return err
	}
	if len(list.Items) != vehicles {
		return fmt.Errorf("%d vehicles on the page, want %d", len(list.Items), vehicles)
	}
	for _, d := range list.Items {
		if d.State != api.StateOnline || d.Batches == 0 || d.Position == nil {
			return fmt.Errorf("%s/%s: state %s, %d batches, position %v", d.Tenant, d.Device, d.State, d.Batches, d.Position)
		}
		var signals struct{ Items []api.Signal }
		if err := get(fmt.Sprintf("%sapi/v1/devices/%s/%s/signals?q=FrameCounter", page, d.Tenant, d.Device), &signals); err != nil {
			return err
		}
		if len(signals.Items) == 0 || signals.Items[0].Last == nil {
			return fmt.Errorf("%s: no value of the frame counter: %+v", d.Device, signals.Items)
		}
	}
	return nil
}

func get(url string, into any) error {
	client := http.Client{Timeout: 20 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// inTheTables asks PostgreSQL, in the way that the program says, whether samples of every vehicle are there.
func inTheTables(t *testing.T, psql []string, vehicles int) error {
	t.Setenv("PGPASSFILE", psql[1])
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%s user=%s dbname=%s", psql[2], psql[3], psql[4], psql[5]))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT device, count(*), count(DISTINCT name) FROM readings WHERE wall_ns IS NOT NULL GROUP BY device`)
	if err != nil {
		return err
	}
	full := 0
	var device string
	var samples, names int64
	_, err = pgx.ForEachRow(rows, []any{&device, &samples, &names}, func() error {
		if samples > 1000 && names > 10 {
			full++
		}
		return nil
	})
	if err == nil && full != vehicles {
		err = fmt.Errorf("%d of %d vehicles have their samples in the tables", full, vehicles)
	}
	return err
}

// transcript is what the program said. It is safe for use from several goroutines.
type transcript struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
