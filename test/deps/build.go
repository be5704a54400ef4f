package deps

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Go returns a go command that runs in the repository's root, and whose outcome depends on all sources: see [Watch].
func Go(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	Watch(t)
	cmd := exec.Command("go", args...)
	cmd.Dir = Root(t)
	return cmd
}

// Watch makes a test that runs programs of this repository depend on their sources. The go command repeats an earlier
// result while the files that a test itself opened are the same, and does not know what a child of it was built from: so
// every folder of sources is opened here, and a change anywhere has the test run again.
func Watch(t testing.TB) {
	t.Helper()
	root := Root(t)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
