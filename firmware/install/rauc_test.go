package install

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// What comes over the bus is of whatever types it likes.
func TestRAUCProgress(t *testing.T) {
	progress := func(v any) []any {
		return []any{raucInterface, map[string]dbus.Variant{"Progress": dbus.MakeVariant(v)}, []string{}}
	}
	type p struct {
		A int32
		B string
		C int32
	}
	for i, test := range []struct {
		body    []any
		percent int
		text    string
		ok      bool
	}{
		{progress([]any{int32(40), "Copying", int32(2)}), 40, "Copying", true},
		{progress([]any{int32(-1), "a\nb", int32(2)}), 0, "a b", true},
		{progress([]any{int32(1 << 30), "x", int32(2)}), 100, "x", true},
		{progress([]any{"40", "Copying", int32(2)}), 0, "Copying", false},
		{progress([]any{int32(40)}), 0, "", false},
		{progress(p{40, "Copying", 2}), 0, "", false}, // a decoded structure is a list
		{progress("x"), 0, "", false},
		{[]any{raucInterface, map[string]dbus.Variant{}, []string{}}, 0, "", false},
		{[]any{raucInterface, "x", []string{}}, 0, "", false},
		{[]any{"other.Interface", map[string]dbus.Variant{}, []string{}}, 0, "", false},
		{[]any{7}, 0, "", false},
		{nil, 0, "", false},
	} {
		percent, text, ok := raucProgress(test.body)
		if ok != test.ok || ok && (percent != test.percent || text != test.text) {
			t.Errorf("%d: %d %q %t", i, percent, text, ok)
		}
	}
}

// A bus that takes the connection and says nothing does not hang the agent.
func TestRAUCSilentBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := NewRAUC(RAUCOptions{Address: "unix:path=" + path, Call: 50 * time.Millisecond})
	if err := r.MarkGood(t.Context()); !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r.o.Call = time.Hour
	if err := r.Install(ctx, picture(t, "x"), nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if _, err := NewRAUC(RAUCOptions{Address: "unix:path=" + path + "none"}).Status(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no bus: %v", err)
	}
}
