package can

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// vector is one frame decoded by cantools.
type vector struct {
	DB   string                     `json:"db"`
	Msg  string                     `json:"msg"`
	ID   uint32                     `json:"id"`
	Ext  bool                       `json:"ext"`
	FD   bool                       `json:"fd"`
	Data string                     `json:"data"`
	Sig  map[string]json.RawMessage `json:"sig"`
	Raw  map[string]json.RawMessage `json:"raw"`
}

// dbcFiles are all DBC files of the collection, by their path in the vectors.
func dbcFiles(t testing.TB) map[string]string {
	t.Helper()
	root := deps.Testdata(t, "dbc")
	files := map[string]string{}
	for _, pattern := range []string{"*/*.dbc", "*/*.DBC"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			name, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.ToSlash(name)] = f
		}
	}
	if len(files) < 90 {
		t.Fatalf("only %d DBC files below %s", len(files), root)
	}
	return files
}
