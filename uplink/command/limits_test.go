package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRefusalsAreBounded(t *testing.T) {
	c := running(t)
	for range 50 {
		b := c.body("act", nil)
		b.Device = "car-2"
		c.r.Offer(c.sign(b))
		for len(c.r.inbox) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	c.end()
	n := 0
	for len(c.events) > 0 {
		<-c.events
		n++
	}
	if n != refuseBurst {
		t.Errorf("%d answers to 50 refused commands, want %d", n, refuseBurst)
	}
}

func TestTheLedgerIsBounded(t *testing.T) {
	c := running(t)
	var old []byte
	for i := range 3 * keptEntries {
		c.clock.add(3 * time.Second)
		b := c.body("act", nil)
		b.ExpiresUnixNs += int64(time.Hour)
		if i == 0 {
			old = c.sign(b)
		}
		c.r.Offer(c.sign(b))
		c.want("many", b.GetId(), Done, "")
	}
	c.end()
	data, err := os.ReadFile(filepath.Join(c.dir, ledgerFile))
	if err != nil || strings.Count(string(data), `"digest"`)+strings.Count(string(data), `"sha256"`) != keptEntries {
		t.Errorf("%d entries, want %d", strings.Count(string(data), `"sha256"`), keptEntries)
	}
	c.drainRan()
	c.start()
	c.r.Offer(old)
	c.want("forgotten, and not run again", "id-102", Refused, ReasonCounter)
	c.idle("forgotten")
}

func TestTextsAreBounded(t *testing.T) {
	for _, one := range []struct {
		in   string
		most int
		want string
	}{{"abc", 3, "abc"}, {"abcdef", 5, "ab…"}, {"ab\xffc", 9, "ab\uFFFDc"}, {"ääää", 6, "ä…"}, {"äääää", 8, "ää…"}} {
		if got := cut(one.in, one.most); got != one.want || len(got) > one.most {
			t.Errorf("cut(%q, %d) = %q, want %q", one.in, one.most, got, one.want)
		}
	}
}
