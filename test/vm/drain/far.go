package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/waybill-telematics/waybill/uplink/uplinktest"
)

// The ports of the far end, on every link.
const (
	plainPort  = 9
	brokerPort = 1883
)

// arrived is the far end's report.
type arrived struct {
	Plain   []int          `json:"plain"`   // bytes, by link
	Batches map[string]int `json:"batches"` // in the store, by device; they are those from 1 on
}

// far is the process beyond the links: it does as it is told, a line at a time.
func far(o *options) error {
	if err := command(o.ip, "link set dev lo up"); err != nil {
		return err
	}
	end, err := startBroker(o)
	if err != nil {
		return err
	}
	defer end()
	store := uplinktest.NewStore(fmt.Sprintf("127.0.0.1:%d", brokerPort), "store")
	defer store.Close()
	for end := time.Now().Add(time.Minute); !store.Attached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the store does not get to its broker")
		}
	}
	counts := make([]atomic.Int64, o.links())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "equip":
			for i := range o.links() {
				if err := o.equip(fmt.Sprintf("far%d", i), i, 2); err != nil {
					return err
				}
				if err := serve(i, &counts[i]); err != nil {
					return err
				}
			}
			fmt.Println("ready")
		case "report":
			report, err := look(store, counts)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

// startBroker runs Mosquitto on all addresses of this end, and on its loopback for the store.
func startBroker(o *options) (end func(), err error) {
	conf := filepath.Join(os.TempDir(), "drain-mosquitto.conf")
	text := fmt.Sprintf("listener %d 0.0.0.0\nallow_anonymous true\nuser root\nmax_queued_messages 0\nlog_type error\n", brokerPort)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(o.broker, "-c", conf)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// serve takes in what the plain connection of a link brings, until the process ends.
func serve(i int, count *atomic.Int64) error {
	l, err := net.Listen("tcp", fmt.Sprintf("10.9.%d.2:%d", i, plainPort))
	if err != nil {
		return err
	}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := conn.Read(b)
			count.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	return nil
}

// look says what has arrived by now.
func look(store *uplinktest.Store, counts []atomic.Int64) (arrived, error) {
	report := arrived{Batches: map[string]int{}}
	for i := range counts {
		report.Plain = append(report.Plain, int(counts[i].Load()))
	}
	if err := store.Err(); err != nil {
		return report, err
	}
	highest := map[string]uint64{}
	for _, s := range store.Order() {
		report.Batches[s.Device]++
		highest[s.Device] = max(highest[s.Device], s.Seq)
	}
	for device, n := range report.Batches {
		if uint64(n) != highest[device] {
			return report, fmt.Errorf("%s: %d batches, the highest is %d", device, n, highest[device])
		}
	}
	return report, nil
}
