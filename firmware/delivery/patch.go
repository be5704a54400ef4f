package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// byPatch makes the image from the running software where the campaign offers a patch and it spares bytes. Neither a file nor an
// error: the full image is to be fetched.
func (d *Delivery) byPatch(ctx context.Context) (*os.File, error) {
	if d.o.Patch == nil {
		return nil, removePart(d.part(patchFile)) // an earlier campaign's
	}
	id, remote, from, err := d.o.Patch.identity(d.o.Campaign)
	if err == nil {
		err = d.worthPatching(id, from)
	}
	if err == nil {
		var f *os.File
		if f, err = d.patched(ctx, remote, id, from); err == nil {
			return d.settle(f, d.path(patchedFile))
		}
	}
	var full *errFull
	if ctx.Err() != nil || isOurs(err) || errors.As(err, &full) || fromDisk(err) {
		return nil, err
	}
	d.o.Log.Info("the full image is fetched, not the patch", "why", err)
	return nil, errors.Join(removeAll(d.disk, d.path(patchedFile)), d.shedPatch())
}

// shedPatch gives back the room of a patch that is of no use; one that was given up stays so.
func (d *Delivery) shedPatch() error {
	return removeAll(d.disk, d.part(patchFile).path(".data"))
}

// worthPatching says why not: no bytes spared, other software, too little memory.
func (d *Delivery) worthPatching(id identity, from [sha256.Size]byte) error {
	left, err := d.missingOf(imageFile, d.id)
	if err != nil {
		return err
	}
	patch, err := d.missingOf(patchFile, id)
	if err != nil {
		return err
	}
	if patch >= left {
		return fmt.Errorf("%d bytes of the patch are missing, of the image %d", patch, left)
	}
	f, err := os.Open(d.o.Running)
	if err != nil {
		return fmt.Errorf("the running software cannot be read: %v", err) // not of the download's disk
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("the running software cannot be read: %v", err)
	}
	if need := info.Size() + d.id.length + decoderBytes; need > d.o.PatchMemory {
		return fmt.Errorf("it would take %d bytes of memory, %d are allowed", need, d.o.PatchMemory)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return fmt.Errorf("the running software cannot be read: %v", err)
	}
	if [sha256.Size]byte(hash.Sum(nil)) != from {
		return errors.New("it is for other software than what is running")
	}
	return nil
}

// missingOf is what would have to be fetched of a part. All of a file that was given up.
func (d *Delivery) missingOf(name string, id identity) (int64, error) {
	p, err := openPart(d.part(name), id)
	if err != nil {
		return 0, roomOr(err, id.length)
	}
	return id.length - p.bytes, p.close()
}

// patched fetches the patch and applies it. The file that it returns is verified.
func (d *Delivery) patched(ctx context.Context, remote string, id identity, from [sha256.Size]byte) (*os.File, error) {
	if free, err := d.disk.free(d.o.Dir); err != nil {
		return nil, err
	} else if free < d.id.length+d.o.Reserve {
		return nil, &errFull{need: d.id.length}
	}
	patch, err := d.obtain(ctx, patchFile, remote, id, func(path string) (*os.File, error) { return openVerified(path, id) })
	if err != nil {
		return nil, err
	}
	defer patch.Close()
	d.say("applying the patch")
	err = d.apply(patch, from)
	if err == nil {
		var f *os.File
		if f, err = d.o.Image.Open(d.path(patchedFile)); err == nil {
			return f, nil
		}
	}
	if err = roomOr(err, d.id.length); fromDisk(err) {
		return nil, err
	}
	// The patch is as it was signed and gives something else: to fetch it again would not help, now or after a restart.
	p, openErr := openPart(d.part(patchFile), id)
	if openErr != nil {
		return nil, openErr
	}
	return nil, errors.Join(err, p.begin(givenUp), p.close())
}

