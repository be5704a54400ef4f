// Command pace sends frames to a CAN interface at the pace of a full bus, for measurements in a guest of package vm, and
// measures meanwhile what the agent and candump take of the processor. It prints the outcome as one line of JSON.
//
// At 500 kbit/s a frame of 8 bytes takes 222 to 270 µs (ISO 11898-1, stuff bits), 4,000 frames a second are a full bus.
// A sleep that short is not kept by every kernel, so four frames go out together each millisecond, by a schedule that
// runs from the start: what comes late does not move the rest.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/waybill-telematics/waybill/can"
)

// Messages have identifiers from base on; message i is sent as the i-th of each round.
const messages = 100

// lowBits are the lowest bits of the eight signals of a message (bench_cpu_test.go has its DBC file), in a payload that is
// read as a little-endian number: where they flip, every signal changes.
const lowBits = 1<<0 | 1<<8 | 1<<20 | 1<<38 | 1<<32 | 1<<40 | 1<<60 | 1<<56

type summary struct {
	Sent    int     `json:"sent"`
	Seconds float64 `json:"seconds"`
	Late    float64 `json:"late_ms"` // the most that a frame was behind its time
}

// options are the flags.
type options struct {
	name, second           string
	base                   uint
	rate                   int
	seconds                float64
	all                    bool
	agent, config, candump string
}

func main() {
	var o options
	flag.StringVar(&o.name, "interface", "vcan0", "where to send")
	flag.StringVar(&o.second, "second", "", "send at the same rate to this interface too, from identifier 300h on")
	flag.UintVar(&o.base, "base", 0x100, "identifier of the first message")
	flag.IntVar(&o.rate, "rate", 4000, "frames a second, a multiple of 1000")
	flag.Float64Var(&o.seconds, "seconds", 10, "how long")
	flag.BoolVar(&o.all, "all", false, "every signal changes in every frame; else as in a real car")
	flag.StringVar(&o.agent, "agent", "", "measure this agent meanwhile")
	flag.StringVar(&o.config, "config", "agent.yaml", "its configuration")
	flag.StringVar(&o.candump, "candump", "", "measure this candump beside it")
	flag.Parse()
	var answer any
	var err error
	if o.agent != "" {
		answer, err = measure(&o)
	} else {
		answer, err = sendAll(&o, o.seconds)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pace:", err)
		os.Exit(1)
	}
}

func send(name string, base uint32, rate int, seconds float64, all bool) (s summary, err error) {
	w, err := can.NewWriter(name)
	if err != nil {
		return s, err
	}
	defer w.Close()
	var payloads [messages]uint64
	random := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	f := can.Frame{Len: 8}
	for tick := range int(seconds * 1000) {
		due := began.Add(time.Duration(tick) * time.Millisecond)
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		for range rate / 1000 {
			i := s.Sent % messages
			payloads[i] ^= change(random, all)
			f.ID = base + uint32(i)
			binary.LittleEndian.PutUint64(f.Data[:], payloads[i])
			if err := w.Send(context.Background(), &f); err != nil {
				return s, err
			}
			s.Sent++
		}
		s.Late = max(s.Late, float64(time.Since(due))/1e6)
	}
	s.Seconds = time.Since(began).Seconds()
	return s, nil
}

// change is what differs from the payload before. In a real car (12,974 frames of 180 identifiers, measured) 38 % of the
// frames repeat the one before, and the others differ from it in 2.4 of 8 bytes: here 40 %, and one byte in three.
func change(random *rand.Rand, all bool) uint64 {
	if all {
		return random.Uint64() | lowBits
	}
	if random.IntN(5) < 2 {
		return 0
	}
	var x uint64
	for b := range 8 {
		if random.IntN(3) == 0 {
			x |= uint64(random.IntN(255)+1) << (8 * b)
		}
	}
	return x
}
