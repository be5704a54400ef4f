package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/waybill-telematics/waybill/buffer"
	"github.com/waybill-telematics/waybill/pipeline"
)

func TestTheDiskAlarmSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err  error
		what string
	}{
		{fmt.Errorf("commit: %w", syscall.ENOSPC), "the disk is full"},
		{fmt.Errorf("commit: %w", syscall.EDQUOT), "the disk is full"},
		{fmt.Errorf("commit: %w", &os.PathError{Op: "open", Path: "meta", Err: syscall.EROFS}), "the file system is read-only"},
		{fmt.Errorf("commit: %w", syscall.EIO), "the disk fails"},
		{fmt.Errorf("making room: %w", buffer.ErrFull), "the queue has no room"},
		{fmt.Errorf("commit: %w", syscall.EACCES), "the queue cannot be written"},
	} {
		text := diskAlarm(c.err, "/data/queue", pipeline.Depth{Batches: 3, Bytes: 4711})
		if !strings.HasPrefix(text, c.what+": "+c.err.Error()) || !strings.Contains(text, "3 sealed batches, 4711 bytes") {
			t.Errorf("%v: %s", c.err, text)
		}
	}
}

// The number of a boot that could not be written, the folder missing as on a disk that was read-only, is written later.
func TestBootIsKeptWhenTheDiskTakesIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	b, warning, err := nextBoot(dir, [16]byte{1})
	if err != nil || warning == nil || !b.unsaved || b.Count != 1 {
		t.Fatalf("%+v, %v, %v", b, warning, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a := &agent{settings: &settings{DataDir: dir}, boot: b}
	a.keepBoot()
	if a.boot.unsaved {
		t.Error("it is not written")
	}
	if b, warning, err := nextBoot(dir, [16]byte{2}); b.Count != 2 || warning != nil || err != nil {
		t.Errorf("the next one is %+v, %v, %v", b, warning, err)
	}
}
