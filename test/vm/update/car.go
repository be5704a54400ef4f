package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// car is the simulated drive on vcan0, and a unit that tells the ignition.
type car struct {
	simulate string
	drive    *exec.Cmd
	ignition atomic.Bool
}

// A drive of parkedFor leaves the car parked for its first 57 minutes; one of drivingFor drives off after twelve seconds.
const (
	parkedFor  = "24h"
	drivingFor = "5m"
)

func newCar(bin string) (*car, error) {
	c := &car{simulate: filepath.Join(bin, "simulate")}
	link, err := net.InterfaceByName("vcan0")
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrCAN{Ifindex: link.Index})
	}
	if err != nil {
		return nil, fmt.Errorf("vcan0: %w", err)
	}
	go func() {
		for ; ; time.Sleep(200 * time.Millisecond) {
			frame := make([]byte, 16) // struct can_frame: identifier, length, three bytes, data
			binary.NativeEndian.PutUint32(frame, ignitionID)
			frame[4] = 1
			if c.ignition.Load() {
				frame[8] = 1
			}
			_, _ = unix.Write(fd, frame)
		}
	}()
	return c, nil
}

// ignitionID is the message Ignition of the DBC file that the host made.
const ignitionID = 0x7A0

// drives begins a drive of a length, with the ignition on or off.
func (c *car) drives(duration string, ignition bool) error {
	if c.drive != nil {
		_ = c.drive.Process.Signal(syscall.SIGTERM)
		_ = c.drive.Wait()
	}
	c.ignition.Store(ignition)
	// The clock may be anything, and a drive cannot begin at any time.
	c.drive = exec.Command(c.simulate, "drive", "--can", "vcan0", "--duration", duration, "--start", "2026-06-01T12:00:00Z")
	c.drive.Stdout, c.drive.Stderr = os.Stdout, os.Stderr
	return c.drive.Start()
}

// frames is how many the kernel has seen on the bus.
func frames() (n uint64) {
	text, err := os.ReadFile("/sys/class/net/vcan0/statistics/rx_packets")
	if err == nil {
		_, _ = fmt.Sscan(string(text), &n)
	}
	return n
}
