package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// kills in one drive.
const kills = 50

// committed is what the agent said it had committed, by lane and seq: the number of samples. A line is written after
// the commit returned, so what stands here was durable.
type committed struct {
	mu    sync.Mutex // guards what follows
	total map[string]int
	lines int
}

var committedLine = regexp.MustCompile(`msg=committed kind=(\w+) lane=(\w+) seq=(\d+) samples=\d+ total=(\d+)`)

func (c *committed) watch(line string) {
	m := committedLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	total, _ := strconv.Atoi(m[4])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	key := m[2] + "/" + m[3]
	c.total[key] = max(c.total[key], total)
}

// The agent is killed 50 times at random moments of one drive. What it said was committed is in the store, every batch
// once and whole; what is missing between two lives is what one commit interval and the commit under way can hold.
func TestAgentKilledFiftyTimes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	broker := deps.Mosquitto(t, deps.MosquittoOptions{})
	db := filepath.Join(dir, "fleet.db")
	fleet := startFleet(t, broker.URL(), db)
	f := startFeed(t, dir, 2*time.Millisecond)
	config := liveConfig(t, dir, f, broker.URL())
	said := &committed{total: map[string]int{}}

	var killed []time.Time
	for range kills {
		agent := start(t, said.watch, "agent", "run", "-c", config)
		time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
		at := time.Now()
		agent.kill()
		killed = append(killed, at)
	}
	agent := start(t, said.watch, "agent", "run", "-c", config)
	time.Sleep(2 * time.Second)
	f.end()
	time.Sleep(time.Second)
	agent.stop()
	fleet.stop()

	got := counters(t, db)
	list := wantWhole(t, db, "car-1")
	var lanes []string
	for _, lane := range list.Devices[0].Lanes {
		lanes = append(lanes, fmt.Sprintf("%s: %d batches, %d samples", lane.Lane, lane.Batches, lane.Samples))
	}

	// Every (lane, seq) that was said to be committed is there with at least that many samples.
	perBatch := map[string]int{}
	for _, r := range samples(t, db, "*") {
		perBatch[r.Lane+"/"+strconv.FormatUint(r.Seq, 10)]++
	}
	for key, n := range said.total {
		if regexp.MustCompile(`^(telemetry|event)/`).MatchString(key) && perBatch[key] < n {
			t.Errorf("batch %s: %d samples were committed, %d are in the store", key, n, perBatch[key])
		}
	}
	if said.lines < kills {
		t.Errorf("only %d commits were reported: the test saw nothing", said.lines)
	}

	// What is missing was on the bus after the last commit before a kill, or while nobody read and the FIFO was full.
	have := make(map[int]bool, len(got))
	for _, n := range got {
		have[n] = true
	}
	missing, longest := 0, time.Duration(0)
	for n := range f.count() {
		at, written := f.at(n)
		if have[n] || !written {
			continue
		}
		missing++
		age := time.Duration(-1)
		for _, k := range killed {
			if d := k.Sub(at); d >= 0 && (age < 0 || d < age) {
				age = d
			}
		}
		if age < 0 {
			t.Fatalf("frame %d is missing, and no kill came after it", n)
		}
		longest = max(longest, age)
	}
	// One interval of 200 ms and the commit under way; the rest is a loaded test machine's.
	if bound := 2 * time.Second; longest > bound {
		t.Errorf("a frame read %v before a kill is missing; one commit interval is 200ms", longest)
	}
	t.Logf("%d frames on the bus, %d in the store, %d lost in %d kills, the oldest %v before its kill; %v", f.count(), len(got), missing, kills, longest, lanes)
}
