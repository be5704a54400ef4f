package buffertest

import (
	"errors"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
)

func TestMemory(t *testing.T) {
	Suite(t, Disks{New: func(t *testing.T, maxBytes int64) Place {
		d := NewDisk(0x1234, maxBytes)
		return Place{Open: func() (Queue, error) { return d.Open() }, Crash: d.Crash}
	}})
}

func TestDiskFailure(t *testing.T) {
	d := NewDisk(1, 0)
	q, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no space")
	d.Fail(broken)
	r := Batch(buffer.Event, q.Reserve(buffer.Event), 10)
	if err := q.Commit([]buffer.Record{r}, nil); !errors.Is(err, broken) {
		t.Errorf("Commit on a failing disk: %v", err)
	}
	d.Fail(nil)
	if err := q.Commit([]buffer.Record{r}, nil); err != nil {
		t.Errorf("Commit after it healed: %v", err)
	}
	wantSeqs(t, "after it healed", Drain(t, q, buffer.Event, 0), 1)
}
