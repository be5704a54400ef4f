package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
)

func line(kind, lane string, seq, total int) string {
	return fmt.Sprintf("time=x level=DEBUG msg=committed kind=%s lane=%s seq=%d samples=1 total=%d last=5", kind, lane, seq, total)
}

// sound is a queue that keeps what lived promises.
func sound() *State {
	name := func(seq uint64) Name { return Name{buffer.Telemetry, seq} }
	return &State{
		Epoch: 7, Next: map[buffer.Lane]uint64{buffer.Telemetry: 6, buffer.Control: 2},
		Batches: []Batch{
			{Name: Name{buffer.Control, 1}, Samples: 1, Sum: "c"},
			{Name: name(2), Samples: 10, Boot: strings.Repeat("a", 32), Count: 1, First: 100, Last: 200, Sum: "2"},
			{Name: name(3), Samples: 8, Boot: strings.Repeat("a", 32), Count: 1, First: 300, Last: 400, Sum: "3"},
		},
		Journal: []Open{{Name: name(4), Samples: 7, Boot: strings.Repeat("a", 32), Last: 1e9}},
		Lost:    []Lost{{buffer.Telemetry, 1, 1}},
	}
}

func lived() *History {
	h := &History{CommitEvery: 200 * time.Millisecond, Slack: time.Second}
	for _, l := range []string{
		"life boot=" + strings.Repeat("a", 32), line("batch", "telemetry", 1, 9),
	} {
		h.Hear(l)
	}
	first := &State{Epoch: 7, Next: map[buffer.Lane]uint64{buffer.Telemetry: 3}, Batches: []Batch{
		{Name: Name{buffer.Telemetry, 1}, Samples: 9, Sum: "1"}, {Name: Name{buffer.Telemetry, 2}, Samples: 10, Sum: "2"},
	}}
	if broken := h.Judge(first); len(broken) > 0 {
		panic(fmt.Sprint(broken))
	}
	for _, l := range []string{
		line("journal", "telemetry", 3, 10), line("batch", "telemetry", 3, 8), line("journal", "telemetry", 4, 5), "life beat=1500000000",
	} {
		h.Hear(l)
	}
	return h
}

// TestJudge: each way to break a promise is seen, and a queue that keeps them all breaks none.
func TestJudge(t *testing.T) {
	for want, change := range map[string]func(s *State){
		"":                            func(*State) {},
		"damage: x":                   func(s *State) { s.Damage = []string{"x"} },
		"epoch 8, it was 7":           func(s *State) { s.Epoch = 8 },
		"telemetry 2 has other bytes": func(s *State) { s.Batches[1].Sum = "x" },
		"telemetry 3 (boot 1, from -2000000000 ns) is older": func(s *State) { s.Batches[2].First = -2e9 },
		"telemetry 4 is sealed and in the":                   func(s *State) { b := s.Batches[2]; b.Seq = 4; s.Batches = append(s.Batches, b) },
		"recorded as lost twice":                             func(s *State) { s.Lost = append(s.Lost, s.Lost[0]) },
		"recorded as lost, and there":                        func(s *State) { s.Lost[0].Last = 2 },
		"confirmed batch telemetry 1 is":                     func(s *State) { s.Lost = nil },
		"confirmed batch telemetry 3 is":                     func(s *State) { s.Batches = s.Batches[:2] },
		"batch telemetry 3 has 7 samples":                    func(s *State) { s.Batches[2].Samples = 7 },
		"telemetry 3 has 9 samples":                          func(s *State) { s.Journal[0].Samples = 1 },
		"telemetry 4 has 4 samples":                          func(s *State) { s.Journal[0].Samples = 4 },
		"telemetry 4 has 0 samples":                          func(s *State) { s.Journal = nil },
		"4 is given next, 4 is in use":                       func(s *State) { s.Next[buffer.Telemetry] = 4 },
		"the last 1.4s before the cut":                       func(s *State) { s.Journal[0].Last = 1e8 },
	} {
		s := sound()
		change(s)
		broken := strings.Join(lived().Judge(s), "; ")
		if !strings.Contains(broken, want) || want == "" && broken != "" {
			t.Errorf("%q: %q", want, broken)
		}
	}
}
