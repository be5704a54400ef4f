package dbc

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// TestPublicFiles compares the two on the public DBC files of the recorded data and of some packages' sources, and on
// those of a folder that WAYBILL_DBC names.
func TestPublicFiles(t *testing.T) {
	t.Parallel()
	folders := []string{deps.Testdata(t, "dbc"), deps.Testdata(t, "can"), deps.Folder(t, "dbc-files")}
	if more := os.Getenv("WAYBILL_DBC"); more != "" {
		folders = append(folders, more)
	}
	var files []string
	seen := map[[sha256.Size]byte]bool{}
	for _, folder := range folders {
		for _, file := range dbcFiles(t, folder) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if hash := sha256.Sum256(text); !seen[hash] {
				seen[hash] = true
				files = append(files, file)
			}
		}
	}
	r := compare(t, buildAgent(t), 1, 5, files...)
	t.Logf("%d frames of %d files", r.vectors, len(files)-len(r.refused))
	for _, why := range r.refused {
		t.Logf("cantools does not read %s", why)
	}
	if r.vectors < 28000 || len(files)-len(r.refused) < 210 {
		t.Errorf("too little was compared")
	}
}

func dbcFiles(t *testing.T, folder string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.EqualFold(filepath.Ext(path), ".dbc") {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("%d DBC files in %s: %v", len(files), folder, err)
	}
	return files
}
