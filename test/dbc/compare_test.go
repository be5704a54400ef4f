// Package dbc compares `waybill-agent can decode` with cantools: on public DBC files, and on files that a generator
// makes up. It holds the command to what another reader of the same file says, signal by signal.
package dbc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// vector is one line of oracle.py.
type vector struct {
	DB      int                        `json:"db"`
	Refused string                     `json:"refused"`
	ID      uint32                     `json:"id"`
	Ext     bool                       `json:"ext"`
	Msg     string                     `json:"msg"`
	Data    string                     `json:"data"`
	Sig     map[string]json.RawMessage `json:"sig"`
	Raw     map[string]json.RawMessage `json:"raw"`
}

// outcome is what a comparison came to.
type outcome struct {
	vectors int      // frames that both decoded, and alike unless the test failed
	refused []string // files that cantools does not read, with its reason
}

// compare has both decode payloads of every message of the files and fails the test where they differ.
func compare(t *testing.T, agent string, seed, payloads int, files ...string) outcome {
	t.Helper()
	byFile, result := oracle(t, seed, payloads, files...)
	for i, vectors := range byFile {
		compareFile(t, agent, files[i], vectors)
	}
	return result
}

// oracle has cantools decode payloads of every message of the files.
func oracle(t *testing.T, seed, payloads int, files ...string) ([][]vector, outcome) {
	t.Helper()
	script := filepath.Join(deps.Root(t), "test", "dbc", "testdata", "oracle.py")
	cmd := deps.Python(t, append([]string{script, fmt.Sprint(seed), fmt.Sprint(payloads)}, files...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oracle.py: %v\n%s", err, stderr.String())
	}
	byFile := make([][]vector, len(files))
	var result outcome
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var v vector
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if v.Refused != "" {
			result.refused = append(result.refused, filepath.Base(files[v.DB])+": "+v.Refused)
		} else {
			byFile[v.DB] = append(byFile[v.DB], v)
			result.vectors++
		}
	}
	return byFile, result
}

// mostDifferences is how many are told of one file.
const mostDifferences = 5

// compareFile decodes the vectors' frames as a log, in which the seconds number them.
func compareFile(t *testing.T, agent, file string, vectors []vector) {
	t.Helper()
	var log strings.Builder
	for i, v := range vectors {
		digits, fd := 3, ""
		if v.Ext {
			digits = 8
		}
		if len(v.Data) > 2*8 {
			fd = "#0"
		}
		fmt.Fprintf(&log, "(%d.000000) can0 %0*X#%s%s\n", i, digits, v.ID, fd, v.Data)
	}
	cmd := exec.Command(agent, "can", "decode", "--raw", "--dbc", file, "-")
	cmd.Stdin = strings.NewReader(log.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v\n%s", file, err, stderr.String())
		return
	}
	decoded := make([]*decodedFrame, len(vectors))
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		f := &decodedFrame{}
		if err := d.Decode(f); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		decoded[int(f.T)] = f
	}
	different := 0
	for i, v := range vectors {
		if what := v.difference(decoded[i]); what != "" {
			if different++; different <= mostDifferences {
				t.Errorf("%s: %s, id %d, data %s: %s", file, v.Msg, v.ID, v.Data, what)
			}
		}
	}
	if different > mostDifferences {
		t.Errorf("%s: %d frames of %d differ", file, different, len(vectors))
	}
}

// decodedFrame is a line of `can decode --raw`.
type decodedFrame struct {
	T       float64                    `json:"t"`
	Msg     string                     `json:"msg"`
	Signals map[string]json.RawMessage `json:"signals"`
	Raw     map[string]json.RawMessage `json:"raw"`
}

// difference tells how a decoded frame is not the vector's; "" when it is.
func (v *vector) difference(f *decodedFrame) string {
	if f == nil {
		return "not decoded"
	}
	if f.Msg != v.Msg {
		return "decoded as " + f.Msg
	}
	for _, side := range []struct {
		name      string
		got, want map[string]json.RawMessage
	}{{"raw", f.Raw, v.Raw}, {"physical", f.Signals, v.Sig}} {
		for name, want := range side.want {
			switch got, there := side.got[name]; {
			case !there:
				return name + " is active and was not decoded"
			case !sameNumber(got, want):
				return fmt.Sprintf("%s value of %s: %s, cantools says %s", side.name, name, got, want)
			}
		}
		for name := range side.got {
			if _, there := side.want[name]; !there {
				return name + " was decoded and is not active"
			}
		}
	}
	return ""
}

// sameNumber compares two numbers, or the names of those that JSON has none for. Whole numbers have to be equal digit by
// digit, since a float64 does not hold all of 64 bits; others have to be the same float64. Where a whole scale meets a
// broken offset, Python multiplies exactly and rounds once, and the agent rounds raw value and product: above 2^53 the
// last bits may differ.
func sameNumber(got, want json.RawMessage) bool {
	if bytes.Equal(got, want) {
		return true
	}
	var a, b float64
	if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil {
		return false
	}
	const exact, lastBits = 1 << 53, 0x1p-51
	large := math.Abs(b) >= exact
	if !bytes.ContainsAny(want, ".eE") {
		return a == b && !large
	}
	return a == b || large && math.Abs(a-b) <= math.Abs(b)*lastBits
}

// buildAgent builds the agent for this machine.
func buildAgent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	cmd := deps.Go(t, "build", "-o", path, "./cmd/agent")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
	}
	return path
}
