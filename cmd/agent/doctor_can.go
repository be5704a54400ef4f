package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waybill-telematics/waybill/can"
)

// Problems of a bus.
const (
	problemCANKernel       = "can-not-in-kernel"
	problemCANMissing      = "can-interface-missing"
	problemCANForeign      = "can-not-a-can-interface"
	problemCANDown         = "can-down"
	problemCANNoBitrate    = "can-no-bitrate"
	problemCANBitrate      = "can-bitrate-differs"
	problemCANMayNot       = "can-no-net-admin"
	problemCANListenOnly   = "can-listen-only"
	problemCANAcknowledges = "can-acknowledges"
	problemCANBusOff       = "can-bus-off"
	problemCANPassive      = "can-error-passive"
	problemCANWarning      = "can-error-warning"
	problemCANNoFD         = "can-no-fd"
	problemCANQueue        = "can-short-send-queue"
	problemCANBuffer       = "can-small-receive-buffer"
	problemCANSilent       = "can-silent"
	problemCANUnknown      = "can-no-known-frame"
)

// fdMTU is the mtu of an interface that carries CAN FD (linux/can.h, CANFD_MTU), bytes.
const fdMTU = 72

// receiveBuffer is what can.Open asks the kernel for, bytes.
const receiveBuffer = 4 << 20

// bus looks at the interface of one bus, and listens to it.
func (d *device) bus(ctx context.Context, bus canSettings, i int) {
	step := "can " + bus.Bus
	var links can.LinkReader
	defer links.Close()
	link, err := links.Read(bus.Interface)
	if errors.Is(err, can.ErrDown) || err != nil && !exists(bus.Interface) {
		d.missing(step, bus.Interface)
		return
	}
	if err != nil {
		d.fail(step, problemCANForeign, err.Error(), "name a CAN interface: waybill-agent can status lists them")
		return
	}
	if !d.controller(step, bus, link) || !link.Up {
		return
	}
	d.mode(step, bus, link)
	d.wire(ctx, step, bus, link, i)
}

func exists(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", name))
	return err == nil
}

// missing says why an interface is not there.
func (d *device) missing(step, name string) {
	fd, err := unix.Socket(unix.AF_CAN, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.CAN_RAW)
	if err != nil {
		d.fail(step, problemCANKernel, "this kernel has no CAN: "+os.NewSyscallError("socket", err).Error(),
			"modprobe can_raw and the controller's driver (vcan for a virtual bus); if there is no such module, the kernel needs "+
				"CONFIG_CAN, CONFIG_CAN_RAW and CONFIG_CAN_DEV")
		return
	}
	_ = unix.Close(fd) // it carried nothing
	remedy := "load the controller's driver (lsmod, dmesg | grep -i can), or correct interface:; ip -br link shows what is " +
		"there"
	if strings.HasPrefix(name, "vcan") {
		remedy = fmt.Sprintf("make it: sudo modprobe vcan && sudo ip link add dev %s type vcan && sudo ip link set %s mtu 72 "+
			"up", name, name)
	} else if strings.HasPrefix(name, "slcan") {
		remedy = "attach the adapter: sudo slcand -o -s6 /dev/ttyACM0 " + name
	}
	if names := interfaces(); len(names) > 0 {
		remedy += "; CAN interfaces here: " + strings.Join(names, ", ")
	}
	d.fail(step, problemCANMissing, "there is no interface "+name, remedy)
}

func interfaces() (names []string) {
	var links can.LinkReader
	defer links.Close()
	list, _ := links.List() // what cannot be asked is not named
	for _, l := range list {
		names = append(names, l.Name)
	}
	return names
}

// controller looks at what keeps frames from coming. False: none can come.
func (d *device) controller(step string, bus canSettings, l can.LinkState) bool {
	virtual := l.Kind == "vcan" || l.Kind == "vxcan"
	rate := bus.Bitrate
	if rate == 0 {
		rate = 500_000
	}
	up := fmt.Sprintf("sudo ip link set %s up type can bitrate %d", bus.Interface, rate)
	if virtual {
		up = "sudo ip link set " + bus.Interface + " up"
	} else if bus.ListenOnly {
		up += " listen-only on"
	}
	settled := l.Up && (virtual || l.Bitrate == bus.Bitrate && l.ListenOnly == bus.ListenOnly)
	switch {
	case bus.Bitrate != 0 && !settled && !capable(capNetAdmin):
		d.fail(step, problemCANMayNot, fmt.Sprintf("%s; bitrate: tells the agent to bring it up, for which it needs "+
			"CAP_NET_ADMIN", l), "give the service CAP_NET_ADMIN (AmbientCapabilities=), or let somebody else do it "+
			"(systemd-networkd, or "+up+") and leave bitrate: out")
		return false
	case bus.Bitrate != 0 && !virtual && l.Up && l.Bitrate != bus.Bitrate:
		d.warn(step, problemCANBitrate, fmt.Sprintf("%s; the agent will set it down, to %d bit/s, and up again: other "+
			"programs on it lose frames", l, bus.Bitrate), "correct bitrate:, or whoever sets the other one (systemd-networkd)")
		return true
	case bus.Bitrate != 0 && !l.Up:
		d.ok(step, "%s; the agent brings it up with %d bit/s", l, bus.Bitrate)
		return true
	case !l.Up && !virtual && l.Bitrate == 0:
		d.fail(step, problemCANNoBitrate, l.String()+": it is down and has no bit rate",
			"name the bus's own: bitrate: in the configuration, or "+up)
		return false
	case !l.Up:
		d.fail(step, problemCANDown, l.String(), up)
		return false
	case l.HasState && l.State == can.BusOff:
		d.fail(step, problemCANBusOff, l.String()+": the controller has left the bus after too many errors",
			"a wrong bit rate, a short circuit, or nobody who acknowledges; then restart it: sudo ip link set "+bus.Interface+" "+
				"type can restart, or restart-ms 100 for good")
		return false
	case l.HasState && l.State == can.BusErrorPassive:
		d.fail(step, problemCANPassive, l.String()+": more than 127 errors were counted",
			"a wrong bit rate, no termination (120 Ω at both ends, 60 Ω between CANH and CANL), or nobody else on the bus")
		return true
	case l.HasState && l.State == can.BusErrorWarning:
		d.warn(step, problemCANWarning, l.String()+": more than 95 errors were counted",
			"look at bit rate, termination and plugs; waybill-agent can status shows whether the counters go on")
		return true
	}
	d.ok(step, "%s", l)
	return true
}

