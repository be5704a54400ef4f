package stream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// sayAgain is how long the library's word of one kind is not repeated: a broker that is away is a line for each try.
const sayAgain = 30 * time.Second

// maxTexts bounds the kinds of words that are remembered.
const maxTexts = 200

// clientLog carries the library's warnings and errors into our log, each kind once in sayAgain, with how often it was
// left out. It is safe for use from several goroutines.
type clientLog struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex // guards said
	said map[string]*word
}

type word struct {
	at   time.Time
	left int
}

func newClientLog(log *slog.Logger, now func() time.Time) *clientLog {
	return &clientLog{log: log, now: now, said: map[string]*word{}}
}

// Level is the least that the library is to say.
func (*clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log takes a word of the library.
func (l *clientLog) Log(level kgo.LogLevel, text string, pairs ...any) {
	left, ok := l.may(text)
	if !ok {
		return
	}
	to := slog.LevelWarn
	if level == kgo.LogLevelError {
		to = slog.LevelError
	}
	if left > 0 {
		pairs = append(pairs, "left_out_before", left)
	}
	l.log.Log(context.Background(), to, "Kafka client: "+text, pairs...)
}

// may says whether a text is due, and how often it was left out since it was said.
func (l *clientLog) may(text string) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	w := l.said[text]
	if w != nil && now.Sub(w.at) < sayAgain {
		w.left++
		return 0, false
	}
	if w == nil {
		if len(l.said) >= maxTexts {
			clear(l.said)
		}
		w = &word{}
		l.said[text] = w
	}
	left, w.at, w.left = w.left, now, 0
	return left, true
}
