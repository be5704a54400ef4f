package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"
)

// Image is the file to fetch; a *trust.Target is one. Nobody else's word on it counts.
type Image interface {
	Name() string                 // for logs
	Remote() string               // path below a mirror, escaped as a URL has it
	Length() int64                // bytes
	Hash(algorithm string) []byte // "sha256" is needed
	// Open verifies a file as the disk has it, not as memory does, and returns it open at its beginning. What a file system says is
	// a *fs.PathError; any other error is a file that is not the image.
	Open(path string) (*os.File, error)
}

// Patch is a campaign's offer to make the image from the software that is running, as the director signs it.
type Patch struct {
	From   string `json:"from"` // SHA-256 of that software, hexadecimal
	Name   string `json:"name"` // path below a mirror, not escaped
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// Options of a download. Zero values take the defaults that are named.
type Options struct {
	Dir      string // this download's own folder; made if there is none
	Image    Image
	Campaign string // its id: a budget and the verdict on a wrong image are the campaign's

	Mirrors []Mirror // in this order
	Asker   Asker    // MQTT, when no mirror answers; nil: there is none

	Patch       *Patch // nil: there is none
	Running     string // the running software's file, which patches start from; /proc/self/exe
	PatchMemory int64  // bytes that making the image from a patch may take: software + image + 1 MiB; 64 MiB, negative: no patches

	Budget  int64 // bytes that the campaign may receive; 0: no limit
	Reserve int64 // bytes that stay free on the disk; 32 MiB

	// Gate says whether bytes may flow now, and if not, why: no Wi-Fi, a metered link. It is asked before each block, and has to be
	// quick. Nil is always.
	Gate      func() (ok bool, why string)
	GateEvery time.Duration // how often a closed gate or a full disk is looked at; 5 s

	SyncBytes int64         // at most so much is fetched again after a power cut, and a block; 512 KiB
	SyncEvery time.Duration // or what came in so long; 10 s

	Least  int64         // bytes a second that a mirror must bring, averaged over Window; 100
	Window time.Duration // a minute

	Backoff    time.Duration // full jitter up to this after a failure that brought something, doubled with each that did not; 1 s
	BackoffMax time.Duration // 5 min

	ChunkWindow  int64         // bytes asked for by MQTT that are on their way; 256 KiB, at most 1 MiB
	ChunkSilence time.Duration // without a chunk, before it is asked again; 30 s

	Rand *rand.Rand // nil is a random seed
	Log  *slog.Logger
}

func (o Options) check() (Options, identity, error) {
	fail := func(format string, args ...any) (Options, identity, error) {
		return Options{}, identity{}, fmt.Errorf("download: "+format, args...)
	}
	switch {
	case o.Dir == "" || o.Image == nil || o.Log == nil:
		return fail("it needs a folder, an image and a logger")
	case len(o.Mirrors) == 0 && o.Asker == nil:
		return fail("there is no mirror and no MQTT to fetch %s from; name a mirror", o.Image.Name())
	case o.Budget < 0 || o.Reserve < 0 || o.SyncBytes < 0 || o.Least < 0 || o.ChunkWindow < 0 || o.ChunkWindow > 1<<20:
		return fail("a number of bytes is negative or too large")
	case o.GateEvery < 0 || o.SyncEvery < 0 || o.Window < 0 || o.Backoff < 0 || o.BackoffMax < 0 || o.ChunkSilence < 0:
		return fail("a time is negative")
	}
	sum := o.Image.Hash("sha256")
	if len(sum) != sha256.Size {
		return fail("%s: the metadata gives no sha256 of it; have the repository sign one", o.Image.Name())
	}
	id, err := newIdentity(o.Image.Length(), [sha256.Size]byte(sum), o.Campaign)
	if err != nil {
		return fail("%s: %w", o.Image.Name(), err)
	}
	orElse(&o.Running, "/proc/self/exe")
	orElse(&o.PatchMemory, 64<<20)
	orElse(&o.Reserve, 32<<20)
	orElse(&o.GateEvery, 5*time.Second)
	orElse(&o.SyncBytes, 512<<10)
	orElse(&o.SyncEvery, 10*time.Second)
	orElse(&o.Least, 100)
	orElse(&o.Window, time.Minute)
	orElse(&o.Backoff, time.Second)
	orElse(&o.BackoffMax, 5*time.Minute)
	orElse(&o.ChunkWindow, 256<<10)
	orElse(&o.ChunkSilence, 30*time.Second)
	if o.Gate == nil {
		o.Gate = func() (bool, string) { return true, "" }
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return o, id, nil
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// identity checks what was signed of a patch: signed is not the same as right.
func (p *Patch) identity(campaign string) (id identity, remote string, from [sha256.Size]byte, err error) {
	sum, errSum := hex.DecodeString(p.SHA256)
	old, errFrom := hex.DecodeString(p.From)
	if errSum != nil || errFrom != nil || len(sum) != sha256.Size || len(old) != sha256.Size {
		return id, "", from, errors.New("a SHA-256 of it is not 64 hexadecimal digits")
	}
	if remote, err = escapePath(p.Name); err != nil {
		return id, "", from, err
	}
	id, err = newIdentity(p.Length, [sha256.Size]byte(sum), campaign)
	return id, remote, [sha256.Size]byte(old), err
}
