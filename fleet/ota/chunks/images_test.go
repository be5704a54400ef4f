package chunks

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// repository is a folder as ota publish writes it.
type repository struct {
	t   testing.TB
	dir string
}

func newRepository(t testing.TB) *repository {
	r := &repository{t, t.TempDir()}
	r.must(os.MkdirAll(filepath.Join(r.dir, targets, "linux-arm64"), 0o755))
	return r
}

func (r *repository) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *repository) path(name string) string { return filepath.Join(r.dir, targets, name) }

// add publishes a file.
func (r *repository) add(data []byte, name string) Sum {
	r.t.Helper()
	sum := sha256.Sum256(data)
	r.must(os.WriteFile(r.path("linux-arm64/"+hex.EncodeToString(sum[:])+"."+name), data, 0o644))
	return sum
}

func (r *repository) open() *Images {
	r.t.Helper()
	m, err := OpenImages(r.dir, slog.New(slog.DiscardHandler))
	r.must(err)
	r.t.Cleanup(func() { _ = m.Close() })
	return m
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // it never fails
	return b
}

func TestImages(t *testing.T) {
	r := newRepository(t)
	image := noise(1, 100_000)
	sum := r.add(image, "agent-1.2")
	patch := r.add(noise(2, 500), "agent-1.2.from-0123456789abcdef.zst")
	secret := noise(3, 300)
	secretSum := sha256.Sum256(secret)
	r.must(os.WriteFile(filepath.Join(r.dir, "secret"), secret, 0o600))
	name := hex.EncodeToString(secretSum[:]) + ".secret"
	r.must(os.Symlink(filepath.Join(r.dir, "secret"), r.path("linux-arm64/"+name)))
	r.must(os.Symlink(r.dir, r.path("linux-evil")))
	r.must(os.WriteFile(r.path("linux-arm64/secret"), secret, 0o600))                    // no hash in its name
	r.must(os.WriteFile(r.path("linux-arm64/."+name), secret, 0o600))                    // as copying tools call what is not whole
	r.must(os.WriteFile(r.path("linux-arm64/"+name+"-2"), secret[:200], 0o600))          // cut off
	r.must(os.Mkdir(r.path("linux-arm64/"+hex.EncodeToString(sum[:])+".folder"), 0o755)) // no file
	m := r.open()
	if n := m.Len(); n != 2 {
		t.Errorf("%d files are served, want the image and the patch", n)
	}
	if _, ok := m.Length(secretSum); ok {
		t.Error("a file from outside of the repository is served")
	}
	if n, ok := m.Length(patch); n != 500 || !ok {
		t.Errorf("the patch has %d bytes, %v", n, ok)
	}
	for _, x := range [][2]int{{0, 100}, {99_990, 10}, {0, 100_000}} {
		got, err := m.Read(sum, int64(x[0]), x[1])
		if err != nil || !bytes.Equal(got, image[x[0]:x[0]+x[1]]) {
			t.Errorf("%d bytes at %d: %v", x[1], x[0], err)
		}
	}
	if _, err := m.Read(sum, 99_990, 11); err == nil {
		t.Error("bytes behind the end were read")
	}
	// What comes and goes later; the cut-off file becomes whole.
	r.must(os.WriteFile(r.path("linux-arm64/"+name+"-2"), secret, 0o600))
	r.must(os.Remove(r.path("linux-arm64/" + hex.EncodeToString(patch[:]) + ".agent-1.2.from-0123456789abcdef.zst")))
	r.must(m.Scan())
	if _, ok := m.Length(secretSum); !ok {
		t.Error("a file that became whole is not served")
	}
	if _, ok := m.Length(patch); ok {
		t.Error("a file that is gone is served")
	}
	if _, err := OpenImages(t.TempDir(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder that is none of a repository was opened")
	}
}
