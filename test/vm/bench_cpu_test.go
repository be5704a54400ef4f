package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-telematics/waybill/test/deps"
)

// paceDBC describes what test/vm/pace sends: 100 messages of eight signals in both byte orders, on vcan0 from 100h on.
// The second bus knows one message that nobody sends.
func paceDBC() string {
	var text strings.Builder
	for i := range 100 {
		fmt.Fprintf(&text, `BO_ %d Mixed%d: 8 X
 SG_ A : 0|8@1+ (1,0) [0|255] "" X
 SG_ B : 8|12@1- (0.1,-40) [-245|165] "" X
 SG_ C : 20|4@1+ (1,0) [0|15] "" X
 SG_ D : 31|10@0+ (0.25,0) [0|256] "" X
 SG_ E : 37|6@0- (1,0) [-32|31] "" X
 SG_ F : 40|1@1+ (1,0) [0|1] "" X
 SG_ G : 55|12@0+ (0.5,10) [10|2058] "" X
 SG_ H : 56|4@1- (1,0) [-8|7] "" X
`, 0x100+i, i)
	}
	return text.String()
}

const paceConfig = `
device: {id: bench-1}
data_dir: data
can:
  - {bus: can0, interface: vcan0, dbc: [pace.dbc]}
  - {bus: can1, interface: vcan1, dbc: [other.dbc]}
collect:
  signals: [{match: "*.Mixed*", sample: on_change}, {match: "*.Other.*", sample: on_change}]
`

// measured is what test/vm/pace prints.
type measured struct {
	Sent, Counted struct {
		Sent    int     `json:"sent"`
		Seconds float64 `json:"seconds"`
		Late    float64 `json:"late_ms"`
	}
	Agent, Candump struct {
		CPU    float64 `json:"cpu_s"`
		User   float64 `json:"user_s"`
		System float64 `json:"system_s"`
		Waits  float64 `json:"waits"`
		Calls  float64 `json:"calls"`
	}
	Lines    int    `json:"lines"`
	Samples  uint64 `json:"samples"`
	AgentLog string `json:"agent_log"`
}

// pace measures the agent in a guest on a bus that is sent to, as flags say. The guest is an arm64 machine whose time runs
// by its instructions, so that the same run gives the same figures however busy the host is.
func pace(b *testing.B, flags ...string) (m measured) {
	b.Helper()
	dir, utils := b.TempDir(), deps.Folder(b, "can-utils-arm64")
	files := map[string]string{
		"/bin/agent": Build(b, "arm64", "build", "./cmd/agent"), "/bin/pace": Build(b, "arm64", "build", "./test/vm/pace"),
		"/bin/candump":                     filepath.Join(utils, "usr/bin/candump"),
		"/lib/ld-linux-aarch64.so.1":       filepath.Join(utils, "lib/ld-linux-aarch64.so.1"),
		"/lib/aarch64-linux-gnu/libc.so.6": filepath.Join(utils, "lib/aarch64-linux-gnu/libc.so.6"),
	}
	for name, text := range map[string]string{"pace.dbc": paceDBC(), "agent.yaml": paceConfig,
		"other.dbc": "BO_ 2015 Other: 8 X\n SG_ A : 0|8@1+ (1,0) [0|255] \"\" X\n"} {
		files["/bench/"+name] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	r := Emulate(b, "arm64", Job{
		Command: append([]string{"/bin/pace", "-agent", "/bin/agent"}, flags...), Dir: "/bench", Timeout: 5 * time.Minute, Steady: true,
	}, files)
	line := regexp.MustCompile(`(?m)^{"sent":.*}$`).FindString(r.Output)
	if err := json.Unmarshal([]byte(line), &m); r.Exit != 0 || err != nil {
		b.Fatalf("exit code %d, %v; the guest said:\n%s", r.Exit, err, r.Output)
	}
	b.Logf("sent %+v, %+v; agent %+v; candump %+v; boot %v, in all %v\n%s", m.Sent, m.Counted, m.Agent, m.Candump, r.Boot, r.Total, m.AgentLog)
	return m
}

// The equal counts without which nothing can be compared: what was sent, what the agent read, what candump wrote.
func (m *measured) check(b *testing.B, everySignal bool) {
	b.Helper()
	sent := m.Sent.Sent + m.Counted.Sent
	bus := regexp.MustCompile(`msg="bus closed" bus=can0 frames=(\d+) unchanged=(\d+) drops=0 `).FindStringSubmatch(m.AgentLog)
	if bus == nil || bus[1] != strconv.Itoa(sent) || m.Lines != sent {
		b.Fatalf("%d frames were sent, candump wrote %d lines, the agent says %q", sent, m.Lines, bus)
	}
	if everySignal && m.Samples != 8*uint64(sent) {
		b.Fatalf("%d samples in the queue of %d frames with 8 changes each", m.Samples, sent)
	}
}

// CPU of the whole agent on a full bus of 500 kbit/s, from the socket to its queue, beside `candump -L` writing the same
// frames to a file at the same time. Both files are in memory: a disk's time is neither's CPU. Every ratio is agent /
// candump.
func BenchmarkAgentBesideCandump(b *testing.B) {
	for _, mix := range []string{"as-a-car", "all-change"} {
		b.Run(mix, func(b *testing.B) {
			for b.Loop() {
				all := mix == "all-change"
				m := pace(b, "-candump", "/bin/candump", "-seconds", "4", fmt.Sprintf("-all=%t", all))
				m.check(b, all)
				b.ReportMetric(m.Agent.CPU/m.Candump.CPU, "x-candump")
				b.ReportMetric(m.Agent.User/m.Candump.User, "x-candump-user")
				b.ReportMetric(m.Agent.Calls/m.Candump.Calls, "x-candump-calls")
				b.ReportMetric(m.Agent.Waits/m.Sent.Seconds, "waits/s")
				b.ReportMetric(m.Agent.Calls/m.Counted.Seconds, "calls/s")
				b.ReportMetric(1e6*m.Agent.CPU/float64(m.Sent.Sent), "µs/frame")
				b.ReportMetric(float64(m.Sent.Sent)/m.Sent.Seconds, "frames/s")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// CPU of the agent on a full bus with a second bus beside it, of which nothing that comes is subscribed: silent, then
// full as well.
func BenchmarkAgentUnsubscribedBus(b *testing.B) {
	for b.Loop() {
		silent, full := pace(b, "-seconds", "4"), pace(b, "-seconds", "4", "-second", "vcan1")
		b.ReportMetric(full.Agent.CPU/silent.Agent.CPU, "x-silent")
		b.ReportMetric(full.Agent.Waits/silent.Agent.Waits, "x-silent-waits")
		b.ReportMetric(0, "ns/op")
	}
}
