package scale

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

var update = flag.Bool("update", false, "write the tables into docs/SCALE.md")

// TestTables: the document's tables are those of the arithmetic.
func TestTables(t *testing.T) {
	file := filepath.Join(deps.Root(t), "docs", "SCALE.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	document := string(text)
	for name, table := range Tables() {
		before, rest, found := strings.Cut(document, "<!-- test/scale "+name+" -->\n")
		have, after, ends := strings.Cut(rest, "<!-- end -->")
		if !found || !ends {
			t.Fatalf("docs/SCALE.md has no table %q", name)
		}
		if have != table && !*update {
			t.Errorf("docs/SCALE.md, %s:\n%swant, by go test ./test/scale -update:\n%s", name, have, table)
		}
		document = before + "<!-- test/scale " + name + " -->\n" + table + "<!-- end -->" + after
	}
	if *update {
		if err := os.WriteFile(file, []byte(document), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestByHand: a typical vehicle, computed on paper.
func TestByHand(t *testing.T) {
	m, p := Figures()
	v := Vehicles()[1]
	o, f, d := v.Month(m), v.Fleet(1e5, m), v.Money(1e5, m, p)
	for name, c := range map[string]struct{ got, want float64 }{
		"samples a month: 100 × 1.5 × 3,600 × 30":              {o.Samples, 16.2e6},
		"batches a month: 162,000 s ÷ 5 s":                     {o.Batches, 32_400},
		"over the air: 16.2 M × 1.1 + 32,400 × 300":            {o.Wire, 27.54e6},
		"in PostgreSQL: 16.2 M × 110":                          {o.Hot, 1.782e9},
		"peak: 100,000 × 0.2 × 100":                            {f.Peak, 2e6},
		"mean: 100,000 × 100 × 1.5 ÷ 24":                       {f.Mean, 625_000},
		"messages: 20,000 ÷ 5 + 20,000 ÷ 60":                   {f.Messages, 4333.3333},
		"Kafka's disks: 100,000 × 17.82 MB × 7 ÷ 30 × 3":       {f.KafkaDisk, 1.2474e12},
		"partitions: 3.9 cores, twice, in dozens":              {float64(f.Partitions), 12},
		"PostgreSQL's disks in dollars: 1.782 GB × 2 × $ 0.10": {d.Hot, 0.3564},
	} {
		if math.Abs(c.got-c.want) > 1e-6*c.want {
			t.Errorf("%s is %v, want %v", name, c.got, c.want)
		}
	}
}
