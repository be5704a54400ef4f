package trust

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"
)

// Target is a file that trusted metadata vouches for. Only this package makes one that is good for anything.
type Target struct {
	name       string
	length     int64
	hashes     map[string][]byte // by algorithm, sha256 or sha512; all have to match
	custom     json.RawMessage
	order      json.RawMessage // what the director says of it, where a Vehicle resolved it
	provenance string
	consistent bool
}

// Name is the target's path in its repository.
func (t *Target) Name() string { return t.name }

// Length in bytes.
func (t *Target) Length() int64 { return t.length }

// Hash is that of an algorithm, sha256 or sha512; nil when the repository does not give it.
func (t *Target) Hash(algorithm string) []byte { return append([]byte(nil), t.hashes[algorithm]...) }

// Custom is what the repository says of it beyond name, length and hash; nil when nothing.
func (t *Target) Custom() json.RawMessage { return append(json.RawMessage(nil), t.custom...) }

// Order is what the director says of it beyond name, length and hash: campaign, conditions, patch. Nil outside a Bundle, and when
// it says nothing.
func (t *Target) Order() json.RawMessage { return append(json.RawMessage(nil), t.order...) }

// Provenance names the repositories and roles that vouch for it, for logs and reports.
func (t *Target) Provenance() string { return t.provenance }

func newTarget(provenance, name string, f *metadata.TargetFiles, consistent bool) (*Target, error) {
	t := &Target{name: name, length: f.Length, hashes: map[string][]byte{}, provenance: provenance, consistent: consistent}
	for algorithm, value := range f.Hashes {
		h := newHash(algorithm)
		if h == nil || h.Size() != len(value) {
			return nil, refuse(Malformed, "%.20q is not a hash that is known here, or is not as long", algorithm)
		}
		t.hashes[algorithm] = value
	}
	if len(t.hashes) == 0 {
		return nil, refuse(Malformed, "it has no hash")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return nil, refuse(Malformed, "its name %.80q is not a path below the repository", name)
		}
	}
	if f.Custom != nil {
		t.custom = *f.Custom
	}
	return t, nil
}

func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// Remote is the target's path below a mirror of targets, escaped as a URL has it: the name, with its hash before the last part
// where the repository has consistent snapshots.
func (t *Target) Remote() string {
	parts := strings.Split(t.name, "/")
	for i, part := range parts {
		parts[i] = escape(part)
	}
	if last := &parts[len(parts)-1]; t.consistent {
		sum := t.hashes["sha256"]
		if sum == nil {
			sum = t.hashes["sha512"]
		}
		*last = hex.EncodeToString(sum) + "." + *last
	}
	return strings.Join(parts, "/")
}

// Check is an image on its way through: what is written to it is hashed and not kept.
type Check struct {
	t      *Target
	length int64
	hashes map[string]hash.Hash
}

// Check begins to verify an image from its first byte.
func (t *Target) Check() *Check {
	c := &Check{t: t, hashes: map[string]hash.Hash{}}
	for algorithm := range t.hashes {
		c.hashes[algorithm] = newHash(algorithm)
	}
	return c
}

// Write refuses the first byte beyond the length.
func (c *Check) Write(p []byte) (int, error) {
	if c.length += int64(len(p)); c.length > c.t.length {
		return 0, &Error{c.t.provenance, c.t.name, TooLong, errors.New("longer than what was vouched for")}
	}
	for _, h := range c.hashes {
		h.Write(p) // never fails (package hash)
	}
	return len(p), nil
}

// Finish says whether it was the image, whole.
func (c *Check) Finish() error {
	fail := func(reason string) error {
		return &Error{c.t.provenance, c.t.name, Mismatch, errors.New(reason)}
	}
	if c.length != c.t.length {
		return fail("another length than was vouched for")
	}
	if len(c.hashes) == 0 { // the zero Target vouches for nothing
		return fail("no hash was vouched for")
	}
	for algorithm, h := range c.hashes {
		if subtle.ConstantTimeCompare(h.Sum(nil), c.t.hashes[algorithm]) != 1 {
			return fail("another " + algorithm + " than was vouched for")
		}
	}
	return nil
}

// Verify reads an image to its end, or to the first byte that is too much.
func (t *Target) Verify(r io.Reader) error {
	check := t.Check()
	if _, err := io.Copy(check, r); err != nil {
		return err
	}
	return check.Finish()
}

// Open verifies a file as the disk has it and returns it open at its beginning, so that what is used is what was
// verified. Pages in memory are given back first: a write that the disk lost would show in them as made.
func (t *Target) Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = f.Sync()
	if err == nil {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a file system without a cache refuses, and needs none
		err = t.Verify(f)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Fetch brings the image from the first mirror that has it right. Each mirror's try is written to what begin returns, which has
// to be empty each time. What was written counts only when Fetch returns nil.
func (t *Target) Fetch(ctx context.Context, mirrors []Fetcher, begin func() (io.Writer, error)) error {
	err := error(&Error{t.provenance, t.name, Unreachable, errors.New("there is no mirror")})
	for _, mirror := range mirrors {
		w, beginErr := begin()
		if beginErr != nil {
			return beginErr
		}
		check := t.Check()
		if err = mirror.Fetch(ctx, t.Remote(), t.length, io.MultiWriter(check, w)); err == nil {
			err = check.Finish()
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil && ReasonOf(err) == "" {
		err = &Error{t.provenance, t.name, classify(err), err}
	}
	return err
}
