package stream

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestClientLog: a word is said at once, not again for a while, and then with how often it was left out.
func TestClientLog(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1e9, 0)
	l := newClientLog(slog.New(slog.NewTextHandler(&out, nil)), func() time.Time { return now })
	lines := func() int { return strings.Count(out.String(), "\n") }
	for range 10 {
		l.Log(kgo.LogLevelWarn, "no connection", "addr", "a")
		l.Log(kgo.LogLevelError, "no group")
	}
	if lines() != 2 || !strings.Contains(out.String(), "level=ERROR") {
		t.Fatalf("said:\n%s", out.String())
	}
	now = now.Add(sayAgain)
	l.Log(kgo.LogLevelWarn, "no connection", "addr", "b")
	if lines() != 3 || !strings.Contains(out.String(), "addr=b left_out_before=9") {
		t.Errorf("said:\n%s", out.String())
	}
	for i := range 10 * maxTexts {
		l.Log(kgo.LogLevelWarn, fmt.Sprint("another word ", i))
	}
	if len(l.said) > maxTexts {
		t.Errorf("%d words are remembered", len(l.said))
	}
}
