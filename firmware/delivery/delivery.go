package delivery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// ErrMismatch says that the file was fetched whole twice and was not the image either time. It stays so, over restarts, until another
// campaign or Discard.
var ErrMismatch = errors.New("what the mirrors serve is not the image that was signed")

// Delivery is the download of one image. Run does the work; the other methods are safe for use from any goroutine.
//
//	                ┌────────── wait: gate closed, disk full, back-off ◀─┐
//	                ▼                                                    │
//	patch offered ─ fetch patch ─ apply ─┬─ verified ─▶ done             │
//	      │ no         │ anything wrong  │                               │
//	      └────────────┴───▶ fetch image ┴─ wrong hash: once more, then ErrMismatch
type Delivery struct {
	o       Options
	id      identity
	disk    disk
	sources []source // in turn; the goroutine of Run has them
	chunks  *chunks
	budget  *budget
	buffer  []byte

	overhead atomic.Int64 // received, and not counted in budget yet
	running  sync.Mutex   // held by Run, Finished and Discard

	mu       sync.Mutex // guards what follows
	progress Progress
	logged   int64 // tenths of the file that the log has
}

// source is a way to the bytes of a part. It fetches what is missing until nothing is, or until an error.
type source interface {
	fetch(ctx context.Context, d *Delivery, p *part, remote string, patient bool) error
	String() string
}

// Progress says how far a download is.
type Progress struct {
	File     string // what is being fetched: "image" or "patch"
	Have     int64  // bytes of it on the disk
	Total    int64
	Received int64  // bytes that the campaign has received, what is around the file's included; without a budget, since the start
	State    string // in words
}

// New checks the options. It touches no disk.
func New(o Options) (*Delivery, error) {
	o, id, err := o.check()
	if err != nil {
		return nil, err
	}
	d := &Delivery{o: o, id: id, disk: systemDisk{}}
	for _, m := range o.Mirrors {
		source, err := newMirror(m, o.Least, o.Window)
		if err != nil {
			return nil, err
		}
		d.sources = append(d.sources, source)
	}
	if o.Asker != nil {
		d.chunks = &chunks{asker: o.Asker, window: o.ChunkWindow, silence: o.ChunkSilence, queue: make(chan []byte, queueChunks)}
		d.sources = append(d.sources, d.chunks)
	}
	d.progress = Progress{File: imageFile, Total: id.length, State: "not begun"}
	return d, nil
}

// Names in the folder: of parts, of what a patch gave, of the image when it was verified.
const (
	imageFile   = "image"
	patchFile   = "patch"
	patchedFile = "patched"
)

// Progress says how far it is.
func (d *Delivery) Progress() Progress {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.progress
}

func (d *Delivery) say(state string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.progress.State = state
}

// Run fetches the image and returns it open, verified from the disk. It waits, by itself and for as long as it takes, for the network, for
// the gate and for room on the disk, and goes on after a restart where it was. It ends with an error when ctx does, when the budget is spent
// (ErrBudget), when the image cannot be had (ErrMismatch), or when the disk fails; after the last a later Run reads what is there, and
// fetches again what it cannot read.
func (d *Delivery) Run(ctx context.Context) (f *os.File, err error) {
	if !d.running.TryLock() {
		return nil, errors.New("this download is running already")
	}
	defer d.running.Unlock()
	defer func() {
		for _, s := range d.sources {
			if m, ok := s.(*mirror); ok && m.own {
				m.client.CloseIdleConnections()
			}
		}
		switch {
		case err == nil:
			d.o.Log.Info("the image is on the disk and verified", "image", d.o.Image.Name(), "received", d.Progress().Received)
			d.say("complete and verified")
		case ctx.Err() != nil:
			d.say("interrupted")
		default:
			d.o.Log.Error("the image was not delivered", "image", d.o.Image.Name(), "error", err)
			d.say("failed: " + err.Error())
		}
	}()
	for wait := d.o.GateEvery; ; wait = min(2*wait, max(d.o.BackoffMax, d.o.GateEvery)) {
		f, err = d.attempt(ctx)
		var full *errFull
		if !errors.As(err, &full) {
			return f, err
		}
		if err := d.waitForRoom(ctx, full, wait); err != nil {
			return nil, err
		}
	}
}

// Finished returns the image, verified from the disk and open, when an earlier Run brought it; an fs.ErrNotExist when none did.
func (d *Delivery) Finished() (*os.File, error) {
	d.running.Lock()
	defer d.running.Unlock()
	return d.finished()
}

func (d *Delivery) finished() (*os.File, error) {
	return d.o.Image.Open(filepath.Join(d.o.Dir, imageFile))
}

// Discard removes all files but the count of the campaign's bytes: after the image was installed, or when nobody wants it any more.
func (d *Delivery) Discard() error {
	d.running.Lock()
	defer d.running.Unlock()
	err := removeAll(d.disk, d.path(imageFile), d.path(patchedFile))
	return errors.Join(err, removePart(d.part(patchFile)), removePart(d.part(imageFile)))
}

func (d *Delivery) path(name string) string { return filepath.Join(d.o.Dir, name) }

