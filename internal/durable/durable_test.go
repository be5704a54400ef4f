package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path+".new", []byte("left over, and longer than what comes"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "", "another"} {
		if err := Write(path, []byte(text), 0o604); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if data, readErr := os.ReadFile(path); err != nil || readErr != nil || string(data) != text || info.Mode().Perm() != 0o604 {
			t.Errorf("%q, %v, %v, %v; want %q", data, info.Mode(), err, readErr, text)
		}
		if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
			t.Error("what is beside stays:", err)
		}
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "none", "state"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	path := filepath.Join(dir, "folder")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Error(entries, err)
	}
}
