package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Every realEvery-th week has bbolt's files and SQLite in the place of memory.
const realEvery = 25

// The environment that chooses weeks: the first seed, how many, and every how many-th.
const (
	envFirst  = "WAYBILL_WEEK_FIRST"
	envWeeks  = "WAYBILL_WEEKS"
	envStride = "WAYBILL_WEEK_STRIDE" // set: this is a child, and runs them itself
)

// summary begins the line in which a child says what its weeks were made of.
const summary = "weeks: "

// begun begins the line in which a child says which seed it has begun: a panic in a goroutine says nothing of it.
const begun = "seed "

// number is an environment variable's value.
func number(t *testing.T, name string, usual uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// What a vehicle promises must hold in every week that a seed makes: P1, P2 and P3. A seed that fails is printed with
// its script, and can be run alone:
//
//	WAYBILL_WEEK_FIRST=7 WAYBILL_WEEKS=1 go test -run RandomWeeks -v ./test/sim
//
// The weeks run in processes of one processor each: with two, goroutines that are ready at the same moment go in any
// order, and a seed would not be the same week twice. (Under the race detector the runtime shuffles them on purpose.)
func TestRandomWeeks(t *testing.T) {
	usual := uint64(1000)
	switch {
	case testing.Short():
		usual = 10
	case raceEnabled:
		usual = 40 // for data races; each costs five times as much
	}
	first, weeks := number(t, envFirst, 0), number(t, envWeeks, usual)
	stride := number(t, envStride, 0)
	if stride > 0 || weeks == 1 || testing.Short() {
		liveWeeks(t, first, weeks, max(stride, 1))
		return
	}
	var mu sync.Mutex // guards sum
	var sum weekResult
	var children sync.WaitGroup
	n := uint64(runtime.GOMAXPROCS(0))
	for i := range n {
		children.Go(func() {
			r, err := child(t, first+i, (weeks+n-1-i)/n, n)
			mu.Lock()
			defer mu.Unlock()
			sum.add(r)
			if err != nil {
				t.Error(err)
			}
		})
	}
	children.Wait()
	t.Logf("%d weeks from seed %d on: %+v", weeks, first, sum)
}

// child runs weeks in a process of their own.
func child(t *testing.T, first, weeks, stride uint64) (r weekResult, err error) {
	exe, err := os.Executable()
	if err != nil {
		return r, err
	}
	c := exec.CommandContext(t.Context(), exe, "-test.run", "^TestRandomWeeks$", "-test.v", "-test.timeout", "0")
	c.Env = append(os.Environ(), fmt.Sprint(envFirst, "=", first), fmt.Sprint(envWeeks, "=", weeks), fmt.Sprint(envStride, "=", stride))
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	failed := c.Run()
	var told []string // the last of what was begun, and everything else
	for line := range strings.Lines(out.String()) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), summary); ok {
			err = json.Unmarshal([]byte(text), &r)
		}
		if n := len(told); n > 0 && strings.HasPrefix(line, begun) && strings.HasPrefix(told[n-1], begun) {
			told = told[:n-1]
		}
		told = append(told, line)
	}
	switch {
	case failed != nil:
		err = fmt.Errorf("%w\n%s", failed, strings.Join(told, ""))
	case err == nil && r.Weeks != weeks:
		err = fmt.Errorf("%d weeks were to be lived, %d were\n%s", weeks, r.Weeks, strings.Join(told, ""))
	}
	return r, err
}

// liveWeeks runs weeks in this process.
func liveWeeks(t *testing.T, first, weeks, stride uint64) {
	oneProcessor(t)
	var sum weekResult
	for i := range weeks {
		seed := first + i*stride
		fmt.Printf("%s%d\n", begun, seed)
		w := liveWeek(t, seed, soundAgent, seed%realEvery == realEvery-1)
		r, err := w.verdict()
		if err != nil || t.Failed() {
			t.Errorf("seed %d: %v\nalone: %s=%d %s=1 go test -run RandomWeeks -v ./test/sim", seed, err, envFirst, seed, envWeeks)
		}
		if t.Failed() || weeks == 1 {
			t.Logf("%s\n%+v", w, r)
		}
		if t.Failed() {
			return
		}
		sum.add(r)
	}
	text, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s%s\n", summary, text)
}

// oneProcessor makes the order in which goroutines run a matter of the program alone.
func oneProcessor(t *testing.T) {
	n := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(n) })
}