// mode looks at what the interface is set up for.
func (d *device) mode(step string, bus canSettings, l can.LinkState) {
	controlled := l.Kind == "can" && bus.Bitrate == 0 // with bitrate: the agent sets it
	switch {
	case bus.Diagnose != nil && l.ListenOnly && controlled:
		d.fail(step, problemCANListenOnly, bus.Interface+" is listen-only, and diagnose: has to send",
			"set it up anew with listen-only off, or leave diagnose: out")
	case bus.Diagnose == nil && !l.ListenOnly && controlled && l.HasState:
		d.warn(step, problemCANAcknowledges, bus.Interface+" acknowledges frames and tells of errors: a wrong bit rate would "+
			"disturb the vehicle", "sudo ip link set "+bus.Interface+" down, then up type can … listen-only on; on a bench where "+
			"nobody else acknowledges, leave it")
	}
	if mtu := linkFile(bus.Interface, "mtu"); mtu > 0 && mtu < fdMTU {
		if name := needsFD(bus.DBC); name != "" {
			d.fail(step, problemCANNoFD, fmt.Sprintf("%s carries classic frames only (mtu %d), and message %s is longer",
				bus.Interface, mtu, name), "sudo ip link set "+bus.Interface+" mtu 72 (vcan), or type can … dbitrate RATE fd on")
		}
	}
	if length := linkFile(bus.Interface, "tx_queue_len"); bus.Diagnose != nil && length >= 0 && length < leastSendQueue {
		d.warn(step, problemCANQueue, fmt.Sprintf("the send queue of %s holds %d frames, and diagnose: sends %d in a row",
			bus.Interface, length, leastSendQueue), fmt.Sprintf("sudo ip link set %s txqueuelen 100", bus.Interface))
	}
	if largest := sysctl("net/core/rmem_max"); !capable(capNetAdmin) && largest > 0 &&
		2*largest < receiveBuffer { // the kernel gives twice what is asked for
		d.warn(step, problemCANBuffer, fmt.Sprintf("the kernel gives %d bytes of receive buffer, the agent asks for %d: on a "+
			"busy bus a short pause costs frames, which are counted", 2*largest, receiveBuffer),
			fmt.Sprintf("sudo sysctl net.core.rmem_max=%d, or give the service CAP_NET_ADMIN", receiveBuffer))
	}
}

// leastSendQueue is diagnose.burst's default, frames.
const leastSendQueue = 10

// linkFile reads a number of an interface from sysfs; −1: not there.
func linkFile(name, file string) int { return number(filepath.Join("/sys/class/net", name, file)) }

// sysctl reads one of the kernel's settings; −1: not there.
func sysctl(name string) int { return number(filepath.Join("/proc/sys", name)) }

func number(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1
	}
	return n
}

// needsFD names a message that only a frame of CAN FD can hold.
func needsFD(files []string) string {
	for _, file := range files {
		db, err := readDBC(file)
		if err != nil {
			continue // which the configuration's step says
		}
		for _, m := range db.Messages {
			if m.Length > 8 && m.Length <= 64 && !m.J1939 && !m.Extended {
				return m.Name
			}
		}
	}
	return ""
}

// wire listens: does anything come, and is any of it known?
func (d *device) wire(ctx context.Context, step string, bus canSettings, l can.LinkState, i int) {
	if d.listen <= 0 {
		return
	}
	h, err := hear(ctx, bus.Interface, d.listen)
	if err != nil {
		d.fail(step, problemCANDown, err.Error(), "sudo ip link set "+bus.Interface+" up")
		return
	}
	if h.frames == 0 {
		d.warn(step, problemCANSilent, fmt.Sprintf("no frame came within %v", d.listen),
			fmt.Sprintf("is the ignition on, the plug in its place, and the bus's rate %d bit/s? a controller at another rate "+
				"sees errors only", l.Bitrate))
		return
	}
	known := 0
	if i < len(d.vehicle.plans) {
		for key := range h.ids {
			f := &can.Frame{ID: key.id}
			if key.extended {
				f.Flags = can.FlagExtended
			}
			if d.vehicle.plans[i].Match(f) != nil {
				known++
			}
		}
	}
	text := fmt.Sprintf("%d frames of %d ids within %v", h.frames, len(h.ids), d.listen)
	if known == 0 && len(bus.DBC) > 0 {
		d.warn(step, problemCANUnknown, text+", none of which is collected", "the DBC file is of another vehicle or bus, or "+
			"collect: chooses nothing of it; waybill-agent init --dbc FOLDER ranks files by what is heard")
		return
	}
	d.ok(step, "%s, %d of them collected", text, known)
}
