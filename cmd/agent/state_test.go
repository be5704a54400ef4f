package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBootsAreCountedByTheirID(t *testing.T) {
	dir := t.TempDir()
	next := func(id byte) (uint32, bool) {
		t.Helper()
		b, warning, err := nextBoot(dir, [16]byte{id})
		if err != nil {
			t.Fatal(err)
		}
		return b.Count, warning != nil
	}
	for i, step := range []struct {
		id    byte
		count uint32
	}{{1, 1}, {1, 1}, {2, 2}, {2, 2}, {1, 3}} {
		if got, warned := next(step.id); got != step.count || warned {
			t.Errorf("step %d: count %d, warned %v", i, got, warned)
		}
	}
	for _, damage := range []string{"", "x", "5", "5 zz", "-1 00"} {
		if err := os.WriteFile(filepath.Join(dir, bootFile), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, warned := next(9); got != 1 || !warned {
			t.Errorf("damage %q: count %d, warned %v", damage, got, warned)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
