package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device mapper, as <linux/dm-ioctl.h> describes it: a request is a head and, behind it, a table or a message.
const (
	dmHead = 312 // sizeof(struct dm_ioctl)

	dmCreate    = 3
	dmRemove    = 4
	dmSuspend   = 6 // without the suspend flag: resume
	dmTableLoad = 9
	dmMessage   = 14

	sectorBytes = 512
)

var native = binary.NativeEndian

// mapped is a device of the device mapper.
type mapped struct{ name, path string }

// dm makes one request of a device and returns the number of its block device.
func dm(command uintptr, name string, targets uint32, data []byte) (dev uint64, err error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, dmHead, dmHead+len(data)+8)
	b = append(b, data...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	for i, v := range []uint32{4, 0, 0, uint32(len(b)), dmHead, targets} { // version, size, where the data begins
		native.PutUint32(b[4*i:], v)
	}
	copy(b[48:48+127], name)
	request := uintptr(3<<30 | dmHead<<16 | 0xfd<<8 | command)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return 0, fmt.Errorf("device mapper: request %d for %s: %w", command, name, errno)
	}
	return native.Uint64(b[40:]), nil
}

// mapDevice makes a device of one target, with so many sectors.
func mapDevice(name string, sectors uint64, target, arguments string) (*mapped, error) {
	dev, err := dm(dmCreate, name, 0, nil)
	if err != nil {
		return nil, err
	}
	m := &mapped{name, fmt.Sprintf("/dev/dm-%d", dev&0xff|dev>>12&^0xff)}
	spec := make([]byte, 40) // struct dm_target_spec: first sector, sectors, status, next, type
	native.PutUint64(spec[8:], sectors)
	copy(spec[24:39], target)
	if _, err = dm(dmTableLoad, name, 1, append(append(spec, arguments...), 0)); err == nil {
		_, err = dm(dmSuspend, name, 0, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", target, arguments, err)
	}
	return m, nil
}

// message sends words to the device's target.
func (m *mapped) message(text string) error {
	_, err := dm(dmMessage, m.name, 0, append(append(make([]byte, 8), text...), 0)) // 8: the sector, which says the target
	return err
}

func (m *mapped) remove() error {
	_, err := dm(dmRemove, m.name, 0, nil)
	return err
}

// sectorsOf is the size of a block device.
func sectorsOf(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	return uint64(size) / sectorBytes, err
}
