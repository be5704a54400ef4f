//go:build system

package chaos

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// sideBySide is how many cases run at once: each waits for the timers that vehicles have, and hardly works.
const sideBySide = 6

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(sideBySide)); err != nil { // -parallel has the last word
		panic(err)
	}
	os.Exit(m.Run())
}
