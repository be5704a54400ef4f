package can_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.einride.tech/can/pkg/candevice"

	"github.com/waybill-telematics/waybill/can"
)

// What netlink says is what sysfs says, and a virtual interface has no controller.
func TestVcanLinkState(t *testing.T) {
	name, w := vcan(t), newWriter(t)
	var links can.LinkReader
	defer links.Close()
	read := func() can.LinkState {
		s, err := links.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sysfs := func(counter string) uint64 {
		text, err := os.ReadFile("/sys/class/net/" + name + "/statistics/" + counter)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := read()
	for range 5 {
		send(t, w, can.Frame{ID: 0x123, Len: 3})
	}
	after := read()
	if after.Traffic.RxFrames-before.Traffic.RxFrames != 5 || after.Traffic.RxBytes-before.Traffic.RxBytes != 15 {
		t.Errorf("5 frames of 3 bytes were sent: %+v, before %+v", after.Traffic, before.Traffic)
	}
	if want := (can.LinkTraffic{RxFrames: sysfs("rx_packets"), TxFrames: sysfs("tx_packets"), RxBytes: sysfs("rx_bytes"), TxBytes: sysfs("tx_bytes")}); after.Traffic != want {
		t.Errorf("%+v, sysfs says %+v", after.Traffic, want)
	}
	after.Traffic, after.Operational = can.LinkTraffic{}, ""
	if want := (can.LinkState{Name: name, Kind: "vcan", Up: true}); after != want {
		t.Errorf("%+v, want %+v", after, want)
	}
	list, err := links.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	for _, s := range list {
		if !strings.HasPrefix(s.Name, "vcan") {
			t.Errorf("%+v among the CAN interfaces", s)
		}
	}
	if _, err := links.Read("lo"); err == nil || errors.Is(err, can.ErrDown) {
		t.Errorf("the loopback: %v", err)
	}

	device, err := candevice.New(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := device.SetDown(); err != nil {
		t.Skipf("cannot set %s down: %v; test/vm runs this in a guest kernel", name, err)
	}
	down := read()
	if _, err := can.Open(name, can.ReaderOptions{}); !errors.Is(err, can.ErrDown) {
		t.Errorf("Open answered %v, want ErrDown", err)
	}
	if err := can.BringUp(name, can.LinkOptions{}); err != nil {
		t.Fatal(err)
	}
	if down.Up || down.State != can.BusStopped {
		t.Errorf("set down: %+v", down)
	}
	if up := read(); !up.Up || up.State != can.BusErrorActive {
		t.Errorf("set up: %+v", up)
	}
}
