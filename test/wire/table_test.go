package wire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/waybill-telematics/waybill/test/deps"
)

// table is printed as Markdown that can be read as it is.
type table struct {
	head []string
	rows [][]string
}

func (t *table) String() string {
	widths := make([]int, len(t.head))
	all := append([][]string{t.head}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	for i, row := range all {
		for column, cell := range row {
			text.WriteString("| " + cell + strings.Repeat(" ", widths[column]-utf8.RuneCountInString(cell)) + " ")
		}
		text.WriteString("|\n")
		if i == 0 {
			text.WriteString(strings.Repeat("|---", len(widths)) + "|\n")
		}
	}
	return text.String()
}

// replaceTable puts a table into docs/BENCHMARKS.md, between the comments that name it.
func replaceTable(t testing.TB, name, table string) {
	t.Helper()
	file := filepath.Join(deps.Root(t), "docs", "BENCHMARKS.md")
	text := string(readFile(t, file))
	before, rest, found := strings.Cut(text, "<!-- test/wire "+name+" -->\n")
	_, after, closed := strings.Cut(rest, "<!-- end -->")
	if !found || !closed {
		t.Fatalf("%s: no comments around the table %q", file, name)
	}
	text = before + "<!-- test/wire " + name + " -->\n" + table + "<!-- end -->" + after
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
