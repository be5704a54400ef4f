package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Options of one repository's Client.
type Options struct {
	Name        string    // of the repository, for errors and logs: director, image
	Mirrors     []Fetcher // of its metadata, asked in this order; one that answers wrongly does not stop the next
	Store       *Store
	FactoryRoot []byte           // trusted if nothing was ever stored, and never again: a root that was rotated away stays away
	Reference   func() time.Time // the time against which metadata expires, see type Reference
	Limits      Limits

	// NoDelegations refuses metadata that delegates, as Uptane demands of a director.
	NoDelegations bool
	Logger        *slog.Logger
}

// Limits are what a repository may cost; a zero takes the default.
type Limits struct {
	Root, Timestamp, Snapshot, Targets int64 // bytes of one file: 512 000, 16 384, 2 000 000, 5 000 000
	Rotations                          int   // new roots in one refresh: 256; the next refresh goes on from there
	Visited                            int   // roles looked into for one target: 32
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		at    *int64
		value int64
	}{{&l.Root, 512_000}, {&l.Timestamp, 16_384}, {&l.Snapshot, 2_000_000}, {&l.Targets, 5_000_000}} {
		if *d.at <= 0 {
			*d.at = d.value
		}
	}
	if l.Rotations <= 0 {
		l.Rotations = 256
	}
	if l.Visited <= 0 {
		l.Visited = 32
	}
	return l
}

// Client follows one repository. It is not safe for use by several goroutines.
type Client struct {
	o   Options
	set *trustedmetadata.TrustedMetadata // nil unless the last Refresh succeeded
}

// New opens a repository's trusted metadata. On the first boot, when the store is empty, it stores the factory's root;
// later it does not look at that at all. It asks no mirror.
func New(o Options) (*Client, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.withDefaults()
	c := &Client{o: o}
	virgin, err := o.Store.virgin()
	if err != nil {
		return nil, c.wrap(metadata.ROOT, err)
	}
	if !virgin {
		_, err := c.newestRoot()
		return c, c.wrap(metadata.ROOT, err)
	}
	if len(o.FactoryRoot) == 0 {
		return nil, c.wrap(metadata.ROOT, refuse(Storage, "nothing is stored, and there is no factory root: install one"))
	}
	if _, err := newSet(o.FactoryRoot); err != nil {
		return nil, c.wrap(metadata.ROOT, fmt.Errorf("factory root: %w", err))
	}
	return c, c.wrap(metadata.ROOT, o.Store.saveRoot(o.FactoryRoot))
}

// Refresh brings root, timestamp, snapshot and targets up to date, in this order, each verified by those before and stored
// before the next is asked for. After an error what was trusted before is stored still, and Target refuses to answer.
// How long it may take is the context's to say; each answer has to come at the Fetcher's least rate.
func (c *Client) Refresh(ctx context.Context) error { return c.refreshAt(ctx, c.o.Reference()) }

func (c *Client) refreshAt(ctx context.Context, reference time.Time) error {
	c.set = nil
	set, err := c.newestRoot()
	if err != nil {
		return c.wrap(metadata.ROOT, err)
	}
	// The specification's metadata is over at its expiry, go-tuf's after it.
	set.RefTime = reference.Add(1)
	for _, step := range []struct {
		role string
		do   func(context.Context, *trustedmetadata.TrustedMetadata) error
	}{{metadata.ROOT, c.updateRoot}, {metadata.TIMESTAMP, c.updateTimestamp}, {metadata.SNAPSHOT, c.updateSnapshot}, {metadata.TARGETS, c.updateTargets}} {
		if err := step.do(ctx, set); err != nil {
			return c.wrap(step.role, err)
		}
	}
	if d := set.Targets[metadata.TARGETS].Signed.Delegations; d != nil && c.o.NoDelegations {
		return c.wrap(metadata.TARGETS, refuse(Delegation, "this repository must not delegate"))
	}
	c.set = set
	c.o.Logger.Debug("metadata is up to date", "repository", c.o.Name, "root", set.Root.Signed.Version,
		"timestamp", set.Timestamp.Signed.Version, "targets", set.Targets[metadata.TARGETS].Signed.Version)
	return nil
}

func (c *Client) wrap(role string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{c.o.Name, role, classify(err), err}
}

func newSet(root []byte) (set *trustedmetadata.TrustedMetadata, err error) {
	if err := checkShape(metadata.ROOT, root); err != nil {
		return nil, err
	}
	err = guard(func() (err error) {
		set, err = trustedmetadata.New(root)
		return err
	})
	return set, err
}

