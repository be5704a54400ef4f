// This file is laid over cmd/agent (go build -overlay) to make an agent that does not work on a vehicle.
package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fault is what does not work: the linker sets it.
var fault string

func init() {
	if len(os.Args) < 2 || os.Args[1] != "run" {
		return
	}
	switch fault {
	case "crashes":
		panic("fault: crashes")
	case "hangs":
		fmt.Fprintln(os.Stderr, "fault: hangs")
		select {}
	case "deaf":
		if err := refuseCAN(); err != nil {
			panic(err)
		}
	}
}

// refuseCAN has the kernel refuse sockets of CAN to this process: a filter of system calls, seccomp(2), for all threads.
func refuseCAN() error {
	const number, domain = 0, 16 // offsets in struct seccomp_data; the second is right on little-endian machines
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: domain},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_CAN, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}
