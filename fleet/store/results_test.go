package store

import (
	"context"
	"path/filepath"
	"testing"

	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// TestTheResultThatSaysMostStands: whatever the order in which results of one id come.
func TestTheResultThatSaysMostStands(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "a.db"))
	order := []struct {
		state   string
		percent uint32
	}{{"refused", 0}, {"accepted", 0}, {"running", 10}, {"running", 60}, {"done", 100}}
	put := func(id string, list ...int) {
		if err := s.Update(context.Background(), func(tx Tx) error {
			d, err := tx.Device("acme", "car-1", now)
			for _, i := range list {
				if err == nil {
					err = tx.PutResult(d, &telemetrypb.CommandResult{Id: id, Name: "act", State: order[i].state, Percent: order[i].percent,
						BootId: make([]byte, 16), KeyId: []byte{0xAB}, Counter: 7}, now)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(id string, i int) {
		t.Helper()
		list, err := s.Results(context.Background(), "car-1", id)
		if err != nil || len(list) != 1 || list[0].State != order[i].state || list[0].Percent != int64(order[i].percent) || list[0].Key != "ab" || list[0].Counter != 7 || len(list[0].BootID) != 32 {
			t.Errorf("%s: %+v, want %v: %v", id, list, order[i], err)
		}
	}
	put("forwards", 0, 1, 2, 3, 4)
	want("forwards", 4)
	put("backwards", 4, 3, 2, 1, 0)
	want("backwards", 4)
	put("late progress", 3, 2)
	want("late progress", 3)
	put("a copy that is refused later", 1, 0)
	want("a copy that is refused later", 1)
	put("refused, and then taken", 0, 1)
	want("refused, and then taken", 1)
	if list, err := s.Results(context.Background(), "", ""); err != nil || len(list) != 5 {
		t.Errorf("%d results: %v", len(list), err)
	}
	if list, err := s.Results(context.Background(), "car-2", ""); err != nil || len(list) != 0 {
		t.Errorf("another vehicle has %d results: %v", len(list), err)
	}
}
