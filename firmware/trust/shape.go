package trust

import (
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// What foreign metadata may hold at most, beside the limits on its bytes. Each key of a role costs one encoding of the
// whole file when its signatures are counted.
const (
	maxKeysOfRole  = 64
	maxSignatures  = 256
	maxDelegations = 4096
	maxRoleName    = 200 // bytes when escaped: it is a file's name in the store
)

// The parts of metadata whose absence go-tuf does not expect. Pointers tell null and missing from empty.
type (
	shape struct {
		Signed     *signedShape      `json:"signed"`
		Signatures []json.RawMessage `json:"signatures"`
	}
	signedShape struct {
		Type        string                  `json:"_type"`
		Spec        string                  `json:"spec_version"`
		Version     int64                   `json:"version"`
		Keys        map[string]*keyShape    `json:"keys"`
		Roles       map[string]*roleShape   `json:"roles"`
		Meta        map[string]*metaShape   `json:"meta"`
		Targets     map[string]*targetShape `json:"targets"`
		Delegations *delegationsShape       `json:"delegations"`
	}
	keyShape struct {
		Type  string `json:"keytype"`
		Value *struct {
			Public *string `json:"public"`
		} `json:"keyval"`
	}
	roleShape struct {
		KeyIDs    []string `json:"keyids"`
		Threshold int      `json:"threshold"`
	}
	metaShape struct {
		Length  int64 `json:"length"`
		Version int64 `json:"version"`
	}
	targetShape struct {
		Length *int64             `json:"length"`
		Hashes map[string]*string `json:"hashes"`
	}
	delegationsShape struct {
		Keys     map[string]*keyShape `json:"keys"`
		Roles    []*delegatedShape    `json:"roles"`
		Succinct *struct {
			roleShape
			Bits   int    `json:"bit_length"`
			Prefix string `json:"name_prefix"`
		} `json:"succinct_roles"`
	}
	delegatedShape struct {
		roleShape
		Name     string   `json:"name"`
		Paths    []string `json:"paths"`
		Prefixes []string `json:"path_hash_prefixes"`
	}
)

// checkShape refuses bytes that go-tuf would stumble over, and what the specification forbids and go-tuf lets pass.
// kind is the type that the metadata has to be of.
func checkShape(kind string, data []byte) error {
	var s shape
	if err := json.Unmarshal(data, &s); err != nil {
		return &refusal{Malformed, err}
	}
	switch {
	case s.Signed == nil:
		return refuse(Malformed, "nothing is signed")
	case s.Signed.Type != kind:
		return refuse(Malformed, "it is of type %.40q, not %s", s.Signed.Type, kind)
	case !strings.HasPrefix(s.Signed.Spec, "1."):
		return refuse(Malformed, "it follows version %.40q of the specification, this software follows 1", s.Signed.Spec)
	case s.Signed.Version < 1:
		return refuse(Malformed, "its version is %d", s.Signed.Version)
	case len(s.Signatures) > maxSignatures:
		return refuse(Malformed, "%d signatures", len(s.Signatures))
	}
	switch kind {
	case metadata.ROOT:
		return s.Signed.checkRoot()
	case metadata.TIMESTAMP:
		if len(s.Signed.Meta) != 1 {
			return refuse(Malformed, "a timestamp vouches for the snapshot alone")
		}
		return s.Signed.checkMeta("snapshot.json")
	case metadata.SNAPSHOT:
		return s.Signed.checkMeta("targets.json")
	default:
		return s.Signed.checkTargets()
	}
}

func (s *signedShape) checkRoot() error {
	if err := checkKeys(s.Keys); err != nil {
		return err
	}
	for _, name := range metadata.TOP_LEVEL_ROLE_NAMES {
		role := s.Roles[name]
		if role == nil {
			return refuse(Malformed, "it has no role %s", name)
		}
		if err := role.check(name); err != nil {
			return err
		}
	}
	for name, role := range s.Roles {
		if role == nil {
			return refuse(Malformed, "role %.40q is null", name)
		}
	}
	return nil
}

func (s *signedShape) checkMeta(needs string) error {
	if s.Meta[needs] == nil {
		return refuse(Malformed, "it says nothing of %s", needs)
	}
	for name, m := range s.Meta {
		if m == nil || m.Version < 1 || m.Length < 0 {
			return refuse(Malformed, "what it says of %.60q has no version or a length below zero", name)
		}
	}
	return nil
}

func (s *signedShape) checkTargets() error {
	for name, t := range s.Targets {
		if t == nil || t.Length == nil || *t.Length < 0 || len(t.Hashes) == 0 {
			return refuse(Malformed, "target %.60q has no length or no hashes", name)
		}
		for algorithm, value := range t.Hashes {
			if value == nil {
				return refuse(Malformed, "target %.60q: %.20q is null", name, algorithm)
			}
		}
	}
	d := s.Delegations
	if d == nil {
		return nil
	}
	if err := checkKeys(d.Keys); err != nil {
		return err
	}
	if d.Succinct != nil {
		if len(d.Roles) > 0 {
			return refuse(Malformed, "both roles and succinct_roles")
		}
		if d.Succinct.Bits < 1 || d.Succinct.Bits > 32 {
			return refuse(Malformed, "succinct_roles of %d bits", d.Succinct.Bits)
		}
		if err := checkRoleName(d.Succinct.Prefix + "-"); err != nil {
			return err
		}
		return d.Succinct.check(d.Succinct.Prefix)
	}
	if len(d.Roles) > maxDelegations {
		return refuse(Malformed, "%d delegations", len(d.Roles))
	}
	for _, role := range d.Roles {
		if role == nil {
			return refuse(Malformed, "a delegation is null")
		}
		if err := checkRoleName(role.Name); err != nil {
			return err
		}
		if role.Paths != nil && role.Prefixes != nil {
			return refuse(Malformed, "delegation %.40q has both paths and path_hash_prefixes", role.Name)
		}
		if err := role.check(role.Name); err != nil {
			return err
		}
	}
	return nil
}

// checkRoleName refuses a delegated role whose metadata would take the place of a top-level role's in the store: a
// targets key could otherwise overwrite the trusted root.
func checkRoleName(name string) error {
	for _, top := range metadata.TOP_LEVEL_ROLE_NAMES {
		if name == top {
			return refuse(Malformed, "a delegated role is called %s", name)
		}
	}
	if name == "" || len(escape(name)) > maxRoleName {
		return refuse(Malformed, "a delegated role's name is empty or longer than %d bytes", maxRoleName)
	}
	return nil
}

func (r *roleShape) check(name string) error {
	if len(r.KeyIDs) > maxKeysOfRole {
		return refuse(Malformed, "role %.40q has %d keys", name, len(r.KeyIDs))
	}
	if r.Threshold < 1 {
		return refuse(Malformed, "role %.40q has a threshold of %d", name, r.Threshold)
	}
	seen := map[string]bool{}
	for _, id := range r.KeyIDs {
		if seen[id] {
			return refuse(Malformed, "role %.40q names a key twice", name)
		}
		seen[id] = true
	}
	return nil
}

func checkKeys(keys map[string]*keyShape) error {
	for id, key := range keys {
		if key == nil || key.Value == nil || key.Value.Public == nil {
			return refuse(Malformed, "key %.80q is null", id)
		}
		if key.Type == metadata.KeyTypeEd25519 {
			// Go's ed25519 panics for a key of another length.
			if raw, err := hex.DecodeString(*key.Value.Public); err != nil || len(raw) != 32 {
				return refuse(Malformed, "key %.80q is not an ed25519 key", id)
			}
		}
	}
	return nil
}
