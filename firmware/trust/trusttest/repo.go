// Package trusttest makes TUF repositories for tests, good ones and hostile ones: metadata is plain JSON that a test may
// bend in any way before it is signed. It shares no code with the client under test, canonical JSON and key ids included.
package trusttest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-telematics/waybill/firmware/trust"
)

// Doc is a JSON object.
type Doc = map[string]any

// Repo is a repository and a mirror of it. Tests change Signed and call Publish.
type Repo struct {
	Expires time.Time                       // what metadata gets that is made from now on
	Signed  map[string]Doc                  // by role, what is signed at the next Publish
	Keys    map[string][]ed25519.PrivateKey // by role, who signs it
	Hashes  bool                            // snapshot and timestamp give lengths and hashes

	mu        sync.Mutex
	Files     map[string][]byte // what the mirror serves, metadata and images; guarded by mu while clients fetch
	Requests  []string          // what was asked for
	published map[string]bool
	seed      uint64
}

// New makes a repository with one key a role and no targets, published. Its keys follow from the seed.
func New(seed uint64, expires time.Time) *Repo {
	r := &Repo{Expires: expires, Signed: map[string]Doc{}, Keys: map[string][]ed25519.PrivateKey{}, Files: map[string][]byte{},
		published: map[string]bool{}, seed: seed << 32}
	r.Signed["root"] = r.doc("root", Doc{"consistent_snapshot": true, "keys": Doc{}, "roles": Doc{}})
	r.Signed["targets"] = r.doc("targets", Doc{"targets": Doc{}})
	r.Signed["snapshot"] = r.doc("snapshot", Doc{"meta": Doc{}})
	r.Signed["timestamp"] = r.doc("timestamp", Doc{"meta": Doc{}})
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		r.SetKeys(role, 1, r.Key())
	}
	r.Publish("root", "targets", "snapshot", "timestamp")
	return r
}

func (r *Repo) doc(kind string, fields Doc) Doc {
	d := Doc{"_type": kind, "spec_version": "1.0.31", "version": 1, "expires": r.Expires.UTC().Format(time.RFC3339)}
	maps.Copy(d, fields)
	return d
}

// Key makes a key that nobody has yet.
func (r *Repo) Key() ed25519.PrivateKey {
	r.seed++
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], r.seed)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(key ed25519.PrivateKey) Doc {
	return Doc{"keytype": "ed25519", "scheme": "ed25519", "keyval": Doc{"public": hex.EncodeToString(key.Public().(ed25519.PublicKey))}}
}

// KeyID is a key's id in metadata.
func KeyID(key ed25519.PrivateKey) string {
	sum := sha256.Sum256(Canonical(public(key)))
	return hex.EncodeToString(sum[:])
}

// SetKeys gives a top-level role other keys; the root wants publishing then. All of them sign.
func (r *Repo) SetKeys(role string, threshold int, keys ...ed25519.PrivateKey) {
	var ids []string
	for _, key := range keys {
		ids = append(ids, KeyID(key))
		r.Signed["root"]["keys"].(Doc)[KeyID(key)] = public(key)
	}
	r.Signed["root"]["roles"].(Doc)[role] = Doc{"keyids": ids, "threshold": threshold}
	r.Keys[role] = keys
}

// Delegate adds a delegation, with a key of its own, to what a role says, and an empty role. More fields of the
// delegation (paths, path_hash_prefixes, terminating) are the caller's.
func (r *Repo) Delegate(delegator, name string, fields Doc) {
	key := r.Key()
	d, _ := r.Signed[delegator]["delegations"].(Doc)
	if d == nil {
		d = Doc{"keys": Doc{}, "roles": []Doc{}}
		r.Signed[delegator]["delegations"] = d
	}
	role := Doc{"name": name, "keyids": []string{KeyID(key)}, "threshold": 1, "terminating": false}
	maps.Copy(role, fields)
	d["keys"].(Doc)[KeyID(key)] = public(key)
	d["roles"] = append(d["roles"].([]Doc), role)
	if r.Signed[name] == nil {
		r.Signed[name] = r.doc("targets", Doc{"targets": Doc{}})
		r.Keys[name] = []ed25519.PrivateKey{key}
	} else {
		r.Keys[name] = append(r.Keys[name], key)
	}
}

