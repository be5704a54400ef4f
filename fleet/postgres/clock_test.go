package postgres

import (
	"context"
	"errors"
	"testing"

	"github.com/waybill-telematics/waybill/fleet/store"
	"github.com/waybill-telematics/waybill/fleet/store/storetest"
	telemetrypb "github.com/waybill-telematics/waybill/proto"
)

// A transaction reads a boot's clock record once, and sees what it put itself; one that was rolled back leaves nothing behind.
func TestClockWithinATransaction(t *testing.T) {
	s := open(t, fresh(t, quick(t)), options())
	boot := [16]byte{7}
	revision := func(tx store.Tx, device int64) uint32 {
		t.Helper()
		c, err := tx.Clock(device, boot)
		if err != nil {
			t.Fatal(err)
		}
		return c.GetRevision()
	}
	put := func(tx store.Tx, device int64, n uint32) {
		t.Helper()
		if err := tx.PutClock(device, &telemetrypb.ClockRecord{BootId: boot[:], Revision: n}, storetest.Now); err != nil {
			t.Fatal(err)
		}
	}
	update := func(f func(store.Tx, int64) error) error {
		t.Helper()
		return s.Update(context.Background(), func(tx store.Tx) error {
			device, err := tx.Device("acme", "car-1", storetest.Now)
			if err != nil {
				return err
			}
			return f(tx, device)
		})
	}
	broken := errors.New("broken off")
	if err := update(func(tx store.Tx, device int64) error {
		if n := revision(tx, device); n != 0 {
			t.Errorf("revision %d of a boot that nobody spoke of", n)
		}
		put(tx, device, 1)
		if n := revision(tx, device); n != 1 {
			t.Errorf("revision %d, want the one that was put", n)
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	for want := range uint32(3) {
		if err := update(func(tx store.Tx, device int64) error {
			if n := revision(tx, device); n != want {
				t.Errorf("revision %d, want %d", n, want)
			}
			put(tx, device, want+1)
			if n := revision(tx, device); n != want+1 {
				t.Errorf("revision %d, want %d", n, want+1)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
