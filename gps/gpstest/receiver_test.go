package gpstest

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestReceiverComesBackUnderItsPath(t *testing.T) {
	r, err := NewReceiver(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		line, err := os.OpenFile(r.Path(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Play(context.Background(), Step{Data: []byte("hello\n")}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		n, err := line.Read(buf)
		if err != nil || string(buf[:n]) != "hello\n" {
			t.Errorf("%q, %v", buf[:n], err)
		}
		if err := r.Play(context.Background(), Step{Wait: time.Millisecond, HangUp: true}); err != nil {
			t.Fatal(err)
		}
		if n, err := line.Read(buf); err == nil {
			t.Errorf("%d bytes from a line that is hung up", n)
		}
		if _, err := os.Stat(r.Path()); !os.IsNotExist(err) {
			t.Errorf("the path leads somewhere: %v", err)
		}
		if _, err := r.Write([]byte("x")); err == nil {
			t.Error("an unplugged receiver sends")
		}
		if err := line.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Play(context.Background(), Step{Plug: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Plug(); err == nil {
		t.Error("plugged in twice")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
