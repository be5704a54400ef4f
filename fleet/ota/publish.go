package ota

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/waybill-telematics/waybill/firmware/delivery"
)

// PublishOptions name an image.
type PublishOptions struct {
	Path      string   // the file
	Name      string   // waybill-agent; in the repository it is ROLE/NAME-VERSION
	Hardware  []string // what it is made for; the first one's team signs it
	Version   string
	Release   uint64   // its release counter: no vehicle installs one below that of what it has
	PatchFrom []string // older images, whole files as vehicles have them
}

// ImageCustom is what the image repository says of an image beyond its length and hashes (docs/OTA.md).
type ImageCustom struct {
	Hardware []string `json:"hardware_ids"`
	Release  *uint64  `json:"release_counter"`
	Version  string   `json:"version,omitempty"`
	Patches  []Patch  `json:"patches,omitempty"`
}

// Patch is a difference from another image; its output has to be the image. It is no target: it lies beside the images, below
// targets/, and whoever bends it only makes a vehicle take the whole image.
type Patch struct {
	From   string `json:"from"` // SHA-256 of the image that it starts from, hexadecimal
	Name   string `json:"name"` // below targets/
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// Published is what Publish did.
type Published struct {
	Target    string     // the image's name in the repository; empty when none was given
	Patches   []Patch    // made for it
	Files     []string   // metadata that is public now
	Waiting   []*Pending // metadata that waits for signatures
	Directors bool       // the directors were published
}

// maxImage is the longest image that is taken, in bytes.
const maxImage = 8 << 30

// Publish stages an image if one is given, and publishes all that is signed by enough. It may be repeated after any failure.
func (w *Workspace) Publish(o *PublishOptions, keys []*Key) (*Published, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := &Published{}
	if o != nil {
		if err := w.stageImage(o, out, keys); err != nil {
			return nil, err
		}
	}
	if out.Files, out.Waiting, err = w.publishStaged(keys); err != nil {
		return nil, err
	}
	roots, waiting, err := w.publishDirectorRoot(keys)
	if err != nil {
		return nil, err
	}
	out.Files, out.Waiting = append(out.Files, roots...), append(out.Waiting, waiting...)
	if out.Directors, err = w.reconcile(keys, false); err != nil {
		return nil, err
	}
	return out, w.factory()
}

// factory keeps the newest roots where those find them who build vehicles' images.
func (w *Workspace) factory() error {
	for _, repository := range []string{Image, Director} {
		h, err := w.holdingOf(repository)
		if err != nil {
			return err
		}
		path := filepath.Join(w.dir, "factory", repository+".root.json")
		old, err := readIfThere(path, maxDocument)
		if err == nil && !bytes.Equal(old, h.rootData) {
			err = w.put(path, h.rootData)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Workspace) stageImage(o *PublishOptions, out *Published, keys []*Key) error {
	if err := checkWord("--name", o.Name); err != nil {
		return err
	}
	if err := checkWord("--version", o.Version); err != nil {
		return err
	}
	if len(o.Hardware) == 0 || o.Release < 1 || o.Release > 1<<53 {
		return errors.New("an image wants the hardware that it is made for, and a release counter of 1 or more, higher than that of the release before")
	}
	role, err := roleOf(o.Hardware[0])
	if err != nil {
		return err
	}
	h, err := w.holdingOf(Image)
	if err != nil {
		return err
	}
	team, err := w.draft(h, role)
	if err != nil {
		return fmt.Errorf("hardware %s: %w; `waybill-fleet ota rotate image %s --hardware %s --add KEY.pub` makes it", o.Hardware[0], err, role, o.Hardware[0])
	}
	name := role + "/" + o.Name + "-" + o.Version
	for other, t := range team.Targets {
		custom, err := imageCustom(t)
		if err != nil {
			return fmt.Errorf("%s: %w", other, err)
		}
		if other != name && *custom.Release >= o.Release && slices.Contains(custom.Hardware, o.Hardware[0]) && filepath.Dir(other)+"/"+o.Name+"-"+custom.Version == other {
			return fmt.Errorf("release counter %d: %s has %d already; a later release has a higher one", o.Release, other, *custom.Release)
		}
	}
	target, err := hashFile(o.Path)
	if err != nil {
		return err
	}
	custom := ImageCustom{Hardware: o.Hardware, Release: &o.Release, Version: o.Version}
	if before := team.Targets[name]; before != nil {
		if !before.Hashes.Equal(target.Hashes) {
			return fmt.Errorf("%s is another image already; a name keeps its bytes, give the new one another version", name)
		}
		old, err := imageCustom(before)
		if err != nil {
			return err
		}
		custom.Patches = old.Patches
	}
	folder := filepath.Join(w.imageDir(), "targets", role)
	hash := hex.EncodeToString(target.Hashes["sha256"])
	file := hash + "." + filepath.Base(name)
	if err := w.putImage(filepath.Join(folder, file), o.Path, target); err != nil {
		return err
	}
	for _, from := range o.PatchFrom {
		patch, err := w.putPatch(folder, role, filepath.Base(name), from, filepath.Join(folder, file))
		if err != nil {
			return fmt.Errorf("patch from %s: %w", from, err)
		}
		if patch == nil {
			continue
		}
		custom.Patches = append(slices.DeleteFunc(custom.Patches, func(p Patch) bool { return p.From == patch.From }), *patch)
		out.Patches = append(out.Patches, *patch)
	}
	raw, err := json.Marshal(custom)
	if err != nil {
		return err
	}
	target.Custom = (*json.RawMessage)(&raw)
	out.Target = name
	public := h.targets(role)
	if public == nil {
		public = &metadata.TargetsType{}
	}
	if before := public.Targets[name]; before != nil && before.Equal(*target) && before.Custom != nil && bytes.Equal(compact(*before.Custom), compact(raw)) {
		return nil // a repetition of what is public
	}
	team.Targets[name] = target
	team.Expires = w.expires(w.config.Lifetimes.Targets)
	_, err = w.stage(Image, h, role, team.Version, team, keys)
	return err
}

// compact is JSON with its members sorted.
func compact(raw []byte) []byte {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}

func imageCustom(t *metadata.TargetFiles) (*ImageCustom, error) {
	var c ImageCustom
	if t.Custom != nil {
		if err := json.Unmarshal(*t.Custom, &c); err != nil {
			return nil, err
		}
	}
	if c.Release == nil || len(c.Hardware) == 0 {
		return nil, errors.New("the image repository gives it no release counter or no hardware")
	}
	return &c, nil
}

func hashFile(path string) (*metadata.TargetFiles, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sha2, sha5 := sha256.New(), sha512.New()
	n, err := io.Copy(io.MultiWriter(sha2, sha5), io.LimitReader(f, maxImage+1))
	if err == nil && (n == 0 || n > maxImage) {
		err = fmt.Errorf("%s has %d bytes or more; an image has 1 to %d", path, n, int64(maxImage))
	}
	return &metadata.TargetFiles{Length: n, Hashes: metadata.Hashes{"sha256": sha2.Sum(nil), "sha512": sha5.Sum(nil)}}, err
}

// putImage copies an image to where clients look for it. One of the same name has the same bytes, or is what a kill has left.
func (w *Workspace) putImage(path, from string, want *metadata.TargetFiles) error {
	if exists(path) {
		if have, err := hashFile(path); err == nil && have.Hashes.Equal(want.Hashes) {
			return nil
		}
	}
	return w.putFrom(path, func(out io.Writer) error {
		f, err := os.Open(from)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(f, maxImage+1)); err != nil {
			return err
		}
		if !bytes.Equal(sum.Sum(nil), want.Hashes["sha256"]) {
			return fmt.Errorf("%s changed while it was read", from)
		}
		return nil
	})
}

// putPatch makes a patch; nil where it would not be smaller than the image.
func (w *Workspace) putPatch(folder, role, base, from, image string) (*Patch, error) {
	old, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer old.Close()
	new, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer new.Close()
	was := sha256.New()
	var patch bytes.Buffer
	if err := delivery.MakePatch(&patch, io.TeeReader(old, was), new); err != nil {
		return nil, err
	}
	info, err := new.Stat()
	if err != nil {
		return nil, err
	}
	if int64(patch.Len()) >= info.Size() {
		return nil, nil
	}
	sum := sha256.Sum256(patch.Bytes())
	p := &Patch{From: hex.EncodeToString(was.Sum(nil)), Length: int64(patch.Len()), SHA256: hex.EncodeToString(sum[:])}
	p.Name = fmt.Sprintf("%s/%s.%s.from-%s.zst", role, p.SHA256, base, p.From[:16])
	return p, w.put(filepath.Join(filepath.Dir(folder), p.Name), patch.Bytes())
}

// Withdraw stages its team's word without an image: nobody installs it any more, whatever a director says. Its file stays, for
// those who are fetching it; campaigns that offer it have nothing for their vehicles.
func (w *Workspace) Withdraw(name string, keys []*Key) (*Published, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	h, err := w.holdingOf(Image)
	if err == nil {
		err = w.stageWithout(h, name, keys)
	}
	unlock()
	if err != nil {
		return nil, err
	}
	return w.Publish(nil, keys)
}

func (w *Workspace) stageWithout(h *holding, name string, keys []*Key) error {
	role, _, _ := strings.Cut(name, "/")
	team, err := w.draft(h, role)
	if err != nil {
		return err
	}
	if team.Targets[name] == nil {
		return fmt.Errorf("%s has no image %.80q", role, name)
	}
	delete(team.Targets, name)
	team.Expires = w.expires(w.config.Lifetimes.Targets)
	_, err = w.stage(Image, h, role, team.Version, team, keys)
	return err
}

// image is what the published repository says of a name.
func (h *holding) image(name string) (*metadata.TargetFiles, *ImageCustom, error) {
	role, _, _ := strings.Cut(name, "/") // no other team's word counts for it
	if r := h.roles[role]; r != nil && r.targets.Targets[name] != nil {
		custom, err := imageCustom(r.targets.Targets[name])
		return r.targets.Targets[name], custom, err
	}
	return nil, nil, fmt.Errorf("the image repository publishes no %.80q; `waybill-fleet ota publish` adds one, and `ota status` lists what waits for signatures", name)
}