func (d *Delivery) part(name string) partOptions {
	return partOptions{disk: d.disk, dir: d.o.Dir, name: name, syncBytes: d.o.SyncBytes, syncEvery: d.o.SyncEvery, log: d.o.Log}
}

// attempt is all of it up to the first thing that a full disk ends.
func (d *Delivery) attempt(ctx context.Context) (f *os.File, err error) {
	if err := os.MkdirAll(d.o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("download folder: %w", err)
	}
	if f, err = d.finished(); err == nil {
		return f, nil
	}
	// What is there is another image's, or damaged; what a patch gave was not verified.
	if err := removeAll(d.disk, d.path(imageFile), d.path(patchedFile)); err != nil {
		return nil, err
	}
	if d.budget, err = openBudget(d.disk, d.o.Dir, d.o.Budget, d.id, d.o.Log); err != nil {
		return nil, roomOr(err, d.id.length)
	}
	defer func() {
		d.count(0)
		if closeErr := d.budget.close(); closeErr != nil && err == nil {
			d.o.Log.Warn("the count of the campaign's bytes could not be written", "error", closeErr)
		}
	}()
	f, err = d.byPatch(ctx)
	if f != nil || err != nil {
		return f, err
	}
	if f, err = d.obtain(ctx, imageFile, d.o.Image.Remote(), d.id, d.o.Image.Open); err != nil {
		return nil, err
	}
	return d.settle(f, d.part(imageFile).path(".data"))
}

// settle gives a verified file the image's name and removes what it was made from.
func (d *Delivery) settle(f *os.File, path string) (*os.File, error) {
	err := d.disk.rename(path, d.path(imageFile))
	if err == nil {
		err = d.disk.syncDir(d.o.Dir)
	}
	if err == nil {
		err = errors.Join(removePart(d.part(patchFile)), removePart(d.part(imageFile)))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// obtain fetches a file until it is whole and right.
func (d *Delivery) obtain(ctx context.Context, name, remote string, id identity, open func(string) (*os.File, error)) (*os.File, error) {
	for {
		path, err := d.fill(ctx, name, remote, id)
		if err != nil {
			return nil, err
		}
		d.say("verifying the " + name)
		f, err := open(path)
		if err == nil || fromDisk(err) {
			return f, err
		}
		d.o.Log.Warn("what was fetched is not what was signed", "file", name, "error", err)
		if err := d.refuse(name, id); err != nil {
			return nil, err
		}
		if len(d.sources) > 1 { // another mirror first
			d.sources = append(d.sources[1:], d.sources[0])
		}
	}
}

// refuse forgets a file that is wrong: the first time to fetch it again, the second time for good.
func (d *Delivery) refuse(name string, id identity) error {
	p, err := openPart(d.part(name), id)
	if err != nil {
		return roomOr(err, id.length)
	}
	err = p.begin(p.stage + 1)
	if err = errors.Join(err, p.close()); err != nil {
		return roomOr(err, id.length)
	}
	if p.stage == givenUp {
		return fmt.Errorf("%s: %w; publish it again under a new campaign", name, ErrMismatch)
	}
	return nil
}

// fill fetches all that is missing of a part.
func (d *Delivery) fill(ctx context.Context, name, remote string, id identity) (path string, err error) {
	p, err := openPart(d.part(name), id)
	if err != nil {
		return "", roomOr(err, id.length)
	}
	defer func() {
		missing := id.length - p.bytes
		if closeErr := p.close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("download %s: %w", name, closeErr))
		}
		err = roomOr(err, missing)
	}()
	if p.stage == givenUp {
		return "", fmt.Errorf("%s: %w; publish it again under a new campaign", name, ErrMismatch)
	}
	d.mu.Lock()
	d.progress.File, d.progress.Total, d.logged = name, id.length, p.bytes*10/id.length
	d.mu.Unlock()
	d.show(p)
	if !p.complete() {
		d.o.Log.Info("fetching", "file", name, "from", remote, "have", p.bytes, "of", id.length)
	}
	free, err := d.disk.free(d.o.Dir)
	if err != nil {
		return "", err
	}
	if need := id.length - p.bytes; need > 0 && free < need+d.o.Reserve {
		return "", &errFull{need: need}
	}
	return d.part(name).path(".data"), d.fetch(ctx, p, remote)
}

// waitForRoom waits until the disk has room for what is missing, and for a while in any case: a quota does not show in what is free.
func (d *Delivery) waitForRoom(ctx context.Context, full *errFull, wait time.Duration) error {
	d.o.Log.Warn("no room for the download; it goes on when there is", "folder", d.o.Dir, "missing", full.need, "reserve", d.o.Reserve, "error", full.err)
	d.say(fmt.Sprintf("waiting: the disk is full; free %d bytes and %d in reserve at %s", full.need, d.o.Reserve, d.o.Dir))
	for ; ; wait = d.o.GateEvery {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		free, err := d.disk.free(d.o.Dir)
		if err != nil {
			return err
		}
		if free >= full.need+d.o.Reserve {
			return nil
		}
	}
}
