package buffer_test

import (
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
)

// TestNoNewNumber: a source of randomness that gives one number for ever is an error, not a start that never ends.
func TestNoNewNumber(t *testing.T) {
	dir := t.TempDir()
	o := buffer.Options{Rand: strings.NewReader("12345678")}
	q, err := buffer.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	o.Rand, o.NewEpoch = strings.NewReader(strings.Repeat("12345678", 100)), "wanted"
	if _, err := buffer.Open(dir, o); err == nil || !strings.Contains(err.Error(), "randomness") {
		t.Errorf("opened: %v", err)
	}
	o.Rand = strings.NewReader("1234567812345679")
	if q, err = buffer.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}
