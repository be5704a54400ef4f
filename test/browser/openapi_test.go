//go:build system

package browser

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-telematics/waybill/test/deps"
)

// The API's document is a right OpenAPI 3.1 document by a validator that is not ours; that it tells the truth is fleet/api's own test.
func TestDocumentIsOpenAPI(t *testing.T) {
	node, validator, root := deps.Folder(t, "node"), deps.Folder(t, "openapi"), deps.Root(t)
	cmd := exec.Command(filepath.Join(node, "node"), filepath.Join(root, "test/browser/openapi.mjs"),
		filepath.Join(validator, "node_modules/@seriousme/openapi-schema-validator"), filepath.Join(root, "fleet/api/openapi.yaml"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"version":"3.1"`) {
		t.Errorf("%v\n%s", err, out)
	}
}
