package main

import "testing"

// Sizes have the units of IEC 80000-13 and SI, up to those that the bounds are said in.
func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"": 7, "5": 5, "5B": 5, "1.5 KiB": 1536, "2kB": 2000, "3MiB": 3 << 20, "3MB": 3e6, "1GiB": 1 << 30, "1GB": 1e9,
		"1TiB": 1 << 40, "0.5TB": 5e11} {
		c := &checker{}
		if got := c.size(text, 7, 0, 1<<40); got != want || len(c.list) > 0 {
			t.Errorf("%q: %d, %v, want %d", text, got, c.list, want)
		}
	}
}
