package alarm

import (
	"bytes"
	"log/slog"
	"testing"
)

func TestAlarmIsRaisedOnceAndClearedOnce(t *testing.T) {
	var text bytes.Buffer
	now := int64(10)
	b := NewBoard(func() int64 { now++; return now }, slog.New(slog.NewTextHandler(&text, nil)))
	var seen []Alarm
	b.Watch(func(a Alarm) { seen = append(seen, a) })
	b.Clear("queue.disk")
	b.Raise("queue.disk", "no room")
	b.Raise("queue.disk", "no room at all")
	b.Raise("gps.silent", "unplugged")
	if s := b.Standing(); len(s) != 2 || s[0].Name != "gps.silent" || s[1].Text != "no room at all" || s[1].Since != 11 {
		t.Errorf("standing %v", s)
	}
	b.Clear("queue.disk")
	b.Clear("queue.disk")
	b.Raise("queue.disk", "again")
	if len(seen) != 4 || seen[2].Raised || !seen[3].Raised || seen[3].Times != 2 {
		t.Errorf("seen %v", seen)
	}
	if n := bytes.Count(text.Bytes(), []byte("alarm raised")); n != 3 {
		t.Errorf("%d log lines of raises", n)
	}
}
