package cloudtest

import (
	"fmt"
	"testing"
	"time"
)

// recorder is a test that only writes down how it failed.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Errorf(format string, args ...any) { r.said += fmt.Sprintf(format, args...) }

// A process that ends by itself is not taken for one that runs, and killing it is not taken for its end.
func TestEndedByItself(t *testing.T) {
	r := &recorder{TB: t}
	p := &Process{Name: "one", program: "/bin/sh", args: []string{"-c", "exit 3"}, dir: t.TempDir(), t: r}
	p.Start()
	for deadline := time.Now().Add(10 * time.Second); p.Running(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it runs")
		}
	}
	p.Kill()
	if want := "one has ended by itself: exit status 3"; r.said != want {
		t.Errorf("it said %q, want %q", r.said, want)
	}
	p.args = []string{"-c", "sleep 60"}
	p.Start()
	if p.Kill(); r.said != "one has ended by itself: exit status 3" {
		t.Errorf("of one that ran it said %q", r.said)
	}
}
