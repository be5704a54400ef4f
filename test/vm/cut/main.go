// Command cut is what runs in a guest whose power is going to be cut: an agent whose queue is on a disk of the guest's
// own, and a simulated drive on the bus. It says on the console what a host has to know. It runs in guests only.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/test/vm/history"
)

const usage = `usage: cut live DIR AGENT SIMULATE      mount /dev/ubda on DIR/disk, look into the queue, drive until the power goes
       cut record DIR AGENT SIMULATE LIVES STATES SEED   log the writes of a drive, replay them and look at states
       cut unsynced PROGRAM ARGS…       run a program whose fsync and fdatasync do nothing`

func main() {
	err := errors.New(usage)
	if len(os.Args) > 4 {
		switch os.Args[1] {
		case "live":
			err = live(os.Args[2], os.Args[3:])
		case "record":
			var lives, states int
			var seed uint64
			if n, _ := fmt.Sscan(strings.Join(os.Args[5:], " "), &lives, &states, &seed); n == 3 {
				err = record(os.Args[2], os.Args[3:5], lives, states, seed)
			}
		case "unsynced":
			err = unsynced(os.Args[2], os.Args[2:])
		}
	}
	if err != nil {
		fmt.Println("cut:", err)
		os.Exit(1)
	}
}

// device is the disk that the host has given.
const device = "/dev/ubda"

// live is a life of the agent, from the moment when the disk is mounted. In DIR are agent.yaml, with its data_dir in
// disk/data, and unsynced if the agent's syncs are to do nothing. What the queue held when the disk was mounted goes to
// DIR/look.json.
func live(dir string, programs []string) error {
	if len(programs) != 2 {
		return errors.New(usage)
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	fmt.Printf("life boot=%s\n", strings.ReplaceAll(strings.TrimSpace(string(id)), "-", ""))
	disk := filepath.Join(dir, "disk")
	if err := unix.Mount(device, disk, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	state, err := look(disk)
	if err != nil {
		return err
	}
	text, err := json.Marshal(state)
	if err == nil {
		err = writeSynced(filepath.Join(dir, "look.json"), text)
	}
	if err != nil {
		return err
	}
	fmt.Println("life looked")

	simulate := exec.Command(programs[1], "drive", "--can", "vcan0", "--speed", "20", "--duration", "24h", "--seed", seed(id))
	if err := simulate.Start(); err != nil {
		return err
	}
	return drive(agentCommand(dir, programs[0]))
}

// look looks into the queue on a disk; one that is not there yet is empty.
func look(disk string) (*history.State, error) {
	state, err := history.Look(filepath.Join(disk, "data", "queue"))
	if errors.Is(err, fs.ErrNotExist) {
		return &history.State{}, nil
	}
	return state, err
}

// agentCommand runs the agent of DIR/agent.yaml, without syncs if DIR has a file of the name unsynced.
func agentCommand(dir, agent string) *exec.Cmd {
	words := []string{agent, "run", "-c", filepath.Join(dir, "agent.yaml")}
	if _, err := os.Stat(filepath.Join(dir, "unsynced")); err == nil {
		words = append([]string{os.Args[0], "unsynced"}, words...)
	}
	return exec.Command(words[0], words[1:]...)
}

// seed makes drives differ.
func seed(id []byte) string {
	var n uint64
	for _, c := range id {
		n = n*31 + uint64(c)
	}
	return fmt.Sprint(n >> 1)
}

// drive runs the agent, repeats what it commits and what troubles it, and says twenty times a second that it lives.
func drive(agent *exec.Cmd) error {
	log, err := agent.StderrPipe()
	if err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			var now unix.Timespec
			if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
				fmt.Printf("life beat=%d\n", now.Nano())
			}
		}
	}()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if line := lines.Text(); strings.Contains(line, "msg=committed ") || !strings.Contains(line, "level=DEBUG") && !strings.Contains(line, "level=INFO") {
			fmt.Println(line)
		}
	}
	return fmt.Errorf("the agent has ended: %w", errors.Join(lines.Err(), agent.Wait(), errors.New("nobody told it to")))
}

// writeSynced writes a file to the host, which has it when this returns.
func writeSynced(path string, contents []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	return errors.Join(err, f.Sync(), f.Close())
}
