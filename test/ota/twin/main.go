// Command twin is an agent that fails, as the tests of updates need one: it crashes as it starts, hangs, or cannot read its
// receiver.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// Set by the linker.
var (
	fault = "crash" // crash, hang or deaf
	agent = ""      // of deaf: the agent that it becomes, with another receiver
)

func main() {
	switch fault {
	case "hang":
		for {
			time.Sleep(time.Hour)
		}
	case "deaf":
		fmt.Fprintln(os.Stderr, become())
	}
	os.Exit(1)
}

// become runs the agent with a receiver that is there and cannot be read: a file that is no terminal.
func become() error {
	args := append([]string{agent}, os.Args[1:]...)
	file := args[len(args)-1]
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	none := filepath.Join(filepath.Dir(file), "no-receiver")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		return err
	}
	args[len(args)-1] = file + ".deaf"
	text = regexp.MustCompile(`tcp: [0-9.:]+`).ReplaceAll(text, []byte("serial: "+none))
	if err := os.WriteFile(args[len(args)-1], text, 0o600); err != nil {
		return err
	}
	return syscall.Exec(agent, args, os.Environ())
}