// newestRoot is the newer of the two stored copies. Where both are damaged there is nothing to trust: the factory's
// root is no way out, because whoever damages a disk would get back the keys that were revoked.
func (c *Client) newestRoot() (*trustedmetadata.TrustedMetadata, error) {
	var newest *trustedmetadata.TrustedMetadata
	var errs []error
	for _, file := range []string{fileOf(metadata.ROOT), rootCopy} {
		data, err := c.o.Store.load(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		set, err := newSet(data)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if newest == nil || set.Root.Signed.Version > newest.Root.Signed.Version {
			newest = set
		}
	}
	if newest == nil {
		return nil, refuse(Storage, "the stored root is damaged, and its copy too; the newest root has to be brought to %s by hand: %w",
			c.o.Store.dir, errors.Join(errs...))
	}
	for _, err := range errs {
		c.o.Logger.Warn("one of the two stored roots is not readable", "repository", c.o.Name, "error", err)
	}
	return newest, nil
}

// fromMirrors hands each mirror's answer to accept until one is accepted. It returns all refusals otherwise.
func (c *Client) fromMirrors(ctx context.Context, name string, limit int64, accept func([]byte) error) []error {
	var errs []error
	for i, mirror := range c.o.Mirrors {
		var data bytes.Buffer
		err := mirror.Fetch(ctx, name, limit, &capped{&data, limit})
		if err == nil {
			err = accept(data.Bytes())
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrNotFound) {
			c.o.Logger.Warn("a mirror's answer is refused", "repository", c.o.Name, "mirror", i, "file", name, "error", err)
		}
		if errs = append(errs, err); ctx.Err() != nil {
			return errs
		}
	}
	if len(errs) == 0 {
		errs = []error{refuse(Unreachable, "there is no mirror")}
	}
	return errs
}

// worst is the first error that says more than that a file is not there.
func worst(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	if i := slices.IndexFunc(errs, func(err error) bool { return !errors.Is(err, ErrNotFound) }); i >= 0 {
		return errs[i]
	}
	return errs[0]
}

// updateRoot walks from the newest root known to the newest there is, each signed by the one before and by itself.
func (c *Client) updateRoot(ctx context.Context, set *trustedmetadata.TrustedMetadata) error {
	for range c.o.Limits.Rotations {
		before := set.Root
		name := strconv.FormatInt(before.Signed.Version+1, 10) + ".root.json"
		errs := c.fromMirrors(ctx, name, c.o.Limits.Root, func(data []byte) error {
			if err := checkShape(metadata.ROOT, data); err != nil {
				return err
			}
			err := guard(func() error { _, err := set.UpdateRoot(data); return err })
			if err != nil {
				set.Root = before
				return err
			}
			// §5.3.11, recovery from fast-forward: what a key signed that is not trusted any more is forgotten.
			// Before the root is stored, so that a power cut between the two does not keep it.
			if lostKey(&before.Signed, &set.Root.Signed, metadata.TIMESTAMP) || lostKey(&before.Signed, &set.Root.Signed, metadata.SNAPSHOT) {
				if err := c.o.Store.remove(fileOf(metadata.TIMESTAMP), fileOf(metadata.SNAPSHOT)); err != nil {
					return err
				}
			}
			return c.o.Store.saveRoot(data)
		})
		if slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, ErrNotFound) }) {
			if set.Root.Signed.IsExpired(set.RefTime) {
				return refuse(Expired, "the newest root expired at %s", set.Root.Signed.Expires.Format(time.RFC3339))
			}
			return nil
		}
		if len(errs) > 0 {
			return worst(errs)
		}
		c.o.Logger.Info("new root", "repository", c.o.Name, "version", set.Root.Signed.Version)
	}
	return refuse(TooLong, "%d new roots in one refresh; the next one goes on from there", c.o.Limits.Rotations)
}

// lostKey says whether a role had a key that it has no more, by id or by what the id stands for.
func lostKey(before, after *metadata.RootType, role string) bool {
	for _, id := range before.Roles[role].KeyIDs {
		was, is := before.Keys[id], after.Keys[id]
		if !slices.Contains(after.Roles[role].KeyIDs, id) || was == nil || is == nil || was.Value.PublicKey != is.Value.PublicKey {
			return true
		}
	}
	return false
}