// apply writes what the patch makes of the running software. It holds that software in memory, and of the image the window, which is all of
// it; that is given back at once.
func (d *Delivery) apply(patch io.Reader, from [sha256.Size]byte) error {
	defer debug.FreeOSMemory()
	old, err := os.ReadFile(d.o.Running)
	if err != nil {
		return fmt.Errorf("the running software cannot be read: %v", err)
	}
	if sha256.Sum256(old) != from {
		return errors.New("the running software changed on the disk")
	}
	f, err := os.Create(d.path(patchedFile))
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	err = ApplyPatch(w, old, patch, d.id.length)
	if err == nil {
		err = w.Flush()
	}
	return errors.Join(err, f.Close())
}

// openVerified is Image.Open for a patch, whose hash stands in what was signed of the image.
func openVerified(path string, id identity) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	err = f.Sync()
	if err == nil {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a file system without a cache refuses, and needs none
		_, err = io.Copy(hash, f)
	}
	if err == nil && [sha256.Size]byte(hash.Sum(nil)) != id.sum {
		err = errors.New("another sha256 than was signed")
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// decoderBytes is what zstd's decoder takes beside the dictionary and the window, with some to spare.
const decoderBytes = 1 << 20

// ApplyPatch writes what a patch (MakePatch, zstd --patch-from) makes of old: length bytes, or an error. It takes memory for old and for
// a window of the length, and about 1 MiB. That the result is right is for a hash to say.
func ApplyPatch(w io.Writer, old []byte, patch io.Reader, length int64) (err error) {
	// The patch was signed; the decoder is others' code all the same.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("patch: decoding it failed: %v", r)
		}
	}()
	in := bufio.NewReaderSize(patch, 64<<10)
	head, err := in.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("patch: %w", err)
	}
	var header zstd.Header
	if err := header.Decode(head); err != nil {
		return fmt.Errorf("patch: no zstd frame: %w", err)
	}
	// A window beyond the next power of two would be memory for nothing.
	most := max(uint64(length), zstd.MinWindowSize)
	switch {
	case header.Skippable || header.DictionaryID != 0 || !header.HasFCS || header.FrameContentSize != uint64(length):
		return fmt.Errorf("patch: it is not for a file of %d bytes", length)
	case !header.SingleSegment && header.WindowSize > 2*most:
		return fmt.Errorf("patch: a window of %d bytes for a file of %d", header.WindowSize, length)
	}
	decoder, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(2*most), zstd.WithDecoderDictRaw(0, old))
	if err != nil {
		return fmt.Errorf("patch: %w", err)
	}
	defer decoder.Close()
	n, err := io.Copy(w, io.LimitReader(decoder, length+1))
	if err != nil {
		return fmt.Errorf("patch: %w", err)
	}
	if n != length {
		return fmt.Errorf("patch: it gives another length than the image's, %d", length)
	}
	return nil
}

// mostPatchable is how large two files may be that a patch is made of, in bytes together: zstd's window in this package ends there.
const mostPatchable = zstd.MaxWindowSize

// MakePatch writes a patch that makes the new file of the old one, in the format of zstd's --patch-from, and tries it before. It takes
// memory: both files and some 200 MiB.
func MakePatch(w io.Writer, from, to io.Reader) error {
	old, err := io.ReadAll(io.LimitReader(from, mostPatchable+1))
	if err != nil {
		return fmt.Errorf("old file: %w", err)
	}
	image, err := io.ReadAll(io.LimitReader(to, mostPatchable+1))
	if err != nil {
		return fmt.Errorf("new file: %w", err)
	}
	if len(old)+len(image) > mostPatchable || len(old) == 0 || len(image) == 0 {
		return fmt.Errorf("a patch is made of files of 1 byte to %d together, not of %d and %d; publish the full image only", mostPatchable, len(old), len(image))
	}
	window := zstd.MinWindowSize
	for window < len(old)+len(image) {
		window *= 2
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window), zstd.WithSingleSegment(true), zstd.WithEncoderDictRaw(0, old))
	if err != nil {
		return err
	}
	defer encoder.Close()
	patch := encoder.EncodeAll(image, nil)
	var out bytes.Buffer
	if err := ApplyPatch(&out, old, bytes.NewReader(patch), int64(len(image))); err != nil {
		return fmt.Errorf("the patch that was made does not decode: %w", err)
	}
	if !bytes.Equal(out.Bytes(), image) {
		return errors.New("the patch that was made gives another file")
	}
	_, err = w.Write(patch)
	return err
}
