package telemetrypb

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The generated code is what the .proto file gives. The generator is a module of its own (tools/), which a machine
// without network may not have.
func TestGeneratedCode(t *testing.T) {
	dir := t.TempDir()
	source, err := os.ReadFile("telemetry.proto")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "telemetry.proto"), source, 0o600); err != nil {
		t.Fatal(err)
	}
	unavailable := t.Skipf
	if os.Getenv("CI") == "true" {
		unavailable = t.Fatalf
	}
	download := exec.Command("go", "mod", "download")
	download.Dir = filepath.Join("..", "tools")
	if out, err := download.CombinedOutput(); err != nil {
		unavailable("the generator's modules are not here: %v\n%s", err, out)
	}
	generate := exec.Command("go", "run", "./protogen", dir, "telemetry.proto")
	generate.Dir = download.Dir
	generate.Env = append(os.Environ(), "GOOS=", "GOARCH=") // it runs here, whatever this test is built for
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("protogen: %v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "telemetry.pb.go"))
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("telemetry.pb.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, have) {
		t.Error("telemetry.pb.go is not what telemetry.proto gives; run: cd tools && go run ./protogen ../proto telemetry.proto")
	}
}