func (c *Client) updateTimestamp(ctx context.Context, set *trustedmetadata.TrustedMetadata) error {
	c.fromStore(metadata.TIMESTAMP, metadata.TIMESTAMP, func(data []byte) error {
		_, err := set.UpdateTimestamp(data) // also an expired one is loaded: the next may not be older
		return err
	})
	return worst(c.fromMirrors(ctx, "timestamp.json", c.o.Limits.Timestamp, func(data []byte) error {
		if err := checkShape(metadata.TIMESTAMP, data); err != nil {
			return err
		}
		before := set.Timestamp
		err := guard(func() error { _, err := set.UpdateTimestamp(data); return err })
		var equal *metadata.ErrEqualVersionNumber
		switch {
		case errors.As(err, &equal):
			if before.Signed.IsExpired(set.RefTime) {
				return refuse(Expired, "the newest timestamp expired at %s", before.Signed.Expires.Format(time.RFC3339))
			}
			return nil
		case err != nil:
			set.Timestamp = before
			return err
		}
		return c.o.Store.save(fileOf(metadata.TIMESTAMP), data)
	}))
}

func (c *Client) updateSnapshot(ctx context.Context, set *trustedmetadata.TrustedMetadata) error {
	if c.fromStore(metadata.SNAPSHOT, metadata.SNAPSHOT, func(data []byte) error {
		_, err := set.UpdateSnapshot(data, true) // also one that is not the newest is loaded, to be compared with
		return err
	}) {
		return nil
	}
	meta := set.Timestamp.Signed.Meta["snapshot.json"]
	return worst(c.fromMirrors(ctx, c.versioned(set, metadata.SNAPSHOT, meta), limitOf(meta, c.o.Limits.Snapshot), func(data []byte) error {
		if err := checkShape(metadata.SNAPSHOT, data); err != nil {
			return err
		}
		before := set.Snapshot
		if err := guard(func() error { _, err := set.UpdateSnapshot(data, false); return err }); err != nil {
			set.Snapshot = before
			return err
		}
		return c.o.Store.save(fileOf(metadata.SNAPSHOT), data)
	}))
}

func (c *Client) updateTargets(ctx context.Context, set *trustedmetadata.TrustedMetadata) error {
	return c.loadTargets(ctx, set, metadata.TARGETS, metadata.ROOT)
}

// loadTargets loads a role that says what targets there are, as the role that delegates to it vouches for it.
func (c *Client) loadTargets(ctx context.Context, set *trustedmetadata.TrustedMetadata, role, delegator string) error {
	meta := set.Snapshot.Signed.Meta[role+".json"]
	if meta == nil {
		return refuse(Malformed, "the snapshot says nothing of it")
	}
	if c.fromStore(role, metadata.TARGETS, func(data []byte) error {
		_, err := set.UpdateDelegatedTargets(data, role, delegator)
		return err
	}) {
		return nil
	}
	return worst(c.fromMirrors(ctx, c.versioned(set, role, meta), limitOf(meta, c.o.Limits.Targets), func(data []byte) error {
		// The length first, and the hash: they need no parsing.
		if err := guard(func() error { return meta.VerifyLengthHashes(data) }); err != nil {
			return err
		}
		if err := checkShape(metadata.TARGETS, data); err != nil {
			return err
		}
		err := guard(func() error { _, err := set.UpdateDelegatedTargets(data, role, delegator); return err })
		if err != nil {
			return err
		}
		return c.o.Store.save(fileOf(role), data)
	}))
}

// fromStore loads what was verified at an earlier time, if it still verifies; what does not is asked for anew.
func (c *Client) fromStore(role, kind string, load func([]byte) error) bool {
	data, err := c.o.Store.load(fileOf(role))
	if err == nil && data == nil {
		return false
	}
	if err == nil {
		err = checkShape(kind, data)
	}
	if err == nil {
		err = guard(func() error { return load(data) })
	}
	if err != nil {
		c.o.Logger.Debug("the stored metadata is not the newest", "repository", c.o.Name, "role", role, "error", err)
	}
	return err == nil
}

// versioned is the file's name at a mirror.
func (c *Client) versioned(set *trustedmetadata.TrustedMetadata, role string, meta *metadata.MetaFiles) string {
	if set.Root.Signed.ConsistentSnapshot {
		return strconv.FormatInt(meta.Version, 10) + "." + fileOf(role)
	}
	return fileOf(role)
}

func limitOf(meta *metadata.MetaFiles, limit int64) int64 {
	if meta.Length > 0 {
		return min(meta.Length, limit)
	}
	return limit
}

// capped refuses what is beyond the limit, should a Fetcher not.
type capped struct {
	w    io.Writer
	left int64
}

func (c *capped) Write(p []byte) (int, error) {
	if c.left -= int64(len(p)); c.left < 0 {
		return 0, refuse(TooLong, "the answer is longer than it may be")
	}
	return c.w.Write(p)
}
