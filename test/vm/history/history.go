package history

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/waybill-telematics/waybill/buffer"
)

// History is what an agent's queue has promised so far. It is not safe for use from several goroutines.
type History struct {
	CommitEvery time.Duration // of the agent
	Slack       time.Duration // what a commit under way, and a busy machine, may take beyond that
	Aside       bool          // states are looked at and thrown away: what they hold is no promise

	epoch   uint64
	sealed  map[Name]int    // confirmed batches and their samples
	open    map[Name]int    // confirmed samples of batches that were not sealed when they were confirmed
	sums    map[Name]string // of the bytes that a name was seen with, ever
	life    life
	booted  string // the boot that goes on once its predecessor's queue was judged
	Commits int    // confirmed, in all
	Gaps    []time.Duration
}

// life is what is known of the agent that runs, or ran until the cut.
type life struct {
	boot      string
	beat      int64 // CLOCK_BOOTTIME ns: frames came until then
	telemetry bool  // some of its telemetry was confirmed
}

var (
	committed = regexp.MustCompile(`msg=committed kind=(batch|journal) lane=(\w+) seq=(\d+) samples=\d+ total=(\d+)`)
	booted    = regexp.MustCompile(`^life boot=([0-9a-f]{32})$`)
	beaten    = regexp.MustCompile(`^life beat=(\d+)$`)
)

// Hear takes in a line of the guest's console. A line that was cut off must not be given.
func (h *History) Hear(line string) {
	if h.sealed == nil {
		h.sealed, h.open, h.sums = map[Name]int{}, map[Name]int{}, map[Name]string{}
	}
	if m := booted.FindStringSubmatch(line); m != nil {
		h.booted = m[1]
	}
	judged := h.booted == h.life.boot // else this life was cut before its disk had been looked at
	if m := beaten.FindStringSubmatch(line); m != nil && judged {
		h.life.beat, _ = strconv.ParseInt(m[1], 10, 64)
	}
	m := committed.FindStringSubmatch(line)
	if m == nil {
		return
	}
	name := Name{Lane: laneOf(m[2])}
	name.Seq, _ = strconv.ParseUint(m[3], 10, 64)
	total, _ := strconv.Atoi(m[4])
	h.Commits++
	if m[1] == "batch" {
		h.sealed[name] = total
	} else {
		h.open[name] = max(h.open[name], total)
		// A batch may be one that was sealed of what the life before had left.
		h.life.telemetry = h.life.telemetry || judged && name.Lane == buffer.Telemetry
	}
}

func laneOf(name string) buffer.Lane {
	for _, l := range buffer.Lanes() {
		if l.String() == name {
			return l
		}
	}
	return 0
}

// Judge says which promises a queue breaks that is looked at after a cut, before the next life of the agent begins. What
// it holds is promised from then on.
func (h *History) Judge(s *State) (broken []string) {
	say := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	h.Hear("")
	for _, d := range s.Damage {
		say("damage: %s", d)
	}
	if h.epoch == 0 {
		h.epoch = s.Epoch // 0 as long as there is no queue
	}
	if s.Epoch != h.epoch {
		say("epoch %x, it was %x", s.Epoch, h.epoch)
	}
	there, journal := map[Name]*Batch{}, map[Name]int{}
	newest := int64(0)
	type place struct {
		count uint32
		first int64
	}
	last := map[buffer.Lane]place{}
	for i := range s.Batches {
		b := &s.Batches[i]
		there[b.Name] = b
		if sum, ok := h.sums[b.Name]; ok && sum != b.Sum {
			say("%v has other bytes than before", b.Name)
		}
		h.sums[b.Name] = b.Sum
		if b.Boot == h.life.boot && b.Lane == buffer.Telemetry {
			newest = max(newest, b.Last)
		}
		if b.Copy || b.Lane == buffer.Control {
			continue
		}
		// Order: a lane's batches are in the order in which their samples came. A sample's time is up to a second before that (a
		// receiver's epoch, a value that was held back), so a short batch may begin a little after the one behind it.
		const late = int64(time.Second)
		if at := (place{b.Count, b.First}); at.count < last[b.Lane].count || at.count == last[b.Lane].count && at.first < last[b.Lane].first-late {
			say("%v (boot %d, from %d ns) is older than the batch before it (boot %d, from %d ns)", b.Name, at.count, at.first, last[b.Lane].count, last[b.Lane].first)
		} else {
			last[b.Lane] = at
		}
	}
	for _, o := range s.Journal {
		journal[o.Name] = o.Samples
		if there[o.Name] != nil {
			say("%v is sealed and in the journal", o.Name)
		}
		if o.Boot == h.life.boot && o.Lane == buffer.Telemetry {
			newest = max(newest, o.Last)
		}
	}
	lost := map[Name]bool{}
	for _, l := range s.Lost {
		for seq := l.First; seq <= l.Last; seq++ {
			name := Name{l.Lane, seq}
			if lost[name] {
				say("%v is recorded as lost twice", name)
			}
			lost[name] = true
			if there[name] != nil {
				say("%v is recorded as lost, and there", name)
			}
		}
	}
	highest := map[buffer.Lane]uint64{}
	for name, samples := range h.sealed {
		if b := there[name]; b == nil && !lost[name] {
			say("confirmed batch %v is gone", name)
		} else if b != nil && b.Samples < samples {
			say("batch %v has %d samples, confirmed were %d", name, b.Samples, samples)
		}
		highest[name.Lane] = max(highest[name.Lane], name.Seq)
	}
	for name, samples := range h.open {
		// What did not fit when the batch was sealed begins the next one, in the same commit.
		next := Name{name.Lane, name.Seq + 1}
		has := count(there[name], journal[name])
		if has < samples && there[name] != nil {
			has += count(there[next], journal[next])
		}
		if has < samples && !lost[name] && !lost[next] {
			say("%v has %d samples, confirmed in the journal were %d", name, has, samples)
		}
		highest[name.Lane] = max(highest[name.Lane], name.Seq)
	}
	for name := range lost {
		if there[name] == nil && !h.Aside {
			delete(h.sealed, name)
			delete(h.open, name)
		}
		highest[name.Lane] = max(highest[name.Lane], name.Seq)
	}
	for l, seq := range highest {
		if s.Next[l] <= seq {
			say("%s: %d is given next, %d is in use", l, s.Next[l], seq)
		}
	}
	if h.life.telemetry {
		gap := time.Duration(h.life.beat - newest)
		h.Gaps = append(h.Gaps, gap)
		if gap > h.CommitEvery+h.Slack {
			say("what came in the last %v before the cut is lost, commit_every is %v", gap, h.CommitEvery)
		}
	}
	if h.Aside {
		return broken
	}
	for name, b := range there {
		h.sealed[name] = b.Samples
		delete(h.open, name)
	}
	for name, samples := range journal {
		h.open[name] = samples
	}
	h.life = life{boot: h.booted}
	return broken
}

// count is the samples of a batch, or of what the journal has of it.
func count(b *Batch, journal int) int {
	if b != nil {
		return b.Samples
	}
	return journal
}

// Held says how many batches and open ones are promised now.
func (h *History) Held() int { return len(h.sealed) + len(h.open) }
