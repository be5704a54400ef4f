package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ECU is a unit of this vehicle that installs software, this agent or one that it serves.
type ECU struct {
	ID       string // as the director knows it
	Hardware string // what images for it are made for
	Release  uint64 // release counter of what is installed; nothing below it is ever installed
}

// VehicleOptions are Uptane's two repositories. The director says what this vehicle shall install, and its keys are
// online; the image repository says what may be installed at all, and its keys are not.
type VehicleOptions struct {
	Director  *Client // with NoDelegations
	Image     *Client
	Reference *Reference
}

// Vehicle verifies as Uptane's full verification does (Uptane Standard 2.1, §5.4.4). It is not safe for use by several
// goroutines.
type Vehicle struct{ o VehicleOptions }

// NewVehicle puts two repositories together.
func NewVehicle(o VehicleOptions) (*Vehicle, error) {
	if !o.Director.o.NoDelegations {
		return nil, errors.New("a director's client needs NoDelegations")
	}
	return &Vehicle{o}, nil
}

// What the two repositories say of a target beyond its length and hashes ("custom"; docs/OTA.md).
type (
	directorCustom struct {
		ECUs map[string]struct {
			Hardware string `json:"hardware_id"`
		} `json:"ecus"`
		Release *uint64 `json:"release_counter"` // optional: then it has to be the image repository's
	}
	imageCustom struct {
		Hardware []string `json:"hardware_ids"`
		Release  *uint64  `json:"release_counter"`
	}
)

// Bundle is what the director wants, by the ECU's id: all of it or nothing is installed. A target for two units stands
// in it twice. One that a unit has already, by its hash, stands in it too.
type Bundle map[string]*Target

// Resolve refreshes both repositories and answers with what the director wants of this vehicle, verified against the
// image repository. One target that is not right refuses the whole bundle. No targets and no error: there is nothing to install.
func (v *Vehicle) Resolve(ctx context.Context, units []ECU) (Bundle, error) {
	reference := v.o.Reference.Now()
	if err := v.o.Director.refreshAt(ctx, reference); err != nil {
		return nil, err
	}
	if err := v.o.Image.refreshAt(ctx, reference); err != nil {
		return nil, err
	}
	bundle := Bundle{}
	wanted := v.o.Director.set.Targets[metadata.TARGETS].Signed.Targets
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if err := v.add(ctx, bundle, units, name); err != nil {
			return nil, err
		}
	}
	// What was vouched for on the way includes the delegated roles of each target: only now everything is seen to be valid.
	if err := v.o.Reference.confirm(reference); err != nil {
		return nil, v.o.Director.wrap("", err)
	}
	return bundle, nil
}

func (v *Vehicle) add(ctx context.Context, bundle Bundle, units []ECU, name string) error {
	directed, err := v.o.Director.Target(ctx, name)
	if err != nil {
		return err
	}
	fail := func(reason Reason, format string, args ...any) error {
		return v.o.Director.wrap(name, refuse(reason, format, args...))
	}
	image, err := v.o.Image.Target(ctx, name)
	if err != nil {
		if ReasonOf(err) == NotFound {
			return fail(Partial, "the director wants it, but: %w", err)
		}
		return err
	}
	if err := agree(directed, image); err != nil {
		return fail(Disagree, "%w", err)
	}
	var want directorCustom
	if err := unmarshalCustom(directed.custom, &want); err != nil {
		return fail(Malformed, "what the director says of it: %w", err)
	}
	var have imageCustom
	if err := unmarshalCustom(image.custom, &have); err != nil {
		return fail(Malformed, "what the image repository says of it: %w", err)
	}
	switch {
	case len(want.ECUs) == 0:
		return fail(Malformed, "the director names no unit for it")
	case have.Release == nil:
		return fail(Malformed, "the image repository gives it no release counter")
	case want.Release != nil && *want.Release != *have.Release:
		return fail(Disagree, "release counter %d at the director, %d at the image repository", *want.Release, *have.Release)
	}
	image.provenance = directed.provenance + " and " + image.provenance
	image.order = directed.custom
	for _, id := range slices.Sorted(maps.Keys(want.ECUs)) {
		at := slices.IndexFunc(units, func(u ECU) bool { return u.ID == id })
		if at < 0 {
			return fail(ForeignECU, "it is for unit %.80q, which this vehicle does not have", id)
		}
		unit, hardware := units[at], want.ECUs[id].Hardware
		switch {
		case hardware != unit.Hardware:
			return fail(Hardware, "the director has it for hardware %.80q, unit %s is %s", hardware, id, unit.Hardware)
		case !slices.Contains(have.Hardware, unit.Hardware):
			return fail(Hardware, "it is made for %.200q, unit %s is %s", have.Hardware, id, unit.Hardware)
		case *have.Release < unit.Release:
			return fail(Downgrade, "release counter %d, unit %s has %d", *have.Release, id, unit.Release)
		case bundle[id] != nil:
			return fail(Malformed, "unit %s shall get two images, this one and %.80q", id, bundle[id].name)
		}
		bundle[id] = image
	}
	return nil
}

// agree holds that both vouch for the same bytes, by the same hashes.
func agree(a, b *Target) error {
	if a.length != b.length {
		return fmt.Errorf("%d bytes at the director, %d at the image repository", a.length, b.length)
	}
	if !maps.EqualFunc(a.hashes, b.hashes, bytes.Equal) {
		return errors.New("another hash at the director than at the image repository")
	}
	return nil
}

// unmarshalCustom takes a target of which nothing is said for one of which nothing is known.
func unmarshalCustom(custom json.RawMessage, v any) error {
	if custom == nil {
		return nil
	}
	return json.Unmarshal(custom, v)
}
