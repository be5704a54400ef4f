//go:build system

package postgres

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-telematics/waybill/fleet/store"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
	"github.com/waybill-telematics/waybill/test/deps"
)

// TestQuestions runs what docs/STORE.md says to ask, and holds the gaps to what the store itself says.
func TestQuestions(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(deps.Root(t), "docs", "STORE.md"))
	if err != nil {
		t.Fatal(err)
	}
	url := fresh(t, quick(t))
	s := open(t, url, options())
	if err := s.Update(context.Background(), func(tx store.Tx) error {
		for _, seq := range []uint64{1, 4, 5, 9} {
			if _, err := deliver(tx, "car-1", seq); err != nil {
				return err
			}
		}
		return tx.PutLoss(1, 1, 0, &telemetrypb.Loss{Epoch: 9, Lane: 3, Seqs: []*telemetrypb.SeqRange{{First: 7, Last: 7}}})
	}); err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	asked := 0
	for i, part := range strings.Split(string(text), "```sql\n") {
		question, _, _ := strings.Cut(part, "```")
		if i == 0 {
			continue
		}
		rows, err := c.Query(context.Background(), question)
		if err != nil {
			t.Fatalf("%s: %v", question, err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil {
			t.Errorf("%s: %v", question, err)
		}
		asked++
		if strings.Contains(question, "x.behind + 1 AS first") {
			if len(list) != 3 || list[0]["first"] != int64(2) || list[0]["last"] != int64(3) || list[2]["last"] != int64(8) {
				t.Errorf("gaps %v, want 2-3, 6 and 8", list)
			}
		}
	}
	if asked < 7 {
		t.Errorf("%d questions were found", asked)
	}
	gaps, err := s.Gaps(context.Background())
	if err != nil || len(gaps) != 3 {
		t.Errorf("gaps %v, %v", gaps, err)
	}
}