// AddTarget lets a role vouch for an image, and the mirror serve it.
func (r *Repo) AddTarget(role, name string, image []byte, custom Doc) {
	sha2, sha5 := sha256.Sum256(image), sha512.Sum512(image)
	t := Doc{"length": len(image), "hashes": Doc{"sha256": hex.EncodeToString(sha2[:]), "sha512": hex.EncodeToString(sha5[:])}}
	if custom != nil {
		t["custom"] = custom
	}
	r.Signed[role]["targets"].(Doc)[name] = t
	dir, base := path.Split(name)
	r.put(dir+hex.EncodeToString(sha2[:])+"."+base, image)
}

// Publish signs roles and puts them on the mirror, each with the next version if it was published before. What vouches for
// a role is brought up to date, and wants publishing after it.
func (r *Repo) Publish(roles ...string) {
	for _, role := range roles {
		if r.published[role] {
			r.Signed[role]["version"] = r.Version(role) + 1
		}
		r.PublishAs(role, r.Version(role))
	}
}

// PublishAll publishes targets, snapshot and timestamp.
func (r *Repo) PublishAll() { r.Publish("targets", "snapshot", "timestamp") }

// PublishAs publishes with any version.
func (r *Repo) PublishAs(role string, version int) {
	r.published[role] = true
	r.Signed[role]["version"] = version
	data := r.Sign(role)
	switch role {
	case "timestamp":
		r.put("timestamp.json", data)
		return
	case "root":
	case "snapshot":
		r.Signed["timestamp"]["meta"] = Doc{"snapshot.json": r.meta(version, data)}
	default:
		r.Signed["snapshot"]["meta"].(Doc)[role+".json"] = r.meta(version, data)
	}
	r.put(fmt.Sprintf("%d.%s.json", version, role), data)
}

func (r *Repo) meta(version int, data []byte) Doc {
	if !r.Hashes {
		return Doc{"version": version}
	}
	sum := sha256.Sum256(data)
	return Doc{"version": version, "length": len(data), "hashes": Doc{"sha256": hex.EncodeToString(sum[:])}}
}

// Version of a role as it is to be signed.
func (r *Repo) Version(role string) int { return r.Signed[role]["version"].(int) }

// Sign is a role's metadata, signed, not published.
func (r *Repo) Sign(role string) []byte { return Sign(r.Signed[role], r.Keys[role]...) }

// Sign is any object signed by any keys.
func Sign(signed Doc, keys ...ed25519.PrivateKey) []byte {
	signatures := []Doc{}
	payload := Canonical(signed)
	for _, key := range keys {
		signatures = append(signatures, Doc{"keyid": KeyID(key), "sig": hex.EncodeToString(ed25519.Sign(key, payload))})
	}
	data, err := json.MarshalIndent(Doc{"signed": signed, "signatures": signatures}, "", " ")
	if err != nil {
		panic(err) // a test's own mistake
	}
	return data
}

func (r *Repo) put(name string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Files[name] = data
}

// Mirror is a second mirror, with a copy of what there is now.
func (r *Repo) Mirror() *Repo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Repo{Files: maps.Clone(r.Files)}
}

// Fetch implements trust.Fetcher.
func (r *Repo) Fetch(ctx context.Context, name string, limit int64, w io.Writer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Requests = append(r.Requests, name)
	data, ok := r.Files[name]
	if !ok {
		return trust.ErrNotFound
	}
	if int64(len(data)) > limit {
		data = data[:limit+1] // the client's own limit has to hold
	}
	_, err := io.Copy(w, bytes.NewReader(data))
	return err
}

// Canonical is canonical JSON as TUF signs it: sorted keys, no blanks, only quotes and backslashes escaped.
func Canonical(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var plain any
	if err := decoder.Decode(&plain); err != nil {
		panic(err)
	}
	var b bytes.Buffer
	canonical(&b, plain)
	return b.Bytes()
}

func canonical(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b.WriteByte(',')
			}
			canonical(b, key)
			b.WriteByte(':')
			canonical(b, v[key])
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, element := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			canonical(b, element)
		}
		b.WriteByte(']')
	case string:
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`)
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, v) // json.Number, bool
	}
}
