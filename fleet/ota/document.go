package ota

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Names of the roles that a root names (TUF 1.0 §2.1).
const (
	roleRoot      = metadata.ROOT
	roleTargets   = metadata.TARGETS
	roleSnapshot  = metadata.SNAPSHOT
	roleTimestamp = metadata.TIMESTAMP
)

// What a file of metadata may have at most, in bytes: what a vehicle takes by default (firmware/trust.Limits), of the largest.
const maxDocument = 5_000_000

// document is a file of metadata whatever its type: what is signed, as it stands, and who signed.
type document struct {
	Signatures []signature     `json:"signatures"`
	Signed     json.RawMessage `json:"signed"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// newDocument takes one of go-tuf's types of what is signed.
func newDocument(signed any) (*document, error) {
	raw, err := json.Marshal(signed)
	return &document{Signatures: []signature{}, Signed: raw}, err
}

// parseDocument reads foreign bytes. That go-tuf can make sense of them is the caller's to see.
func parseDocument(data []byte) (*document, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("not metadata: %w", err)
	}
	if len(d.Signed) == 0 || d.Signed[0] != '{' || len(d.Signatures) > 256 {
		return nil, fmt.Errorf("not metadata: nothing is signed, or there are %d signatures", len(d.Signatures))
	}
	return &d, nil
}

func (d *document) bytes() ([]byte, error) {
	data, err := json.MarshalIndent(d, "", " ")
	return append(data, '\n'), err
}

// payload is what a signature is over: canonical JSON.
func (d *document) payload() ([]byte, error) {
	payload, err := cjson.EncodeCanonical(d.Signed)
	if err != nil {
		return nil, fmt.Errorf("what is to be signed has no canonical form (TUF 1.0 §4.2.1): %w", err)
	}
	return payload, nil
}

// sign adds signatures; one of the same key is replaced.
func (d *document) sign(keys ...*Key) error {
	payload, err := d.payload()
	if err != nil {
		return err
	}
	for _, k := range keys {
		d.add(signature{k.ID, hex.EncodeToString(ed25519.Sign(k.private, payload))})
	}
	return nil
}

func (d *document) add(s signature) {
	if i := slices.IndexFunc(d.Signatures, func(old signature) bool { return old.KeyID == s.KeyID }); i >= 0 {
		d.Signatures[i] = s
		return
	}
	d.Signatures = append(d.Signatures, s)
}

// holders are the keys of a role and how many of them have to sign.
type holders struct {
	keys      []Public
	threshold int
}

func (h *holders) find(id string) (Public, bool) {
	i := slices.IndexFunc(h.keys, func(k Public) bool { return k.ID == id })
	if i < 0 {
		return Public{}, false
	}
	return h.keys[i], true
}

// signed are the ids of a role's keys whose signatures are good.
func (d *document) signed(h *holders) ([]string, error) {
	payload, err := d.payload()
	if err != nil {
		return nil, err
	}
	var good []string
	for _, s := range d.Signatures {
		k, ok := h.find(s.KeyID)
		if !ok || slices.Contains(good, s.KeyID) {
			continue
		}
		raw, err := hex.DecodeString(k.Key.Value.PublicKey)
		sig, err2 := hex.DecodeString(s.Sig)
		if err == nil && err2 == nil && len(raw) == ed25519.PublicKeySize && ed25519.Verify(raw, payload, sig) {
			good = append(good, s.KeyID)
		}
	}
	return good, nil
}

// complete says whether as many have signed as must.
func (d *document) complete(h *holders) (bool, error) {
	good, err := d.signed(h)
	return err == nil && h.threshold > 0 && len(good) >= h.threshold, err
}

// parse makes go-tuf's type of what is signed. go-tuf dereferences what hostile JSON leaves out.
func parse[T metadata.Roles](d *document) (v *T, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("not metadata: %v", r)
		}
	}()
	data, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var md metadata.Metadata[T]
	parsed, err := md.FromBytes(data)
	if err != nil {
		return nil, err
	}
	return &parsed.Signed, nil
}

// namesField is where a root and a delegating role carry the names of their keys, for those who sign and read. TUF
// has none; an unknown member is signed and ignored (TUF 1.0 §4.1).
const namesField = "x-waybill-names"

func nameOf(fields map[string]any, id string) string {
	names, _ := fields[namesField].(map[string]any)
	if name, _ := names[id].(string); name != "" {
		return name
	}
	return id[:min(12, len(id))]
}

func setName(fields *map[string]any, id, name string) {
	if *fields == nil {
		*fields = map[string]any{}
	}
	names, _ := (*fields)[namesField].(map[string]any)
	if names == nil {
		names = map[string]any{}
		(*fields)[namesField] = names
	}
	if name == "" {
		delete(names, id)
	} else {
		names[id] = name
	}
}

// rootHolders are who a root says may sign a role.
func rootHolders(root *metadata.RootType, role string) *holders {
	r := root.Roles[role]
	if r == nil {
		return &holders{}
	}
	return holdersOf(root.UnrecognizedFields, root.Keys, r.KeyIDs, r.Threshold)
}

// delegatedHolders likewise of a delegation.
func delegatedHolders(t *metadata.TargetsType, role string) *holders {
	if d := delegation(t, role); d != nil {
		return holdersOf(t.UnrecognizedFields, t.Delegations.Keys, d.KeyIDs, d.Threshold)
	}
	return &holders{}
}

func delegation(t *metadata.TargetsType, role string) *metadata.DelegatedRole {
	if t.Delegations == nil {
		return nil
	}
	for i := range t.Delegations.Roles {
		if t.Delegations.Roles[i].Name == role {
			return &t.Delegations.Roles[i]
		}
	}
	return nil
}

func holdersOf(fields map[string]any, keys map[string]*metadata.Key, ids []string, threshold int) *holders {
	h := &holders{threshold: threshold}
	for _, id := range ids {
		if k := keys[id]; k != nil {
			h.keys = append(h.keys, Public{nameOf(fields, id), k, id})
		}
	}
	return h
}

// roleFile takes a name such as 12.root.json apart.
func roleFile(name string) (version int64, role string, ok bool) {
	number, rest, _ := strings.Cut(name, ".")
	role, isJSON := strings.CutSuffix(rest, ".json")
	version, err := strconv.ParseInt(number, 10, 64)
	return version, role, err == nil && isJSON && version > 0 && strconv.FormatInt(version, 10) == number && checkWord("role", role) == nil
}

func fileOf(version int64, role string) string {
	if role == roleTimestamp {
		return role + ".json"
	}
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}
