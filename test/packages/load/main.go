// Command load loads kernel modules, for a guest that has no kmod.
//
// usage: load FILE…
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	for _, path := range os.Args[1:] {
		f, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "load: %s: %v\n", path, err)
			os.Exit(1)
		}
	}
}
